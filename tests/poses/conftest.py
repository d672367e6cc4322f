"""The rendered turntable, small, once for all tests here."""

from __future__ import annotations

import pytest

from imc_kit.synthetic.plaza import Camera
from imc_kit.types import Pixels
from rendered.turntable import circle_of_views, render_turntable


@pytest.fixture(scope="session")
def jug() -> list[Pixels]:
    """36 photos once round, in order."""
    return render_turntable(Camera.centred((128, 96), 192.0), circle_of_views(36), samples=1)
