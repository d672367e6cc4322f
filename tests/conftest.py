"""What all tests share."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before any library is loaded: each would start a thread per core, though the workers of pytest-xdist keep these busy.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

from imc_kit.colmap import child

# Python's 700 looks for garbage a thousand times while the tests are collected, which is a sixth of that time.
gc.set_threshold(20_000)
# A shell's background jobs, and with them their children, ignore Ctrl-C; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with many slow tests come first, so that the workers of pytest-xdist end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """All that is loaded by now stays, so the garbage collector, which takes a second for it, need not look again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def colmap_loaded() -> Iterator[None]:
    """COLMAP's process is started once, not for every run."""
    with child.loading():
        yield


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
