"""The report's section on one scene: its models, its pairs, its images."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from imc_kit.colmap import database_reading
from imc_kit.data import images
from imc_kit.errors import KitError
from imc_kit.types import Pair, Scene
from imc_kit.viz.advice import Advice
from imc_kit.viz.images import data_uri, draw_matches, figure_uri
from imc_kit.viz.model import draw_model
from imc_kit.viz.page import cell, e, number_cell, picture, plot, table
from imc_kit.viz.pairs import draw_graph, draw_matrix
from imc_kit.viz.run_folder import SceneRun, measure
from imc_kit.viz.space import match_names

log = logging.getLogger(__name__)

PAIRS = 3
"""Number of best pairs, and of weakest pairs, shown for each scene."""
MOST_UNREGISTERED = 6
"""Show the best match of at most this many unregistered images."""
MOST_MODELS = 3
"""Draw at most this many models of a scene: each adds up to half a megabyte."""
_MATRIX = (
    "Matches above the diagonal, verified matches (inliers) below it. Images that match are next to each other, so "
    "blocks with nothing between them are separate parts of the scene."
)
_GRAPH = "Each dot is an image, each line a verified pair. Images that share many inliers are near each other."


def scene_part(number: int, scene: SceneRun) -> str:
    """The section of a scene, which the page builds when it is opened. number: its anchor is `scene-NUMBER`."""
    log.info("report: %s", scene.name)
    counts = scene.counts
    said = f"{counts['registered']} of {counts['images']} images registered"
    if scene.scored.accuracy is not None:
        said += f", {measure(scene.layout)} {scene.scored.accuracy:.3f}"
    if scene.quick:
        said += ", quick answer"
    parts = [advice_html(scene.advice), *(f"<p>{e(sentence)}</p>" for sentence in scene.gone)]
    for place, model in enumerate(scene.models[:MOST_MODELS]):
        title = "The model" if len(scene.models) == 1 else f"Model {place + 1} of {len(scene.models)}"
        figure = draw_model(model, scene.scored.models.get(place))
        text = f"{len(model.poses)} cameras, {len(model.points):,} points, {model.observations:,} observations; "
        text += f"mean reprojection error {model.reprojection_error:.2f} pixels."
        text += f" It is {model.alignment}." if model.alignment else ""
        if any(trace.name == "errors" for trace in figure.data):
            text += " Green diamonds are the true cameras; a green line joins each to its estimate."
        parts.append(f"<h3>{title}</h3>{plot(figure, f'{title} of {scene.name} in 3D', 'space', text, movable=True)}")
    if scene.matched.path is not None:
        matrix = draw_matrix(scene.names, scene.matched.matches, scene.matched.inliers)
        graph = draw_graph(scene.names, scene.matched.inliers, scene.model_of)
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
    """The best and the weakest verified pairs, and unregistered images with their best match."""
    matches, inliers = scene.matched.matches, scene.matched.inliers
    by_count = sorted(inliers, key=lambda pair: (-inliers[pair], pair))
    best = by_count[:PAIRS]
    weakest = sorted(by_count[PAIRS:], key=lambda pair: (inliers[pair] / max(1, matches.get(pair, 0)), pair))[:PAIRS]
    out = [name for name in scene.names if name in scene.out and name in scene.matched.keypoints]
    by_matches = sorted(matches, key=lambda pair: (inliers.get(pair, 0), matches[pair], pair))
    partners = {name: pair for pair in by_matches for name in pair}  # the best pair is the last
    parts = []
    if best:
        parts.append("<h3>Best pairs</h3>" + pair_pictures(scene, best))
    if weakest:
        said = "The verified pairs with the smallest share of inliers: the most likely to be wrong."
        parts.append(f'<h3>Weakest verified pairs</h3><p class="soft">{said}</p>' + pair_pictures(scene, weakest))
    if out:
        shown = [partners[name] for name in out if name in partners][:MOST_UNREGISTERED]
        lonely = [name for name in out if name not in partners]
        more = len(out) - len(lonely) - len(shown)
        model = "any model" if scene.layout == "2025" else "the largest model"
        said = f"{len(out)} of {len(scene.names)} images are not in {model}."
        said += f" The table of images lists the best match of {more} more." if more > 0 else ""
        said += f" No matches at all: {', '.join(lonely[:10])}{' …' if len(lonely) > 10 else ''}." if lonely else ""
        title = "Unregistered images and their best match"
        parts.append(f'<h3>{title}</h3><p class="soft">{e(said)}</p>{pair_pictures(scene, [*dict.fromkeys(shown)])}')
    return "".join(parts)


def _image_table(scene: SceneRun) -> str:
    placed, out, rows = scene.model_of, scene.out, []
    keypoints = scene.matched.keypoints
    partners: dict[str, list[tuple[int, str]]] = {name: [] for name in scene.names}
    for pair, count in scene.matched.inliers.items():
        for name, other in (pair, pair[::-1]):
            partners[name].append((count, other))
    errors = _errors(scene)
    head = ["Picture", "Image", "State", "#Keypoints", "#Verified pairs", "#Inliers", "Best match"]
    head += ["#Error"] if errors else []
    for name in sorted(scene.names, key=lambda name: name not in out):  # unregistered images first
        model = placed.get(name)
        state = "registered" if model == 0 else f"in model {model + 1}" if model else "unregistered"
        if keypoints and name not in keypoints:
            state = "unreadable"
        count, other = max(partners[name], default=(0, ""))
        small = thumb(scene, name)
        cells = [
            cell(f'<img class="thumb" src="{small}" alt="">' if small else "", None),
            cell(name_html(name), name),
            cell(f'<span class="{"bad" if name in out else "good"}">{state}</span>', state),
            *map(number_cell, (keypoints.get(name), len(partners[name]), sum(count for count, _ in partners[name]))),
            cell(f"{name_html(other)} ({count})" if other else "", other),
        ]
        rows.append([*cells, number_cell(errors.get(name), form="{:.3g}")] if errors else cells)
    unit = '<p class="soft">Error: distance from the true position, in the unit of the truth.</p>' if errors else ""
    caption = f"Images of {scene.name}"
    inside = table(caption, head, rows, row_header=1)
    return f'{unit}<div class="wide tall" tabindex="0" role="region" aria-label="{e(caption)}">{inside}</div>'


def _errors(scene: SceneRun) -> dict[str, float]:
    """The distance of each registered camera from its true position, after the metric's alignment."""
    errors, placed = {}, scene.model_of
    for number, score in scene.scored.models.items():
        apart = np.linalg.norm(score.aligned - score.truth, axis=1)
        for name, row in match_names(scene.names, score.names).items():
            if placed.get(name) == number and np.isfinite(apart[row]):
                errors[name] = float(apart[row])
    return errors


THUMB = 128
"""Longer side of a thumbnail in pixels: a hundred thumbnails take 0.5 MB, and would take 2 MB at 256 pixels."""
PICTURE = 512
"""Longer side of a photo in the pictures of pairs, in pixels: about the width at which a laptop shows it."""


def pair_pictures(scene: SceneRun, pairs: Sequence[Pair]) -> str:
    """Pictures of image pairs with their matches. The captions state inliers and the angle between the views."""
    assert scene.matched.path is not None  # the callers check
    assert scene.photos is not None
    figures = []
    for first, second in pairs:
        both = scene.matched.matches, scene.matched.inliers
        matched, verified = (counts.get((first, second), 0) for counts in both)
        said = f"{first} and {second}: {verified} of {matched} matches are inliers ({verified / max(1, matched):.0%})"
        poses = next((model.poses for model in scene.models if model.poses.keys() >= {first, second}), None)
        if poses:
            angle = np.degrees(np.arccos(np.clip(poses[first].rotation[2] @ poses[second].rotation[2], -1, 1)))
            said += f"; in the model their viewing directions differ by {angle:.0f}°"
        uri = pair_uri(scene.photos, scene.rotation_quarters, scene.matched.path, (first, second))
        figures.append(picture(uri, said))
    return f'<div class="pair">{"".join(figures)}</div>'


def pair_uri(photos: Scene, quarters: Mapping[str, int], path: Path, pair: Pair) -> str:
    """The picture of a pair with its matches as a data URI; empty when a photo can no longer be read.

    quarters: see `SceneResult.rotation_quarters`. path: of the scene's database.
    """
    try:
        one, other = (images.load(photos.path(name), PICTURE, quarters.get(name, 0)) for name in pair)
    except KitError as error:
        log.warning("%s: no picture of a pair: %s", photos.name, error)
        return ""
    return figure_uri(draw_matches(one, other, *database_reading.read_pair(path, *pair), most=80))


def thumb(scene: SceneRun, name: str) -> str:
    """A thumbnail as a data URI; empty when the photo can no longer be read."""
    with suppress(KitError):
        if scene.photos is not None:
            pixels = images.load(scene.photos.path(name), THUMB, scene.rotation_quarters.get(name, 0)).pixels
            return data_uri(lambda file: Image.fromarray(pixels).save(file, "WEBP", quality=60))
    return ""
