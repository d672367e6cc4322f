"""Several mapping runs of one scene, and the choice of the best model without ground truth.

The runs end early in two cases. A model is *trusted* when it has enough of the scene's images and enough of the matches
of the reference pairs agree with it. The best model is *confirmed* when a run that uses other pairs registers as many
images with about the same agreement: then pairs of repeated structures made no difference.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

from imc_kit.colmap import mapping
from imc_kit.colmap.cameras import plausible
from imc_kit.colmap.child import Workplace
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.support import Judgement, judge
from imc_kit.colmap.verification import inlier_counts
from imc_kit.errors import said
from imc_kit.runtime import deadline, faults, progress
from imc_kit.types import Model, Pair, Scene
from imc_kit.viewgraph.strengths import strengths

logger = logging.getLogger(__name__)

DEFAULT_RUNS = MappingConfig("global"), MappingConfig("global", min_strength=0.7), MappingConfig()
"""The mapping runs of a scene, in order: global; global on strong pairs only; incremental. The first takes a second or
two, and the others are made only if its model is not good enough. Each wins on some scene (docs/benchmarks.md)."""

# All thresholds in this file were chosen on the open scenes (docs/benchmarks.md).
REFERENCE_STRENGTH = 0.7
"""Pairs at least this strong (`viewgraph.strengths`) are the reference pairs: their matches judge a model. A lower
limit may let in pairs of repeated structures, which support a collapsed model."""
MARGIN = 0.02
"""Smaller differences in the share of agreeing matches do not count. Of two models with equally many images, one that
is worse by more than this is a collapsed, duplicate-structure model."""
SHARP = 0.5
"""Keypoints are precise if at least this share of the reference matches agrees within `PRECISE` pixels. Otherwise
nothing is confirmed: another mapper, which uses more keypoints, may still do better."""
SHORTEST = 1.0
"""Seconds. With less time left, no step is started: starting the child process takes part of it."""
ENDING = 0.2
"""The share of the incremental mapper's time limit reserved for starting and for writing models. Mapping stops before
that, because a killed process leaves nothing."""
IN_TURN = 0.8
"""The maximum share of the time left for a run that other runs wait for."""
IN_A_HURRY = 0.5
"""Seconds per image. With less time left, runs are sequential, each with all threads: in parallel none would end in
time."""
_NAMED = 5
"""Maximum number of pairs named in a note."""


@dataclass(frozen=True)
class RunPolicy:
    """When to make no further mapping run of a scene."""

    enough: float = 0.9
    """The share of the scene's images that a model must have."""
    trusted: float = 0.98
    """The share of the reference matches that must agree with a trusted model. Above 1, every run is made."""

    def complete(self, run: MappingRun, images: int) -> bool:
        return run.registered >= max(1, self.enough * images)

    def trusts(self, run: MappingRun, images: int) -> bool:
        return self.complete(run, images) and run.support >= self.trusted

    def confirmed(self, best: MappingRun, ended: Sequence[MappingRun], images: int) -> bool:
        """Whether an ended run that used other pairs confirms the best."""
        others = [run for run in ended if run.left_out != best.left_out]
        return self.trusted <= 1 and self.complete(best, images) and any(run.confirms(best) for run in others)


@dataclass(frozen=True, eq=False)
class MappingRun:
    """The result of one mapping run."""

    models: Sequence[Model] = ()
    """Largest first."""
    judgement: Judgement = field(default_factory=Judgement)
    """How well the largest model agrees with the reference matches."""
    left_out: Sequence[Pair] = ()
    """The pairs that the run did not use."""

    @property
    def registered(self) -> int:
        """The number of images of the largest model, without those whose poses their own matches contradict.

        They stay in the model, because later steps correct some of them.
        """
        return len(self.models[0].poses) - len(self.judgement.contradicted) if self.models else 0

    @property
    def support(self) -> float:
        return self.judgement.support

    @property
    def observations(self) -> int:
        return self.models[0].observations if self.models else 0

    def beats(self, other: MappingRun) -> bool:
        """Whether it has more images or, with equally many, agrees with more matches, or else uses more keypoints."""
        for ours, theirs, margin in (
            (self.registered, other.registered, 0),
            (self.support, other.support, MARGIN),
            (self.judgement.precision, other.judgement.precision, MARGIN),
        ):
            if abs(ours - theirs) > margin:
                return ours > theirs
        return self.observations > other.observations

    def confirms(self, other: MappingRun) -> bool:
        """Whether it has at least as many images and about the same support, and both are precise."""
        return (
            self.registered >= other.registered
            and abs(self.support - other.support) <= MARGIN
            and min(self.judgement.precision, other.judgement.precision) >= SHARP
        )


def map_runs(
    database: Path, scene: Scene, runs: Sequence[MappingConfig], policy: RunPolicy, at: Workplace, until: float,
    alone: bool,
) -> Session:  # fmt: skip
    """Map a scene with several configurations until one model is good enough.

    The first run uses all threads. If its model is not trusted, the other runs share the threads in parallel. A run
    that would use the same pairs and options as an earlier one is skipped. Runs that are no longer needed are
    cancelled. The arguments are those of `best_model.map_best`.
    """
    in_a_hurry = deadline.left(until) < IN_A_HURRY * len(scene.images)
    at_once = 1 if in_a_hurry else max(1, min(at.threads, len(runs) - 1))
    pool = ThreadPoolExecutor(at_once)
    session = Session(database, scene, runs, policy, at, until, pool)
    try:
        for number in session.distinct(2 if alone and at_once > 1 else 1):
            session.start(number, at.threads, others_wait=number == 0 and len(runs) > 1)
        if not session.suffices(0):
            others = [number for number in session.distinct(len(runs)) if number > 0]
            share = at.threads // max(1, min(at_once, len(others)))
            for number in others:
                session.start(number, share, others_wait=at_once == 1 and number != others[-1])
            for number in others:
                if session.suffices(number):
                    break
    finally:
        session.cancel()
    return session


@dataclass(eq=False)
class Session:
    """The mapping runs of one scene: those started, those ended, and the best so far."""

    database: Path
    scene: Scene
    runs: Sequence[MappingConfig]
    policy: RunPolicy
    at: Workplace
    until: float
    pool: ThreadPoolExecutor
    started: dict[int, Future[MappingRun | None]] = field(default_factory=dict)
    ended: list[MappingRun] = field(default_factory=list)
    best: MappingRun = field(default_factory=MappingRun)
    notes: list[str] = field(default_factory=list)
    without_time: int = 0

    def __post_init__(self) -> None:
        inliers = inlier_counts(self.database)
        strong = strengths(inliers)
        self.reference_pairs = [pair for pair, strength in strong.items() if strength >= REFERENCE_STRENGTH]
        self.left_out = [mapping.left_out(inliers, config) for config in self.runs]
        self.cancelled = [Event() for _ in self.runs]

    def distinct(self, count: int) -> list[int]:
        """The numbers of the first `count` runs that differ from all earlier ones on this database."""
        seen: list[tuple[MappingConfig, list[Pair]]] = []
        numbers = []
        for number, config in enumerate(self.runs[:count]):
            work = replace(config, min_strength=0.0), self.left_out[number]
            if work not in seen:
                seen.append(work)
                numbers.append(number)
        return numbers

    def start(self, number: int, threads: int, others_wait: bool) -> None:
        """Start a run, unless it was started before. others_wait: whether the next run waits for its end."""
        if number not in self.started:
            self.started[number] = self.pool.submit(copy_context().run, self._run, number, threads, others_wait)

    def suffices(self, number: int) -> bool:
        """Wait for a run; returns whether no further run is needed."""
        try:
            run = self.started[number].result()
        except Exception as error:  # of any kind: the other runs can still succeed
            self.notes.append(f"{said(error)}; {faults.RETRIED}")
            run = MappingRun(left_out=self.left_out[number])
        if run is None:
            self.without_time += 1
            return False
        self.ended.append(run)
        if run.beats(self.best):
            self.best = run
        images = len(self.scene.images)
        return self.policy.trusts(run, images) or self.policy.confirmed(self.best, self.ended, images)

    @property
    def trusted(self) -> bool:
        return self.policy.trusts(self.best, len(self.scene.images))

    def plausible(self) -> bool:
        """Whether the best model has enough images, and focal lengths that cameras may have."""
        focals = [0.5 / max(frame) for model in self.best.models[:1] for frame in model.frames.values()]
        return self.policy.complete(self.best, len(self.scene.images)) and all(map(plausible, focals))

    def cancel(self) -> None:
        """Cancel all runs that have not ended."""
        for event in self.cancelled:
            event.set()
        self.pool.shutdown(cancel_futures=True)

    def all_notes(self) -> list[str]:
        notes = self.notes.copy()
        if self.without_time:
            tried = len(self.ended) + self.without_time
            notes.append(f"{deadline.RAN_OUT} for {self.without_time} of {tried} mapping runs")
        return notes

    def left_out_note(self) -> list[str]:
        """A note on the pairs that the best run left out, if any."""
        if not (pairs := self.best.left_out):
            return []
        named = ", ".join(" – ".join(pair) for pair in pairs[:_NAMED]) + (", …" if len(pairs) > _NAMED else "")
        return [f"the best model leaves out {len(pairs)} weak pairs, possibly of repeated structures: {named}"]

    def _run(self, number: int, threads: int, others_wait: bool) -> MappingRun | None:
        """Map once; None when no time is left or the run is no longer needed."""
        seconds = deadline.left(deadline.portion(self.until, IN_TURN if others_wait else 1.0))
        if seconds < SHORTEST or self.cancelled[number].is_set():
            return None
        config = self.runs[number]
        config = replace(config, time_limit=min(config.time_limit, seconds))
        runtime = config.time_limit * (1 - ENDING)
        if config.mapper == "incremental":
            config = replace(config, options={"max_runtime_seconds": max(1, int(runtime)), **config.options})
        ending = deadline.after(runtime)
        log = self.at.log.with_stem(f"{self.at.log.stem}-{number + 1}")
        at = replace(self.at, folder=self.at.folder / f"models-{number}", log=log, threads=threads)
        with progress.titled(f"mapping run {number + 1} of {len(self.runs)}"):
            models = mapping.map_scene(self.database, self.scene.root, config, at, self.cancelled[number])
        left_out = self.left_out[number]
        if not models:
            return MappingRun(left_out=left_out)
        incomplete = len(models[0].poses) < len(self.scene.images)
        if config.mapper == "incremental" and incomplete and not deadline.left(ending):
            stopped = f"{deadline.STOPPED} of {runtime:.0f} s"
            self.notes.append(f"COLMAP's incremental mapping {stopped}; its model so far is used")
        judgement = judge(self.database, models[0], self.reference_pairs)
        run = MappingRun(models, judgement, left_out)
        if self.policy.trusts(run, len(self.scene.images)):
            for event in self.cancelled[number + 1 :]:
                event.set()
        return run
