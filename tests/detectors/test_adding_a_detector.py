"""The detector in docs/adding-a-detector.md, as a module of the kit, of another package and of a notebook."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import imc_kit
import imc_kit.detectors
from imc_kit.cli.main import main
from imc_kit.config import CHEAP
from imc_kit.data.images import Photo
from imc_kit.detectors import DETECTORS, extract
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.synthetic.plaza import Camera, look_at, plaza, render

GUIDE = Path(__file__).parents[2] / "docs" / "adding-a-detector.md"
(CODE,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def fresh_registry(monkeypatch):
    """As in a new process: the registry searches again, and forgets what this test adds."""
    monkeypatch.setattr(DETECTORS, "_known", dict(DETECTORS))
    monkeypatch.setattr(DETECTORS, "_loaded", False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.endswith("corners") or name == "my_package":
            del sys.modules[name]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with four photos of a rendered square, a few degrees apart."""
    folder = tmp_path_factory.mktemp("photos")
    solids, camera = plaza(), Camera.centred((320, 240))
    for number, angle in enumerate(np.radians([0, 5, 10, 15])):
        center = np.array([8 * np.cos(angle), 8 * np.sin(angle), 2.6 + 0.1 * number])
        image = render(solids, camera, look_at(center, np.array([0, 0, 1.2])), samples=1)
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    return folder


def test_it_is_short():
    assert len(CODE.strip().splitlines()) <= 40
    assert sum(bool(line.strip()) for line in CODE.splitlines()) <= 30


def test_a_module_of_the_kit_works_on_the_command_line(photos, tmp_path, monkeypatch):
    (tmp_path / "corners.py").write_text(CODE, encoding="utf-8")
    monkeypatch.setattr(imc_kit.detectors, "__path__", [*imc_kit.detectors.__path__, str(tmp_path)])
    assert DETECTORS["corners"].__module__ == "imc_kit.detectors.corners"
    options = ["--detector", "corners", "--detector.threshold", "0.002", "--threads", "1"]
    assert main(["solve", str(photos), "--out", str(tmp_path / "out"), "--preset", "small", *options]) == 0
    model = next((tmp_path / "out").glob("scenes/*/models/0/images.bin"))
    assert int.from_bytes(model.read_bytes()[:8], "little") == 4  # COLMAP's number of registered images


def test_a_module_of_another_package_works_in_python(photos, tmp_path, monkeypatch):
    """The files are those of an installed package: its module, its metadata and its entry point."""
    info = tmp_path / "my_package-1.0.dist-info"
    for folder in (tmp_path / "my_package", info):
        folder.mkdir()
    (tmp_path / "my_package/__init__.py").touch()
    (tmp_path / "my_package/corners.py").write_text(CODE, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (group,) = re.findall(r'entry-points\."(.*?)"\]', GUIDE.read_text("utf-8"))
    (line,) = re.findall(r"^ *(corners = .*)$", GUIDE.read_text("utf-8"), re.MULTILINE)
    (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n".replace('"', ""))
    monkeypatch.syspath_prepend(tmp_path)
    config = DETECTORS["corners"](max_keypoints=2000)
    assert type(config).__module__ == "my_package.corners"
    run = imc_kit.solve(photos, out=tmp_path / "out", config=dataclasses.replace(CHEAP, detector=config, threads=1))
    (scene,) = run.scenes.values()
    assert [placement.model for placement in scene.placements.values()] == [0] * 4


@pytest.fixture
def corners():
    """The configuration class, as a notebook cell defines it."""
    exec(compile(CODE, "cell", "exec", dont_inherit=True), {"__name__": "__main__"})
    return DETECTORS["corners"]


def test_a_notebook_cell_finds_and_matches(corners, texture):
    detector = corners().create()
    first, second = (Photo(texture[:, x : x + 100].copy(), (100, 96), 0, False) for x in (0, 20))
    one, other = extract(detector, [first, second])
    assert len(one) > 20
    assert one.descriptors.shape == (len(one), detector.dimension)
    matches = NearestConfig().create(corners().kind).match(one, other)
    moved = one.keypoints[matches.indices[:, 0]] - other.keypoints[matches.indices[:, 1]]
    assert (moved == [20, 0]).all(1).mean() > 0.5
    assert len(moved) > 15


def test_it_finds_the_corners_of_a_square(corners):
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:41, 30:61] = 255
    (found,) = extract(corners(max_keypoints=4).create(), [Photo(image, (80, 60), 0, False)])
    apart = np.abs(found.keypoints[:, None] - np.array([(30, 20), (60, 20), (30, 40), (60, 40)])).max(2)
    assert sorted(apart.argmin(1)) == [0, 1, 2, 3]
    assert apart.min(1).max() <= 1
    for nothing in (np.zeros((60, 80, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)):
        assert len(corners().create().detect([nothing], [None])[0]) == 0
