"""The stages in order. No algorithms here: this module calls them, keeps what they return, and never loses a row."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Protocol

from imc_kit import clock, images, masks, scenes, submission, work
from imc_kit.clock import ran_out
from imc_kit.colmap import attempts, database, mapping, verification
from imc_kit.config import Config, cheap, fingerprint, preset
from imc_kit.errors import KitError
from imc_kit.fanout import workers
from imc_kit.masks import MaskConfig
from imc_kit.matching import Matching
from imc_kit.meter import Meter
from imc_kit.poses import place
from imc_kit.results import Run, SceneResult, read_result, write_result, write_run
from imc_kit.retrieval import Pair
from imc_kit.scenes import Task
from imc_kit.store import Store
from imc_kit.types import Matches, Placement, Scene
from imc_kit.work import Shot

__all__ = ["Run", "SceneResult", "solve", "solve_scene"]

log = logging.getLogger(__name__)

_MATCHING = 0.65
"""The share of a scene's time, when it is limited, after which no more pairs are matched."""
_VERIFICATION = 0.3
"""The share of what is then left that verification may take."""


class PairSelection(Protocol):
    """Which pairs of a scene's images to match."""

    def __call__(self, images: Sequence[str], /) -> Sequence[Pair]: ...


def solve(
    task: Task | Path | str,
    out: Path | str,
    config: Config | None = None,
    *,
    pairs: PairSelection | None = None,
    executor: Executor | None = None,
) -> Run:
    """Solve every scene of a task and write `out`/submission.csv.

    task: what `scenes.load` gives, or the folder that it takes: a competition's root, or a folder of photographs.
    out: gets submission.csv, run.json, `scenes/NAME/models/0`, … and the store. The submission is there and valid from
        the start, and is rewritten after each scene. The same call again takes up where an earlier one was stopped.
    config: the sift preset when left out.
    pairs: chooses the pairs in place of `config.pairs`.
    executor: where detection and matching run; a pool of threads when left out.

    A scene that fails costs that scene alone. Raises KitError when the input or the configuration cannot be used at all
    or `out` cannot be written.
    """
    task = task if isinstance(task, Task) else scenes.load(task)
    config = preset("sift") if config is None else config
    out = Path(out).absolute()
    path = out / "submission.csv"
    results: dict[str, SceneResult] = {}
    failed: dict[str, str] = {}
    for note in task.notes:
        log.warning(note)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"cannot make the folder {out}: {error.strerror}; choose another one") from error
    if submission.check(path, task.columns, task.keys):  # an earlier run's valid answer is better than none
        _write_submission(path, task, results)
    config.check()

    store = Store(out / "store")
    started = time.monotonic()
    until = clock.after(config.time_limit)
    # When time is limited, every scene gets a quick answer before any gets the dear one.
    rounds = {"scenes": config} if until == inf else {"quick": cheap(config), "scenes": config}
    efforts = [_effort(scene) for scene in task.scenes]
    with workers(executor, config.threads) as pool:
        for where, plan in rounds.items():
            for number, scene in enumerate(task.scenes):
                log.info("%s (%d of %d): %d images", scene.name, number + 1, len(task.scenes), len(scene.images))
                folder = out / where / scene.name
                share = clock.portion(until, efforts[number] / sum(efforts[number:]))
                try:
                    result = solve_scene(
                        scene, folder, store, plan, pool, pairs=pairs, separate=task.predicts_scene, until=share
                    )
                    earlier = results.get(scene.name)
                    if earlier is not None and earlier.counts["registered"] > result.counts["registered"]:
                        result = _kept(earlier, out / "quick" / scene.name, folder)
                    results[scene.name] = result
                except Exception as error:  # whatever it is, the other scenes can still be solved
                    failed[scene.name] = (
                        str(error) if isinstance(error, KitError) else f"{type(error).__name__}: {error}"
                    )
                    log.error("%s: %s", scene.name, failed[scene.name], exc_info=not isinstance(error, KitError))
                _write_submission(path, task, results)
                write_run(out / "run.json", task, config, results, failed, time.monotonic() - started)
    return Run(path, results, failed)


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
) -> SceneResult:
    """Solve one scene; `folder` gets its database, models, log and result.

    `separate` is passed to `poses.place`. A finished scene whose images and configuration are the same is read back,
    unless time ran out on it: at the moment `until` (see `clock`) it ends with what there is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(config, masks=config.masks.of_scene(scene.name, scene.root), time_limit=None)
    cost = Meter()
    stages = Matching(scene, store, config, executor, clock.portion(until, _MATCHING))
    with cost("inspect"):
        shots, stages.notes = work.inspect(scene, config.masks, executor)
        given = None if pairs is None else list(pairs(list(shots)))
        identity = fingerprint(config, {name: shot.key for name, shot in shots.items()}, given, separate)
        finished = read_result(folder / "result.json", identity)
    if finished is not None:
        log.info("%s: solved before with the same images and configuration", scene.name)
        return finished

    if config.upright:
        with cost("upright"):
            shots = stages.upright(shots)
    if config.masks.pictures:
        with cost("masks"):
            _picture_masks(shots, config.masks, folder / "masks")
    with cost("detect"):
        shots = stages.detect(shots)
    with cost("pairs"):
        selected = stages.select(shots, given)
    with cost("match"):
        found = stages.match(shots, selected)

    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    colmap_log = folder / "colmap.log"
    threads = config.threads or os.cpu_count() or 1
    verified = folder / f"database-{identity}.db"
    with cost("verify"):
        if not verified.exists() or ran_out(stages.notes):
            for old in folder.glob("database-*.db"):
                old.unlink()

            def enough() -> Iterator[tuple[str, str, Matches]]:
                for first, second in selected:
                    matches = found.matches(first, second)
                    if len(matches) >= config.min_matches:
                        yield first, second, matches

            made = partial / "database.db"
            entries = [database.ImageEntry(name, shot.path, shot.info.size) for name, shot in shots.items()]
            database.write_database(made, entries, found.features, enough(), config.cameras)
            stages.notes += verification.verify(
                made, config.verification, colmap_log, executor,
                threads=threads, seed=config.seed, until=clock.portion(until, _VERIFICATION),
            )  # fmt: skip
            if ran_out(stages.notes):
                verified = folder / "database-hurried.db"
            made.replace(verified)
        inliers = verification.inlier_counts(verified)
    with cost("map"):
        best, notes = attempts.attempt_all(
            verified, scene, partial, config.mapping, config.enough, config.trusted, colmap_log, threads, config.seed,
            until,
        )  # fmt: skip
        stages.notes += notes
        final = folder / "models"
        shutil.rmtree(final, ignore_errors=True)
        models = best.models
        if models:
            models[0].folder.parent.replace(final)
            models = mapping.read_models(final)
        else:
            stages.notes.append("no model came out: its images share too few matches, so all of them get the same pose")
    with cost("place"):
        placed = place(scene.images, models, inliers, separate=separate, similarity=stages.similarity(shots))
    placements = {}
    for name, placement in placed.items():
        pose = placement.pose
        if name in shots:
            info = shots[name].info
            pose = images.pose_as_stored(pose, info.quarters, info.mirrored, info.turn)
        placements[name] = Placement(pose, placement.model)
    counts = {
        "images": len(scene.images),
        "readable": len(shots),
        "turned": sum(shot.info.turn != 0 for shot in shots.values()),
        "pairs": len(selected),
        "matched pairs": len(database.match_counts(verified)),
        "verified pairs": len(inliers),
        "registered": sum(placement.model is not None for placement in placements.values()),
        "models": len(models),
        "points": len(models[0].points) if models else 0,
    }
    shutil.rmtree(partial, ignore_errors=True)
    result = SceneResult(placements, models, counts, cost.seconds, stages.notes, cost.memory)
    write_result(folder / "result.json", f"{identity}, hurried" if ran_out(stages.notes) else identity, result)
    for note in stages.notes:
        log.warning("%s: %s", scene.name, note)
    log.info(
        "%s: %d of %d images registered in %.1f s",
        scene.name, counts["registered"], counts["images"], sum(cost.seconds.values()),
    )  # fmt: skip
    return result


def _effort(scene: Scene) -> int:
    """About how much a scene costs beside others: images to look at, and pairs to match, up to a number for each."""
    count = len(scene.images)
    return 4 * count + count * min(count, 60) // 2


def _kept(earlier: SceneResult, source: Path, folder: Path) -> SceneResult:
    """The quick answer to a scene, which is better than the dear one: its files replace those in `folder`."""
    for name in ("models", "database-*.db"):
        for path in folder.glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("models", "database-*.db"):
        for path in source.glob(name):
            path.replace(folder / path.name)
    earlier.notes.append("the quick answer is kept, as it has more images than what came after it")
    return earlier


def _picture_masks(shots: Mapping[str, Shot], config: MaskConfig, folder: Path) -> None:
    """Save every masked photograph, small, with its mask for a person to look at."""
    for name, shot in shots.items():
        photo = shot.load(config.long_side)
        allowed = masks.mask(photo, name, config)
        if allowed is not None:
            path = folder / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images.as_jpeg(masks.overlay(photo.pixels, allowed)))


def _write_submission(path: Path, task: Task, results: Mapping[str, SceneResult]) -> None:
    placements = {name: result.placements for name, result in results.items()}
    submission.write(path, task.columns, submission.compose(task.rows, placements, predict_scene=task.predicts_scene))
