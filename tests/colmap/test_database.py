"""Writing a COLMAP database, read back by pycolmap itself."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from imc_kit.colmap.cameras import CAMERA_MODELS, CameraConfig, ImageEntry, change_camera_model
from imc_kit.colmap.database import keypoint_counts, match_counts, write_database
from imc_kit.colmap.database_edits import keep_best_connected, replace_matches, write_part
from imc_kit.colmap.database_files import features_of, keep, kept, move, near, workplace
from imc_kit.colmap.database_reading import read_pair
from imc_kit.errors import KitError
from imc_kit.types import Features, Matches

WIDE, HIGH = (80, 60), (60, 80)
MAKE, MODEL, ORIENTATION, EXIF_IFD, FOCAL_35MM = 0x010F, 0x0110, 0x0112, 0x8769, 0xA405


def entry(
    folder: Path,
    name: str,
    stored: tuple[int, int] = WIDE,
    camera: str | None = None,
    focal: int | None = None,
    orientation: int = 1,
) -> ImageEntry:
    """A photo on disk; `focal` is in millimetres as of 35 mm film. COLMAP takes a camera's name only with it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    if camera:
        exif[MAKE], exif[MODEL] = "Maker", camera
    if focal:
        exif.get_ifd(EXIF_IFD)[FOCAL_35MM] = focal
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", stored, "olive").save(path, exif=exif)
    return ImageEntry(name, path, stored if orientation < 5 else (stored[1], stored[0]))


def features(count: int = 4, size: tuple[int, int] = WIDE, seed: int = 0) -> Features:
    points = np.random.default_rng(seed).uniform(0, min(size) - 1, (count, 2)).astype(np.float32)
    return Features(points, np.ones(count, np.float32), np.zeros((count, 1), np.uint8), size)


def matches(*indices: tuple[int, int], scores: Sequence[float] | None = None) -> Matches:
    return Matches(
        np.array(indices, np.int32).reshape(-1, 2),
        np.array(np.ones(len(indices)) if scores is None else scores, np.float32),
    )


def written(
    folder: Path,
    entries: Sequence[ImageEntry],
    pairs: Sequence[tuple[str, str, Matches]] = (),
    config: CameraConfig | None = None,
    count: int = 4,
) -> Any:
    path = folder / "database.db"
    sizes = {image.name: image.size for image in entries}
    write_database(path, entries, lambda name: features(count, sizes[name]), pairs, config or CameraConfig())
    return pycolmap.Database.open(path)


def cameras(database: Any) -> dict[str, Any]:
    known = {camera.camera_id: camera for camera in database.read_all_cameras()}
    return {image.name: known[image.camera_id] for image in database.read_all_images()}


def groups(database: Any) -> set[frozenset[str]]:
    """Which images share a camera."""
    found = cameras(database)
    return {
        frozenset(name for name, camera in found.items() if camera.camera_id == one.camera_id) for one in found.values()
    }


def in_groups(*names: str) -> set[frozenset[str]]:
    return {frozenset(group.split()) for group in names}


# Keypoints


def test_half_a_pixel_is_added_once(tmp_path: Path) -> None:
    """COLMAP's top-left pixel has its centre at (0.5, 0.5), and it takes the image's corners for (0, 0) and (w, h)."""
    points = np.array([[0, 0], [-0.5, -0.5], [79.5, 59.5], [10.25, 20.75]], np.float32)
    made = Features(points, np.ones(4, np.float32), np.zeros((4, 1), np.uint8), WIDE)
    path = tmp_path / "database.db"
    write_database(path, [entry(tmp_path, "a.jpg")], lambda _: made, [], CameraConfig())
    with pycolmap.Database.open(path) as database:
        (image,) = database.read_all_images()
        found = database.read_keypoints(image.image_id)
    np.testing.assert_array_equal(found[:, :2], [[0.5, 0.5], [0, 0], [80, 60], [10.75, 21.25]])
    np.testing.assert_array_equal(made.keypoints[0], 0)  # the features themselves stay


@pytest.mark.parametrize("count", [0, 1])
def test_few_keypoints(tmp_path: Path, count: int) -> None:
    entries = [entry(tmp_path, name) for name in ("a.jpg", "b.jpg")]
    with written(tmp_path, entries, [("a.jpg", "b.jpg", Matches.empty())], count=count) as database:
        assert database.num_images() == 2
        assert database.num_keypoints() == 2 * count


def test_no_images(tmp_path: Path) -> None:
    with written(tmp_path, []) as database:
        assert database.num_images() == database.num_cameras() == 0


def test_features_are_asked_for_once_each(tmp_path: Path) -> None:
    entries = [entry(tmp_path, f"{number}.jpg") for number in range(5)]
    asked: list[str] = []

    def ask(name: str) -> Features:
        asked.append(name)
        return features()

    write_database(tmp_path / "database.db", entries, ask, [("0.jpg", "1.jpg", matches((0, 0)))], CameraConfig())
    assert asked == [image.name for image in entries]


def test_names_are_whole_paths(tmp_path: Path) -> None:
    names = ["left/a.jpg", "right/a.jpg", "ein Bild.v2.jpg", "ünï/ç.jpg"]
    with written(tmp_path, [entry(tmp_path, name) for name in names]) as database:
        assert {image.name for image in database.read_all_images()} == set(names)


def test_an_older_database_is_replaced(tmp_path: Path) -> None:
    written(tmp_path, [entry(tmp_path, "a.jpg")]).close()
    with written(tmp_path, [entry(tmp_path, "b.jpg")]) as database:
        assert [image.name for image in database.read_all_images()] == ["b.jpg"]


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"cannot write the COLMAP database .*nowhere.* no locks, choose"):
        write_database(tmp_path / "nowhere" / "d.db", [], lambda _: features(), [], CameraConfig())


# Rigs and frames


def test_every_camera_has_a_rig_and_every_image_a_frame(tmp_path: Path) -> None:
    entries = [entry(tmp_path, "a.jpg"), entry(tmp_path, "b.jpg"), entry(tmp_path, "c.jpg", HIGH)]
    with written(tmp_path, entries, config=CameraConfig("size")) as database:
        rigs = {rig.rig_id: rig.ref_sensor_id.id for rig in database.read_all_rigs()}
        assert sorted(rigs.values()) == sorted(camera.camera_id for camera in database.read_all_cameras())
        assert len(rigs) == 2
        frames = database.read_all_frames()
        images = {image.image_id: image for image in database.read_all_images()}
        assert len(frames) == len(images) == 3
        for frame in frames:
            (data,) = frame.data_ids
            assert rigs[frame.rig_id] == images[data.id].camera_id == data.sensor_id.id


# Cameras


def test_sharing_by_image(tmp_path: Path) -> None:
    entries = [entry(tmp_path, name, camera="A", focal=28) for name in ("a.jpg", "b.jpg")]
    with written(tmp_path, entries, config=CameraConfig("image")) as database:
        assert groups(database) == in_groups("a.jpg", "b.jpg")


def test_sharing_by_size(tmp_path: Path) -> None:
    entries = [
        entry(tmp_path, "a.jpg", camera="A", focal=28),
        entry(tmp_path, "b.jpg", camera="B", focal=50),
        entry(tmp_path, "c.jpg", HIGH, camera="A", focal=28),
    ]
    with written(tmp_path, entries, config=CameraConfig("size")) as database:
        assert groups(database) == in_groups("a.jpg b.jpg", "c.jpg")


def test_sharing_by_exif(tmp_path: Path) -> None:
    entries = [
        entry(tmp_path, "a.jpg", camera="A", focal=28),
        entry(tmp_path, "b.jpg", camera="A", focal=28),
        entry(tmp_path, "zoomed.jpg", camera="A", focal=50),
        entry(tmp_path, "other.jpg", camera="B", focal=28),
        entry(tmp_path, "none1.jpg"),
        entry(tmp_path, "none2.jpg"),
        entry(tmp_path, "high.jpg", HIGH, camera="A", focal=28),
    ]
    with written(tmp_path, entries, config=CameraConfig("exif")) as database:
        assert groups(database) == in_groups(
            "a.jpg b.jpg", "zoomed.jpg", "other.jpg", "none1.jpg none2.jpg", "high.jpg"
        )


def test_photos_by_strangers_do_not_share(tmp_path: Path) -> None:
    """Without EXIF: most sizes occur once, so that two of the same size are most likely by two people."""
    sizes = [(80, 60), (80, 60), (81, 60), (82, 60), (83, 60)]
    entries = [entry(tmp_path, f"{number}.jpg", size) for number, size in enumerate(sizes)]
    others = [entry(tmp_path, f"{number}.jpg", (79 + number, 60)) for number in (5, 6)]
    known = [entry(tmp_path, f"{letter}.jpg", camera="A", focal=28) for letter in "xy"]
    with written(tmp_path, entries) as database:
        assert len(groups(database)) == 5
    with written(tmp_path, [*entries, *others, *known]) as database:
        assert groups(database) == in_groups(*(f"{number}.jpg" for number in range(7)), "x.jpg y.jpg")


@pytest.mark.parametrize("sharing", ["exif", "size", "image"])
def test_different_sizes_never_share_and_each_camera_has_its_images_size(tmp_path: Path, sharing: Any) -> None:
    sizes = [WIDE, WIDE, WIDE, HIGH, HIGH, (80, 61)]
    entries = [entry(tmp_path, f"{number}.jpg", size) for number, size in enumerate(sizes)]
    with written(tmp_path, entries, config=CameraConfig(sharing)) as database:
        found = cameras(database)
    for image in entries:
        camera = found[image.name]
        assert (camera.width, camera.height) == image.size
        np.testing.assert_allclose([camera.principal_point_x, camera.principal_point_y], np.array(image.size) / 2)


def test_the_focal_length_comes_from_exif(tmp_path: Path) -> None:
    with written(tmp_path, [entry(tmp_path, "a.jpg", camera="A", focal=28)]) as database:
        camera = cameras(database)["a.jpg"]
    # As of 35 mm film: 28 mm for a diagonal of √(36² + 24²) mm; the image's is 100 pixels.
    assert camera.mean_focal_length() == pytest.approx(28 / math.hypot(36, 24) * 100, rel=1e-3)
    assert camera.has_prior_focal_length


def test_cameras_are_those_that_colmap_infers(tmp_path: Path) -> None:
    variants = product(("jpg", "png", "tif"), (1, 3, 6), ((None, None), ("A", None), (None, 28), ("A", 50)))
    images = [
        entry(tmp_path, f"{number}.{suffix}", camera=camera, focal=focal, orientation=orientation)
        for number, (suffix, orientation, (camera, focal)) in enumerate(variants)
    ]
    options = pycolmap.ImageReaderOptions(camera_model="SIMPLE_RADIAL", default_focal_length_factor=1.2)
    with written(tmp_path, images, config=CameraConfig("image")) as database:
        found = cameras(database)
    for image in images:
        expected = pycolmap.infer_camera_from_image(image.path, options)
        assert found[image.name].mean_focal_length() == pytest.approx(expected.mean_focal_length())
        assert found[image.name].has_prior_focal_length == expected.has_prior_focal_length


@pytest.mark.parametrize("size", [WIDE, HIGH])
def test_the_focal_length_without_exif(tmp_path: Path, size: tuple[int, int]) -> None:
    config = CameraConfig(focal_factor=1.5, model="OPENCV")
    with written(tmp_path, [entry(tmp_path, "a.jpg", size)], config=config) as database:
        camera = cameras(database)["a.jpg"]
    assert camera.mean_focal_length() == 1.5 * 80
    assert camera.model.name == "OPENCV"
    assert not camera.has_prior_focal_length


def test_an_image_turned_by_exif_has_its_upright_size(tmp_path: Path) -> None:
    entries = [
        entry(tmp_path, "rotated.jpg", WIDE, camera="A", focal=28, orientation=6),
        entry(tmp_path, "lying.jpg", WIDE, camera="A", focal=28),
    ]
    with written(tmp_path, entries) as database:
        found = cameras(database)
        assert groups(database) == in_groups("rotated.jpg", "lying.jpg")
    rotated, lying = found["rotated.jpg"], found["lying.jpg"]
    assert (rotated.width, rotated.height) == HIGH
    assert (rotated.principal_point_x, rotated.principal_point_y) == (30, 40)
    assert rotated.mean_focal_length() == lying.mean_focal_length()
    assert rotated.has_prior_focal_length


@pytest.mark.parametrize("content", ["webp", "text", "missing"])
def test_a_file_that_colmap_cannot_read_gets_the_default(tmp_path: Path, content: str) -> None:
    image = entry(tmp_path, "a.webp", camera="A", focal=28)
    if content == "text":
        image.path.write_text("no image")
    if content == "missing":
        image.path.unlink()
    with written(tmp_path, [image]) as database:
        camera = cameras(database)["a.webp"]
    assert (camera.width, camera.height) == WIDE
    assert not camera.has_prior_focal_length
    assert camera.mean_focal_length() == pytest.approx(1.2 * 80)
    assert (camera.principal_point_x, camera.principal_point_y) == (40, 30)


# Matches


def test_matches_come_back_in_their_direction(tmp_path: Path) -> None:
    entries = [entry(tmp_path, name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    pairs = [("a.jpg", "b.jpg", matches((0, 3), (1, 2))), ("c.jpg", "a.jpg", matches((3, 0)))]
    with written(tmp_path, entries, pairs) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        found = database.read_matches(ids["a.jpg"], ids["b.jpg"])
        assert sorted(map(tuple, found.tolist())) == [(0, 3), (1, 2)]
        assert database.read_matches(ids["a.jpg"], ids["c.jpg"]).tolist() == [[0, 3]]
        assert database.num_matched_image_pairs() == 2


@pytest.mark.parametrize("bad", [(4, 0), (0, 4), (2**31 - 1, 0)])
def test_an_index_out_of_bounds_is_a_clear_error(tmp_path: Path, bad: tuple[int, int]) -> None:
    entries = [entry(tmp_path, name) for name in ("a.jpg", "b.jpg")]
    with pytest.raises(KitError, match=r"'a.jpg' and 'b.jpg' name keypoints that do not exist .*4 and 4"):
        written(tmp_path, entries, [("a.jpg", "b.jpg", matches((0, 0), bad))])


@pytest.mark.parametrize(
    "pairs", [[("a.jpg", "b.jpg")] * 2, [("a.jpg", "b.jpg"), ("b.jpg", "a.jpg")], [("a.jpg", "a.jpg")]]
)
def test_a_pair_twice_or_of_one_image_is_a_clear_error(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    entries = [entry(tmp_path, name) for name in ("a.jpg", "b.jpg")]
    with pytest.raises(KitError, match="is given twice or is a single image"):
        written(tmp_path, entries, [(*pair, matches((0, 0))) for pair in pairs])


def test_matches_are_written_one_to_one(tmp_path: Path) -> None:
    entries = [entry(tmp_path, name) for name in ("a.jpg", "b.jpg")]
    pair = matches((0, 0), (0, 0), (1, 0), (2, 2), scores=[0.3, 0.3, 0.1, 0.5])
    with written(tmp_path, entries, [("a.jpg", "b.jpg", pair)]) as database:
        assert database.read_matches(1, 2).tolist() == [[2, 2], [0, 0]]  # the best first


def test_pairs_and_counts_are_read_back(tmp_path: Path) -> None:
    entries = [entry(tmp_path, name) for name in ("b.jpg", "a.jpg", "c.jpg")]
    pair = matches((0, 1), (2, 3), (3, 0))
    with written(tmp_path, entries, [("b.jpg", "a.jpg", pair)]) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        geometry = pycolmap.TwoViewGeometry()
        geometry.inlier_matches = np.array([[2, 3], [0, 1]], np.uint32)
        opened.write_two_view_geometry(ids["b.jpg"], ids["a.jpg"], geometry)
    path = tmp_path / "database.db"
    assert keypoint_counts(path) == {"a.jpg": 4, "b.jpg": 4, "c.jpg": 4}
    assert match_counts(path) == {("b.jpg", "a.jpg"): 3}
    points = features().keypoints  # the same in all images
    for names, indices in ((("b.jpg", "a.jpg"), pair.indices), (("a.jpg", "b.jpg"), pair.indices[:, ::-1])):
        found, inliers = read_pair(path, *names)
        np.testing.assert_allclose(found.first, points[indices[:, 0]], atol=1e-5)
        np.testing.assert_allclose(found.second, points[indices[:, 1]], atol=1e-5)
        assert inliers.tolist() == [True, True, False]
    nothing, inliers = read_pair(path, "a.jpg", "c.jpg")
    assert len(nothing) == len(inliers) == 0
    with pytest.raises(KitError, match=r"no image 'd\.jpg'"):
        read_pair(path, "a.jpg", "d.jpg")


# ---- changing, and a full disk ----


def test_matches_are_replaced_and_others_stay(tmp_path: Path) -> None:
    entries = [entry(tmp_path, name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    before = matches((0, 0), (1, 1))
    with written(tmp_path, entries, [("a.jpg", "b.jpg", before), ("b.jpg", "c.jpg", before)]) as opened:
        geometry = pycolmap.TwoViewGeometry()
        geometry.inlier_matches = np.array([[0, 0]], np.uint32)
        opened.write_two_view_geometry(2, 3, geometry)
    path = tmp_path / "database.db"
    twice = matches((3, 0), (3, 1), (2, 2), scores=[0.1, 0.9, 0.5])
    replace_matches(path, [("b.jpg", "a.jpg", twice), ("c.jpg", "a.jpg", matches((1, 3)))])
    with pycolmap.Database.open(path) as opened:
        assert sorted(map(tuple, opened.read_matches(2, 1).tolist())) == [(2, 2), (3, 1)]
        assert opened.read_matches(3, 1).tolist() == [[1, 3]]
        assert sorted(map(tuple, opened.read_matches(2, 3).tolist())) == [(0, 0), (1, 1)]
        assert opened.read_two_view_geometry(2, 3).inlier_matches.tolist() == [[0, 0]]
    replace_matches(path, [])
    assert match_counts(path) == {("a.jpg", "b.jpg"): 2, ("b.jpg", "c.jpg"): 2, ("a.jpg", "c.jpg"): 1}


def test_a_full_disk_is_a_clear_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    """Where no file may grow beyond a size; in a process of its own, as this is about its end."""
    entry(tmp_path, "a.jpg")
    code = """
import gc, resource
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, product
from pathlib import Path
import numpy as np
from imc_kit.colmap.cameras import CameraConfig, ImageEntry
from imc_kit.colmap.database import delete_pairs, write_database
from imc_kit.colmap.database_edits import replace_matches
from imc_kit.colmap.verification import verify
from imc_kit.errors import KitError
from imc_kit.types import Features, Matches
from imc_kit.viewgraph.two_view import VerificationConfig

points = np.random.default_rng(0).uniform(0, 59, (500, 2)).astype(np.float32)
features = Features(points, np.ones(500, np.float32), np.zeros((500, 1), np.uint8), (80, 60))
names = [f"{number}.jpg" for number in range(12)]
same = Matches(np.repeat(np.arange(500, dtype=np.int32), 2).reshape(-1, 2), np.ones(500, np.float32))
pairs = [(*pair, same) for pair in combinations(names, 2)]
path = Path("database.db")

def write():
    entries = [ImageEntry(name, Path("a.jpg"), (80, 60)) for name in names]
    write_database(path, entries, lambda _: features, pairs, CameraConfig())

def check():
    with ThreadPoolExecutor(1) as pool:
        verify(path, VerificationConfig(), pool)

for step in (write, lambda: replace_matches(path, pairs), check, lambda: delete_pairs(path, "matches")):
    for limit in (2_000, 50_000, 300_000):
        write()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            step()
        except KitError as error:
            print(error)
        gc.collect()  # what has failed is closed while the disk is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) >= 10  # a small limit leaves room for no step, the largest for deletion
    assert all(line.startswith("cannot write the COLMAP database") for line in said)


def test_what_a_killed_run_has_left_is_not_read(tmp_path: Path) -> None:
    """SQLite's log of an open database is left when a new database is written."""
    with written(tmp_path, [entry(tmp_path, "old.jpg")]) as opened:
        opened.clear_keypoints()
        log = (tmp_path / "database.db-wal").read_bytes()
    assert log
    (tmp_path / "database.db-wal").write_bytes(log)
    with written(tmp_path, [entry(tmp_path, "new.jpg")]) as opened:
        assert [image.name for image in opened.read_all_images()] == ["new.jpg"]
        assert opened.num_keypoints() == 4


def test_a_database_is_moved_when_all_of_it_is_in_its_file(tmp_path: Path) -> None:
    path, target = tmp_path / "database.db", tmp_path / "other.db"
    with written(tmp_path, [entry(tmp_path, "a.jpg")]) as opened:
        opened.clear_keypoints()
        with pytest.raises(KitError, match="the disk is full, or another program has it open"):
            move(path, target)
    assert not target.exists()
    assert move(path, target) == target
    assert not path.exists()
    assert keypoint_counts(target) == {"a.jpg": 0}


def test_a_kept_database_stays_what_it_was_or_is_not_used(tmp_path: Path) -> None:
    (work := tmp_path / "partial").mkdir()
    with written(work, [entry(work, "a.jpg"), entry(work, "b.jpg")]):
        pass
    for old in ("database-id-0123.db", "database-id-0123.db-wal", "database.db", "database.db-journal"):
        (tmp_path / old).write_bytes(b"old")
    (tmp_path / "database-scene~").mkdir()
    assert kept(tmp_path, "id") is None
    path = keep(work / "database.db", tmp_path, "id", {"table": "t"})
    assert features_of(path) == {"table": "t"}
    assert {path.name for path in tmp_path.glob("database*")} == {path.name, "database.json", "database-scene~"}
    assert keypoint_counts(path) == {"a.jpg": 4, "b.jpg": 4}
    with pycolmap.Database.open(path) as opened:
        opened.read_all_images()
    assert kept(tmp_path, "id") == path  # it was opened, but not changed
    assert kept(tmp_path, "i") is None
    content = path.read_bytes()
    (log := path.with_name(f"{path.name}-wal")).write_bytes(b"changes")
    assert kept(tmp_path, "id") is None
    log.unlink()
    for damaged in (b"", content[:-1], content + b"x", content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]):
        path.write_bytes(damaged)
        assert kept(tmp_path, "id") is None
    path.write_bytes(content)
    assert kept(tmp_path, "id") == path
    for note in ("{}", "[]", "[" * 100_000, '{"identity": "id"}', "\udcff"):
        (tmp_path / "database.json").write_text(note, errors="surrogateescape")
        assert kept(tmp_path, "id") is None
    path.unlink()
    assert kept(tmp_path, "id") is None


def test_where_sqlite_cannot_work_another_place_is_used(tmp_path: Path) -> None:
    """SQLite takes paths of up to 504 bytes; and another program may hold a database."""
    deep = tmp_path.joinpath(*["a folder with quite a long name"] * 17)
    deep.mkdir(parents=True)
    with workplace(deep / "partial") as place:
        assert deep not in place.parents
        with written(place, [entry(tmp_path, "a.jpg")]):
            pass
        path = keep(place / "database.db", deep, "id", {})
        assert near(path, place).parent == place
    assert not place.exists()
    assert sorted(child.name for child in deep.iterdir()) == ["database.db", "database.json"]
    assert keypoint_counts(path) == {"a.jpg": 4}

    with workplace(tmp_path / "partial") as place:
        assert place == tmp_path / "partial"
        shutil.copyfile(path, held := tmp_path / "held.db")
        assert near(held, place) == held
        hold = (
            "import sqlite3, sys; other = sqlite3.connect(sys.argv[1]); other.execute('PRAGMA locking_mode=EXCLUSIVE');"
            "other.execute('BEGIN EXCLUSIVE'); print(flush=True); input()"
        )
        command = [sys.executable, "-c", hold, str(held)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline()
            assert near(held, place).parent == place
            other.communicate(b"\n")
    assert not place.exists()


@pytest.mark.skipif(os.name == "nt", reason="locks of another kind")
def test_reading_leaves_the_locks_of_open_databases(tmp_path: Path) -> None:
    """A process has one lock per file. Python's SQLite and pycolmap's take it from each other, and then crash: another
    thread's mapped index is cut off (SIGBUS)."""
    with written(tmp_path, [entry(tmp_path, "a.jpg")]):
        pass
    path = tmp_path / "database.db"
    take = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)"
    command = [sys.executable, "-c", take, f"{path}-shm"]  # SQLite's "dead man's switch" is byte 128 of this file
    with pycolmap.Database.open(path) as opened:
        assert opened.num_images() == 1
        assert keypoint_counts(path) == {"a.jpg": 4}
        assert near(path, tmp_path) == path
        taken = subprocess.run(command, stderr=subprocess.PIPE, check=False)
        assert b"BlockingIOError" in taken.stderr


@pytest.mark.parametrize("most", [1, 3, 9])
def test_the_best_connected_keypoints_are_kept(tmp_path: Path, most: int) -> None:
    """Against the definition, keypoint by keypoint: of equals the first."""
    random = np.random.default_rng(most)
    names = ["a.jpg", "b.jpg", "c.jpg"]
    pairs: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for pair in combinations(names, 2):
        pairs[pair] = list(zip(range(5), random.permutation(5).tolist(), strict=True))[: random.integers(2, 6)]
    entries = [entry(tmp_path, name) for name in names]
    path = tmp_path / "database.db"
    with written(tmp_path, entries, count=5) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        for (first, second), indices in pairs.items():
            geometry = pycolmap.TwoViewGeometry(F=np.eye(3), inlier_matches=np.array(indices, np.uint32))
            database.write_two_view_geometry(ids[first], ids[second], geometry)
    keep_best_connected(path, most)
    kept = {}
    for name in names:
        used = [some[pair.index(name)] for pair, indices in pairs.items() if name in pair for some in indices]
        degree = [used.count(keypoint) for keypoint in range(5)]
        kept[name] = sorted(range(5), key=lambda keypoint: (-degree[keypoint], keypoint))[:most]
    with pycolmap.Database.open(path) as database:
        for (first, second), indices in pairs.items():
            left = database.read_two_view_geometry(ids[first], ids[second]).inlier_matches.tolist()
            assert left == [[i, j] for i, j in indices if i in kept[first] and j in kept[second]]


def with_camera_model(camera: Any, model: str) -> Any:
    other = pycolmap.Camera(camera.todict())
    change_camera_model(other, model)
    return other


RAYS = np.random.default_rng(0).uniform([-0.5, -0.4, 1], [0.5, 0.4, 1], (50, 3))


@pytest.mark.parametrize("before", CAMERA_MODELS)
def test_another_camera_model_sees_the_same(before: str) -> None:
    for after, prior in product(CAMERA_MODELS, (False, True)):
        camera = pycolmap.Camera.create_from_model_name(7, before, 900.0, 1000, 800)
        camera.principal_point_x, camera.principal_point_y = 490.0, 410.0
        camera.has_prior_focal_length = prior
        found = with_camera_model(camera, after)
        np.testing.assert_allclose(found.img_from_cam(RAYS), camera.img_from_cam(RAYS), atol=1e-9)
        assert (found.model.name, found.camera_id, found.width, found.height) == (after, 7, 1000, 800)
        assert found.has_prior_focal_length is prior
        assert found.verify_params()


@pytest.mark.parametrize(("before", "distortion"), [
    ("SIMPLE_RADIAL", [-0.1]), ("RADIAL", [-0.1, 0.05]), ("OPENCV", [-0.1, 0.05, 0.002, -0.001]),
])  # fmt: skip
def test_a_fuller_camera_model_has_the_distortion_and_a_simpler_one_what_it_can(
    before: str, distortion: list[float]
) -> None:
    camera = pycolmap.Camera.create_from_model_name(1, before, 900.0, 1000, 800)
    camera.params = [*camera.params[: -len(distortion)], *distortion]
    for wider in CAMERA_MODELS[CAMERA_MODELS.index(before) + 1 :]:
        np.testing.assert_allclose(
            with_camera_model(camera, wider).img_from_cam(RAYS), camera.img_from_cam(RAYS), atol=1e-9
        )
    assert with_camera_model(camera, "SIMPLE_RADIAL").params.tolist() == [900, 500, 400, -0.1]
    assert with_camera_model(camera, "SIMPLE_PINHOLE").params.tolist() == [900, 500, 400]


def test_two_focal_lengths_are_kept_or_become_their_mean() -> None:
    camera = pycolmap.Camera.create_from_model_name(1, "PINHOLE", 900.0, 1000, 800)
    camera.params = [900, 920, 500, 400]
    assert with_camera_model(camera, "OPENCV").params.tolist() == [900, 920, 500, 400, 0, 0, 0, 0]
    assert with_camera_model(camera, "RADIAL").params.tolist() == [910, 500, 400, 0, 0]


def test_a_part_has_the_same_ids_and_matches_but_its_own_cameras(tmp_path: Path) -> None:
    """In the whole, most sizes occur once, so no images share intrinsics; in the part, two of three are of one size."""
    sizes = {"a.jpg": (80, 60), "b.jpg": (81, 60), "c.jpg": (90, 60), "d.jpg": (80, 60), "e.jpg": (91, 60)}
    entries = [entry(tmp_path, name, size) for name, size in sizes.items()]
    given = [("a.jpg", "b.jpg", matches((0, 1))), ("a.jpg", "d.jpg", matches((2, 3), (1, 0))),
             ("b.jpg", "d.jpg", matches((1, 1))), ("c.jpg", "d.jpg", matches((0, 0)))]  # fmt: skip
    with written(tmp_path, entries, given) as whole:
        ids = {image.name: image.image_id for image in whole.read_all_images()}
        geometry = pycolmap.TwoViewGeometry(inlier_matches=np.array([[2, 3]], np.uint32))
        for other in "bd":
            whole.write_two_view_geometry(ids["a.jpg"], ids[f"{other}.jpg"], geometry)
        keypoints = {name: whole.read_keypoints(number) for name, number in ids.items()}
        assert whole.num_cameras() == 5
    path = tmp_path / "part.db"
    write_part(path, tmp_path / "database.db", [entries[3], entries[0], entries[4]], CameraConfig())
    with pycolmap.Database.open(path) as part:
        images = {image.name: image for image in part.read_all_images()}
        assert {name: image.image_id for name, image in images.items()} == {
            name: ids[name] for name in ("a.jpg", "d.jpg", "e.jpg")
        }
        assert images["a.jpg"].camera_id == images["d.jpg"].camera_id != images["e.jpg"].camera_id
        assert part.num_cameras() == part.num_rigs() == 2
        for name, image in images.items():
            np.testing.assert_array_equal(part.read_keypoints(image.image_id), keypoints[name])
        pair = ids["a.jpg"], ids["d.jpg"]
        assert part.num_matched_image_pairs() == part.num_verified_image_pairs() == 1
        assert part.read_matches(*pair).tolist() == [[1, 0], [2, 3]]
        assert part.read_two_view_geometry(*pair).inlier_matches.tolist() == [[2, 3]]
