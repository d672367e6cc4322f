"""Photos of the rendered plaza, each made once for all tests and all workers of pytest-xdist."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from imc_kit.synthetic.plaza import Camera, orbit, plaza, render
from imc_kit.types import Pixels
from once import once

ORBIT = orbit(24)
"""Poses once round the plaza, 15° apart."""
SIZE = (320, 240)


def views(factory: pytest.TempPathFactory, numbers: Iterable[int]) -> list[Pixels]:
    """The photos from these poses of `ORBIT`, of `SIZE`. The camera is `Camera.centred(SIZE)`."""
    return [_view(factory, number) for number in numbers]


def _view(factory: pytest.TempPathFactory, number: int) -> Pixels:
    def make(folder: Path) -> None:
        cv2.imwrite(str(folder / "photo.png"), render(plaza(), Camera.centred(SIZE), ORBIT[number])[..., ::-1])

    read = cv2.imread(str(once(factory, f"view-{number}", make) / "photo.png"))
    return np.asarray(read, np.uint8)[..., ::-1].copy()
