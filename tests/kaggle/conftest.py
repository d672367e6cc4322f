"""What the tests of the offline kit share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kits import write_competition, write_kit


@pytest.fixture(params=["nested", "flat"])
def attached(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The input root with a kit and a competition, in either mount form."""
    root = tmp_path / "input"
    nested = request.param == "nested"
    write_kit(root / ("datasets/someone/imc-kit" if nested else "imc-kit"))
    write_competition(root / ("competitions/image-matching" if nested else "image-matching"))
    return root
