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

from imc_kit import clock, images, masks, work
from imc_kit.bench import Bench
from imc_kit.clock import ran_out
from imc_kit.colmap import attempts, database, mapping, verification
from imc_kit.colmap.child import ColmapError
from imc_kit.colmap.verification import VerificationConfig
from imc_kit.completion import Completion, on_turntable
from imc_kit.config import Config, fingerprint
from imc_kit.errors import KitError, said
from imc_kit.masks import MaskConfig
from imc_kit.matching import Found, Matching
from imc_kit.meter import Meter
from imc_kit.poses import place
from imc_kit.results import SceneResult, read_result, write_result
from imc_kit.retrieval import Pair
from imc_kit.store import Store
from imc_kit.types import Matches, Placement, Scene
from imc_kit.work import Shot

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
        shots, stages.notes = work.inspect(scene, config.masks, executor)
        given = None if pairs is None else list(pairs(list(shots)))
        identity = fingerprint(config, {name: shot.key for name, shot in shots.items()}, given, separate)
        finished = read_result(folder / "result.json", identity)
    if finished is not None:
        log.info("%s: solved before with the same images and configuration", scene.name)
        return lambda *_: finished

    if config.upright:
        with cost("upright"):
            shots = stages.upright(shots)
    if config.masks.pictures:
        with cost("masks"):
            stages.notes += _picture_masks(shots, config.masks, folder / "masks")
    with cost("detect"):
        shots = stages.detect(shots)
    if len(shots) < fewest and ran_out(stages.notes):
        raise KitError(f"{clock.RAN_OUT}: {len(shots)} of {len(scene.images)} images have features")
    with cost("pairs"):
        selected = stages.select(shots, given)
    with cost("match"):
        found = stages.match(shots, selected)
    crops: dict[str, Shot] = {}
    if config.crops.on:
        with cost("crop"):
            crops = stages.crop(shots, selected, found)
            found = stages.match(shots, selected, crops) if crops else found
    return partial(_reconstruct, scene, folder, cost, identity, separate, stages, shots, selected, crops, found)


def _reconstruct(
    scene: Scene,
    folder: Path,
    cost: Meter,
    identity: str,
    separate: bool,
    stages: Matching,
    shots: Mapping[str, Shot],
    selected: Sequence[Pair],
    crops: Mapping[str, Shot],
    found: Found,
    executor: Executor,
    until: float,
    alone: bool,
) -> SceneResult:
    """The other half of `solve_scene`, from matches to poses. alone: whether no other scene is matched meanwhile."""
    config, store = stages.config, stages.store
    bench = Bench(scene, config, folder, _leaving(_AFTER_ALL, scene, until), stages.notes)
    shutil.rmtree(bench.partial, ignore_errors=True)
    bench.partial.mkdir(exist_ok=True)
    with cost("verify"):
        verified = _verified(bench, shots, selected, found, executor, identity)
        inliers = verification.inlier_counts(verified)
    with cost("map"):
        best, notes = attempts.attempt_all(
            verified, scene, bench.partial, config.mapping, config.enough, config.trusted,
            bench.log, bench.threads, config.seed, _leaving(_AFTER_MAPPING, scene, bench.until), alone,
        )  # fmt: skip
        bench.notes.extend(notes)
    similarity = stages.similarity(shots, bench.until)
    with cost("complete"):
        models = Completion(bench, verified, shots, crops, similarity, store, executor).complete(best)
    with cost("place"):
        models = mapping.gather(models, folder / "models")
        if not models:
            bench.notes.append("no model came out: its images share too few matches, so all of them get the same pose")
        placed = place(scene.images, models, inliers, separate=separate, similarity=similarity)
        circle = on_turntable(bench, shots, models)
        placed |= {name: Placement(pose, None) for name, pose in circle.items()}
        placements = {name: _as_stored(placement, shots.get(name)) for name, placement in placed.items()}
    shutil.rmtree(bench.partial, ignore_errors=True)
    turns = {name: shot.info.turn for name, shot in shots.items() if shot.info.turn}
    counts = {
        "images": len(scene.images),
        "readable": len(shots),
        "turned": len(turns),
        "cropped": len(crops),
        "pairs": len(selected),
        "matched pairs": len(database.match_counts(verified)),
        "verified pairs": len(inliers),
        "registered": sum(placement.model is not None for placement in placements.values()),
        "models": len(models),
        "points": len(models[0].points) if models else 0,
    }
    result = SceneResult(placements, models, counts, cost.seconds, bench.notes, cost.memory, turns)
    try:
        write_result(folder / "result.json", f"{identity}, hurried" if ran_out(bench.notes) else identity, result)
    except KitError as error:
        bench.notes.append(str(error))
    for note in bench.notes:
        log.warning("%s: %s", scene.name, note)
    log.info(
        "%s: %d of %d images registered in %.1f s",
        scene.name, counts["registered"], counts["images"], sum(cost.seconds.values()),
    )  # fmt: skip
    return result


def _leaving(need: tuple[float, float], scene: Scene, until: float) -> float:
    """When a step must end so that those after it have what they need."""
    seconds, share = need
    return clock.reserved(until, seconds * len(scene.images), share)


def _verified(
    bench: Bench, shots: Mapping[str, Shot], pairs: Sequence[Pair], found: Found, executor: Executor, identity: str
) -> Path:
    """The database with the verified matches of the pairs, as an earlier run left it or made now."""
    config = bench.config
    path = bench.folder / f"database-{identity}.db"
    if path.exists() and not ran_out(bench.notes):
        return path
    for old in bench.folder.glob("database-*"):
        old.unlink()

    def enough() -> Iterator[tuple[str, str, Matches]]:
        for first, second in pairs:
            matches = found.matches(first, second)
            if len(matches) >= config.min_matches:
                yield first, second, matches

    made = bench.partial / "database.db"
    entries = [database.ImageEntry(name, shot.path, shot.info.size) for name, shot in shots.items()]
    database.write_database(made, entries, found.features, enough(), config.cameras)

    def verify(config: VerificationConfig) -> list[str]:
        return verification.verify(
            made, config, bench.log, executor,
            threads=bench.threads, seed=bench.config.seed,
            until=_leaving(_AFTER_VERIFICATION, bench.scene, bench.until),
        )  # fmt: skip

    try:
        bench.notes.extend(verify(config.verification))
    except ColmapError as error:
        bench.notes.append(f"{error}; the pairs are verified by magsac")
        bench.notes.extend(verify(replace(config.verification, method="magsac", options={})))
    if ran_out(bench.notes):
        path = bench.folder / "database-hurried.db"
    return database.move(made, path)


def _as_stored(placement: Placement, shot: Shot | None) -> Placement:
    """The placement of the image as it lies on disk."""
    if shot is None:
        return placement
    info = shot.info
    return Placement(images.pose_as_stored(placement.pose, info.quarters, info.mirrored, info.turn), placement.model)


def _picture_masks(shots: Mapping[str, Shot], config: MaskConfig, folder: Path) -> list[str]:
    """Save every masked photograph, small, with its mask for a person to look at; a note on each that cannot be."""
    notes = []
    for name, shot in shots.items():
        try:
            photo = shot.load(config.long_side)
            allowed = masks.mask(photo, name, config)
            if allowed is not None:
                path = folder / f"{name}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(images.as_jpeg(masks.overlay(photo.pixels, allowed)))
        except (KitError, OSError) as error:
            notes.append(f"no picture of the mask of {name}: {said(error)}")
    return notes
