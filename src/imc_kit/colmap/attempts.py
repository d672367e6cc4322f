"""Several attempts at reconstructing a scene, and the choice among them, which needs no truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from imc_kit import clock
from imc_kit.colmap import mapping
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.support import support
from imc_kit.colmap.verification import inlier_counts
from imc_kit.errors import KitError, said
from imc_kit.types import Model, Scene
from imc_kit.viewgraph import strengths

WITNESS = 0.7
"""The strength (`viewgraph.strengths`) from which on a pair is a witness for or against a model."""
SHORTEST = 2.0
"""Seconds that an attempt takes at the least: its process must start."""
MARGIN = 0.01
"""Of models with equally many images a later one is chosen only if this much more of the witnesses agrees with it."""


@dataclass(frozen=True, eq=False)
class Attempt:
    """What one attempt gave: its models, largest first, and the share of the witnesses that agrees with the largest."""

    models: list[Model]
    support: float = 0.0

    @property
    def registered(self) -> int:
        return len(self.models[0].poses) if self.models else 0

    def beats(self, other: Attempt) -> bool:
        """Whether it has more images or, of equally many, is better supported."""
        if self.registered != other.registered:
            return self.registered > other.registered
        return self.support > other.support + MARGIN


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
) -> tuple[Attempt, list[str]]:
    """The best of the attempts, and a note on each that failed.

    database: with verified matches. folder: gets a subfolder of models for each attempt.
    enough, trusted: no further attempt is made once a model has this share of the scene's images, and this share of the
        verified matches of the strongest pairs agrees with it (`colmap.support`).
    until: when to end (see `clock`): each attempt but the last may take half of the time that is left.
    """
    witnesses = [pair for pair, strength in strengths(inlier_counts(database)).items() if strength >= WITNESS]
    best, notes = Attempt([]), []
    for number, config in enumerate(attempts):
        last = number == len(attempts) - 1
        seconds = clock.left(clock.portion(until, 1.0 if last else 0.5))
        if seconds < SHORTEST:
            notes.append(f"{clock.RAN_OUT} for {len(attempts) - number} of {len(attempts)} attempts at mapping")
            break
        config = replace(config, time_limit=min(config.time_limit, seconds))
        try:
            models = mapping.map_scene(database, scene.root, folder / f"models-{number}", config, log, threads, seed)
            result = Attempt(models, support(database, models[0], witnesses) if models else 0.0)
        except (KitError, OSError, RuntimeError) as error:
            notes.append(said(error))
            continue
        if result.beats(best):
            best = result
        if best.registered >= max(1, enough * len(scene.images)) and best.support >= trusted:
            break
    return best, notes
