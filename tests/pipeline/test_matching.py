"""From photographs to matches, by whole runs on rendered scenes: feature_pipelines, upright images, masks, pairs."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from imc_kit.cli.main import main
from imc_kit.config import CHEAP, Config, FeaturePipeline, fingerprint, preset
from imc_kit.data import images, scenes, submission
from imc_kit.data.images import Photo
from imc_kit.data.store import Store
from imc_kit.detectors import NoDetectorConfig, OrbConfig, SiftConfig, extract
from imc_kit.errors import KitError
from imc_kit.matchers import DetectorFreeConfig, LightGlueConfig, NearestConfig
from imc_kit.pipeline import matching
from imc_kit.pipeline.matching import Matching
from imc_kit.pipeline.run import Run, solve
from imc_kit.pipeline.tasks import inspect
from imc_kit.retrieval import NetworkDescriptorConfig, PairsConfig
from imc_kit.runtime import deadline
from imc_kit.synthetic.plaza import write_scene
from imc_kit.types import Correspondences, Float32, Pixels, Pose, Scene

VIEWS = 20
SIFT = SiftConfig(max_keypoints=1000)
SIMPLE = Config(SIFT, NearestConfig(ratio=0.8), threads=2)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Pose]]:
    root = tmp_path_factory.mktemp("rendered")
    poses = write_scene(root, views=VIEWS, size=(400, 300))
    return root / "test/plaza/images", {Path(name).name: pose for name, pose in poses.items()}


@pytest.fixture
def photos(rendered: tuple[Path, dict[str, Pose]]) -> Path:
    return rendered[0]


def placements(run: Run) -> dict[str, Any]:
    (result,) = run.scenes.values()
    return result.placements


def registered(run: Run) -> int:
    return sum(placement.model is not None for placement in placements(run).values())


def counts(run: Run) -> dict[str, int]:
    (result,) = run.scenes.values()
    return result.counts


@dataclass(frozen=True)
class PointsConfig(DetectorFreeConfig):
    """A detector-free matcher for tests: SIFT, matched, without telling which keypoints they were."""

    name: ClassVar[str] = "points"

    def create(self) -> Points:
        return Points(self)


class Points:
    def __init__(self, config: PointsConfig) -> None:
        self.config = config

    def match_images(self, first: Photo, second: Photo) -> Correspondences:
        assert max(first.pixels.shape) <= self.config.long_side
        a, b = extract(SIFT.create(), [first, second])
        found = NearestConfig(ratio=0.8).create().match(a, b)
        i, j = found.indices.T
        return Correspondences(a.keypoints[i], b.keypoints[j], found.scores)

    def match_batch(self, pairs: Any) -> list[Correspondences]:
        return [self.match_images(*pair) for pair in pairs]


def test_branches_are_joined(photos: Path, tmp_path: Path) -> None:
    alone = {
        name: solve(photos, tmp_path / name, replace(SIMPLE, detector=detector, pairs=PairsConfig("exhaustive")))
        for name, detector in (("sift", SIFT), ("orb", OrbConfig(max_keypoints=1000)))
    }
    both = replace(SIMPLE, also=(FeaturePipeline(OrbConfig(max_keypoints=1000), SIMPLE.matcher),))
    joined = solve(photos, tmp_path / "both", both)
    assert registered(joined) == VIEWS
    pairs = {name: counts(run)["matched pairs"] for name, run in (*alone.items(), ("both", joined))}
    assert pairs["both"] > max(pairs["sift"], pairs["orb"])
    assert len(list((tmp_path / "both/store/features").iterdir())) == 2


def test_a_matcher_without_detector(photos: Path, tmp_path: Path) -> None:
    run = solve(photos, tmp_path / "alone", replace(SIMPLE, detector=NoDetectorConfig(), matcher=PointsConfig()))
    assert registered(run) == VIEWS
    assert list((tmp_path / "alone/store").iterdir()) == [tmp_path / "alone/store/correspondences"]
    joined = solve(
        photos, tmp_path / "both", replace(SIMPLE, also=(FeaturePipeline(NoDetectorConfig(), PointsConfig()),))
    )
    assert registered(joined) == VIEWS
    few = PairsConfig(exhaustive_up_to=0, k=6)  # similar, by what the overview detects
    run = solve(
        photos, tmp_path / "few", replace(SIMPLE, detector=NoDetectorConfig(), matcher=PointsConfig(), pairs=few)
    )
    assert registered(run) == VIEWS
    assert counts(run)["pairs"] < VIEWS * (VIEWS - 1) // 2


def test_photographs_on_their_side_are_matched_upright(rendered: tuple[Path, dict[str, Pose]], tmp_path: Path) -> None:
    photos, truth = rendered
    turned = tmp_path / "turned"
    turned.mkdir()
    turns = {}
    for number, path in enumerate(sorted(photos.iterdir())):
        turns[path.name] = (0, 0, 1, 0, 2, 3, 0)[number % 7]
        stored = np.rot90(cv2.imread(str(path)), turns[path.name])  # anticlockwise: clockwise makes it upright
        cv2.imwrite(str(turned / path.name), np.ascontiguousarray(stored), [cv2.IMWRITE_JPEG_QUALITY, 95])
    run = solve(turned, tmp_path / "out", replace(SIMPLE, upright=True))
    assert counts(run)["turned"] == sum(turn != 0 for turn in turns.values())
    assert registered(run) == VIEWS
    found = placements(run)
    first, *others = sorted(truth)
    for name in others:  # relative rotations of the images as they are stored
        relative = found[name].pose.rotation @ found[first].pose.rotation.T
        expected = truth[name].turned(-turns[name]).rotation @ truth[first].turned(-turns[first]).rotation.T
        np.testing.assert_allclose(relative, expected, atol=0.04)

    as_they_are = solve(turned, tmp_path / "as they are", SIMPLE)
    assert counts(as_they_are)["turned"] == 0


def test_the_overview_holds_no_descriptors(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all images at once, that is, and not all matches."""
    looked = []

    class Counting(ThreadPoolExecutor):
        def map(self, function: Any, *values: Any, **options: Any) -> Any:
            if function is matching._look_until:
                looked.append(len(values[0]))
                assert all(features.descriptors.size == 0 for features in (*values[0], *values[1]))
            return super().map(function, *values, **options)

    names = [path.name for path in sorted(photos.iterdir())][:5]
    scene = Scene("plaza", photos, tuple(names))
    found = []
    with Counting(2) as pool:
        records, _ = inspect(scene, SIMPLE.masks, pool)
        for at_once in (1024, 3):
            monkeypatch.setattr(matching, "_LOOKS_AT_ONCE", at_once)
            found.append(Matching(scene, Store(tmp_path), SIMPLE, pool)._look(records))
    assert looked == [10, 3, 3, 3, 1]
    assert found[0] == found[1]
    assert list(found[0]) == list(itertools.combinations(names, 2))
    assert max(view.inliers for view in found[0].values()) > 30


def test_masks_are_honoured_and_shown(photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    left = np.zeros((30, 40), np.uint8)
    left[:, :20] = 255
    names = sorted(path.name for path in photos.iterdir())
    for name in names[:3]:
        cv2.imwrite(str(masks / f"{name}.png"), left)
    config = replace(SIMPLE, masks=replace(SIMPLE.masks, folder=masks, pictures=True))
    run = solve(photos, tmp_path / "out", config)
    shown = tmp_path / "out/scenes/images/masks"
    assert sorted(path.name for path in shown.iterdir()) == [f"{name}.jpg" for name in names[:3]]
    picture = images.load(shown / f"{names[0]}.jpg").pixels.astype(int)
    assert np.abs(picture[:, 220:].mean((0, 1)) - (180, 120, 150)).max() < 60  # purple
    table = Store(tmp_path / "out/store").features(fingerprint(SIFT, replace(config.masks, pictures=False)))
    (scene,) = scenes.load(photos).scenes
    with ThreadPoolExecutor(1) as pool:
        records, _ = inspect(scene, config.masks, pool)
    assert table[records[names[0]].key].keypoints[:, 0].max() < 200 < table[records[names[3]].key].keypoints[:, 0].max()
    assert run.scenes["images"].counts["readable"] == VIEWS

    cv2.imwrite(str(masks / f"{names[0]}.png"), left[:, ::-1])  # another content: only this one is detected again
    solve(photos, tmp_path / "out", config)
    again = Store(tmp_path / "out/store").features(fingerprint(SIFT, replace(config.masks, pictures=False)))
    assert len(again) == len(table) + 1


def test_masks_cannot_be_the_photographs(photos: Path, tmp_path: Path) -> None:
    run = solve(photos, tmp_path / "out", replace(SIMPLE, masks=replace(SIMPLE.masks, folder=photos)))
    assert "that of the images" in run.failed["images"]
    with pytest.raises(KitError, match="does not exist"):
        solve(photos, tmp_path / "out", replace(SIMPLE, masks=replace(SIMPLE.masks, folder=tmp_path / "none")))


@pytest.mark.parametrize("method", ["similar", "matches", "sequential"])
def test_fewer_pairs_do(photos: Path, tmp_path: Path, method: Any) -> None:
    pairs = PairsConfig(method, exhaustive_up_to=0, k=6, window=3, min_per_image=2)
    run = solve(photos, tmp_path / "out", replace(SIMPLE, pairs=pairs))
    assert VIEWS <= counts(run)["pairs"] <= 6 * VIEWS
    assert registered(run) == VIEWS


def test_pairs_from_a_file(photos: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in photos.iterdir())
    (tmp_path / "pairs.txt").write_text("\n".join(f"{a}\t{b}" for a, b in itertools.pairwise(names)))
    run = solve(photos, tmp_path / "out", replace(SIMPLE, pairs=PairsConfig("file", file=tmp_path / "pairs.txt")))
    assert counts(run)["pairs"] == VIEWS - 1
    with pytest.raises(KitError, match="no list of pairs"):
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


def test_global_descriptors_are_kept_in_the_store(photos: Path, tmp_path: Path) -> None:
    (scene,) = scenes.load(photos).scenes
    pairs = PairsConfig(exhaustive_up_to=0, k=3, min_per_image=1, descriptors=(ColourConfig(),))
    selections = []
    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:
            stages = Matching(scene, Store(tmp_path / "store"), replace(SIMPLE, pairs=pairs), pool)
            records, _notes = inspect(scene, SIMPLE.masks, pool)
            selections.append(stages.select(records, None))
        assert sum(Colour.seen) == VIEWS
    assert selections[0] == selections[1]
    assert VIEWS * 3 // 2 <= len(selections[0]) <= 3 * VIEWS


def test_when_time_is_limited_pairs_come_by_the_matches_of_the_quick_answer(photos: Path, tmp_path: Path) -> None:
    (scene,) = scenes.load(photos).scenes
    store = Store(tmp_path / "store")
    config = replace(SIMPLE, pairs=PairsConfig("exhaustive"))
    with ThreadPoolExecutor(2) as pool:
        records, _notes = inspect(scene, SIMPLE.masks, pool)
        names = list(records)
        limited = Matching(scene, store, config, pool, time.time() + 1000)
        without = limited.select(records, None)
        assert all(names.index(second) - names.index(first) == 1 for first, second in without[: VIEWS - 1])
        quick = Matching(scene, store, CHEAP, pool)
        found = quick.match(quick.detect(records), without)
        given = limited.select(records, None)
    assert sorted(given) == sorted(without) == sorted(Matching(scene, store, config, pool).select(records, None))
    count = {pair: len(found.matches(*pair)) for pair in given}
    best = {name: max(count[pair] for pair in given if name in pair) for name in names}
    for first, second in given[: VIEWS // 2]:
        assert count[first, second] in (best[first], best[second])


def test_features_are_described_only_when_there_is_time(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scene,) = scenes.load(photos).scenes
    with ThreadPoolExecutor(2) as pool:
        stages = Matching(scene, Store(tmp_path / "store"), SIMPLE, pool)
        records, _notes = inspect(scene, SIMPLE.masks, pool)
        first, second, *_ = stages.detect(records)
        monkeypatch.setattr(deadline.time, "time", lambda: 0.0)
        assert stages.similarity(records, 1.0)(first, second) is None
        alike = stages.similarity(records, 100.0)(first, second)
        assert alike == stages.similarity(records)(first, second)
        assert alike is not None
        assert -1 <= alike <= 1


def test_wrong_combinations_are_refused_with_the_right_ones(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="'lightglue' cannot match orb descriptors: nearest can"):
        solve(photos, tmp_path / "out", replace(SIMPLE, detector=OrbConfig(), matcher=LightGlueConfig()))
    with pytest.raises(KitError, match=r"'nearest' cannot match photographs.*loftr can"):
        solve(photos, tmp_path / "out", replace(SIMPLE, also=(FeaturePipeline(NoDetectorConfig(), NearestConfig()),)))
    assert not (tmp_path / "out/store").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--detector", "orb", "--matcher", "lightglue"], "nearest can"),
        (["--matcher", "loftr"], "choose detector 'none'"),
        (["--add", "sift"], "aliked+lightglue"),
        (["--add", "sift+neerest"], "did you mean 'nearest'"),
        (["--descriptors", "dino"], "did you mean 'dinov2'"),
    ],
)
def test_the_command_refuses_them_too(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["solve", str(photos), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_command_takes_several_branches(photos: Path, tmp_path: Path) -> None:
    arguments = ["--detector.max-keypoints", "1000", "--add", "orb+nearest", "--also.0.detector.max-keypoints", "500"]
    arguments += ["--descriptors", "fisher", "--pairs.exhaustive-up-to", "5", "--pairs.k", "5"]
    assert main(["solve", str(photos), "--out", str(tmp_path / "out"), *arguments]) == 0


def test_a_run_opens_no_socket(photos: Path, tmp_path: Path) -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise SystemExit('a socket was opened')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from imc_kit.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["solve", str(photos), "--out", str(tmp_path / "out"), "--upright", "--detector.max-keypoints", "1000"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{VIEWS} of {VIEWS} images registered" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sift", "aliked"])
def test_turned_photographs_score_as_upright_ones(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from imc_kit import metric

    monkeypatch.setenv("IMC_KIT_WEIGHTS", str(shared / "weights"))
    limits = {"detector.max_keypoints": 1500, "detector.long_side": 800}
    config = preset(name, {"upright": True, **limits})
    truth = submission.read_table(shared / "scenes/truth.csv")
    scores, placed = {}, {}
    for scene in ("fountain_P11", "fountain_P11_rotated"):
        run = solve(shared / "scenes/test" / scene / "images", tmp_path / scene, config)
        expected, found = [], []
        for row in truth[truth["scene"] == scene].to_dict("records"):
            rotation, translation = submission.parse_pose(row["rotation_matrix"], row["translation_vector"])
            expected.append(-rotation.T @ translation)
            found.append(placements(run)[Path(row["image_path"]).name].pose.center)
        scores[scene] = metric.score_centers(np.array(expected), np.array(found)).score
        placed[scene] = registered(run)
        shutil.rmtree(tmp_path / scene)
    assert placed["fountain_P11_rotated"] == placed["fountain_P11"] == 11
    assert scores["fountain_P11_rotated"] >= scores["fountain_P11"] - 0.05
    assert scores["fountain_P11"] > 0.9
