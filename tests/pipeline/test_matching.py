"""From photos to matches on a rendered scene: feature pipelines, rotations, masks, and the choice of pairs."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from PIL import Image

from imc_kit.cli.main import main
from imc_kit.colmap.steps import SubpixelConfig
from imc_kit.config import CHEAP, Config, FeaturePipeline, fingerprint, preset
from imc_kit.data import tables
from imc_kit.data.store import Store
from imc_kit.detectors import extract
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.detectors.opencv import OrbConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.matchers import OneByOne, PhotoMatcherConfig, View
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.pipeline import selection, static
from imc_kit.pipeline.matching import MatchedFeatures, Matching
from imc_kit.pipeline.records import ImageRecord, inspect
from imc_kit.pipeline.run import solve
from imc_kit.pipeline.scene import MatchedScene, match_scene
from imc_kit.retrieval import NetworkDescriptorConfig
from imc_kit.retrieval.pairs import PairsConfig
from imc_kit.runtime import deadline
from imc_kit.types import Correspondences, Float32, Pixels, Pose, Scene
from small_tasks import VIEWS

SIFT = SiftConfig(max_keypoints=1000)
SIMPLE = Config(SIFT, NearestConfig(ratio=0.8), threads=2, subpixel=SubpixelConfig(on=False))


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Shared: what several tests detect and match is computed once."""
    return Store(tmp_path_factory.mktemp("store"))


def some(photos: Path, count: int) -> Scene:
    return Scene("plaza", photos, tuple(sorted(path.name for path in photos.iterdir())[:count]))


def matched(
    scene: Scene, store: Store, config: Config, pool: Executor
) -> tuple[MatchedFeatures, dict[str, ImageRecord], list[tuple[str, str]]]:
    stages = Matching(scene, store, config, pool)
    records = stages.detect(inspect(scene, config.masks, pool)[0])
    pairs = selection.select(stages, records, None)
    return stages.match(records, pairs), records, pairs


# ---- feature pipelines ----


@dataclass(frozen=True)
class PointsConfig(PhotoMatcherConfig):
    """A photo matcher for tests: SIFT, matched, without telling which keypoints they were."""

    name: ClassVar[str] = "points"

    def create(self) -> Points:
        return Points(self)


class Points(OneByOne):
    def __init__(self, config: PointsConfig) -> None:
        self.config = config

    def match(self, first: View, second: View) -> Correspondences:
        assert max(first.photo.pixels.shape) <= self.config.long_side
        a, b = extract(SIFT.create(), [first.photo, second.photo])
        found = NearestConfig(ratio=0.8).create().match(a, b)
        i, j = found.indices.T
        return Correspondences(a.keypoints[i], b.keypoints[j], found.scores)


def test_feature_pipelines_are_joined(photos: Path, store: Store, pool: Executor) -> None:
    scene, orb = some(photos, 4), OrbConfig(max_keypoints=500)
    exhaustive = replace(SIMPLE, pairs=PairsConfig("exhaustive"))
    sift, records, pairs = matched(scene, store, exhaustive, pool)
    assert pairs == list(itertools.combinations(records, 2))
    for other in (FeaturePipeline(orb, SIMPLE.matcher), FeaturePipeline(NoDetectorConfig(), PointsConfig())):
        alone = replace(exhaustive, detector=other.detector, matcher=other.matcher)
        second, _, _ = matched(scene, store, alone, pool)
        both, _, _ = matched(scene, store, replace(exhaustive, also=(other,)), pool)
        for name in records:
            keypoints = sift.features(name).keypoints
            np.testing.assert_array_equal(both.features(name).keypoints[: len(keypoints)], keypoints)
            assert len(both.features(name)) <= len(keypoints) + len(second.features(name))
        for pair in pairs:
            counts = [len(found.matches(*pair)) for found in (sift, second, both)]
            assert max(counts[:2]) <= counts[2] <= sum(counts[:2])


def test_a_matcher_without_detector_solves_a_scene(photos: Path, tmp_path: Path) -> None:
    """Its pairs are selected by low-resolution features."""
    pairs = PairsConfig(exhaustive_up_to=0, k=6)
    run = solve(photos, tmp_path, replace(SIMPLE, detector=NoDetectorConfig(), matcher=PointsConfig(), pairs=pairs))
    (result,) = run.scenes.values()
    assert result.counts["registered"] == VIEWS
    assert result.counts["pairs"] < VIEWS * (VIEWS - 1) // 2
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"correspondences", "features"}


@dataclass(frozen=True)
class GivenConfig(PhotoMatcherConfig):
    """For tests: nearest neighbours of the given features, as points, and one point that is no keypoint."""

    name: ClassVar[str] = "given"

    def create(self) -> Given:
        return Given()


class Given(OneByOne):
    def match(self, first: View, second: View) -> Correspondences:
        found = NearestConfig(ratio=0.8).create().match(first.features, second.features)
        ends = [view.features.keypoints[rows] for view, rows in zip((first, second), found.indices.T, strict=True)]
        ends = [np.concatenate([points, [[1.5, 1.5]]]).astype(np.float32) for points in ends]
        return Correspondences(*ends, np.append(found.scores, np.float32(0)))


def test_a_matcher_may_take_photos_and_keypoints(photos: Path, store: Store, pool: Executor) -> None:
    """Its matches are between the detector's keypoints, so they join those of another matcher of the same detector."""
    scene, exhaustive = some(photos, 3), replace(SIMPLE, pairs=PairsConfig("exhaustive"))
    nearest, records, pairs = matched(scene, store, exhaustive, pool)
    given, _, _ = matched(scene, store, replace(exhaustive, matcher=GivenConfig()), pool)
    both, _, _ = matched(scene, store, replace(exhaustive, also=(FeaturePipeline(SIFT, GivenConfig()),)), pool)
    for name in records:
        keypoints = nearest.features(name).keypoints
        for found in (given, both):
            np.testing.assert_array_equal(found.features(name).keypoints, [*keypoints, [1.5, 1.5]])
    for pair in pairs:
        old = {tuple(row) for row in nearest.matches(*pair).indices.tolist()}
        assert len(old) > 20
        for found in (given, both):
            new = {tuple(row) for row in found.matches(*pair).indices.tolist()} - old
            assert new == {tuple(len(nearest.features(name)) for name in pair)}
    stages = Matching(scene, store, replace(exhaustive, matcher=GivenConfig()), pool)
    assert stages.stored(records) == {}  # the store lacks the further keypoints


def test_wrong_combinations_are_refused_with_the_right_ones(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="'lightglue' cannot match orb descriptors: nearest can"):
        solve(photos, tmp_path / "out", replace(SIMPLE, detector=OrbConfig(), matcher=LightGlueConfig()))
    with pytest.raises(KitError, match=r"'nearest' cannot match .*loftr, roma can"):
        solve(photos, tmp_path / "out", replace(SIMPLE, also=(FeaturePipeline(NoDetectorConfig(), NearestConfig()),)))
    assert not (tmp_path / "out/store").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--detector", "none"], "loftr, roma can"),
        (["--add", "sift"], "aliked+lightglue"),
        (["--add", "sift+neerest"], "did you mean 'nearest'"),
        (["--descriptors", "dino"], "did you mean 'dinov2'"),
    ],
)
def test_the_command_refuses_them_too(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["solve", str(photos), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_several_feature_pipelines_opens_no_socket(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[Any] = []

    def refuse(*what: Any, **_: Any) -> None:
        opened.append(what)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    arguments = ["solve", str(photos), "--out", str(tmp_path / "out"), "--upright", "--detector.max-keypoints", "1000"]
    arguments += ["--add", "orb+nearest", "--also.0.detector.max-keypoints", "500"]
    arguments += ["--descriptors", "vlad", "--pairs.exhaustive-up-to", "5", "--pairs.k", "5"]
    assert main(arguments) == 0
    assert opened == []
    assert f"{VIEWS} of {VIEWS} images registered" in caplog.text


# ---- rotations and masks ----


def test_photos_on_their_side_are_matched_upright(rendered: tuple[Path, dict[str, Pose]], tmp_path: Path) -> None:
    """Poses are for the images as they are stored, whether EXIF says how to rotate them or nothing does."""
    root, truth = rendered
    rotated = tmp_path / "rotated"
    rotated.mkdir()
    quarters, by_exif = {}, set()
    for number, path in enumerate(sorted((root / "test/plaza/images").iterdir())):
        quarters[path.name] = (0, 0, 1, 0, 2, 3, 1)[number % 7]
        stored = np.rot90(cv2.imread(str(path)), quarters[path.name])  # anticlockwise: clockwise makes it upright
        if number % 7 == 6:
            by_exif.add(path.name)
            exif = Image.Exif()
            exif[0x0112] = 6  # rotate it clockwise to see it upright
            Image.fromarray(stored[..., ::-1]).save(rotated / path.name, quality=95, exif=exif)
        else:
            cv2.imwrite(str(rotated / path.name), np.ascontiguousarray(stored), [cv2.IMWRITE_JPEG_QUALITY, 95])
    run = solve(rotated, tmp_path / "out", replace(SIMPLE, upright=True))
    (result,) = run.scenes.values()
    expected = {name: count for name, count in quarters.items() if count and name not in by_exif}
    assert result.rotation_quarters == expected
    assert result.counts["rotated"] == len(expected)
    assert result.counts["registered"] == VIEWS
    first, *others = sorted(truth)
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])  # clockwise, as y points down

    def as_stored(name: str) -> np.ndarray[Any, Any]:
        return np.linalg.matrix_power(quarter.T, quarters[name]) @ truth[name].rotation

    for name in others:
        relative = result.placements[name].pose.rotation @ result.placements[first].pose.rotation.T
        np.testing.assert_allclose(relative, as_stored(name) @ as_stored(first).T, atol=0.05)


def test_masks_are_honoured(photos: Path, tmp_path: Path, pool: Executor) -> None:
    masks, store, scene = tmp_path / "masks", Store(tmp_path / "store"), some(photos, 4)
    masks.mkdir()
    left = np.zeros((24, 32), np.uint8)
    left[:, :16] = 255
    masked, _, _, free = scene.images
    for name in scene.images[:3]:
        cv2.imwrite(str(masks / f"{name}.png"), left)
    config = replace(SIMPLE, masks=replace(SIMPLE.masks, folder=masks))
    match_scene(scene, tmp_path / "out", store, config, pool)
    name_of_table = fingerprint(SIFT, config.masks)
    table = store.features(name_of_table)
    records, _ = inspect(scene, config.masks, pool)
    assert table[records[masked].key].keypoints[:, 0].max() < 160 < table[records[free].key].keypoints[:, 0].max()

    cv2.imwrite(str(masks / f"{masked}.png"), left[:, ::-1])  # another content: only this one is detected again
    match_scene(scene, tmp_path / "out", store, config, pool)
    assert len(store.features(name_of_table)) == len(table) + 1 == 5


def test_a_mask_that_cannot_be_read_is_told_of_once(
    photos: Path, tmp_path: Path, pool: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    scene, folder = some(photos, 3), tmp_path / "masks"
    folder.mkdir()
    (folder / f"{scene.images[0]}.png").write_text("not a picture")
    cut = folder / f"{scene.images[1]}.png"  # only its header can be read
    cv2.imwrite(str(cut), np.random.default_rng(0).integers(0, 255, (240, 320), np.uint8))
    cut.write_bytes(cut.read_bytes()[:2000])
    config = replace(SIMPLE, masks=replace(SIMPLE.masks, folder=folder))
    matched = match_scene(scene, tmp_path / "out", Store(tmp_path / "store"), config, pool)
    assert isinstance(matched, MatchedScene)
    notes = matched.matched.matching.notes
    for name in scene.images[:2]:
        (note,) = (note for note in notes if f"{name}.png" in note)
        assert "not masked" in note


def test_masks_cannot_be_the_photos(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="also holds the images"):
        solve(photos, tmp_path / "out", replace(SIMPLE, masks=replace(SIMPLE.masks, folder=photos)))
    with pytest.raises(KitError, match="does not exist"):
        solve(photos, tmp_path / "out", replace(SIMPLE, masks=replace(SIMPLE.masks, folder=tmp_path / "none")))


def test_low_resolution_matching_holds_no_descriptors(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hands the executor features without descriptors, and not all matches at once."""
    handed = []

    class Counting(ThreadPoolExecutor):
        def map(self, function: Any, *values: Any, **options: Any) -> Any:
            if getattr(function, "func", None) is static._in_time and function.args[0] is not static.examine:
                handed.append(len(values[0]))
                assert all(features.descriptors.size == 0 for features in (*values[0], *values[1]))
            return super().map(function, *values, **options)

    scene = some(photos, 5)
    found = []
    with Counting(2) as pool:
        records, _ = inspect(scene, SIMPLE.masks, pool)
        for at_once in (1024, 3):
            monkeypatch.setattr(static, "_PAIRS_AT_ONCE", at_once)
            found.append(selection.overlaps(Matching(scene, Store(tmp_path), SIMPLE, pool), records))
    assert handed == [10, 3, 3, 3, 1]
    assert found[0] == found[1]
    assert list(found[0]) == list(itertools.combinations(scene.images, 2))
    assert max(overlap.inliers for overlap in found[0].values()) > 30


# ---- pairs ----


@pytest.mark.parametrize("method", ["similar", "matches", "sequential"])
def test_fewer_pairs_are_selected(photos: Path, store: Store, pool: Executor, method: Any) -> None:
    pairs = PairsConfig(method, exhaustive_up_to=0, k=4, window=2, min_per_image=2)
    stages = Matching(some(photos, 10), store, replace(SIMPLE, pairs=pairs), pool)
    records = stages.detect(inspect(stages.scene, SIMPLE.masks, pool)[0])
    selected = selection.select(stages, records, None)
    assert 10 <= len(selected) <= 4 * 10
    assert {name for pair in selected for name in pair} == set(records)


def test_pairs_from_a_file_or_from_the_caller(photos: Path, tmp_path: Path, store: Store, pool: Executor) -> None:
    scene = some(photos, 4)
    listed = list(itertools.pairwise(scene.images))
    (tmp_path / "pairs.txt").write_text("\n".join(f"{a}\t{b}" for a, b in listed))
    config = replace(SIMPLE, pairs=PairsConfig("file", file=tmp_path / "pairs.txt"))
    stages = Matching(scene, store, config, pool)
    records, _ = inspect(scene, SIMPLE.masks, pool)
    assert selection.select(stages, records, None) == listed
    assert selection.select(stages, records, [listed[1], (scene.images[0], "unreadable.jpg")]) == [listed[1]]
    with pytest.raises(KitError, match="there is no file"):
        solve(photos, tmp_path / "out", replace(SIMPLE, pairs=PairsConfig("file", file=tmp_path / "none.txt")))


@dataclass(frozen=True)
class ColourConfig(NetworkDescriptorConfig):
    """A global descriptor for tests: the mean colour."""

    name: ClassVar[str] = "colour"
    poolings: ClassVar[tuple[str, ...]] = ("mean",)
    multiple: ClassVar[int] = 1

    def create(self) -> Colour:
        return Colour()


class Colour:
    seen: ClassVar[list[int]] = []

    def describe(self, pixels: list[Pixels]) -> Float32:
        self.seen.append(len(pixels))
        rows = np.array([one.mean((0, 1)) for one in pixels], np.float32).reshape(-1, 3)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_global_descriptors_are_kept_in_the_store(photos: Path, tmp_path: Path, pool: Executor) -> None:
    scene, store = some(photos, VIEWS), Store(tmp_path / "store")
    pairs = PairsConfig(exhaustive_up_to=0, k=3, min_per_image=1, descriptors=(ColourConfig(),))
    records, _ = inspect(scene, SIMPLE.masks, pool)
    selections = []
    for _ in range(2):
        selections.append(selection.select(Matching(scene, store, replace(SIMPLE, pairs=pairs), pool), records, None))
        assert sum(Colour.seen) == VIEWS
    assert selections[0] == selections[1]
    assert VIEWS * 3 // 2 <= len(selections[0]) <= 3 * VIEWS


def test_with_a_time_limit_pairs_are_ordered_by_the_matches_of_the_quick_answer(
    photos: Path, tmp_path: Path, pool: Executor
) -> None:
    scene, store = some(photos, 8), Store(tmp_path / "store")
    config = replace(SIMPLE, pairs=PairsConfig("exhaustive"))
    records, _ = inspect(scene, SIMPLE.masks, pool)
    names = list(records)
    limited = Matching(scene, store, config, pool, time.monotonic() + 1000)
    before = selection.select(limited, records, None)
    assert all(names.index(second) - names.index(first) == 1 for first, second in before[: len(names) - 1])
    quick = Matching(scene, store, CHEAP, pool)
    found = quick.match(quick.detect(records), before)
    after = selection.select(limited, records, None)
    assert (
        sorted(after) == sorted(before) == sorted(selection.select(Matching(scene, store, config, pool), records, None))
    )
    count = {pair: len(found.matches(*pair)) for pair in after}
    best = {name: max(count[pair] for pair in after if name in pair) for name in names}
    for first, second in after[: len(names) // 2]:
        assert count[first, second] in (best[first], best[second])


def test_features_are_described_only_when_there_is_time(
    photos: Path, store: Store, pool: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = some(photos, 4)
    stages = Matching(scene, store, SIMPLE, pool)
    records = stages.detect(inspect(scene, SIMPLE.masks, pool)[0])
    first, second, *_ = records
    monkeypatch.setattr(deadline.time, "monotonic", lambda: 0.0)
    assert selection.similarity(stages, records, 1.0)(first, second) is None
    alike = selection.similarity(stages, records, 100.0)(first, second)
    assert alike == selection.similarity(stages, records)(first, second)
    assert alike is not None
    assert -1 <= alike <= 1


@pytest.mark.slow
def test_rotated_photos_score_as_upright_ones(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imc_kit import metric

    monkeypatch.setenv("IMC_KIT_WEIGHTS", str(shared / "weights"))
    config = preset("aliked", {"upright": True, "detector.max_keypoints": 1000, "detector.long_side": 512})
    photos = sorted((shared / "scenes/test/fountain_P11_rotated/images").iterdir())[:6]
    (tmp_path / "photos").mkdir()
    for photo in photos:
        (tmp_path / "photos" / photo.name).symlink_to(photo)
    (result,) = solve(tmp_path / "photos", tmp_path / "out", config).scenes.values()
    assert result.counts["registered"] == len(photos)
    truth = tables.read_table(shared / "scenes/truth.csv")
    expected, found = [], []
    for row in truth[truth["scene"] == "fountain_P11_rotated"].head(len(photos)).to_dict("records"):
        rotation, translation = tables.parse_pose(row["rotation_matrix"], row["translation_vector"])
        expected.append(-rotation.T @ translation)
        found.append(result.placements[Path(row["image_path"]).name].pose.center)
    assert metric.score_centers(np.array(expected), np.array(found)).score > 0.9
