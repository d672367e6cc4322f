"""Which attempt at a scene is kept, and when there are no more."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import cv2
import numpy as np
import pytest

from imc_kit.colmap import mapping_runs
from imc_kit.colmap.child import ColmapError
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.mapping_runs import attempt_all
from imc_kit.types import Model, Pose, Scene

SCENE = Scene("scene", Path("nowhere"), tuple("abcdefghij"))
ATTEMPTS = (MappingConfig(), MappingConfig("global"), MappingConfig(min_strength=0.7))
INLIERS = {("a", "b"): 90, ("b", "c"): 50, ("a", "c"): 20}
"""The last pair is weak."""


def outcome(
    monkeypatch: pytest.MonkeyPatch,
    results: list[Any],
    enough: float = 1.0,
    trusted: float = 0.9,
    threads: int = 1,
    seconds: Sequence[float] = (0, 0, 0),
    configs: tuple[MappingConfig, ...] = ATTEMPTS,
) -> tuple[int | None, int, list[str]]:
    """Which attempt was kept, how many ended, and the notes.

    results: for each attempt the number of images, the support to 2 pixels and precisely, and perhaps observations; or
    None for no model, or an error. seconds: that each takes, unless it is given up.
    """
    made: list[int] = []

    def map_scene(
        database: Path, images: Path, folder: Path, config: MappingConfig, log: Path, n: int, seed: int, given_up: Event
    ) -> list[Model]:
        number = configs.index(replace(config, time_limit=configs[0].time_limit, options={}))
        assert log.name == f"colmap-{number + 1}.log"
        assert n == (threads if number == 0 else max(1, threads // 2))
        if given_up.wait(seconds[number]):
            raise ColmapError("given up")
        made.append(number)
        result = results[number]
        if isinstance(result, Exception):
            raise result
        if result is None:
            return []
        poses = {name: Pose.identity() for name in SCENE.images[: result[0]]}
        return [Model(folder, poses, observations=result[3] if len(result) > 3 else 0)]

    def support(database: Path, model: Model, pairs: list[tuple[str, str]], max_error: float) -> float:
        assert pairs == [("a", "b"), ("b", "c")]  # (a, c) is weak
        result = results[int(model.folder.name.removeprefix("models-"))]
        return float(result[1] if max_error == 2 else result[2])

    monkeypatch.setattr(mapping_runs.mapping, "map_scene", map_scene)
    monkeypatch.setattr(mapping_runs, "support", support)
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: INLIERS)
    best, notes = attempt_all(Path("db"), SCENE, Path("out"), configs, enough, trusted, Path("colmap.log"), threads, 0)
    kept = int(best.models[0].folder.name.removeprefix("models-")) if best.models else None
    assert best.left_out == ({("a", "c")} if kept is not None and configs[kept].min_strength else frozenset())
    return kept, len(made), notes


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("results", "kept", "made"),
    [
        ([(10, 0.95, 0.5)], 0, 1),  # all images, and trusted
        ([(10, 0.8, 0.5), (10, 0.95, 0.6)], 1, 2),  # the first one is folded
        ([(10, 0.8, 0.6), (10, 0.81, 0.605), (10, 0.7, 0.5)], 0, 3),  # hardly more precise
        ([(10, 0.8, 0.6), (10, 0.79, 0.605), (10, 0.79, 0.62)], 2, 3),
        ([(10, 0.8, 0.6, 500), (10, 0.81, 0.595, 900), (10, 0.8, 0.6, 700)], 1, 3),  # as precise, of more keypoints
        ([(10, 0.8, 0.6, 500), (10, 0.81, 0.58, 900), (10, 0.75, 0.6, 900)], 0, 3),
        ([(10, 0.8, 0.6), (10, 0.77, 0.9), (10, 0.83, 0.5)], 2, 3),  # precise, but folded
        ([(7, 0.99, 0.9), (7, 0.98, 0.9), (10, 0.98, 0.5)], 2, 3),  # images count first
        ([(10, 0.8, 0.5), (4, 1.0, 0.9), (9, 1.0, 0.9)], 0, 3),
        ([None, (3, 0.5, 0.5), None], 1, 3),
        ([None, None, None], None, 3),
        ([ColmapError("crashed"), (10, 0.95, 0.5)], 1, 2),
    ],
)
def test_the_choice(
    monkeypatch: pytest.MonkeyPatch, results: list[Any], kept: int | None, made: int, threads: int
) -> None:
    """Side by side the later ones may take longer: they are given up, and the choice is the same."""
    seconds = [0.05 * number if number < made else 60 for number in range(3)]
    found_kept, found_made, notes = outcome(monkeypatch, results, threads=threads, seconds=seconds)
    assert (found_kept, found_made) == (kept, made)
    assert notes == [str(result) for result in results if isinstance(result, Exception)]


def test_a_later_attempt_that_ends_first_does_not_hide_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [(10, 0.95, 0.5), (10, 0.99, 0.9), None]
    results = [(10, 0.7, 0.4), *results[:2]]
    assert outcome(monkeypatch, results, threads=3, seconds=[0, 0.2, 0]) == (1, 3, [])


def test_the_others_wait_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [(10, 0.95, 0.5), (10, 0.99, 0.9), (10, 0.99, 0.9)]
    assert outcome(monkeypatch, results, threads=3, seconds=[0.2, 0, 0]) == (0, 1, [])


def test_fewer_images_can_be_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(monkeypatch, [(8, 0.95, 0.5), (10, 0.95, 0.5)], enough=0.8)[:2] == (0, 1)
    assert outcome(monkeypatch, [(7, 0.95, 0.5), (10, 0.95, 0.5)], enough=0.8)[:2] == (1, 2)
    assert outcome(monkeypatch, [(10, 0.5, 0.5), (10, 0.95, 0.5)], trusted=0.5)[:2] == (0, 1)


STRONG_SECOND = (MappingConfig("global"), MappingConfig("global", min_strength=0.7), MappingConfig())


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("results", "kept", "made"),
    [
        ([(10, 0.8, 0.6), (10, 0.79, 0.6)], 0, 2),  # without weak pairs it is the same
        ([(10, 0.8, 0.6), (10, 0.81, 0.65)], 1, 2),
        ([(9, 0.8, 0.6), (10, 0.8, 0.6), (9, 0.8, 0.6)], 1, 3),  # with fewer images it does not confirm
        ([(9, 0.8, 0.6), (9, 0.8, 0.6), (10, 0.7, 0.6)], 2, 3),  # two with too few images
        ([(10, 0.8, 0.6), (10, 0.83, 0.6), (10, 0.7, 0.6)], 1, 3),  # the first one is folded
        ([(10, 0.8, 0.4), (10, 0.8, 0.6), (10, 0.8, 0.7)], 2, 3),  # not precise
        ([(10, 0.8, 0.6), None, (10, 0.8, 0.7)], 2, 3),
        ([(10, 0.8, 0.6), ColmapError("crashed"), (10, 0.8, 0.5)], 0, 3),
    ],
)
def test_another_attempt_may_confirm_the_best(
    monkeypatch: pytest.MonkeyPatch, results: list[Any], kept: int, made: int, threads: int
) -> None:
    seconds = [0.05 * number if number < made else 60 for number in range(3)]
    found = outcome(monkeypatch, results, threads=threads, seconds=seconds, configs=STRONG_SECOND)
    assert found[:2] == (kept, made)


def test_above_1_all_attempts_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [(10, 1.0, 0.6), (10, 1.0, 0.6), (10, 1.0, 0.7)]
    assert outcome(monkeypatch, results, trusted=1.1, configs=STRONG_SECOND)[:2] == (2, 3)
    assert outcome(monkeypatch, results, trusted=1.0, configs=STRONG_SECOND)[:2] == (0, 1)


def test_an_attempt_with_the_same_pairs_confirms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = STRONG_SECOND[0], STRONG_SECOND[2], STRONG_SECOND[1]
    results = [(10, 0.8, 0.6), (10, 0.8, 0.6), (10, 0.9, 0.6)]
    assert outcome(monkeypatch, results, configs=configs)[:2] == (2, 3)


@pytest.mark.parametrize(
    ("results", "said"),
    [([(10, 0.8, 0.5), None, (10, 0.95, 0.6)], "1 weak pairs, .*: a – c$"), ([(10, 0.95, 0.5)], None)],
)
def test_it_is_said_which_pairs_were_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, results: list[Any], said: str | None
) -> None:
    caplog.set_level("INFO", "imc_kit")
    outcome(monkeypatch, results)
    assert len(caplog.messages) == (said is not None)
    assert said is None or re.search(said, caplog.messages[0])


def test_it_is_said_which_pairs_were_contradicted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "imc_kit")
    turned = np.diag([-1.0, -1.0, 1.0])
    rotations = {pair: turned if pair == ("a", "c") else np.eye(3) for pair in INLIERS}
    monkeypatch.setattr(mapping_runs.mapping, "map_scene", lambda *_: [Model(Path("0"), {"a": Pose.identity()})])
    monkeypatch.setattr(mapping_runs.mapping, "relative_rotations", lambda *_: rotations)
    monkeypatch.setattr(mapping_runs, "support", lambda *_: 0.5)
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: INLIERS)
    config = MappingConfig(min_strength=0.7, max_cycle_error=10.0)
    attempt_all(Path("db"), SCENE, Path("out"), [config], 1.0, 0.9, Path("log"), 1, 0)
    (said,) = caplog.messages
    assert re.search("1 contradicted pairs, .*: a – c$", said)


def test_threads_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def map_scene(*arguments: Any) -> list[Model]:
        given.append(arguments[5])
        return []

    monkeypatch.setattr(mapping_runs.mapping, "map_scene", map_scene)
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: INLIERS)
    for threads, configs in ((8, ATTEMPTS), (2, ATTEMPTS), (8, ATTEMPTS[:1]), (8, ())):
        attempt_all(Path("db"), SCENE, Path("out"), configs, 1.0, 0.9, Path("log"), threads, 0)
    assert given == [8, 4, 4, 2, 1, 1, 8]


@pytest.mark.parametrize(
    ("threads", "weak", "together"), [(2, True, True), (8, True, True), (8, False, False), (1, True, False)]
)
def test_alone_the_second_begins_beside_the_first(
    monkeypatch: pytest.MonkeyPatch, threads: int, weak: bool, together: bool
) -> None:
    """Unless it would do the same, or there is one thread."""
    both = Barrier(2)
    given: dict[str, int] = {}

    def map_scene(database: Path, images: Path, folder: Path, config: MappingConfig, *rest: Any) -> list[Model]:
        given[folder.name] = rest[1]
        if together and len(given) <= 2:
            both.wait(10)
        return []

    monkeypatch.setattr(mapping_runs.mapping, "map_scene", map_scene)
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: {**INLIERS, ("a", "c"): 20 if weak else 40})
    configs = (MappingConfig("global"), MappingConfig("global", min_strength=0.7), MappingConfig())
    _, notes = attempt_all(Path("db"), SCENE, Path("out"), configs, 1.0, 0.9, Path("log"), threads, 0, alone=True)
    assert notes == []
    share = max(1, threads // 2) if weak else threads
    second = {"models-1": threads if together else share} if weak else {}
    assert given == {"models-0": threads, "models-2": share} | second


def test_alone_the_others_do_not_wait_for_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    third = Event()

    def map_scene(database: Path, images: Path, folder: Path, *rest: Any) -> list[Model]:
        if folder.name == "models-1":
            assert third.wait(10)
        if folder.name == "models-2":
            third.set()
        return []

    monkeypatch.setattr(mapping_runs.mapping, "map_scene", map_scene)
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: INLIERS)
    configs = (MappingConfig("global"), MappingConfig("global", min_strength=0.7), MappingConfig())
    _, notes = attempt_all(Path("db"), SCENE, Path("out"), configs, 1.0, 0.9, Path("log"), 2, 0, alone=True)
    assert notes == []
    assert third.is_set()


@pytest.mark.parametrize(
    ("off", "weak", "made"),
    [
        (0, False, [0, 1, 4]),  # nothing is left out: the third and fourth would be the first again
        (20, False, [0, 1, 2, 4]),
        (0, True, [0, 1, 3, 4]),
        (20, True, [0, 1, 2, 4]),  # both leave out the same pair
    ],
)
@pytest.mark.parametrize("threads", [1, 4])
def test_what_would_be_the_same_again_is_left_out(
    monkeypatch: pytest.MonkeyPatch, off: float, weak: bool, made: list[int], threads: int
) -> None:
    configs = (
        *ATTEMPTS[:2],
        MappingConfig(max_cycle_error=10.0),
        MappingConfig(min_strength=0.7),
        MappingConfig(max_keypoints=700),
    )
    turned = cv2.Rodrigues(np.array([0.0, 0.0, np.deg2rad(off)]))[0]
    given: list[tuple[int, int]] = []

    def map_scene(database: Path, images: Path, folder: Path, config: MappingConfig, *rest: Any) -> list[Model]:
        given.append((int(folder.name.removeprefix("models-")), rest[1]))
        return []

    monkeypatch.setattr(mapping_runs.mapping, "map_scene", map_scene)
    monkeypatch.setattr(
        mapping_runs.mapping,
        "relative_rotations",
        lambda *_: {pair: turned if pair == ("a", "c") else np.eye(3) for pair in INLIERS},
    )
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: {**INLIERS, ("a", "c"): 20 if weak else 40})
    _, notes = attempt_all(Path("db"), SCENE, Path("out"), configs, 1.0, 0.9, Path("log"), threads, 0)
    assert sorted(number for number, _ in given) == made
    assert {share for number, share in given if number} == {1 if threads == 1 or len(made) > 3 else 2}
    assert notes == []  # time did not run out


def limits(
    monkeypatch: pytest.MonkeyPatch, seconds: float, used: float, configs: tuple[MappingConfig, ...]
) -> tuple[list[float], list[str]]:
    """The limits of the attempts that are made when there are so many seconds and each uses so many of them."""
    now = 50.0
    given: list[float] = []

    def map_scene(database: Path, images: Path, folder: Path, config: MappingConfig, *_: Any) -> list[Model]:
        nonlocal now
        given.append(config.time_limit)
        now += used
        return [Model(folder, {"a": Pose.identity()})]

    monkeypatch.setattr(mapping_runs.mapping, "map_scene", map_scene)
    monkeypatch.setattr(mapping_runs, "support", lambda *_: 0.5)
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: INLIERS)
    monkeypatch.setattr(mapping_runs.clock.time, "time", lambda: now)
    until = now + seconds
    best, notes = attempt_all(Path("db"), SCENE, Path("out"), configs, 1.0, 0.9, Path("log"), 1, 0, until)
    assert best.registered == (1 if given else 0)
    return given, notes


def test_in_turn_every_attempt_but_the_last_leaves_time_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    given, notes = limits(monkeypatch, 100, 10, ATTEMPTS)
    assert given == pytest.approx([80, 72, 80])
    assert notes == []
    own = tuple(replace(config, time_limit=30.0) for config in ATTEMPTS)
    assert limits(monkeypatch, 100, 10, own) == ([30, 30, 30], [])


def test_attempts_that_could_not_even_start_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    given, notes = limits(monkeypatch, 10, 4.6, ATTEMPTS)
    assert given == pytest.approx([8, 4.32])
    assert notes == ["time ran out for 1 of 3 attempts at mapping"]
    given, notes = limits(monkeypatch, 0.9, 5, ATTEMPTS)
    assert given == []
    assert notes == ["time ran out for 3 of 3 attempts at mapping"]


@pytest.mark.parametrize(
    ("seconds", "threads", "each", "given"),
    [(100, 3, 1, 100), (100, 6, 3, 100), (4, 6, 6, 3.2), (math.inf, 3, 1, 1800)],
)
def test_side_by_side_each_may_take_all_the_time_but_in_a_hurry_each_in_turn_has_all_threads(
    monkeypatch: pytest.MonkeyPatch, seconds: float, threads: int, each: int, given: float
) -> None:
    """A scene of ten images: four seconds are too few for three attempts at once."""
    seen: list[tuple[int, float, Any]] = []

    def map_scene(*arguments: Any) -> list[Model]:
        config = arguments[3]
        seen.append((arguments[5], config.time_limit, config.options.get("max_runtime_seconds")))
        return []

    monkeypatch.setattr(mapping_runs.mapping, "map_scene", map_scene)
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: INLIERS)
    monkeypatch.setattr(mapping_runs.clock.time, "time", lambda: 0.0)
    attempt_all(Path("db"), SCENE, Path("out"), ATTEMPTS, 1.0, 0.9, Path("log"), threads, 0, seconds)
    assert seen[0][0] == threads
    assert {threads for threads, *_ in seen[1:]} == {each}
    assert (each, pytest.approx(given), int(given * (1 - mapping_runs.ENDING))) in seen  # it ends in time by itself
    assert (each, pytest.approx(given), None) in seen  # the global mapper cannot


def test_an_attempt_that_ended_with_what_it_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _, notes = limits(monkeypatch, 100, 60, ATTEMPTS[:1])
    assert notes == []
    _, notes = limits(monkeypatch, 100, 85, ATTEMPTS[:1])
    assert notes == ["COLMAP's incremental mapping was stopped at its time limit of 80 s, with what it had"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "models-0"), RuntimeError("database is full")]
)
def test_a_full_disk_costs_one_attempt(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def map_scene(database: Path, images: Path, folder: Path, config: MappingConfig, *_: Any) -> list[Model]:
        if config.mapper == "incremental":
            raise error
        return [Model(folder, {"a": Pose.identity()})]

    monkeypatch.setattr(mapping_runs.mapping, "map_scene", map_scene)
    monkeypatch.setattr(mapping_runs, "support", lambda *_: 0.5)
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: INLIERS)
    best, notes = attempt_all(Path("db"), SCENE, Path("out"), ATTEMPTS, 1.0, 0.9, Path("log"), 1, 0)
    assert best.registered == 1
    assert notes == [f"{type(error).__name__}: {error}"] * 2
