"""Scenes solved from the files of other programs. The photos are stored in several orientations."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import cv2
import h5py
import numpy as np
import pycolmap
import pytest

import hloc_format
from imc_kit import metric
from imc_kit.config import Config, preset
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.matchers import OneByOne, PhotoMatcherConfig, View
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.pipeline.run import Run, solve
from imc_kit.types import Correspondences
from small_tasks import VIEWS
from turned_photos import stored, stored_points, write_turned

TURNED = {"view_001.jpg": 6, "view_004.jpg": 8, "view_007.jpg": 3, "view_010.jpg": 2}
"""EXIF orientations."""
PREFIX = "test/plaza/images/"


def test_the_formulas_of_this_test_fit_its_rasters() -> None:
    upright = np.arange(12).reshape(3, 4)
    places = np.array([[x, y] for y in range(3) for x in range(4)])
    for orientation in TURNED.values():
        x, y = stored_points(places, orientation, 4, 3).T
        np.testing.assert_array_equal(stored(upright, orientation)[y, x], upright.ravel())


@dataclass
class Given:
    """root: of the input. The files describe its photos as they are stored, in single precision."""

    root: Path
    features: Path
    matches: Path

    def config(self, matches: bool = True, **options: Any) -> Config:
        given = {"imported.features": self.features} | ({"imported.matches": self.matches} if matches else {})
        return preset("sift", {"threads": 2, "subpixel.on": False} | given | options)


@pytest.fixture(scope="module")
def given(plaza: Path, tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("given")
    root = folder / "in"
    shutil.copytree(plaza, root)
    found, sizes = {}, {}
    for path in sorted((root / PREFIX).iterdir()):
        keypoints, descriptors = hloc_format.detect(path)
        upright = cv2.imread(str(path))
        height, width = upright.shape[:2]
        sizes[path.name] = width, height
        if orientation := TURNED.get(path.name):
            raster = write_turned(path, upright, orientation)
            keypoints = stored_points(keypoints, orientation, width, height).astype(np.float32)
            sizes[path.name] = raster.shape[1], raster.shape[0]
        found[path.name] = keypoints, descriptors
    features, matches = folder / "features.h5", folder / "matches.h5"
    hloc_format.write_features(features, found, sizes, half=False)
    pairs = {(a, b): hloc_format.match(found[a], found[b]) for a, b in combinations(found, 2)}
    hloc_format.write_matches(matches, pairs)
    return Given(root, features, matches)


@pytest.fixture(scope="module")
def solved(given: Given, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    out = tmp_path_factory.mktemp("out")
    return out, solve(given.root, out, given.config())


def maa(root: Path, run: Run) -> float:
    return metric.score(root / "truth.csv", run.submission, json.loads((root / "thresholds.json").read_text())).mean


def tables(out: Path, kind: str) -> list[str]:
    return sorted(path.name for path in (out / "store" / kind).iterdir())


def test_features_and_matches_of_hloc(given: Given, solved: tuple[Path, Run]) -> None:
    out, run = solved
    result = run.scenes["plaza"]
    assert maa(given.root, run) >= 0.9
    assert result.counts["registered"] == VIEWS
    assert result.counts["pairs"] == VIEWS * (VIEWS - 1) // 2
    (table,) = tables(out, "features")  # no others were detected
    assert len(Store(out / "store").features(table)) == VIEWS


def test_a_changed_file_repeats_what_depends_on_it(given: Given, solved: tuple[Path, Run], tmp_path: Path) -> None:
    out, run = solved
    before = tables(out, "features"), tables(out, "matches")
    again = solve(given.root, out, given.config())
    assert again.scenes["plaza"].seconds == run.scenes["plaza"].seconds  # it was read back
    fewer = tmp_path / "fewer.h5"
    shutil.copyfile(given.matches, fewer)
    with h5py.File(fewer, "a") as file:
        del file["view_000.jpg"]
    changed = solve(given.root, out, given.config(**{"imported.matches": fewer}))
    assert changed.scenes["plaza"].counts["pairs"] == (VIEWS - 1) * (VIEWS - 2) // 2
    assert tables(out, "features") == before[0]
    assert len(tables(out, "matches")) == len(before[1]) + 1


def test_features_alone_are_matched_by_the_kit_on_the_given_pairs(given: Given, tmp_path: Path) -> None:
    names = sorted(path.name for path in (given.root / PREFIX).iterdir())
    lines = [f"{PREFIX}{a} {b}" for a, b in combinations(names, 2) if names.index(b) - names.index(a) <= 2]
    (tmp_path / "pairs.txt").write_text("\n".join([*lines, "x.jpg y.jpg"]))
    run = solve(given.root, tmp_path / "out", given.config(False, **{"imported.pairs": tmp_path / "pairs.txt"}))
    assert maa(given.root, run) >= 0.9
    assert run.scenes["plaza"].counts["pairs"] == len(lines)
    assert any("1 lines of the list of pairs" in note for note in run.scenes["plaza"].notes)


def test_names_relative_to_the_input_and_images_without_features(given: Given, tmp_path: Path) -> None:
    """In half precision, as hloc writes by default, and without descriptors."""
    features, matches = tmp_path / "features.h5", tmp_path / "matches.h5"
    with h5py.File(given.features) as old, h5py.File(features, "w") as new:
        for name in [*old][1:]:
            new[f"{PREFIX}{name}/keypoints"] = old[name]["keypoints"][()].astype(np.float16)
        new["elsewhere.jpg/keypoints"] = np.ones((1, 2))
    with h5py.File(given.matches) as old, h5py.File(matches, "w") as new:
        dashed = PREFIX.replace("/", "-")
        for a, b in combinations([*old, f"view_{VIEWS - 1:03}.jpg"], 2):
            for part, values in old[a][b].items():
                new[f"{dashed}{a}/{dashed}{b}/{part}"] = values[()]
    config = given.config(**{"imported.features": features, "imported.matches": matches})
    run = solve(given.root, tmp_path / "out", config)
    assert run.scenes["plaza"].counts["registered"] == VIEWS - 1
    assert run.scenes["plaza"].notes[0] == f"{features} has no features of 1 images: view_000.jpg"
    told = json.loads((tmp_path / "out/run.json").read_text())["notes"]
    assert f"{features} has features of 1 images that are not solved: elsewhere.jpg" in told


def test_a_database_of_colmap(plaza: Path, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "colmap.db"
    with pycolmap.ostream():
        pycolmap.extract_features(path, photos, extraction_options={"num_threads": 2, "use_gpu": False})
        pycolmap.match_exhaustive(path, matching_options={"num_threads": 2, "use_gpu": False})
    run = solve(
        plaza, tmp_path / "out", preset("sift", {"imported.database": path, "threads": 2, "subpixel.on": False})
    )
    assert maa(plaza, run) >= 0.9
    with pycolmap.Database.open(path) as database:
        matched = sum(n > 0 for n in database.read_num_matches()[1])
    assert run.scenes["plaza"].counts["pairs"] == matched


def edited(given: Given, folder: Path, name: str, values: Any) -> Path:
    path = folder / "edited.h5"
    shutil.copyfile(given.features, path)
    with h5py.File(path, "a") as file:
        del file[name]
        if values is not None:
            file[name] = values
    return path


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("keypoints", np.full((9, 2), np.nan), "keypoints must be finite"),
        ("keypoints", np.full((9, 2), 999.0), "keypoints must be inside the image of 320 × 240 pixels"),
        ("image_size", np.array([240, 320]), "240 × 320 pixels, but the photo is stored with 320 × 240"),
        ("descriptors", None, "no descriptors, so they cannot be matched: give their matches too"),
    ],
)
def test_features_that_do_not_fit_their_photo_are_refused(
    given: Given, tmp_path: Path, name: str, values: Any, message: str
) -> None:
    path = edited(given, tmp_path, f"view_000.jpg/{name}", values)
    if values is not None and name == "keypoints":
        for part, count in (("scores", (9,)), ("descriptors", (128, 9))):
            with h5py.File(path, "a") as file:
                del file[f"view_000.jpg/{part}"]
                file[f"view_000.jpg/{part}"] = np.ones(count)
    run = solve(given.root, tmp_path / "out", given.config(False, **{"imported.features": path}))
    assert run.failed["plaza"].startswith(f"{path} (view_000.jpg): ")
    assert message in run.failed["plaza"]


def test_matches_of_keypoints_that_do_not_exist_are_refused(given: Given, tmp_path: Path) -> None:
    path = tmp_path / "matches.h5"
    shutil.copyfile(given.matches, path)
    with h5py.File(path, "a") as file:
        file["view_000.jpg/view_001.jpg/matches0"][0] = 32000
    run = solve(given.root, tmp_path / "out", given.config(**{"imported.matches": path}))
    assert run.failed["plaza"].startswith(f"{path} (view_000.jpg, view_001.jpg): view_001.jpg has ")
    assert "there is no keypoint 32000; give the matches of these features" in run.failed["plaza"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matches": "m.h5"}, r"the matches .*m\.h5 need their features"),
        ({"features": "f.h5", "database": "x.db"}, "--imported.database replaces hloc's files"),
        ({"features": "f.h5"}, r"there is no file .*f\.h5"),
        ({"database": "x.db"}, r"there is no file .*x\.db"),
        ({"pairs": "p.txt"}, r"there is no file .*p\.txt"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    given: Given, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    config = preset("sift", {f"imported.{name}": tmp_path / file for name, file in options.items()})
    with pytest.raises(KitError, match=message):
        solve(given.root, tmp_path / "out", config)


@dataclass(frozen=True)
class OfGivenConfig(PhotoMatcherConfig):
    """For tests: nearest neighbours of the given features, as points."""

    name: ClassVar[str] = "of given"

    def create(self) -> OfGiven:
        return OfGiven()


class OfGiven(OneByOne):
    def match(self, first: View, second: View) -> Correspondences:
        found = NearestConfig(ratio=0.8).create().match(first.features, second.features)
        ends = (view.features.keypoints[rows] for view, rows in zip((first, second), found.indices.T, strict=True))
        return Correspondences(*ends, found.scores)


def test_a_matcher_that_takes_photos_uses_imported_features(given: Given, tmp_path: Path) -> None:
    config = replace(given.config(False), matcher=OfGivenConfig())
    run = solve(given.root, tmp_path / "out", config)
    assert maa(given.root, run) >= 0.9
