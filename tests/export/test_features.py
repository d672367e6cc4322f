"""The features of a run for hloc and COLMAP, read back by hloc's own code and by pycolmap."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pycolmap
import pytest

import hloc_format
from imc_kit.cli.main import main
from imc_kit.config import feature_pipeline, preset
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.export.run import export
from imc_kit.pipeline.run import solve
from turned_photos import stored_points, write_turned
from views import ORBIT, SIZE, views

TURNED = {"view_001.jpg": 6, "view_002.jpg": 8, "view_003.jpg": 3, "view_006.jpg": 2}
COUNT = 7


@dataclass
class Solved:
    """out: of a run whose photos are stored turned. features: of the upright photos by name, from its store."""

    photos: Path
    out: Path
    features: dict[str, Any]


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Solved:
    folder = tmp_path_factory.mktemp("solved")
    (folder / "plaza").mkdir()
    for number, pixels in enumerate(views(tmp_path_factory, range(COUNT))):
        name = f"view_{number:03}.jpg"
        write_turned(folder / "plaza" / name, pixels[..., ::-1], TURNED.get(name, 1))
    run = solve(
        folder / "plaza",
        folder / "out",
        preset("sift", {"detector.max_keypoints": 1500, "threads": 2, "subpixel.on": False}),
    )
    assert run.scenes["plaza"].counts["registered"] == COUNT
    known = json.loads((folder / "out/scenes/plaza/database.json").read_text())["features"]
    table = Store(folder / "out/store").features(known["table"])
    return Solved(folder / "plaza", folder / "out", {name: table[key] for name, key in known["keys"].items()})


def in_the_file(name: str, points: Any) -> Any:
    """Points of the upright photo in its file's raster."""
    return stored_points(points, TURNED[name], *SIZE) if name in TURNED else points


def stored_size(name: str) -> tuple[int, int]:
    return SIZE[::-1] if TURNED.get(name) in (6, 8) else SIZE


def test_hloc_reads_what_is_in_the_files(solved: Solved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", str(solved.out), "--format", "hloc", "--out", str(tmp_path / "to")])
    assert "1 photos are stored mirrored" in capsys.readouterr().out
    folder = tmp_path / "to/plaza"
    for name, features in solved.features.items():
        keypoints = hloc_format.get_keypoints(folder / "features.h5", name)
        assert keypoints.dtype == np.float32
        tolerance = 1e-4 if name in TURNED else 0
        np.testing.assert_allclose(keypoints, in_the_file(name, features.keypoints), atol=tolerance, rtol=0)
        with h5py.File(folder / "features.h5") as file:
            np.testing.assert_array_equal(file[name]["descriptors"][()], features.descriptors.T)
            np.testing.assert_array_equal(file[name]["scores"][()], features.scores)
            assert tuple(file[name]["image_size"]) == stored_size(name)
    pairs = hloc_format.parse_retrieval(folder / "pairs.txt")
    with pycolmap.Database.open(shutil.copy(solved.out / "scenes/plaza/database.db", tmp_path)) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        assert len(pairs) == database.num_matched_image_pairs()
        for first, second in pairs:
            indices, scores = hloc_format.get_matches(folder / "matches.h5", first, second)
            best_first = indices[np.argsort(-scores)]
            np.testing.assert_array_equal(best_first, database.read_matches(ids[first], ids[second]))


def test_an_exported_run_can_be_imported_again(solved: Solved, tmp_path: Path) -> None:
    export(solved.out, "hloc", tmp_path / "to")
    given = {f"imported.{name}": tmp_path / f"to/plaza/{name}.h5" for name in ("features", "matches")}
    run = solve(solved.photos, tmp_path / "out", preset("sift", {"threads": 2, "subpixel.on": False} | given))
    assert run.scenes["plaza"].counts["registered"] == COUNT
    export(tmp_path / "out", "hloc", tmp_path / "again")
    for name in solved.features:
        one, two = (
            hloc_format.get_keypoints(tmp_path / there / "plaza/features.h5", name) for there in ("to", "again")
        )
        np.testing.assert_allclose(one, two, atol=1e-4 if name in TURNED else 0, rtol=0)
    pairs = hloc_format.parse_retrieval(tmp_path / "to/plaza/pairs.txt")
    assert hloc_format.parse_retrieval(tmp_path / "again/plaza/pairs.txt") == pairs
    for pair in pairs:
        one, two = (hloc_format.get_matches(tmp_path / there / "plaza/matches.h5", *pair) for there in ("to", "again"))
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])


@pytest.fixture(scope="module")
def exported(solved: Solved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "to"
    export(solved.out, "colmap-database", out)
    return out / "plaza/database.db"


def test_a_database_describes_the_files(solved: Solved, exported: Path, tmp_path: Path) -> None:
    with pycolmap.Database.open(shutil.copy(exported, tmp_path)) as database:
        images = {image.image_id: image for image in database.read_all_images()}
        assert {image.name for image in images.values()} == set(solved.features)
        for number, image in images.items():
            features, camera = solved.features[image.name], database.read_camera(image.camera_id)
            assert (camera.width, camera.height) == stored_size(image.name)
            assert (camera.principal_point_x, camera.principal_point_y) == (camera.width / 2, camera.height / 2)
            expected = in_the_file(image.name, features.keypoints) + 0.5
            np.testing.assert_allclose(database.read_keypoints(number), expected, atol=1e-4)
            found = database.read_descriptors(number)
            assert found.type == pycolmap.FeatureExtractorType.SIFT
            assert np.abs(found.data / 512 - features.descriptors).max() <= 0.5 / 512 + 1e-3
            assert database.read_frame(number).rig_id == camera.camera_id  # one rig per camera, in the same order
        pairs = [pycolmap.pair_id_to_image_pair(pair) for pair in database.read_two_view_geometry_num_inliers()[0]]
        assert pairs
        for first, second in pairs:
            geometry = database.read_two_view_geometry(first, second)
            one, two = (
                np.column_stack([database.read_keypoints(image)[rows], np.ones(len(rows))])
                for image, rows in zip((first, second), geometry.inlier_matches.T, strict=True)
            )
            lines = one @ geometry.F.T
            distance = np.abs((two * lines).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
            assert np.median(distance) < 1  # pixels


def test_colmap_maps_from_a_database(solved: Solved, exported: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(exported, tmp_path))
    options = pycolmap.IncrementalPipelineOptions(num_threads=2, min_model_size=3)
    (tmp_path / "models").mkdir()
    with pycolmap.ostream():
        models = pycolmap.incremental_mapping(path, solved.photos, tmp_path / "models", options)
    centres = max(
        ({image.name: image.projection_center() for image in model.images.values()} for model in models.values()),
        key=len,
    )
    assert {"view_001.jpg", "view_002.jpg", "view_003.jpg"} <= centres.keys()  # they are turned
    true = {f"view_{number:03}.jpg": pose.center for number, pose in enumerate(ORBIT)}
    ratios = [
        np.linalg.norm(centres[a] - centres[b]) / np.linalg.norm(true[a] - true[b]) for a, b in combinations(centres, 2)
    ]
    assert np.std(ratios) < 0.05 * np.mean(ratios)


def test_colmap_goes_on_matching_from_a_database(solved: Solved, exported: Path, tmp_path: Path) -> None:
    """Its own SIFT features of the same photos match those of the export."""
    path = Path(shutil.copy(exported, tmp_path))
    photos = tmp_path / "photos"
    shutil.copytree(solved.photos, photos)
    shutil.copy(photos / "view_000.jpg", photos / "new.jpg")
    with pycolmap.ostream():
        pycolmap.extract_features(path, photos, ["new.jpg"], extraction_options={"num_threads": 2, "use_gpu": False})
        pycolmap.match_exhaustive(path, matching_options={"num_threads": 2, "use_gpu": False})
    with pycolmap.Database.open(path) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        matches = database.read_matches(ids["view_000.jpg"], ids["new.jpg"])
        one, two = (database.read_keypoints(ids[name])[:, :2] for name in ("view_000.jpg", "new.jpg"))
    apart = np.linalg.norm(one[matches[:, 0]] - two[matches[:, 1]], axis=1)
    assert len(matches) > 30
    assert np.median(apart) < 0.5


@pytest.mark.parametrize("form", ["hloc", "colmap-database"])
def test_without_the_store_there_are_no_descriptors(solved: Solved, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(solved.out, out, ignore=shutil.ignore_patterns("store"))
    assert "without descriptors" in export(out, form, tmp_path / "to")
    if form == "hloc":
        with h5py.File(tmp_path / "to/plaza/features.h5") as file:
            assert set(file["view_000.jpg"]) == {"keypoints", "image_size"}
            found, expected = file["view_000.jpg/keypoints"][()], solved.features["view_000.jpg"].keypoints
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:
        with pycolmap.Database.open(tmp_path / "to/plaza/database.db") as database:
            assert (database.num_descriptors(), database.num_keypoints() > 0) == (0, True)


def test_joined_features_have_no_descriptors(solved: Solved, tmp_path: Path) -> None:
    config = replace(preset("sift", {"threads": 2, "subpixel.on": False}), also=(feature_pipeline("orb+nearest"),))
    solve(solved.photos, tmp_path / "out", config)
    assert "without descriptors" in export(tmp_path / "out", "hloc", tmp_path / "to")


def test_a_damaged_database_and_changed_photos_are_refused(solved: Solved, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(solved.out, out)
    (out / "scenes/plaza/database.db").write_bytes(b"")
    with pytest.raises(KitError, match=r"there is no .*database\.db, or it has changed since it was written"):
        export(out, "hloc", tmp_path / "to")
    assert not (tmp_path / "to").exists()
