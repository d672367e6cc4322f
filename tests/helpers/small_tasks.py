"""Competitions of a few small scenes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

VIEWS = 12
"""Photos of the rendered scene that whole runs are tested on."""
HEADER = "image_path,dataset,scene,rotation_matrix,translation_vector\n"
NO_POSE = "1;0;0;0;1;0;0;0;1,0;0;0\n"


def write_task(root: Path, images: Mapping[str, Mapping[str, Any]]) -> Path:
    """A competition with these scenes; an image is a path to copy, pixels, or the content of a file."""
    rows = HEADER
    for scene, named in images.items():
        folder = root / "test" / scene / "images"
        for name, image in named.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(image, bytes):
                (folder / name).write_bytes(image)
            elif isinstance(image, Path):
                shutil.copy(image, folder / name)
            elif image is not None:
                cv2.imwrite(str(folder / name), image)
            rows += f"test/{scene}/images/{name},{scene},{scene},{NO_POSE}"
    (root / "sample_submission.csv").write_text(rows, "utf-8")
    return root


def noise(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (240, 320, 3), np.uint8)
