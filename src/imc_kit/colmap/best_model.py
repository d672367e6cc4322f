"""The best model of a scene's mapping runs, and what is tried if it does not fit.

The scene is mapped again with other intrinsics if the matches contradict those in the database, and without the pairs
that seem to show equal objects in different places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from imc_kit.colmap import duplicates, recalibration
from imc_kit.colmap.cameras import CameraConfig
from imc_kit.colmap.child import Workplace
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.mapping_runs import MARGIN, SHORTEST, MappingRun, RunPolicy, Session, map_runs
from imc_kit.colmap.support import judge
from imc_kit.errors import KitError, said
from imc_kit.runtime import deadline, progress
from imc_kit.types import Model, Pair, Scene

FITS = 0.95
"""A model with a smaller support has wrong matches or wrong intrinsics. On the open scenes the least is 0.964; where a
third of the photos is zoomed 1.8 times, and shares intrinsics with the others, it is 0.78 to 0.89. With other
intrinsics these reach 0.95 to 0.997, but cereal25, whose fault are duplicate structures, 0.92: it keeps its model."""
RECALIBRATED = "the matches contradict EXIF or shared intrinsics: focal lengths are estimated from the matches"
EQUAL = "equal objects, or equal sides of an object, match in photos whose surroundings do not"


@dataclass(frozen=True, eq=False)
class MappingResult:
    """The best mapping run of a scene, and a note on each failure."""

    run: MappingRun
    trusted: bool
    """Whether its model has enough images and agrees with enough of the reference matches."""
    left_out: frozenset[Pair]
    """The pairs that its models were made without."""
    notes: list[str]
    database: Path
    """The verified matches with the intrinsics that its models were made from."""

    @property
    def models(self) -> list[Model]:
        """Its models, largest first."""
        return list(self.run.models)


def map_best(
    database: Path,
    scene: Scene,
    runs: Sequence[MappingConfig],
    policy: RunPolicy,
    at: Workplace,
    until: float = inf,
    alone: bool = False,
    cameras: CameraConfig | None = None,
) -> MappingResult:
    """Map a scene with several configurations until one model is good enough, and return the best.

    If the strongest pairs lack matches (`duplicates`), the first run is repeated without the pairs that do, and then
    all runs with those of them that are likely. The first model that agrees much better with the pairs that are left is
    returned.

    database: with verified matches.
    at: each run gets a subfolder for its models, and a log whose name ends with its number.
    until: the deadline (`runtime.deadline`). Sequential runs leave time for the next (`IN_TURN`).
    alone: whether no other work needs the cores. Then the second run starts with the first, also with all threads,
        because one of them outlasts the other.
    cameras: if no model fits, map again with intrinsics from the matches (`recalibration`), unless they are known.
    """
    if not runs:
        return MappingResult(MappingRun(), False, frozenset(), [], database)
    session, notes = _fitting(database, scene, runs, policy, at, until, alone, cameras)
    try:
        tried = duplicates.distinct(database, at) if session.best.models and deadline.left(until) >= SHORTEST else []
        for number, found in enumerate(tried):
            if deadline.left(until) < SHORTEST:
                break
            # What the first copy lacks is pairs: other intrinsics do not help the next ones.
            made, refocused = (runs, None) if number else (runs[:1], cameras)
            place = replace(at, folder=found.database.parent)
            with progress.titled("without pairs of equal objects"):
                again, further = _fitting(found.database, scene, made, policy, place, until, alone, refocused)
            if _replaces(again, session):
                used = database if again.database == found.database else again.database
                notes = [note for note in notes if note != RECALIBRATED] + further
                left_out = frozenset([*found.left_out, *again.best.left_out])
                notes.append(f"{EQUAL}: {len(left_out)} pairs are left out at first")
                return MappingResult(again.best, again.trusted, left_out, notes, used)
    except (KitError, OSError, RuntimeError) as error:
        notes.append(said(error))
    notes += session.left_out_note()
    return MappingResult(session.best, session.trusted, frozenset(session.best.left_out), notes, session.database)


def _fitting(
    database: Path, scene: Scene, runs: Sequence[MappingConfig], policy: RunPolicy, at: Workplace, until: float,
    alone: bool, cameras: CameraConfig | None,
) -> tuple[Session, list[str]]:  # fmt: skip
    """`map_best` with all pairs of the database, and with other intrinsics if those in it do not fit; with notes."""
    session = map_runs(database, scene, runs, policy, at, until, alone)
    notes = session.all_notes()
    wrong = 0 < session.best.support < FITS
    try:
        doubtful = deadline.left(until) >= SHORTEST and (wrong or not session.plausible())
        if doubtful and cameras:
            other = recalibration.recalibrated(database, at, wrong and cameras.sharing == "exif", deadline.left(until))
            if other is not None:
                with progress.titled("other focal lengths"):
                    again = map_runs(other, scene, runs, policy, replace(at, folder=other.parent), until, alone)
                notes += again.all_notes()
                fits = not wrong or again.best.support >= max(FITS, session.best.support + MARGIN)
                if (fits or again.best.registered > session.best.registered) and again.best.beats(session.best):
                    session, notes = again, [*notes, RECALIBRATED]
    except (KitError, OSError, RuntimeError) as error:
        notes.append(said(error))
    return session, notes


def _replaces(again: Session, session: Session) -> bool:
    """Whether a model without some pairs is complete, and at most half as many of its reference matches disagree with
    it as with the model of all pairs, with which some must."""
    if not again.policy.complete(again.best, len(again.scene.images)) or again.best.support < FITS:
        return False
    theirs = judge(again.database, session.best.models[0], again.reference_pairs).support
    return theirs < 1 and 1 - again.best.support <= (1 - theirs) / 2
