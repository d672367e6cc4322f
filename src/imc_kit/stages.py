"""One scene, from its photographs to a pose for each: the stages in order, and what each leaves on disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Protocol, TypeVar

from imc_kit import clock, images, masks, work
from imc_kit.clock import ran_out
from imc_kit.colmap import attempts, database, localisation, mapping, merging, readmission, refinement, verification
from imc_kit.colmap.child import ColmapError
from imc_kit.colmap.verification import VerificationConfig
from imc_kit.config import Config, fingerprint
from imc_kit.errors import KitError, said
from imc_kit.fanout import cores
from imc_kit.masks import MaskConfig
from imc_kit.matchers import DenseConfig
from imc_kit.matching import Found, Matching
from imc_kit.meter import Meter
from imc_kit.poses import frames, place, turntable
from imc_kit.results import SceneResult, read_result, write_result
from imc_kit.retrieval import Pair
from imc_kit.store import Store
from imc_kit.types import Matches, Model, Placement, Pose, Scene
from imc_kit.work import Shot

log = logging.getLogger(__name__)

T = TypeVar("T")

_AFTER_MATCHING = 2.0, 0.4
"""When a scene's time is limited, a step leaves to those after it what they need: so many seconds for each image, or,
if that is less, this share of the time left. So with time enough nothing is cut short."""
_AFTER_VERIFICATION = 1.5, 0.7
_AFTER_MAPPING = 0.3, 0.2
_AFTER_ALL = 0.05, 0.04
"""For placing and writing, which nothing ends."""
_LOOSE_MATCHES = 8
"""A pair needs so many loose matches to help localise an image."""
_LOOSE_PAIRS = 20
"""An unregistered image is matched once more with so many registered ones, the most similar."""


class PairSelection(Protocol):
    """Which pairs of a scene's images to match."""

    def __call__(self, images: Sequence[str], /) -> Sequence[Pair]: ...


@dataclass(frozen=True)
class _Bench:
    """What the steps of one scene share; `notes` collects what went wrong."""

    scene: Scene
    config: Config
    folder: Path
    until: float
    """When the last step that may take long must end; placing and writing come after."""
    notes: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "colmap.log"

    @property
    def partial(self) -> Path:
        """What is here at the end was of use on the way only."""
        return self.folder / "partial"

    @property
    def threads(self) -> int:
        return self.config.threads or cores()

    def attempt(self, what: str, step: Callable[[float], T], otherwise: T) -> T:
        """What a step gives that the scene can do without. It is told the seconds that it has."""
        seconds = clock.left(self.until)
        if seconds < attempts.SHORTEST:
            self.notes.append(f"{clock.RAN_OUT} for {what}")
            return otherwise
        try:
            return step(seconds)
        except (KitError, OSError, RuntimeError) as error:
            self.notes.append(said(error))
            return otherwise


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
    bench = _Bench(scene, config, folder, _leaving(_AFTER_ALL, scene, until), stages.notes)
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
        models = _readmitted(bench, verified, best)
        models = _merged(bench, verified, models)
        models = _localised(bench, verified, models, shots, crops, similarity, store, executor)
        models = _refined(bench, models)
    with cost("place"):
        models = mapping.gather(models, folder / "models")
        if not models:
            bench.notes.append("no model came out: its images share too few matches, so all of them get the same pose")
        placed = place(scene.images, models, inliers, separate=separate, similarity=similarity)
        circle = _on_turntable(bench, shots, models)
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
    bench: _Bench, shots: Mapping[str, Shot], pairs: Sequence[Pair], found: Found, executor: Executor, identity: str
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


def _readmitted(bench: _Bench, verified: Path, best: attempts.Attempt) -> list[Model]:
    """The models, the first adjusted with those of the pairs that were left out which agree with it."""
    config = bench.config.readmission
    if not config.on or not best.models or not best.left_out:
        return best.models

    def step(seconds: float) -> list[Model]:
        first = readmission.readmit(
            verified, best.models[0], best.left_out, bench.partial / "readmitted", _within(config, seconds), bench.log,
            bench.threads, bench.config.seed,
        )  # fmt: skip
        return [first, *best.models[1:]]

    return bench.attempt("the readmission of pairs", step, best.models)


def _merged(bench: _Bench, verified: Path, models: list[Model]) -> list[Model]:
    """The models with those joined that belong together."""
    config = bench.config.merging
    if not config.on or len(models) < 2:
        return models

    def step(seconds: float) -> list[Model]:
        return merging.merge_models(
            verified, models, bench.partial / "merged", _within(config, seconds), bench.log, bench.threads,
            bench.config.seed,
        )  # fmt: skip

    return bench.attempt("the merging of models", step, models)


def _localised(
    bench: _Bench,
    verified: Path,
    models: list[Model],
    shots: Mapping[str, Shot],
    crops: Mapping[str, Shot],
    similarity: Callable[[str, str], float | None],
    store: Store,
    executor: Executor,
) -> list[Model]:
    """The models, the first with the images that it lacked and that could be localised, by looser matches too."""
    config = bench.config.localisation
    missing = [name for name in shots if models and name not in models[0].poses]
    if not config.on or not missing:
        return models

    def step(seconds: float) -> list[Model]:
        looser = _loosened(bench, verified, models[0], shots, crops, missing, similarity, store, executor)
        left = min(seconds, clock.left(bench.until))
        first = localisation.localise(
            looser, models[0], bench.partial / "localised", _within(config, left), bench.log, bench.threads,
            bench.config.seed,
        )  # fmt: skip
        return [first, *models[1:]]

    return bench.attempt("the localisation of further images", step, models)


def _loosened(
    bench: _Bench,
    verified: Path,
    model: Model,
    shots: Mapping[str, Shot],
    crops: Mapping[str, Shot],
    missing: Sequence[str],
    similarity: Callable[[str, str], float | None],
    store: Store,
    executor: Executor,
) -> Path:
    """A copy of the database with more matches of the missing images: with the images of the model that are most like
    them, found with lower demands."""
    if any(isinstance(branch.matcher, DenseConfig) for branch in bench.config.branches):
        return verified  # other pairs would make other keypoints
    pairs: list[Pair] = []
    for name in missing:
        alike = sorted(((name, other) for other in model.poses), key=lambda pair: -(similarity(*pair) or 0.0))
        pairs += alike[:_LOOSE_PAIRS]
    until = clock.portion(bench.until, 0.5)
    matching = Matching(bench.scene, store, bench.config.looser(), executor, until)
    found = matching.match(shots, pairs, crops)
    bench.notes.extend(matching.notes)
    path = bench.partial / "looser.db"
    shutil.copyfile(verified, path)
    some = ((first, second, found.matches(first, second)) for first, second in pairs)
    database.replace_matches(path, (entry for entry in some if len(entry[2]) >= _LOOSE_MATCHES))
    return path


def _refined(bench: _Bench, models: list[Model]) -> list[Model]:
    """The models, the first adjusted with a fuller camera model."""
    config = bench.config.refinement
    if not config.on or not models:
        return models

    def step(seconds: float) -> list[Model]:
        folder = bench.partial / "refined"
        return [refinement.refine(models[0], folder, _within(config, seconds), bench.log, bench.threads), *models[1:]]

    return bench.attempt("the refinement of the model", step, models)


def _on_turntable(bench: _Bench, shots: Mapping[str, Shot], models: Sequence[Model]) -> dict[str, Pose]:
    """Poses on a circle, of upright images, if this is a turntable that reconstruction has failed on; else none."""
    config = bench.config.turntable
    registered = turntable.placed(len(models[0].poses), models[0].observations, config) if models else 0
    if not config.on or registered > config.max_registered * len(shots):
        return {}

    def step(_: float) -> dict[str, Pose]:
        small = []
        for shot in shots.values():
            if not clock.left(bench.until):
                raise KitError(f"{clock.RAN_OUT} for trying a turntable")
            small.append(shot.load(config.long_side).pixels)
        stack = frames.comparable(small, config.long_side)
        categories = bench.scene.categories
        reason = turntable.suspicion(categories, len(shots), registered, frames.still_share(stack), config)
        if reason is None:
            return {}
        found = turntable.arrange(list(shots), stack, config, bench.until)
        used = turntable.better(found.confidence, categories, len(shots), registered, config)
        said = "so they are placed on a circle" if used else "too little to place them on a circle"
        bench.notes.append(f"{reason}; as a turntable they have a confidence of {found.confidence:.2f}, {said}")
        return found.poses if used else {}

    return bench.attempt("trying a turntable", step, {})


def _within(config: Any, seconds: float) -> Any:
    """A configuration with a time limit of at most so many seconds."""
    return replace(config, time_limit=min(config.time_limit, seconds))


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
