"""The photographs in a report: pairs with their matches, and small ones for a table, as HTML with all that it needs."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence

import numpy as np

from imc_kit.colmap import database
from imc_kit.data import images
from imc_kit.errors import KitError
from imc_kit.types import Pair
from imc_kit.viz.images import draw_matches
from imc_kit.viz.page import e
from imc_kit.viz.palette import package
from imc_kit.viz.run_folder import SceneRun

log = logging.getLogger(__name__)

THUMB = 128
"""Long side of the small pictures of the table of images, in pixels."""
PICTURE = 512
"""Long side of a photograph in the pictures of pairs, in pixels."""


def pair_pictures(scene: SceneRun, pairs: Sequence[Pair]) -> str:
    """Pairs of photographs that are where they were, with their matches, and what is known of them."""
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


def _pair_picture(scene: SceneRun, first: str, second: str) -> str:
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


def thumb(scene: SceneRun, name: str) -> str:
    """The address of a small picture of a photograph; empty when it is not where it was."""
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
