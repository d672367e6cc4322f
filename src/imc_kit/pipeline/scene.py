"""One scene, from its photographs to a pose for each: the stages in order, and what each leaves on disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Protocol

from imc_kit.colmap import database, mapping, mapping_runs, verification
from imc_kit.colmap.child import ColmapError
from imc_kit.colmap.verification import VerificationConfig
from imc_kit.config import Config, fingerprint
from imc_kit.data import images, masks
from imc_kit.data.masks import MaskConfig
from imc_kit.data.store import Store
from imc_kit.errors import KitError, said
from imc_kit.pipeline import tasks
from imc_kit.pipeline.completion import Completion, on_turntable
from imc_kit.pipeline.context import SceneContext
from imc_kit.pipeline.matching import Found, Matching
from imc_kit.pipeline.results import SceneResult, read_result, write_result
from imc_kit.pipeline.tasks import ImageRecord
from imc_kit.poses import place
from imc_kit.runtime import deadline
from imc_kit.runtime.deadline import ran_out
from imc_kit.runtime.meter import Meter
from imc_kit.types import Matches, Pair, Placement, Scene

log = logging.getLogger(__name__)

_AFTER_MATCHING = 2.0, 0.4
"""When a scene's time is limited, a step leaves to those after it what they need: so many seconds for each image, or,
if that is less, this share of the time left. So with time enough nothing is cut short."""
_AFTER_VERIFICATION = 1.5, 0.7
_AFTER_MAPPING = 0.3, 0.2
_AFTER_ALL = 0.05, 0.04
"""For placing and writing, which nothing ends."""


class PairSelection(Protocol):
    """Which pairs of a scene's images to match."""

    def __call__(self, images: Sequence[str], /) -> Sequence[Pair]: ...


def solve_scene(
    scene: Scene,
    folder: Path,
    store: Store,
    config: Config,
    executor: Executor,
    *,
    pairs: PairSelection | None = None,
    separate: bool = False,
    until: float = inf,
    fewest: int = 0,
) -> SceneResult:
    """Solve one scene; `folder` gets its database, models, log and result.

    `separate` is passed to `poses.place`. A finished scene whose images and configuration are the same is read back,
    unless time ran out on it: at the moment `until` (see `clock`) it ends with what there is. Raises KitError when no
    image can be used, or when fewer than `fewest` have features once time has run out for more.
    """
    rest = match_scene(
        scene, folder, store, config, executor, pairs=pairs, separate=separate, until=until, fewest=fewest
    )
    return rest(executor, until, True)


def match_scene(
    scene: Scene,
    folder: Path,
    store: Store,
    config: Config,
    executor: Executor,
    *,
    pairs: PairSelection | None = None,
    separate: bool = False,
    until: float = inf,
    fewest: int = 0,
) -> Callable[[Executor, float, bool], SceneResult]:
    """The first half of `solve_scene`, up to the matches; what it gives is the other half, which COLMAP does.

    That takes an executor and a moment of its own, as the next scene may be matched meanwhile, and whether none is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(config, masks=config.masks.of_scene(scene.name, scene.root), time_limit=None)
    cost = Meter()
    stages = Matching(scene, store, config, executor, _leaving(_AFTER_MATCHING, scene, until))
    with cost("inspect"):
        records, stages.notes = tasks.inspect(scene, config.masks, executor)
        given = None if pairs is None else list(pairs(list(records)))
        identity = fingerprint(config, {name: record.key for name, record in records.items()}, given, separate)
        finished = read_result(folder / "result.json", identity)
    if finished is not None:
        log.info("%s: solved before with the same images and configuration", scene.name)
        return lambda *_: finished

    if config.upright:
        with cost("upright"):
            records = stages.upright(records)
    if config.masks.pictures:
        with cost("masks"):
            stages.notes += _picture_masks(records, config.masks, folder / "masks")
    with cost("detect"):
        records = stages.detect(records)
    if len(records) < fewest and ran_out(stages.notes):
        raise KitError(f"{deadline.RAN_OUT}: {len(records)} of {len(scene.images)} images have features")
    with cost("pairs"):
        selected = stages.select(records, given)
    with cost("match"):
        found = stages.match(records, selected)
    return partial(_reconstruct, scene, folder, cost, identity, separate, stages, records, selected, found)


def _reconstruct(
    scene: Scene,
    folder: Path,
    cost: Meter,
    identity: str,
    separate: bool,
    stages: Matching,
    records: Mapping[str, ImageRecord],
    selected: Sequence[Pair],
    found: Found,
    executor: Executor,
    until: float,
    alone: bool,
) -> SceneResult:
    """The other half of `solve_scene`, from matches to poses. alone: whether no other scene is matched meanwhile."""
    config, store = stages.config, stages.store
    context = SceneContext(scene, config, folder, _leaving(_AFTER_ALL, scene, until), stages.notes)
    shutil.rmtree(context.partial, ignore_errors=True)
    context.partial.mkdir(exist_ok=True)
    with cost("verify"):
        verified = _verified(context, records, selected, found, executor, identity)
        inliers = verification.inlier_counts(verified)
    with cost("map"):
        best, notes = mapping_runs.attempt_all(
            verified, scene, context.partial, config.mapping, config.enough, config.trusted,
            context.log, context.threads, config.seed, _leaving(_AFTER_MAPPING, scene, context.until), alone,
        )  # fmt: skip
        context.notes.extend(notes)
    similarity = stages.similarity(records, context.until)
    with cost("complete"):
        models = Completion(context, verified, records, similarity, store, executor).complete(best)
    with cost("place"):
        models = mapping.gather(models, folder / "models")
        if not models:
            context.notes.append(
                "no model came out: its images share too few matches, so all of them get the same pose"
            )
        placed = place(scene.images, models, inliers, separate=separate, similarity=similarity)
        circle = on_turntable(context, records, models)
        placed |= {name: Placement(pose, None) for name, pose in circle.items()}
        placements = {name: _as_stored(placement, records.get(name)) for name, placement in placed.items()}
    shutil.rmtree(context.partial, ignore_errors=True)
    turns = {name: record.info.turn for name, record in records.items() if record.info.turn}
    counts = {
        "images": len(scene.images),
        "readable": len(records),
        "turned": len(turns),
        "pairs": len(selected),
        "matched pairs": len(database.match_counts(verified)),
        "verified pairs": len(inliers),
        "registered": sum(placement.model is not None for placement in placements.values()),
        "models": len(models),
        "points": len(models[0].points) if models else 0,
    }
    result = SceneResult(placements, models, counts, cost.seconds, context.notes, cost.memory, turns)
    try:
        write_result(folder / "result.json", f"{identity}, hurried" if ran_out(context.notes) else identity, result)
    except KitError as error:
        context.notes.append(str(error))
    for note in context.notes:
        log.warning("%s: %s", scene.name, note)
    log.info(
        "%s: %d of %d images registered in %.1f s",
        scene.name, counts["registered"], counts["images"], sum(cost.seconds.values()),
    )  # fmt: skip
    return result


def _leaving(need: tuple[float, float], scene: Scene, until: float) -> float:
    """When a step must end so that those after it have what they need."""
    seconds, share = need
    return deadline.reserved(until, seconds * len(scene.images), share)


def _verified(
    context: SceneContext,
    records: Mapping[str, ImageRecord],
    pairs: Sequence[Pair],
    found: Found,
    executor: Executor,
    identity: str,
) -> Path:
    """The database with the verified matches of the pairs, as an earlier run left it or made now."""
    config = context.config
    path = context.folder / f"database-{identity}.db"
    if path.exists() and not ran_out(context.notes):
        return path
    for old in context.folder.glob("database-*"):
        old.unlink()

    def enough() -> Iterator[tuple[str, str, Matches]]:
        for first, second in pairs:
            matches = found.matches(first, second)
            if len(matches) >= config.min_matches:
                yield first, second, matches

    made = context.partial / "database.db"
    entries = [database.ImageEntry(name, record.path, record.info.size) for name, record in records.items()]
    database.write_database(made, entries, found.features, enough(), config.cameras)

    def verify(config: VerificationConfig) -> list[str]:
        return verification.verify(
            made, config, context.log, executor,
            threads=context.threads, seed=context.config.seed,
            until=_leaving(_AFTER_VERIFICATION, context.scene, context.until),
        )  # fmt: skip

    try:
        context.notes.extend(verify(config.verification))
    except ColmapError as error:
        context.notes.append(f"{error}; the pairs are verified by magsac")
        context.notes.extend(verify(replace(config.verification, method="magsac", options={})))
    if ran_out(context.notes):
        path = context.folder / "database-hurried.db"
    return database.move(made, path)


def _as_stored(placement: Placement, record: ImageRecord | None) -> Placement:
    """The placement of the image as it lies on disk."""
    if record is None:
        return placement
    info = record.info
    return Placement(images.pose_as_stored(placement.pose, info.quarters, info.mirrored, info.turn), placement.model)


def _picture_masks(records: Mapping[str, ImageRecord], config: MaskConfig, folder: Path) -> list[str]:
    """Save every masked photograph, small, with its mask for a person to look at; a note on each that cannot be."""
    notes = []
    for name, record in records.items():
        try:
            photo = record.load(config.long_side)
            allowed = masks.mask(photo, name, config)
            if allowed is not None:
                path = folder / f"{name}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(images.as_jpeg(masks.overlay(photo.pixels, allowed)))
        except (KitError, OSError) as error:
            notes.append(f"no picture of the mask of {name}: {said(error)}")
    return notes
