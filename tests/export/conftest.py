"""A made-up run, shared by the tests of exports."""

from __future__ import annotations

import pytest

from made_runs import PHOTOS, MadeRun, camera_of, make_run, model


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """Two scenes with models, one of them with a second model, and one without. Not to be changed."""
    names = [*PHOTOS]
    lens = camera_of("OPENCV", fy=145.0, cx=103.0, cy=73.0, k1=-0.1, k2=0.02, p1=0.004, p2=-0.006)
    one, two = model(names, lens, 1), model(names, camera_of("RADIAL_FISHEYE", k1=0.02, k2=-0.01), 2)
    return make_run(tmp_path_factory.mktemp("run"), {"one": [one], "two": [two, model(names[:3], lens, 3)], "bare": []})
