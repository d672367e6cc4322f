"""The part of a report that is on one scene: its models, its pairs, its images."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from imc_kit.types import Pair
from imc_kit.viz.advice import Advice
from imc_kit.viz.model import draw_model
from imc_kit.viz.page import cell, e, number_cell, plot, table
from imc_kit.viz.pairs import draw_graph, draw_matrix
from imc_kit.viz.report_pictures import pair_pictures, thumb
from imc_kit.viz.run_folder import SceneRun, measure
from imc_kit.viz.truth import match_names

log = logging.getLogger(__name__)

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


def scene_part(number: int, scene: SceneRun) -> str:
    """A part that is made when it is opened; `number` is that of its link."""
    log.info("report: %s", scene.name)
    counts = scene.counts
    said = f"{counts['registered']} of {counts['images']} images registered"
    if scene.accuracy is not None:
        said += f", {measure(scene.layout)} {scene.accuracy:.3f}"
    if scene.quick:
        said += ", a quick answer"
    parts = [advice_html(scene.advice), *(f"<p>{e(sentence)}</p>" for sentence in scene.gone)]
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
    if scene.database is not None:
        matrix = draw_matrix(scene.names, scene.matches, scene.inliers)
        graph = draw_graph(scene.names, scene.inliers, scene.model_of)
        parts.append(
            '<div class="pair">'
            f"<div><h3>Matches</h3>{plot(matrix, f'Matrix of {scene.name}', 'square', _MATRIX)}</div>"
            f"<div><h3>View graph</h3>{plot(graph, f'View graph of {scene.name}', 'square', _GRAPH)}</div></div>"
        )
        if scene.photos is not None:
            parts.append(_pairs(scene))
    if scene.names:
        parts.append(f"<h3>Images</h3>{_image_table(scene)}")
    return (
        f'<details class="scene" id="scene-{number}"><summary><h2>{e(scene.name)}</h2> '
        f'<span class="soft">{e(said)}</span></summary>'
        f'<template><div class="body">{"".join(parts)}</div></template></details>'
    )


def name_html(name: str) -> str:
    return f'<span class="name">{e(name)}</span>'


def advice_html(advice: Iterable[Advice]) -> str:
    items = [f"<li><p><strong>{e(one.what)}</strong></p>{remedy_html(one)}</li>" for one in advice]
    return f'<ul class="advice">{"".join(items)}</ul>' if items else ""


def remedy_html(one: Advice) -> str:
    which = f"<p>{e(one.which)}</p>" if one.which else ""
    likely = f"<p>Likely cause: {e(one.cause)}.</p>" if one.cause else ""
    return which + likely + (f"<p>Try <code>{e(one.option)}</code></p>" if one.option else "")


def _pairs(scene: SceneRun) -> str:
    """The best and the weakest verified pairs, and the unregistered images with their best match."""
    by_count = sorted(scene.inliers, key=lambda pair: (-scene.inliers[pair], pair))
    best = by_count[:PAIRS]
    weakest = sorted(by_count[PAIRS:], key=lambda pair: (_share(scene, pair), pair))[:PAIRS]
    missing = scene.out
    out = [name for name in scene.names if name in scene.keypoints and name in missing]
    by_matches = sorted(scene.matches, key=lambda pair: (scene.inliers.get(pair, 0), scene.matches[pair], pair))
    partners = {name: pair for pair in by_matches for name in pair}  # the best come last
    parts = []
    if best:
        parts.append("<h3>Best pairs</h3>" + pair_pictures(scene, best))
    if weakest:
        said = "Of the pairs that passed verification, those with the smallest share of inliers: the first to be wrong."
        parts.append(f'<h3>Weakest verified pairs</h3><p class="soft">{said}</p>' + pair_pictures(scene, weakest))
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
            + pair_pictures(scene, list(dict.fromkeys(shown)))
        )
    return "".join(parts)


def _share(scene: SceneRun, pair: Pair) -> float:
    return scene.inliers.get(pair, 0) / max(1, scene.matches.get(pair, 0))


def _image_table(scene: SceneRun) -> str:
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
        picture = thumb(scene, name)
        rows.append(
            [
                cell(f'<img class="thumb" src="{picture}" alt="">' if picture else "", None),
                cell(name_html(name), name),
                cell(f'<span class="{"bad" if name in out else "good"}">{state}</span>', state),
                number_cell(scene.keypoints.get(name)),
                number_cell(len(total.get(name, []))),
                number_cell(sum(total.get(name, []))),
                cell(f"{name_html(other)} ({count})" if other else "", other),
                *([number_cell(errors.get(name), form="{:.3g}")] if errors else []),
            ]
        )
    unit = '<p class="soft">Error: the distance from the true place, in the unit of the truth.</p>' if errors else ""
    return f'{unit}<div class="wide tall" tabindex="0" role="region" aria-label="Images of {e(scene.name)}">' + table(
        f"Images of {scene.name}", head, rows, row_header=1) + "</div>"  # fmt: skip


def _errors(scene: SceneRun) -> dict[str, float]:
    """The distance of each registered camera from its true place, after the metric's alignment."""
    errors = {}
    placed = scene.model_of
    for number, score in scene.aligned.items():
        apart = np.linalg.norm(score.aligned - score.truth, axis=1)
        for name, row in match_names(scene.names, score.names).items():
            if placed.get(name) == number and np.isfinite(apart[row]):
                errors[name] = float(apart[row])
    return errors
