"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the project that holds scenes/, weights/ and metric_cases/ (see CONTRIBUTING.md)."""
    folder = Path(os.environ.get("IMC_KIT_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "scenes").is_dir():
        message = (
            f"no test data in {folder}: set IMC_KIT_SHARED to the folder that holds scenes/, weights/ and metric_cases/"
        )
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder
