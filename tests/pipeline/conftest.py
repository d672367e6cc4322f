"""A rendered scene, shared by the tests of whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from imc_kit.synthetic.plaza import DISTANCES, write_layout
from imc_kit.types import Pose
from once import once
from small_tasks import VIEWS
from views import ORBIT, SIZE, views


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Pose]]:
    """The root of a competition with one scene, and the true poses by the names of its photos. Not to be changed.

    The photos are half a round, so near to each other that few are enough.
    """
    poses = {f"view_{number:03}.jpg": pose for number, pose in enumerate(ORBIT[:VIEWS])}

    def make(root: Path) -> None:
        photos = views(tmp_path_factory, range(VIEWS))
        write_layout(root, "plaza", "synthetic", poses, SIZE, lambda: photos, DISTANCES)

    return once(tmp_path_factory, "rendered", make), poses


@pytest.fixture(scope="session", name="plaza")
def plaza_root(rendered: tuple[Path, dict[str, Pose]]) -> Path:
    return rendered[0]


@pytest.fixture(scope="session")
def photos(plaza: Path) -> Path:
    return plaza / "test/plaza/images"
