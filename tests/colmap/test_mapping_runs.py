"""Which mapping run of a scene is kept, and when no further one is made."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest

from imc_kit.colmap import best_model, mapping_runs
from imc_kit.colmap.best_model import MappingResult, map_best
from imc_kit.colmap.child import ColmapError, Workplace
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.mapping_runs import RunPolicy
from imc_kit.colmap.support import Judgement
from imc_kit.runtime.faults import RETRIED
from imc_kit.types import Model, Pair, Pose, Scene

SCENE = Scene("scene", Path("nowhere"), tuple("abcdefghij"))
RUNS = (MappingConfig(), MappingConfig("global"), MappingConfig(min_strength=0.7))
STRONG_SECOND = (MappingConfig("global"), MappingConfig("global", min_strength=0.7), MappingConfig())
INLIERS = {("a", "b"): 90, ("b", "c"): 50, ("a", "c"): 20}
"""The last pair is weak."""
Made = Callable[[int, MappingConfig, int, Event], list[Model]]
"""What a run gives, from its number, its configuration, its threads, and the event that cancels it."""


def run(
    monkeypatch: pytest.MonkeyPatch,
    made: Made,
    runs: Sequence[MappingConfig] = RUNS,
    policy: RunPolicy | None = None,
    threads: int = 1,
    inliers: Mapping[Pair, int] = INLIERS,
    **options: Any,
) -> MappingResult:
    """`map_best` with `made` in place of COLMAP."""

    def map_scene(database: Path, images: Path, config: MappingConfig, at: Workplace, event: Event) -> list[Model]:
        number = int(at.folder.name.removeprefix("models-"))
        assert at.log.name == f"colmap-{number + 1}.log"
        return made(number, config, at.threads, event)

    monkeypatch.setattr(mapping_runs.mapping, "map_scene", map_scene)
    monkeypatch.setattr(mapping_runs, "inlier_counts", lambda _: inliers)
    monkeypatch.setattr(best_model.duplicates, "distinct", lambda *_: [])
    policy = policy or RunPolicy(1.0, 0.9)
    return map_best(Path("db"), SCENE, runs, policy, Workplace(Path("out"), Path("colmap.log"), threads), **options)


def outcome(
    monkeypatch: pytest.MonkeyPatch,
    results: list[Any],
    policy: RunPolicy | None = None,
    threads: int = 1,
    seconds: Sequence[float] = (0, 0, 0),
    runs: tuple[MappingConfig, ...] = RUNS,
) -> tuple[int | None, int, list[str]]:
    """Which run was kept, how many ended, and the notes.

    results: for each run the number of images, the support to 2 pixels and precisely, and perhaps observations and the
    number of contradicted images; or None for no model, or an error. seconds: that each takes, unless it is cancelled.
    """
    ended: list[int] = []

    def made(number: int, config: MappingConfig, n: int, cancelled: Event) -> list[Model]:
        assert n == (threads if number == 0 else max(1, threads // 2))
        if cancelled.wait(seconds[number]):
            raise ColmapError("cancelled")
        ended.append(number)
        result = results[number]
        if isinstance(result, Exception):
            raise result
        if result is None:
            return []
        poses = {name: Pose.identity() for name in SCENE.images[: result[0]]}
        return [Model(Path(str(number)), poses, observations=result[3] if len(result) > 3 else 0)]

    def judge(database: Path, model: Model, pairs: list[Pair]) -> Judgement:
        assert pairs == [("a", "b"), ("b", "c")]  # (a, c) is weak
        result = results[int(model.folder.name)]
        return Judgement(*result[1:3], frozenset(SCENE.images[: result[4]] if len(result) > 4 else ()))

    monkeypatch.setattr(mapping_runs, "judge", judge)
    best = run(monkeypatch, made, runs, policy, threads)
    kept = int(best.models[0].folder.name) if best.models else None
    assert best.left_out == ({("a", "c")} if kept is not None and runs[kept].min_strength else frozenset())
    return kept, len(ended), best.notes


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("results", "kept", "made"),
    [
        ([(10, 0.95, 0.5)], 0, 1),  # all images, and trusted
        ([(10, 0.8, 0.5), (10, 0.95, 0.6)], 1, 2),  # the first one is collapsed
        ([(10, 0.8, 0.6), (10, 0.81, 0.605), (10, 0.7, 0.5)], 0, 3),  # hardly more precise
        ([(10, 0.8, 0.6), (10, 0.79, 0.605), (10, 0.79, 0.62)], 2, 3),
        ([(10, 0.8, 0.6, 500), (10, 0.81, 0.595, 900), (10, 0.8, 0.6, 700)], 1, 3),  # as precise, of more keypoints
        ([(10, 0.8, 0.6, 500), (10, 0.81, 0.58, 900), (10, 0.75, 0.6, 900)], 0, 3),
        ([(10, 0.8, 0.6), (10, 0.77, 0.9), (10, 0.83, 0.5)], 2, 3),  # precise, but collapsed
        ([(7, 0.99, 0.9), (7, 0.98, 0.9), (10, 0.98, 0.5)], 2, 3),  # images count first
        ([(10, 0.8, 0.5), (4, 1.0, 0.9), (9, 1.0, 0.9)], 0, 3),
        ([(10, 0.95, 0.5, 0, 2), (9, 0.95, 0.5), (4, 0.95, 0.5)], 1, 3),  # two of ten poses are contradicted
        ([None, (3, 0.5, 0.5), None], 1, 3),
        ([None, None, None], None, 3),
        ([ColmapError("crashed"), (10, 0.95, 0.5)], 1, 2),
    ],
)
def test_the_choice(
    monkeypatch: pytest.MonkeyPatch, results: list[Any], kept: int | None, made: int, threads: int
) -> None:
    """Side by side the later ones may take longer: they are cancelled, and the choice is the same."""
    seconds = [0.02 * number if number < made else 60 for number in range(3)]
    found_kept, found_made, notes = outcome(monkeypatch, results, threads=threads, seconds=seconds)
    assert (found_kept, found_made) == (kept, made)
    failures = [note for note in notes if "weak pairs" not in note]
    assert failures == [f"{result}; {RETRIED}" for result in results if isinstance(result, Exception)]


def test_the_order_of_the_ends_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [(10, 0.7, 0.4), (10, 0.95, 0.5), (10, 0.99, 0.9)]
    assert outcome(monkeypatch, results, threads=3, seconds=[0, 0.1, 0]) == (1, 3, [])
    results = [(10, 0.95, 0.5), (10, 0.99, 0.9), (10, 0.99, 0.9)]  # the others wait for the first
    assert outcome(monkeypatch, results, threads=3, seconds=[0.1, 0, 0]) == (0, 1, [])


def test_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    good = (10, 0.95, 0.5)
    assert outcome(monkeypatch, [(8, 0.95, 0.5), good], RunPolicy(0.8, 0.9))[:2] == (0, 1)
    assert outcome(monkeypatch, [(7, 0.95, 0.5), good], RunPolicy(0.8, 0.9))[:2] == (1, 2)
    assert outcome(monkeypatch, [(10, 0.5, 0.5), good], RunPolicy(1.0, 0.5))[:2] == (0, 1)
    results = [(10, 1.0, 0.6), (10, 1.0, 0.6), (10, 1.0, 0.7)]
    assert outcome(monkeypatch, results, RunPolicy(1.0, 1.1), runs=STRONG_SECOND)[:2] == (2, 3)
    assert outcome(monkeypatch, results, RunPolicy(1.0, 1.0), runs=STRONG_SECOND)[:2] == (0, 1)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("results", "kept", "made"),
    [
        ([(10, 0.8, 0.6), (10, 0.79, 0.6)], 0, 2),  # without weak pairs it is the same
        ([(10, 0.8, 0.6), (10, 0.81, 0.65)], 1, 2),
        ([(9, 0.8, 0.6), (10, 0.8, 0.6), (9, 0.8, 0.6)], 1, 3),  # with fewer images it does not confirm
        ([(9, 0.8, 0.6), (9, 0.8, 0.6), (10, 0.7, 0.6)], 2, 3),  # two with too few images
        ([(10, 0.8, 0.6), (10, 0.83, 0.6), (10, 0.7, 0.6)], 1, 3),  # the first one is collapsed
        ([(10, 0.8, 0.4), (10, 0.8, 0.6), (10, 0.8, 0.7)], 2, 3),  # not precise
        ([(10, 0.8, 0.6), None, (10, 0.8, 0.7)], 2, 3),
        ([(10, 0.8, 0.6), ColmapError("crashed"), (10, 0.8, 0.5)], 0, 3),
    ],
)
def test_a_run_with_other_pairs_may_confirm_the_best(
    monkeypatch: pytest.MonkeyPatch, results: list[Any], kept: int, made: int, threads: int
) -> None:
    seconds = [0.02 * number if number < made else 60 for number in range(3)]
    found = outcome(monkeypatch, results, threads=threads, seconds=seconds, runs=STRONG_SECOND)
    assert found[:2] == (kept, made)


def test_a_run_with_the_same_pairs_confirms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = STRONG_SECOND[0], STRONG_SECOND[2], STRONG_SECOND[1]
    results = [(10, 0.8, 0.6), (10, 0.8, 0.6), (10, 0.9, 0.6)]
    assert outcome(monkeypatch, results, runs=runs)[:2] == (2, 3)


def test_a_note_names_the_pairs_that_were_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(monkeypatch, [(10, 0.95, 0.5)])[2] == []
    (weak,) = outcome(monkeypatch, [(10, 0.8, 0.5), None, (10, 0.95, 0.6)])[2]
    assert re.search("1 weak pairs, .*: a – c$", weak)


def test_threads_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def made(number: int, config: MappingConfig, threads: int, cancelled: Event) -> list[Model]:
        given.append(threads)
        return []

    for threads, runs in ((8, RUNS), (2, RUNS), (8, RUNS[:1]), (8, ())):
        run(monkeypatch, made, runs, threads=threads)
    assert given == [8, 4, 4, 2, 1, 1, 8]


@pytest.mark.parametrize(
    ("threads", "weak", "together"), [(2, True, True), (8, True, True), (8, False, False), (1, True, False)]
)
def test_alone_the_second_starts_with_the_first(
    monkeypatch: pytest.MonkeyPatch, threads: int, weak: bool, together: bool
) -> None:
    """Unless it would do the same, or there is one thread. The third does not wait for the second."""
    both, third = Barrier(2), Event()
    given: dict[int, int] = {}

    def made(number: int, config: MappingConfig, threads: int, cancelled: Event) -> list[Model]:
        given[number] = threads
        if together and number < 2:
            both.wait(10)
        if together and number == 1:
            assert third.wait(10)
        if number == 2:
            third.set()
        return []

    inliers = {**INLIERS, ("a", "c"): 20 if weak else 40}
    found = run(monkeypatch, made, STRONG_SECOND, threads=threads, inliers=inliers, alone=True)
    assert found.notes == []
    share = max(1, threads // 2) if weak else threads
    second = {1: threads if together else share} if weak else {}
    assert given == {0: threads, 2: share} | second


@pytest.mark.parametrize(
    ("weak", "numbers"),
    [(False, [0, 1, 3]), (True, [0, 1, 2, 3])],  # without a weak pair the third would be the first again
)
@pytest.mark.parametrize("threads", [1, 4])
def test_a_run_that_would_be_the_same_again_is_skipped(
    monkeypatch: pytest.MonkeyPatch, weak: bool, numbers: list[int], threads: int
) -> None:
    further = MappingConfig(min_strength=0.7), MappingConfig(max_keypoints=700)
    given: dict[int, int] = {}

    def made(number: int, config: MappingConfig, threads: int, cancelled: Event) -> list[Model]:
        given[number] = threads
        return []

    inliers = {**INLIERS, ("a", "c"): 20 if weak else 40}
    found = run(monkeypatch, made, (*RUNS[:2], *further), threads=threads, inliers=inliers)
    assert sorted(given) == numbers
    shares = {share for number, share in given.items() if number}
    assert shares == {1 if threads == 1 or len(numbers) > 3 else 2}
    assert found.notes == []  # time did not run out


def limits(
    monkeypatch: pytest.MonkeyPatch, seconds: float, used: float, runs: tuple[MappingConfig, ...] = RUNS
) -> tuple[list[float], list[str]]:
    """The time limits of the runs that are made within `seconds` when each uses `used`, and the notes."""
    now = 50.0
    given: list[float] = []

    def made(number: int, config: MappingConfig, threads: int, cancelled: Event) -> list[Model]:
        nonlocal now
        given.append(config.time_limit)
        now += used
        return [Model(Path("0"), {"a": Pose.identity()})]

    monkeypatch.setattr(mapping_runs, "judge", lambda *_: Judgement(0.5, 0.5))
    monkeypatch.setattr(mapping_runs.deadline.time, "monotonic", lambda: now)
    found = run(monkeypatch, made, runs, until=now + seconds)
    assert bool(found.models) == bool(given)
    return given, found.notes


def test_every_run_but_the_last_leaves_time_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    given, notes = limits(monkeypatch, 100, 10)
    assert given == pytest.approx([80, 72, 80])
    assert notes == []
    own = tuple(replace(config, time_limit=30.0) for config in RUNS)
    assert limits(monkeypatch, 100, 10, own) == ([30, 30, 30], [])


def test_runs_that_could_not_even_start_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    given, notes = limits(monkeypatch, 10, 4.6)
    assert given == pytest.approx([8, 4.32])
    assert notes == ["time ran out for 1 of 3 mapping runs"]
    assert limits(monkeypatch, 0.9, 5) == ([], ["time ran out for 3 of 3 mapping runs"])


def test_a_run_that_ended_with_what_it_had_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits(monkeypatch, 100, 60, RUNS[:1])[1] == []
    (note,) = limits(monkeypatch, 100, 85, RUNS[:1])[1]
    assert note.startswith("COLMAP's incremental mapping was stopped at its time limit of 80 s")


@pytest.mark.parametrize(
    ("seconds", "threads", "each", "given"),
    [(100, 3, 1, 100), (100, 6, 3, 100), (4, 6, 6, 3.2), (math.inf, 3, 1, 1800)],
)
def test_side_by_side_each_may_take_all_the_time_but_in_a_hurry_each_in_turn_has_all_threads(
    monkeypatch: pytest.MonkeyPatch, seconds: float, threads: int, each: int, given: float
) -> None:
    """A scene of ten images: four seconds are too few for three runs at once."""
    seen: list[tuple[int, float, Any]] = []

    def made(number: int, config: MappingConfig, threads: int, cancelled: Event) -> list[Model]:
        seen.append((threads, config.time_limit, config.options.get("max_runtime_seconds")))
        return []

    monkeypatch.setattr(mapping_runs.deadline.time, "monotonic", lambda: 0.0)
    run(monkeypatch, made, threads=threads, until=seconds)
    assert seen[0][0] == threads
    assert {threads for threads, *_ in seen[1:]} == {each}
    assert (each, pytest.approx(given), int(given * (1 - mapping_runs.ENDING))) in seen  # it ends in time by itself
    assert (each, pytest.approx(given), None) in seen  # the global mapper cannot


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "models-0"), RuntimeError("database is full")]
)
def test_a_full_disk_costs_one_run(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def made(number: int, config: MappingConfig, threads: int, cancelled: Event) -> list[Model]:
        if config.mapper == "incremental":
            raise error
        return [Model(Path("1"), {"a": Pose.identity()})]

    monkeypatch.setattr(mapping_runs, "judge", lambda *_: Judgement(0.5, 0.5))
    found = run(monkeypatch, made)
    assert [len(model.poses) for model in found.models] == [1]
    assert found.notes == [f"{type(error).__name__}: {error}; {RETRIED}"] * 2
