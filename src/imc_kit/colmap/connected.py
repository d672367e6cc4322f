"""Divide the global mapper's models where hardly any points hold them together.

COLMAP's global mapper gives a pose to every image of the view graph, even to one that sees no point of the model. So a
model of all images may consist of parts whose position, scale and orientation to each other nothing determines. The
incremental mapper makes no such models: it registers an image by the points that it sees.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.colmap.model_files import read_points_seen

_LEAST = 3
"""Points that join an image to others: fewer determine no pose (Grunert 1841) and no similarity (Umeyama 1991)."""


def parts(seen: Mapping[str, NDArray[np.int64]]) -> list[list[str]]:
    """The names of the images in each part of a model, largest part first.

    seen: the ids of the 3D points that each image sees. A part grows from the image that sees most points by all images
    that see at least three points of the part.
    """
    names = sorted(seen)
    image = np.repeat(np.arange(len(names)), [len(seen[name]) for name in names])
    point = np.unique(np.concatenate([np.empty(0, np.int64), *(seen[name] for name in names)]), return_inverse=True)[1]
    counts = np.bincount(image, minlength=len(names))
    left = np.ones(len(names), bool)
    found = []
    while left.any():
        new = np.arange(len(names)) == np.argmax(np.where(left, counts, -1))
        part = np.zeros(len(names), bool)
        reached = np.zeros(len(point), bool)
        while new.any():
            part |= new
            reached[point[part[image]]] = True
            new = left & ~part & (np.bincount(image, reached[point], len(names)) >= _LEAST)
        left &= ~part
        found.append([names[row] for row in np.flatnonzero(part)])
    return sorted(found, key=lambda part: (-len(part), part))


def divide(folder: Path, min_model_size: int) -> None:
    """Replace each model in the subfolders 0, 1, … of a folder by its parts, largest first.

    Parts of fewer than `min_model_size` images are dropped, but the largest part of each model stays.
    """
    models = sorted(folder.iterdir(), key=lambda model: int(model.name))
    divided = {model: parts(read_points_seen(model)) for model in models}
    if all(len(found) == 1 for found in divided.values()):
        return
    import pycolmap

    kept: list[Any] = []
    for model, found in divided.items():
        for number, part in enumerate(found):
            if number and len(part) < min_model_size:
                continue
            reconstruction = pycolmap.Reconstruction(model)
            for image in [*reconstruction.images.values()]:
                if image.has_pose and image.name not in part:
                    reconstruction.deregister_frame(image.frame_id)
            kept.append(reconstruction)
    for number, reconstruction in enumerate(sorted(kept, key=lambda model: -model.num_reg_images())):
        (folder / str(number)).mkdir(exist_ok=True)
        reconstruction.write(folder / str(number))
