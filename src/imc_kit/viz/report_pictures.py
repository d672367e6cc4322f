"""The photos in a report, embedded in its HTML: pairs with their matches, and thumbnails for a table."""

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
"""Longer side of a thumbnail in pixels: a hundred take half a megabyte, and four times that at 256."""
PICTURE = 512
"""Longer side of a photo in the pictures of pairs, in pixels: about the width at which a laptop shows it."""


def pair_pictures(scene: SceneRun, pairs: Sequence[Pair]) -> str:
    """Pairs of photos with their matches, and what is known about them."""
    figures = []
    for first, second in pairs:
        matched = scene.matched.matches.get((first, second), 0)
        verified = scene.matched.inliers.get((first, second), 0)
        said = f"{first} and {second}: {verified} of {matched} matches are inliers ({verified / max(1, matched):.0%})"
        for model in scene.models:
            if first in model.poses and second in model.poses:
                ahead = model.poses[first].rotation[2] @ model.poses[second].rotation[2]
                angle = np.degrees(np.arccos(np.clip(ahead, -1, 1)))
                said += f"; in the model their viewing directions differ by {angle:.0f}°"
                break
        picture = _pair_picture(scene, first, second)
        image = f'<img src="{picture}" alt="{e(f"Matches between {first} and {second}, drawn as lines")}">'
        figures.append(f"<figure>{image if picture else ''}<figcaption>{e(said)}</figcaption></figure>")
    return f'<div class="pair">{"".join(figures)}</div>'


def _pair_picture(scene: SceneRun, first: str, second: str) -> str:
    """The address of the picture; empty when a photo cannot be read any more."""
    assert scene.matched.path is not None  # the caller checks
    try:
        one, other = (_photo(scene, name, PICTURE) for name in (first, second))
    except KitError as error:
        log.warning("%s: no picture of a pair: %s", scene.name, error)
        return ""
    figure = draw_matches(one, other, *database.read_pair(scene.matched.path, first, second), most=80)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", transparent=True, pil_kwargs={"quality": 72})
    return _data_uri(buffer.getvalue())


def thumb(scene: SceneRun, name: str) -> str:
    """The address of a thumbnail; empty when the photo is not where it was."""
    if scene.photos is None:
        return ""
    try:
        pixels = _photo(scene, name, THUMB).pixels
    except KitError:
        return ""
    buffer = io.BytesIO()
    package("PIL.Image").fromarray(pixels).save(buffer, "WEBP", quality=60)
    return _data_uri(buffer.getvalue())


def _photo(scene: SceneRun, name: str, long_side: int) -> images.Photo:
    """A photo as it was matched."""
    assert scene.photos is not None  # the callers check
    return images.load(scene.photos.path(name), long_side, scene.rotation_quarters.get(name, 0))


def _data_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
