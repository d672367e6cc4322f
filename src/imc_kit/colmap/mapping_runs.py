"""Several attempts at reconstructing a scene, and the choice among them, which needs no truth."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from imc_kit.colmap import mapping
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.support import support
from imc_kit.colmap.verification import inlier_counts
from imc_kit.errors import KitError, said
from imc_kit.runtime import deadline
from imc_kit.types import Model, Pair, Scene
from imc_kit.viewgraph.strengths import strengths

logger = logging.getLogger(__name__)

REFERENCE = 0.7
"""The strength (`viewgraph.strengths`) from which on a pair is a reference pair for or against a model."""
TRUSTWORTHY = 2.0
"""Pixels to which a match agrees with a model that is not folded."""
PRECISE = 0.25
"""Pixels to which a match agrees with a good model: more of them do the better its poses are."""
SHORTEST = 1.0
"""Seconds that an attempt takes at the least: its process must start."""
ENDING = 0.2
"""The share of its time that the incremental mapper may need to start, and to end with the images that it has by then;
a process that is killed leaves nothing."""
IN_A_HURRY = 0.5
"""With fewer seconds for each image attempts are made one after the other, with all threads: side by side none would
end in time."""
IN_TURN = 0.8
"""The share of the time that is left that an attempt may take when others wait for it to end."""
MARGIN = 0.02
"""Of models with equally many images, one with which so much less of the reference_pairs agrees is folded. Of others, one
with which so much more of them agrees precisely is better, and else the one that makes use of more keypoints."""
SHARP = 0.5
"""Where less of the reference_pairs agrees precisely, keypoints are not precise: then a mapper that makes use of more of them
may do better than one that is confirmed."""

_NAMED = 5
"""Pairs that the log names."""


@dataclass(frozen=True, eq=False)
class MappingRun:
    """What one attempt gave: its models, largest first, the shares of the reference_pairs that agree with the largest, to 2
    pixels and precisely, and the pairs that it left out."""

    models: list[Model]
    support: float = 0.0
    precision: float = 0.0
    left_out: frozenset[Pair] = frozenset()

    @property
    def registered(self) -> int:
        return len(self.models[0].poses) if self.models else 0

    @property
    def observations(self) -> int:
        return self.models[0].observations if self.models else 0

    def beats(self, other: MappingRun) -> bool:
        """Whether it has more images or, of equally many, is better supported."""
        if self.registered != other.registered:
            return self.registered > other.registered
        if abs(self.support - other.support) > MARGIN:
            return self.support > other.support
        if abs(self.precision - other.precision) > MARGIN:
            return self.precision > other.precision
        return self.observations > other.observations

    def confirms(self, other: MappingRun) -> bool:
        """Whether it has as many images and is about as well supported, and both are precise."""
        return (
            self.registered >= other.registered
            and abs(self.support - other.support) <= MARGIN
            and min(self.precision, other.precision) >= SHARP
        )


def different(
    attempts: Sequence[MappingConfig], database: Path, inliers: Mapping[Pair, int]
) -> dict[int, frozenset[Pair]]:
    """The numbers of the attempts, without those that would do the same as an earlier one in this database, and the
    pairs that each leaves out."""
    does: list[tuple[MappingConfig, frozenset[Pair]]] = []
    for config in attempts:
        pairs = mapping.left_out(database, inliers, config)
        does.append((replace(config, min_strength=0.0, max_cycle_error=None), frozenset().union(*pairs)))
    return {number: one[1] for number, one in enumerate(does) if one not in does[:number]}


@dataclass(frozen=True, eq=False)
class _Task:
    """What the attempts at one scene share; see `attempt_all`."""

    database: Path
    scene: Scene
    folder: Path
    attempts: Sequence[MappingConfig]
    enough: float
    trusted: float
    log: Path
    seed: int
    until: float
    reference_pairs: list[Pair]
    """Pairs of image names whose matches are for or against a model."""
    given_up: list[threading.Event]
    """For each attempt: set when there is no more need of it."""
    notes: list[str]

    def make(self, number: int, threads: int, awaited: bool) -> MappingRun | None:
        """One attempt; None when there is no time for it, or no need. awaited: others wait for it to end."""
        seconds = deadline.left(deadline.portion(self.until, IN_TURN if awaited else 1.0))
        if seconds < SHORTEST or self.given_up[number].is_set():
            return None
        config = self.attempts[number]
        config = replace(config, time_limit=min(config.time_limit, seconds))
        runtime = config.time_limit * (1 - ENDING)
        if config.mapper == "incremental":
            config = replace(config, options={"max_runtime_seconds": max(1, int(runtime)), **config.options})
        ending = deadline.after(runtime)
        log = self.log.with_stem(f"{self.log.stem}-{number + 1}")
        models = mapping.map_scene(
            self.database, self.scene.root, self.folder / f"models-{number}", config, log, threads, self.seed,
            self.given_up[number],
        )  # fmt: skip
        if not models:
            return MappingRun([])
        incomplete = len(models[0].poses) < len(self.scene.images)
        if config.mapper == "incremental" and incomplete and not deadline.left(ending):
            self.notes.append(f"COLMAP's incremental mapping {deadline.STOPPED} of {runtime:.0f} s, with what it had")
        result = MappingRun(
            models,
            support(self.database, models[0], self.reference_pairs, TRUSTWORTHY),
            support(self.database, models[0], self.reference_pairs, PRECISE),
        )
        if self.satisfies(result):
            for event in self.given_up[number + 1 :]:
                event.set()
        return result

    def complete(self, result: MappingRun) -> bool:
        return result.registered >= max(1, self.enough * len(self.scene.images))

    def satisfies(self, result: MappingRun) -> bool:
        return self.complete(result) and result.support >= self.trusted

    def confirmed(self, best: MappingRun, others: Iterable[MappingRun]) -> bool:
        """Whether one of the others, which have other pairs, confirms the best."""
        return self.trusted <= 1 and self.complete(best) and any(other.confirms(best) for other in others)


def attempt_all(
    database: Path,
    scene: Scene,
    folder: Path,
    attempts: Sequence[MappingConfig],
    enough: float,
    trusted: float,
    log: Path,
    threads: int,
    seed: int,
    until: float = inf,
    alone: bool = False,
) -> tuple[MappingRun, list[str]]:
    """The best of the attempts, and a note on each that failed.

    database: with verified matches. folder: gets a subfolder of models for each attempt.
    enough, trusted: attempts after one whose model has this share of the scene's images, and this share of the verified
        matches of the strongest pairs agrees with it (`colmap.support`), are not made, or given up; nor when the best
        is confirmed by one that leaves out other pairs, as those of repeated structures then made no difference. Nor is
        one that would do the same as an earlier one, as both leave out the same pairs, or none. With `trusted` above 1
        all others are made.
    log: of the attempts, each with its number after the stem. threads: the first attempt has them all; where it is not
        enough, so many of the others run side by side, and share the threads.
    alone: whether nothing else wants the cores: then the second attempt is made beside the first, in case it is needed,
        with all threads too, as one of the two is alone at the end.
    until: when to end (see `clock`): each attempt may take all of the time that is left, but where they are made one
        after the other each but the last `IN_TURN` of it.
    """
    if not attempts:
        return MappingRun([]), []
    inliers = inlier_counts(database)
    reference_pairs = [pair for pair, strength in strengths(inliers).items() if strength >= REFERENCE]
    given_up = [threading.Event() for _ in attempts]
    task = _Task(
        database, scene, folder, attempts, enough, trusted, log, seed, until, reference_pairs, given_up, notes := []
    )
    at_once = 1 if deadline.left(until) < IN_A_HURRY * len(scene.images) else max(1, min(threads, len(attempts) - 1))
    pool = ThreadPoolExecutor(at_once)
    lacks = different(attempts[: 2 if alone and at_once > 1 else 1], database, inliers)
    first = list(lacks)

    def begun() -> Iterator[tuple[int, Future[MappingRun | None]]]:
        """The first attempt, perhaps with the second beside it; the others begin when more are asked for."""
        made = {number: pool.submit(task.make, number, threads, not number and len(attempts) > 1) for number in first}
        yield 0, made[0]
        lacks.update(different(attempts, database, inliers))
        others = [number for number in lacks if number]
        share = threads // max(1, min(at_once, len(others)))
        waited_for = others[:-1] if at_once == 1 else []
        for number in others:
            if number not in made:
                made[number] = pool.submit(task.make, number, share, number in waited_for)
        yield from [(number, made[number]) for number in others]

    best, chosen = MappingRun([]), 0
    results: dict[int, MappingRun | None] = {}
    try:
        for number, future in begun():
            try:
                result = future.result()
            except (KitError, OSError, RuntimeError) as error:
                notes.append(said(error))
                result = MappingRun([])
            results[number] = result
            if result is None:
                continue
            if result.beats(best):
                best, chosen = result, number
            others = [one for other, one in results.items() if one and lacks[other] != lacks[chosen]]
            if task.satisfies(result) or task.confirmed(best, others):
                break
    finally:
        for event in given_up:
            event.set()
        pool.shutdown(cancel_futures=True)
    _say_what_is_left_out(scene, mapping.left_out(database, inliers, attempts[chosen]))
    if without := sum(result is None for result in results.values()):
        notes.append(f"{deadline.RAN_OUT} for {without} of {len(results)} attempts at mapping")
    return replace(best, left_out=lacks[chosen]), notes


def _say_what_is_left_out(scene: Scene, left_out: tuple[list[Pair], list[Pair]]) -> None:
    for what, pairs in zip(("contradicted", "weak"), left_out, strict=True):
        if pairs:
            named = ", ".join(" – ".join(pair) for pair in pairs[:_NAMED]) + (", …" if len(pairs) > _NAMED else "")
            logger.info("%s: the best model leaves out %d %s pairs, which may be of repeated structures: %s",
                scene.name, len(pairs), what, named)  # fmt: skip
