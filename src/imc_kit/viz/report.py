"""The report of a finished run: one HTML file that needs no network, no server and no other file."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit import images, metric
from imc_kit.colmap import database, mapping, verification
from imc_kit.errors import KitError
from imc_kit.scenes import SPLITS, load
from imc_kit.types import Model, Scene
from imc_kit.viz.advice import Advice, advise
from imc_kit.viz.images import draw_matches
from imc_kit.viz.page import cell, e, number_cell, page, plot, table, write_page
from imc_kit.viz.palette import package
from imc_kit.viz.scene import Counts, block_order, draw_graph, draw_matrix, draw_model, match_names
from imc_kit.viz.scores import draw_accuracy, draw_memory, draw_seconds

log = logging.getLogger(__name__)

THUMB = 128
"""Long side of the small pictures of the table of images, in pixels."""
PICTURE = 512
"""Long side of a photograph in the pictures of pairs, in pixels."""
PAIRS = 3
"""So many best and so many weakest pairs are shown of each scene."""
MOST_UNREGISTERED = 6
"""Of so many unregistered images at most the best match is drawn."""
MOST_MODELS = 3
"""So many models of a scene are drawn at most."""

_MATRIX = (
    "Matches above the diagonal, those that passed verification (inliers) below it. Images that match stand together: "
    "blocks without anything between them are parts of the scene that do not hang together."
)
_GRAPH = "Every dot is an image, every line a verified pair. Images that share many inliers are near each other."
_DISTANCES = "The share of cameras within each distance of the truth."
_MEAN = f"{_DISTANCES} The mAA is the mean over the thresholds."
_ACCURACY = {
    "2023": f"{_DISTANCES} The mAA beside a name is their mean, as in 2024; that of 2023, in the table, is of relative "
    "poses of pairs of images.",
    "2024": _MEAN,
    "2025": f"{_DISTANCES} Each line is a true scene, with the model that it was given. The mAA beside it is as in "
    "2024; the score of 2025, in the table, is the harmonic mean of a dataset's mAA and clustering.",
    "folder": _MEAN,
}
"""Said of the figure, by the layout."""

Pair = tuple[str, str]


@dataclass(frozen=True, eq=False)
class _SceneRun:
    """What a run left of one scene."""

    name: str
    counts: Mapping[str, int]
    seconds: Mapping[str, float]
    memory: Mapping[str, float]
    notes: Sequence[str]
    names: Sequence[str]
    """All images, in `block_order`."""
    models: Sequence[Model]
    keypoints: Mapping[str, int]
    matches: Counts
    inliers: Counts
    database: Path | None
    photos: Scene | None
    """Where the photographs are, if they are still there."""
    scored: metric.OfScene | None
    layout: str
    turns: Mapping[str, int]
    """Of photographs that were turned upright: see `SceneResult`."""

    @property
    def model_of(self) -> dict[str, int]:
        """The number of the largest model that has an image."""
        return {name: number for number in reversed(range(len(self.models))) for name in self.models[number].poses}

    @property
    def out(self) -> set[str]:
        """The images that no model registered; where models have no common frame, that the largest did not."""
        counted = self.models if self.separate else self.models[:1]
        return set(self.names) - {name for model in counted for name in model.poses}

    @property
    def separate(self) -> bool:
        """Whether every model is a scene of its own."""
        return self.layout == "2025"

    @property
    def accuracy(self) -> float | None:
        return self.scored.accuracy if self.scored else None

    @property
    def aligned(self) -> Mapping[int, metric.SceneScore]:
        """How the cameras lie beside the truth, by the number of their model; nothing where it is not known."""
        return self.scored.models if self.scored else {}

    @property
    def advice(self) -> list[Advice]:
        models = [sorted(model.poses) for model in self.models]
        return advise(
            models, self.names, self.keypoints, self.inliers, self.notes, self.accuracy, separate=self.separate
        )


def write_report(
    run: Path | str,
    path: Path | str | None = None,
    *,
    truth: Path | str | None = None,
    thresholds: Path | str | None = None,
) -> Path:
    """Write the report of a finished run as one HTML file; returns where.

    run: the folder that `solve` wrote: run.json, submission.csv and scenes/NAME with result.json, models, database.
    path: the file to write; report.html in that folder when left out.
    truth: a CSV file with the true poses, as for `imc-kit score`; the score of the layout's year and the true cameras
        are then shown.
    thresholds: a JSON file with the metric's distances, as for `imc-kit score`.

    What is missing (a database that was deleted, photographs that were moved) is left out, and said. Raises `KitError`
    when the folder holds no run, or the truth or the thresholds cannot be read.
    """
    run = Path(run)
    path = run / "report.html" if path is None else Path(path)
    content = _read_json(run / "run.json", "is this the folder of a finished run (--out of imc-kit solve)?")
    distances = None if thresholds is None else metric.read_thresholds(thresholds)
    scores: Mapping[str, metric.OfScene] = {}
    if truth is not None:
        scores = metric.score_scenes(content["layout"], content["scenes"], truth, run / "submission.csv", distances)
    photos = _photos(content)
    layout = content["layout"]
    scenes = [_read_scene(run, name, photos.get(name), scores.get(name), layout) for name in content["scenes"]]
    write_page(path, _page(content, scenes))
    return path


# ---- reading ----


def _read_json(path: Path, hint: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read {path} ({error}): {hint}") from error
    if not isinstance(content, dict):
        raise KitError(f"{path} holds no JSON object: {hint}")
    return content


def _photos(content: Mapping[str, Any]) -> dict[str, Scene]:
    """The scenes as they are on disk now, by name; none where the input has gone."""
    best: dict[str, Scene] = {}
    for split in SPLITS:
        try:
            found = {scene.name: scene for scene in load(content["input"], split).scenes}
        except KitError:
            continue
        if len(found.keys() & content["scenes"].keys()) > len(best.keys() & content["scenes"].keys()):
            best = found
    return best


def _read_scene(run: Path, name: str, photos: Scene | None, scored: metric.OfScene | None, layout: str) -> _SceneRun:
    folder = run / "scenes" / name
    result = _read_json(folder / "result.json", "the scene is not finished: run imc-kit solve again")
    models = mapping.read_models(folder / "models") if (folder / "models").is_dir() else []
    data = next(iter(sorted(folder.glob("database-*.db"))), None)
    keypoints = database.keypoint_counts(data) if data else {}
    matches = database.match_counts(data) if data else {}
    inliers = verification.inlier_counts(data) if data else {}
    return _SceneRun(
        name, result["counts"], result["seconds"], result.get("memory", {}), result["notes"],
        block_order(sorted(result["placements"]), inliers or matches), models, keypoints, matches, inliers, data,
        photos, scored, layout, result.get("turns", {}),
    )  # fmt: skip


# ---- writing ----


def _page(content: Mapping[str, Any], scenes: Sequence[_SceneRun]) -> str:
    failed: Mapping[str, str] = content.get("failed", {})
    solved = {scene.name: scene for scene in scenes}
    measure = _measure(content["layout"])
    mean = _mean(scenes)
    count = sum(scene.counts["images"] for scene in scenes)
    registered = sum(scene.counts["registered"] for scene in scenes)
    facts = {
        "scenes solved": f"{len(scenes)} of {len(scenes) + len(failed)}",
        "images registered": f"{registered} of {count}",
        **({f"mean {measure}": f"{mean:.3f}"} if mean is not None else {}),
        "time of all scenes": _duration(sum(sum(scene.seconds.values()) for scene in scenes)),
    }
    charts = []
    if mean is not None:
        known = {
            scene.name if len(scene.aligned) == 1 else f"{scene.name}, model {number + 1}": score
            for scene in scenes
            for number, score in sorted(scene.aligned.items())
        }
        charts.append(("Accuracy", draw_accuracy(known), "", _ACCURACY[content["layout"]]))
    charts.append(("Time by stage", draw_seconds({n: s.seconds for n, s in solved.items()}), "", ""))
    memory = {name: scene.memory for name, scene in solved.items() if scene.memory}
    if memory:
        charts.append(("Memory by stage", draw_memory(memory), "", ""))
    config = content.get("config", {})
    details = json.dumps({key: content.get(key) for key in ("config", "versions", "machine")}, indent=1)
    made = " and ".join(config[part]["name"] for part in ("detector", "matcher") if "name" in config.get(part, {}))
    body = "".join(
        [
            f"<h1>What happened in {e(Path(content['input']).name)}</h1>",
            f'<p class="soft">{e(content["input"])}, layout {e(content["layout"])}; {e(made)}; imc-kit '
            f"{e(content.get('versions', {}).get('imc-kit', ''))} on {content['machine']['cores']} cores</p>",
            '<dl class="facts">',
            *(f"<div><dt>{e(term)}</dt><dd>{e(value)}</dd></div>" for term, value in facts.items()),
            "</dl>",
            _advice([Advice(note, "", "") for note in content.get("notes", [])]),
            "<h2>Scenes</h2>",
            _scene_table(scenes, failed, measure),
            *(f"<h2>{e(title)}</h2>{plot(figure, title, kind, said)}" for title, figure, kind, said in charts),
            "<h2>Scene by scene</h2>",
            *(_scene(number, scene) for number, scene in enumerate(scenes, 1)),
            "<h2>How it was made</h2><details><summary>Configuration and versions</summary>"
            f"<pre>{e(details)}</pre></details>",
        ]
    )
    return page(f"{Path(content['input']).name}: imc-kit report", body)


def _measure(layout: str) -> str:
    """What the year's score is called."""
    return "score" if layout == "2025" else "mAA"


def _mean(scenes: Sequence[_SceneRun]) -> float | None:
    """The mean score of the scenes; in 2023 the mean over its datasets of the means over their scenes."""
    groups: dict[str, list[float]] = {}
    for scene in scenes:
        if scene.accuracy is not None:
            group = scene.name.split("/")[0] if scene.layout == "2023" else scene.name
            groups.setdefault(group, []).append(scene.accuracy)
    return float(np.mean([np.mean(group) for group in groups.values()])) if groups else None


def _scene_table(scenes: Sequence[_SceneRun], failed: Mapping[str, str], measure: str) -> str:
    with_accuracy = any(scene.accuracy is not None for scene in scenes)
    score = [f"#{measure}"] if with_accuracy else []
    head = ["Scene", "#Images", "#Registered", "#Models", "#Points", *score, "#Seconds", "Warnings"]
    rows = []
    for number, scene in enumerate(scenes, 1):
        counts, advice = scene.counts, scene.advice
        complete = counts["registered"] == counts["images"]
        said = f"{counts['registered']} <span class={'good' if complete else 'bad'}>{'✓' if complete else '!'}</span>"
        rows.append(
            [
                cell(f'<a class="name" href="#scene-{number}">{e(scene.name)}</a>', scene.name),
                number_cell(counts["images"]),
                number_cell(counts["registered"], said),
                number_cell(counts["models"]),
                number_cell(counts["points"]),
                *([number_cell(scene.accuracy, form="{:.3f}")] if with_accuracy else []),
                number_cell(sum(scene.seconds.values()), form="{:,.1f}"),
                cell(_short_advice(advice), str(len(advice)), "long" if advice else ""),
            ]
        )
    for name, reason in failed.items():
        unknown = [number_cell(None)] * (len(head) - 2)
        said = f'<span class="bad">not solved:</span> {e(reason)}'
        rows.append([cell(_name(name), name), *unknown, cell(said, "99", "long")])
    return f'<div class="wide">{table("Scenes of the run", head, rows)}</div>'


def _name(name: str) -> str:
    return f'<span class="name">{e(name)}</span>'


def _short_advice(advice: Sequence[Advice]) -> str:
    """For a cell of a table: what happened, and folded away the cause and the option."""
    if not advice:
        return '<span class="good">none</span>'
    return "".join(f"<details><summary>{e(one.what)}</summary>{_remedy(one)}</details>" for one in advice)


def _advice(advice: Iterable[Advice]) -> str:
    items = [f"<li><p><strong>{e(one.what)}</strong></p>{_remedy(one)}</li>" for one in advice]
    return f'<ul class="advice">{"".join(items)}</ul>' if items else ""


def _remedy(one: Advice) -> str:
    which = f"<p>{e(one.which)}</p>" if one.which else ""
    likely = f"<p>Likely cause: {e(one.cause)}.</p>" if one.cause else ""
    return which + likely + (f"<p>Try <code>{e(one.option)}</code></p>" if one.option else "")


def _scene(number: int, scene: _SceneRun) -> str:
    log.info("report: %s", scene.name)
    counts = scene.counts
    said = f"{counts['registered']} of {counts['images']} images registered"
    if scene.accuracy is not None:
        said += f", {_measure(scene.layout)} {scene.accuracy:.3f}"
    parts = [_advice(scene.advice)]
    for place, model in enumerate(scene.models[:MOST_MODELS]):
        title = "The model" if len(scene.models) == 1 else f"Model {place + 1} of {len(scene.models)}"
        figure = draw_model(model, scene.aligned.get(place))
        text = (
            f"{len(model.poses)} cameras, {len(model.points):,} points, seen {model.observations:,} times with a mean "
            f"reprojection error of {model.reprojection_error:.2f} pixels."
        )
        if any(trace.name == "errors" for trace in figure.data):
            text += " Green diamonds are the true cameras; a green line joins each to where it came out."
        parts.append(f"<h3>{title}</h3>{plot(figure, f'{title} of {scene.name} in 3D', 'space', text, turn=True)}")
    if scene.database is None:
        parts.append("<p>The scene's database was deleted: matches are not shown.</p>")
    else:
        matrix, graph = (
            draw_matrix(scene.names, scene.matches, scene.inliers),
            draw_graph(scene.names, scene.inliers, scene.model_of),
        )
        parts.append(
            '<div class="pair">'
            f"<div><h3>Matches</h3>{plot(matrix, f'Matrix of {scene.name}', 'square', _MATRIX)}</div>"
            f"<div><h3>View graph</h3>{plot(graph, f'View graph of {scene.name}', 'square', _GRAPH)}</div></div>"
        )
    if scene.photos is None:
        parts.append("<p>The photographs are not where they were: pairs and thumbnails are not shown.</p>")
    elif scene.database is not None:
        parts.append(_pairs(scene))
    parts.append(f"<h3>Images</h3>{_image_table(scene)}")
    return (
        f'<details class="scene" id="scene-{number}"><summary><h2>{e(scene.name)}</h2> '
        f'<span class="soft">{said}</span></summary>'
        f'<template><div class="body">{"".join(parts)}</div></template></details>'
    )


def _pairs(scene: _SceneRun) -> str:
    """The best and the weakest verified pairs, and the unregistered images with their best match."""
    by_count = sorted(scene.inliers, key=lambda pair: (-scene.inliers[pair], pair))
    best = by_count[:PAIRS]
    weakest = sorted(by_count[PAIRS:], key=lambda pair: (_share(scene, pair), pair))[:PAIRS]
    out = [name for name in scene.names if name in scene.keypoints and name in scene.out]
    partners = {}
    for name in out:
        own = [pair for pair in scene.matches if name in pair]
        if own:
            partners[name] = max(own, key=lambda pair: (scene.inliers.get(pair, 0), scene.matches[pair], pair))
    parts = []
    if best:
        parts.append("<h3>Best pairs</h3>" + _pictures(scene, best))
    if weakest:
        said = "Of the pairs that passed verification, those with the smallest share of inliers: the first to be wrong."
        parts.append(f'<h3>Weakest verified pairs</h3><p class="soft">{said}</p>' + _pictures(scene, weakest))
    if out:
        shown = [partners[name] for name in out if name in partners][:MOST_UNREGISTERED]
        lonely = [name for name in out if name not in partners]
        more = len(out) - len(lonely) - len(shown)
        model = "any model" if scene.separate else "the largest model"
        said = f"{len(out)} of {len(scene.names)} images are not in {model}."
        said += f" The best match of {more} more is in the table of images." if more > 0 else ""
        said += f" Without any match: {', '.join(lonely[:10])}{' …' if len(lonely) > 10 else ''}." if lonely else ""
        parts.append(
            f'<h3>Unregistered images and their best match</h3><p class="soft">{e(said)}</p>'
            + _pictures(scene, list(dict.fromkeys(shown)))
        )
    return "".join(parts)


def _share(scene: _SceneRun, pair: Pair) -> float:
    return scene.inliers.get(pair, 0) / max(1, scene.matches.get(pair, 0))


def _pictures(scene: _SceneRun, pairs: Sequence[Pair]) -> str:
    figures = []
    for first, second in pairs:
        matched, verified = scene.matches.get((first, second), 0), scene.inliers.get((first, second), 0)
        said = f"{first} and {second}: {verified} of {matched} matches are inliers ({verified / max(1, matched):.0%})"
        for model in scene.models:
            if first in model.poses and second in model.poses:
                ahead = model.poses[first].rotation[2] @ model.poses[second].rotation[2]
                said += f"; in the model they look {np.degrees(np.arccos(np.clip(ahead, -1, 1))):.0f}° apart"
                break
        picture = _pair_picture(scene, first, second)
        image = f'<img src="{picture}" alt="{e(f"Matches between {first} and {second}, drawn as lines")}">'
        figures.append(f"<figure>{image if picture else ''}<figcaption>{e(said)}</figcaption></figure>")
    return f'<div class="pair">{"".join(figures)}</div>'


def _pair_picture(scene: _SceneRun, first: str, second: str) -> str:
    assert scene.photos is not None  # the caller looks
    assert scene.database is not None
    try:
        one, other = (images.load(scene.photos.path(n), PICTURE, scene.turns.get(n, 0)) for n in (first, second))
    except KitError as error:
        log.warning("%s: no picture of a pair: %s", scene.name, error)
        return ""
    figure = draw_matches(one, other, *database.read_pair(scene.database, first, second), most=80)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", transparent=True, pil_kwargs={"quality": 72})
    return _data_uri(buffer.getvalue())


def _image_table(scene: _SceneRun) -> str:
    placed, out, rows = scene.model_of, scene.out, []
    best: dict[str, tuple[int, str]] = {}
    total: dict[str, list[int]] = {}
    for pair, count in scene.inliers.items():
        for one, other in (pair, pair[::-1]):
            best[one] = max(best.get(one, (0, "")), (count, other))
            total.setdefault(one, []).append(count)
    errors = _errors(scene)
    head = ["Picture", "Image", "State", "#Keypoints", "#Verified pairs", "#Inliers", "Best match",
            *(["#Error"] if errors else [])]  # fmt: skip
    for name in sorted(scene.names, key=lambda name: name not in out):  # what is missing first
        model = placed.get(name)
        state = "registered" if model == 0 else f"in model {model + 1}" if model else "unregistered"
        if scene.keypoints and name not in scene.keypoints:
            state = "unreadable"
        count, other = best.get(name, (0, ""))
        thumb = _thumb(scene, name)
        rows.append(
            [
                cell(f'<img class="thumb" src="{thumb}" alt="">' if thumb else "", None),
                cell(_name(name), name),
                cell(f'<span class="{"bad" if name in out else "good"}">{state}</span>', state),
                number_cell(scene.keypoints.get(name)),
                number_cell(len(total.get(name, []))),
                number_cell(sum(total.get(name, []))),
                cell(f"{_name(other)} ({count})" if other else "", other),
                *([number_cell(errors.get(name), form="{:.3g}")] if errors else []),
            ]
        )
    unit = '<p class="soft">Error: the distance from the true place, in the unit of the truth.</p>' if errors else ""
    return f'{unit}<div class="wide tall" tabindex="0" role="region" aria-label="Images of {e(scene.name)}">' + table(
        f"Images of {scene.name}", head, rows, row_header=1) + "</div>"  # fmt: skip


def _errors(scene: _SceneRun) -> dict[str, float]:
    """The distance of each registered camera from its true place, after the metric's alignment."""
    errors = {}
    placed = scene.model_of
    for number, score in scene.aligned.items():
        apart = np.linalg.norm(score.aligned - score.truth, axis=1)
        for name, row in match_names(scene.names, score.names).items():
            if placed.get(name) == number and np.isfinite(apart[row]):
                errors[name] = float(apart[row])
    return errors


def _thumb(scene: _SceneRun, name: str) -> str:
    if scene.photos is None:
        return ""
    try:
        pixels = images.load(scene.photos.path(name), THUMB, scene.turns.get(name, 0)).pixels
    except KitError:
        return ""
    buffer = io.BytesIO()
    package("PIL.Image").fromarray(pixels).save(buffer, "WEBP", quality=60)
    return _data_uri(buffer.getvalue())


def _data_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
