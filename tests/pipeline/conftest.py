"""A rendered scene, shared by the tests of whole runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imc_kit.colmap import child
from imc_kit.synthetic.plaza import write_scene
from imc_kit.types import Pose
from small_tasks import VIEWS


@pytest.fixture(scope="session", autouse=True)
def colmap_loaded() -> Iterator[None]:
    """COLMAP's process is started once, not for every run."""
    with child.loading():
        yield


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Pose]]:
    """The root of a competition with one scene, and the true poses by the names of its 16 photos. Not to be changed."""
    root = tmp_path_factory.mktemp("rendered")
    poses = write_scene(root, views=VIEWS, size=(320, 240))
    return root, {Path(name).name: pose for name, pose in poses.items()}


@pytest.fixture(scope="session")
def plaza(rendered: tuple[Path, dict[str, Pose]]) -> Path:
    return rendered[0]


@pytest.fixture(scope="session")
def photos(plaza: Path) -> Path:
    return plaza / "test/plaza/images"
