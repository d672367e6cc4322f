"""What the tests of the offline kit share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kits import write_competition, write_kit
from stages import layered_python


@pytest.fixture
def attached(tmp_path: Path) -> Path:
    """The input root with a kit and a competition."""
    root = tmp_path / "input"
    write_kit(root / "datasets" / "someone" / "imc-kit")
    write_competition(root / "competitions" / "image-matching")
    return root


@pytest.fixture(scope="session")
def notebook_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that runs notebooks, with the source that is tested."""
    return layered_python(tmp_path_factory.mktemp("layer") / "environment")
