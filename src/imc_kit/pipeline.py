"""The stages in order. No algorithms here: this module calls them, keeps what they return, and never loses a row."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from imc_kit import images, masks, scenes, submission, work
from imc_kit.colmap import attempts, database, mapping, verification
from imc_kit.config import Config, fingerprint, preset
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
    with workers(executor, config.threads) as pool:
        for number, scene in enumerate(task.scenes, 1):
            log.info("%s (%d of %d): %d images", scene.name, number, len(task.scenes), len(scene.images))
            try:
                results[scene.name] = solve_scene(
                    scene, out / "scenes" / scene.name, store, config, pool, pairs=pairs, separate=task.predicts_scene
                )
            except Exception as error:  # whatever it is, the other scenes can still be solved
                failed[scene.name] = str(error) if isinstance(error, KitError) else f"{type(error).__name__}: {error}"
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
) -> SceneResult:
    """Solve one scene; `folder` gets its database, models, log and result.

    `separate` is passed to `poses.place`. A finished scene whose images and configuration are the same is read back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(config, masks=config.masks.of_scene(scene.name, scene.root))
    cost = Meter()
    stages = Matching(scene, store, config, executor)
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
    matched = 0
    with cost("verify"):
        if not verified.exists():
            for old in folder.glob("database-*.db"):
                old.unlink()

            def enough() -> Iterator[tuple[str, str, Matches]]:
                nonlocal matched
                for first, second in selected:
                    matches = found.matches(first, second)
                    if len(matches) >= config.min_matches:
                        matched += 1
                        yield first, second, matches

            entries = [database.ImageEntry(name, shot.path, shot.info.size) for name, shot in shots.items()]
            database.write_database(partial / "database.db", entries, found.features, enough(), config.cameras)
            verification.verify(partial / "database.db", config.verification, colmap_log, threads, config.seed)
            (partial / "database.db").replace(verified)
        inliers = verification.inlier_counts(verified)
    with cost("map"):
        best, notes = attempts.attempt_all(
            verified, scene, partial, config.mapping, config.enough, config.trusted, colmap_log, threads, config.seed
        )
        stages.notes += notes
        final = folder / "models"
        shutil.rmtree(final, ignore_errors=True)
        models = best.models
        if models:
            models[0].folder.parent.replace(final)
            models = mapping.read_models(final)
        else:
            stages.notes.append("no model came out: its images share too few matches, so all of them get the same pose")
    placements = {}
    for name, placement in place(scene.images, models, inliers, separate=separate).items():
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
        "matched pairs": matched,
        "verified pairs": len(inliers),
        "registered": sum(placement.model is not None for placement in placements.values()),
        "models": len(models),
        "points": len(models[0].points) if models else 0,
    }
    shutil.rmtree(partial, ignore_errors=True)
    result = SceneResult(placements, models, counts, cost.seconds, stages.notes, cost.memory)
    write_result(folder / "result.json", identity, result)
    for note in stages.notes:
        log.warning("%s: %s", scene.name, note)
    log.info(
        "%s: %d of %d images registered in %.1f s",
        scene.name, counts["registered"], counts["images"], sum(cost.seconds.values()),
    )  # fmt: skip
    return result


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
