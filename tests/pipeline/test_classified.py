"""A pair classifier of the user's: what it is given, which pairs it leaves out, and what happens if it fails."""

from __future__ import annotations

import itertools
import math
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import imc_kit
from imc_kit import PairClassifier
from imc_kit.colmap.database import write_database
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.steps import SubpixelConfig
from imc_kit.colmap.verification import inlier_counts, verify
from imc_kit.config import Config
from imc_kit.data.images import Photo, load
from imc_kit.data.store import Store
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.pipeline.matched import Matched
from imc_kit.pipeline.run import solve
from imc_kit.pipeline.scene import MatchedScene, match_scene
from imc_kit.retrieval.pairs import PairsConfig
from imc_kit.runtime import deadline
from imc_kit.synthetic.plaza import Camera
from imc_kit.types import Float32, Pose, Scene
from views import SIZE

CONFIG = Config(
    SiftConfig(max_keypoints=500), NearestConfig(ratio=0.8), pairs=PairsConfig("exhaustive"),
    mapping=(MappingConfig(),), subpixel=SubpixelConfig(on=False),
)  # fmt: skip
COUNT = 6
SIDE = 200
"""The photos are reduced to this, so that coordinates in them differ from those in the originals."""


@dataclass(frozen=True)
class Verified:
    """A scene's database of verified pairs, which each test gets in a copy."""

    matched: Matched
    store: Store
    path: Path

    def remove(self, classifier: PairClassifier, until: float = math.inf) -> tuple[set[tuple[str, str]], list[str]]:
        """The pairs that stay, and the notes."""
        copy = shutil.copyfile(self.path, self.path.with_name("copy.db"))
        notes = classifier.remove_improbable(copy, self.matched.records, self.matched.found, self.store, until)
        return set(inlier_counts(copy)), notes

    @property
    def pairs(self) -> set[tuple[str, str]]:
        return set(inlier_counts(self.path))


@pytest.fixture
def verified(scene_of_six: Verified, tmp_path: Path) -> Verified:
    """With an empty store for the answers."""
    return replace(scene_of_six, store=Store(tmp_path / "store"))


@pytest.fixture(scope="module")
def scene_of_six(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Verified:
    folder = tmp_path_factory.mktemp("six")
    names = tuple(sorted(path.name for path in photos.iterdir())[:COUNT])
    with ThreadPoolExecutor(2) as pool:
        scene = match_scene(Scene("plaza", photos, names), folder, Store(folder / "store"), CONFIG, pool)
        assert isinstance(scene, MatchedScene)
        one, path = scene.matched, folder / "verified.db"
        strong = one.found.strong(one.pairs, CONFIG.min_matches)
        write_database(path, one.entries(one.records), one.found.features, strong, CONFIG.cameras)
        verify(path, CONFIG.verification, pool)
    return Verified(one, Store(folder / "answers"), path)


def numbered(photos: Path) -> Callable[[Photo], int]:
    """A function that tells which of the photos it is given."""
    sums = {load(path, SIDE).pixels.sum(): number for number, path in enumerate(sorted(photos.iterdir()))}
    return lambda photo: sums[photo.pixels.sum()]


def test_improbable_pairs_are_left_out(photos: Path, rendered: tuple[Path, dict[str, Pose]], tmp_path: Path) -> None:
    """Each pair is judged once, with matches that fit the true poses; another threshold needs no new answers."""
    number, judged, errors = numbered(photos), Counter[tuple[int, int]](), list[float]()
    poses = list(rendered[1].values())

    def probability(first: Photo, second: Photo, points: Float32) -> float:
        pair = number(first), number(second)
        assert max(first.pixels.shape) == SIDE
        assert points.shape[1] == 4
        judged[pair] += 1
        errors.extend(sampson(points, poses[pair[0]], poses[pair[1]]))
        return 0.9 if pair[1] - pair[0] == 1 else 0.3

    classifier = PairClassifier(probability, long_side=SIDE)
    names = sorted(path.name for path in photos.iterdir())[:COUNT]
    task = imc_kit.load(photos).only_images(names)
    (result,) = solve(task, tmp_path, CONFIG, classifier=classifier).scenes.values()
    left = set(inlier_counts(next(tmp_path.glob("scenes/*/database.db"))))
    assert left == set(itertools.pairwise(names))
    assert any("leaves out" in note and f"of {len(judged)} verified pairs" in note for note in result.notes)
    assert set(judged.values()) == {1}
    assert np.median(errors) < 0.5  # pixels of the reduced photos; as large as these if they were mixed up
    (result,) = solve(task, tmp_path, CONFIG, classifier=replace(classifier, least=0.2)).scenes.values()
    assert result.counts["verified pairs"] == len(judged)
    assert set(judged.values()) == {1}


def sampson(points: Float32, first: Pose, second: Pose) -> list[float]:
    """Sampson distances of matches in photos of `SIDE` pixels from the true epipolar lines."""
    camera = Camera.centred((SIDE, SIDE * SIZE[1] // SIZE[0]))
    focal, center = camera.focal, (camera.cx, camera.cy)
    between = second.rotation @ first.rotation.T
    x, y, z = second.translation - between @ first.translation
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ between
    a, b = (np.column_stack([(points[:, side : side + 2] - center) / focal, np.ones(len(points))]) for side in (0, 2))
    lines, others = a @ essential.T, b @ essential
    scale = np.linalg.norm(np.column_stack([lines[:, :2], others[:, :2]]), axis=1)
    return list(np.abs((b * lines).sum(1)) / scale * focal)


@pytest.mark.parametrize("per_image", [0, 1])
def test_each_image_keeps_its_most_probable_pairs(verified: Verified, per_image: int) -> None:
    answers = itertools.count()

    def probability(first: Photo, second: Photo, points: Float32) -> float:
        return 0.4 - 0.01 * next(answers)  # the first pairs are the most probable

    left, notes = verified.remove(PairClassifier(probability, SIDE, per_image=per_image))
    degree = Counter(name for pair in left for name in pair)
    assert len(degree) == (COUNT if per_image else 0)
    assert len(left) <= COUNT * per_image
    assert left < verified.pairs
    assert notes == [
        f"the pair classifier leaves out {len(verified.pairs - left)} of {len(verified.pairs)} verified pairs"
    ]


@pytest.mark.parametrize("answer", [math.nan, -0.1, 1.1, "no number", None, MemoryError("no memory")])
def test_pairs_that_it_fails_for_stay(verified: Verified, answer: object) -> None:
    def probability(first: Photo, second: Photo, points: Float32) -> float:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    left, (note,) = verified.remove(PairClassifier(probability, SIDE))
    assert left == verified.pairs
    assert note.startswith(f"the pair classifier failed for {len(left)} of {len(left)} pairs")


def test_pairs_that_were_not_judged_in_time_stay(verified: Verified) -> None:
    left, (note,) = verified.remove(PairClassifier(lambda *_: 0.0, SIDE), until=deadline.after(0))
    assert left == verified.pairs
    assert deadline.ran_out([note])


def test_answers_survive_the_run(verified: Verified) -> None:
    """Those of the same code; a photo or matches that differ would have other keys."""
    counts = Counter[str]()

    def probability(first: Photo, second: Photo, points: Float32) -> float:
        counts["calls"] += 1
        return 1.0

    classifier = PairClassifier(probability, SIDE)
    for least in (0.5, 1.0):
        left, notes = verified.remove(replace(classifier, least=least))
        assert (left, notes) == (verified.pairs, [])
    assert counts["calls"] == len(verified.pairs)
    verified.remove(replace(classifier, long_side=SIDE // 2))
    assert counts["calls"] == 2 * len(verified.pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least": math.nan}, "least of a pair classifier must be between 0 and 1, not nan"),
        ({"least": 1.5}, "least of a pair classifier must be between 0 and 1, not 1.5"),
        ({"per_image": -1}, "per_image of a pair classifier must be at least 0, not -1"),
        ({"long_side": 0}, "long_side of a pair classifier must be at least 1, not 0"),
    ],
)
def test_options_without_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(KitError, match=message):
        imc_kit.PairClassifier(lambda *_: 1.0, **options)  # type: ignore[arg-type]
