"""The stages in order. No algorithms here: this module calls them, keeps what they return, and never loses a row."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from imc_kit import images, scenes, submission
from imc_kit.colmap import database, mapping, verification
from imc_kit.config import Config, fingerprint, plain, preset
from imc_kit.detectors import Detector, DetectorConfig, extract
from imc_kit.errors import KitError
from imc_kit.matchers import MatcherConfig
from imc_kit.poses import place
from imc_kit.retrieval import Pair, exhaustive
from imc_kit.scenes import Task
from imc_kit.store import Shelf, Store, pair_key
from imc_kit.types import Features, Matches, Model, Placement, Pose, Scene

log = logging.getLogger(__name__)

IMAGES_PER_CHUNK = 4
MOST_PAIRS_PER_CHUNK = 256
TILE = 8
"""Pairs are matched in blocks of so many images against so many, so that each is read from the store once a block."""


@dataclass(frozen=True, eq=False)
class SceneResult:
    """What became of one scene.

    placements: by image name, for the image as it is stored (EXIF orientation undone); for every image of the scene.
    models: COLMAP's models, largest first, in upright images; none when this was read back from an earlier run.
    counts: images, readable, pairs, matched and verified pairs, registered, models, points.
    seconds: by stage.
    notes: what went wrong on the way, one sentence each.
    """

    placements: dict[str, Placement]
    models: list[Model] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: where the submission is, and the result of each scene that could be solved, by its name."""

    submission: Path
    scenes: dict[str, SceneResult]
    failed: dict[str, str]
    """Scene: what went wrong, one sentence. Its rows have a placeholder pose."""


class PairSelection(Protocol):
    """Which pairs of a scene's images to match."""

    def __call__(self, images: Sequence[str], /) -> Sequence[Pair]: ...


def solve(
    task: Task | Path | str,
    out: Path | str,
    config: Config | None = None,
    *,
    pairs: PairSelection = exhaustive,
    executor: Executor | None = None,
) -> Run:
    """Solve every scene of a task and write `out`/submission.csv.

    task: what `scenes.load` gives, or the folder that it takes: a competition's root, or a folder of photographs.
    out: gets submission.csv, run.json, `scenes/NAME/models/0`, … and the store. The submission is there and valid from
        the start, and is rewritten after each scene. The same call again takes up where an earlier one was stopped.
    config: the sift preset when left out.
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
    with _workers(executor, config.threads) as pool:
        for number, scene in enumerate(task.scenes, 1):
            log.info("%s (%d of %d): %d images", scene.name, number, len(task.scenes), len(scene.images))
            try:
                results[scene.name] = solve_scene(
                    scene, out / "scenes" / scene.name, store, config, pairs, pool, separate=task.predicts_scene
                )
            except Exception as error:  # whatever it is, the other scenes can still be solved
                failed[scene.name] = str(error) if isinstance(error, KitError) else f"{type(error).__name__}: {error}"
                log.error("%s: %s", scene.name, failed[scene.name], exc_info=not isinstance(error, KitError))
            _write_submission(path, task, results)
            _write_run(out / "run.json", task, config, results, failed, time.monotonic() - started)
    return Run(path, results, failed)


def solve_scene(
    scene: Scene,
    folder: Path,
    store: Store,
    config: Config,
    pairs: PairSelection,
    executor: Executor,
    *,
    separate: bool = False,
) -> SceneResult:
    """Solve one scene; `folder` gets its database, models, log and result.

    `separate` is passed to `poses.place`. A finished scene whose images and configuration are the same is read back.
    """
    clock = _Clock()
    folder.mkdir(parents=True, exist_ok=True)
    with clock("inspect"):
        readable, notes = _inspect(scene, executor)
        selected = list(pairs(list(readable)))
        identity = fingerprint(config, {name: image.digest for name, image in readable.items()}, selected, separate)
        finished = _read_result(folder / "result.json", identity)
    if finished is not None:
        log.info("%s: solved before with the same images and configuration", scene.name)
        return finished

    with clock("detect"):
        features = store.features(fingerprint(config.detector))
        notes += _detect(scene, readable, features, config.detector, executor)
        readable = {name: image for name, image in readable.items() if image.digest in features}
        selected = [(first, second) for first, second in selected if first in readable and second in readable]
    with clock("match"):
        matches = store.matches(fingerprint(config.detector, config.matcher))
        _match(scene, readable, selected, features, matches, config.matcher, executor)

    work = folder / "partial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    colmap_log = folder / "colmap.log"
    threads = config.threads or os.cpu_count() or 1
    verified = folder / f"database-{identity}.db"
    matched = 0
    with clock("verify"):
        if not verified.exists():
            for old in folder.glob("database-*.db"):
                old.unlink()

            def enough() -> Iterator[tuple[str, str, Matches]]:
                nonlocal matched
                for first, second in selected:
                    found = matches[pair_key(readable[first].digest, readable[second].digest)]
                    if len(found) >= config.min_matches:
                        matched += 1
                        yield first, second, found

            entries = [database.ImageEntry(name, scene.path(name), image.info.size) for name, image in readable.items()]
            database.write_database(
                work / "database.db", entries, lambda name: features[readable[name].digest], enough(), config.cameras
            )
            verification.verify(work / "database.db", config.verification, colmap_log, threads, config.seed)
            (work / "database.db").replace(verified)
        inliers = verification.inlier_counts(verified)
    with clock("map"):
        models = _map(scene, verified, folder, work, config, colmap_log, threads, notes)
    placements = {}
    for name, placement in place(scene.images, models, inliers, separate=separate).items():
        pose = placement.pose
        if name in readable:
            pose = images.pose_as_stored(pose, readable[name].info.quarters, readable[name].info.mirrored)
        placements[name] = Placement(pose, placement.model)
    counts = {
        "images": len(scene.images),
        "readable": len(readable),
        "pairs": len(selected),
        "matched pairs": matched,
        "verified pairs": len(inliers),
        "registered": sum(placement.model is not None for placement in placements.values()),
        "models": len(models),
        "points": len(models[0].points) if models else 0,
    }
    shutil.rmtree(work, ignore_errors=True)
    result = SceneResult(placements, models, counts, clock.seconds, notes)
    _write_result(folder / "result.json", identity, result)
    for note in notes:
        log.warning("%s: %s", scene.name, note)
    log.info(
        "%s: %d of %d images registered in %.1f s",
        scene.name, counts["registered"], counts["images"], sum(clock.seconds.values()),
    )  # fmt: skip
    return result


@dataclass(frozen=True)
class _Readable:
    info: images.ImageInfo
    digest: str


def _inspect(scene: Scene, executor: Executor) -> tuple[dict[str, _Readable], list[str]]:
    """The images that can be used, in the scene's order, and a note on each of the others."""
    readable, notes = {}, []
    looks = executor.map(_look, [scene.path(name) for name in scene.images])
    for name, look in zip(scene.images, looks, strict=True):
        if isinstance(look, str):
            notes.append(look)
        else:
            readable[name] = look
    if not readable:
        raise KitError(f"none of the {len(scene.images)} images can be used: {notes[0]}")
    return readable, notes


def _look(path: Path) -> _Readable | str:
    try:
        return _Readable(images.probe(path), images.digest(path))
    except KitError as error:
        return str(error)


def _detect(
    scene: Scene, readable: dict[str, _Readable], features: Shelf[Features], config: DetectorConfig, executor: Executor
) -> list[str]:
    """Fill the shelf; returns a note on each image that could not be decoded after all."""
    paths = {image.digest: scene.path(name) for name, image in readable.items()}
    missing = [(paths[digest], digest) for digest in features.missing(paths)]
    chunks = [
        (features, config, missing[start : start + IMAGES_PER_CHUNK])
        for start in range(0, len(missing), IMAGES_PER_CHUNK)
    ]
    notes = _fan_out(executor, _detect_chunk, chunks, f"{scene.name}: {config.name} keypoints", "image", len(missing))
    features.refresh()
    return notes


def _detect_chunk(
    features: Shelf[Features], config: DetectorConfig, chunk: Sequence[tuple[Path, str]]
) -> tuple[int, list[str]]:
    detector = _created(config)
    found, notes = {}, []
    for path, digest in chunk:
        try:
            photo = images.load(path, config.long_side)
            found[digest] = extract(detector, [photo])[0]
        except KitError as error:
            notes.append(str(error))
        except (RuntimeError, ValueError, MemoryError) as error:  # one image must not cost the others
            notes.append(f"no keypoints in {path}: {error}")
    features.put(found)
    return len(chunk), notes


@lru_cache(maxsize=4)
def _created(config: DetectorConfig) -> Detector:
    detector = config.create()
    _set_torch_threads(1)
    return detector


def _match(
    scene: Scene,
    readable: dict[str, _Readable],
    pairs: Sequence[Pair],
    features: Shelf[Features],
    matches: Shelf[Matches],
    config: MatcherConfig,
    executor: Executor,
) -> None:
    """Fill the shelf with the matches of `pairs`."""
    rank = {image.digest: number for number, image in enumerate(readable.values())}
    wanted = {
        pair_key(readable[first].digest, readable[second].digest): (readable[first].digest, readable[second].digest)
        for first, second in pairs
    }
    missing = sorted(
        (wanted[key] for key in matches.missing(wanted)),
        key=lambda pair: (rank[pair[0]] // TILE, rank[pair[1]] // TILE, rank[pair[0]], rank[pair[1]]),
    )
    workers = os.cpu_count() or 1
    size = max(1, min(MOST_PAIRS_PER_CHUNK, len(missing) // (4 * workers)))
    chunks = [(features, matches, config, missing[start : start + size]) for start in range(0, len(missing), size)]
    _fan_out(executor, _match_chunk, chunks, f"{scene.name}: {config.name} matches", "pair", len(missing))
    matches.refresh()


def _match_chunk(
    features: Shelf[Features], matches: Shelf[Matches], config: MatcherConfig, pairs: Sequence[tuple[str, str]]
) -> tuple[int, list[str]]:
    matcher = config.create()
    loaded: dict[str, Features] = {}
    for digest in {digest for pair in pairs for digest in pair}:
        one = features[digest]
        if one.descriptors.dtype == np.float16:  # as it is on disk; arithmetic wants more
            one = dataclasses.replace(one, descriptors=one.descriptors.astype(np.float32))
        loaded[digest] = one
    matches.put({pair_key(*pair): matcher.match(loaded[pair[0]], loaded[pair[1]]) for pair in pairs})
    return len(pairs), []


def _map(
    scene: Scene,
    verified: Path,
    folder: Path,
    work: Path,
    config: Config,
    colmap_log: Path,
    threads: int,
    notes: list[str],
) -> list[Model]:
    """The models of the attempt whose largest has most images, moved to `folder`/models.

    Attempts go on until one has registered the share `config.enough` of the images.
    """
    best: list[Model] = []
    for number, attempt in enumerate(config.mapping):
        target = work / f"models-{number}"
        try:
            models = mapping.map_scene(verified, scene.root, target, attempt, colmap_log, threads, config.seed)
        except KitError as error:
            notes.append(str(error))
            continue
        if models and (not best or len(models[0].poses) > len(best[0].poses)):
            best = models
        if best and len(best[0].poses) >= config.enough * len(scene.images):
            break
    final = folder / "models"
    shutil.rmtree(final, ignore_errors=True)
    if not best:
        notes.append("no model came out: its images share too few matches, so all of them get the same pose")
        return []
    best[0].folder.parent.replace(final)
    return mapping.read_models(final)


def _fan_out(
    executor: Executor,
    function: Callable[..., tuple[int, list[str]]],
    chunks: Sequence[tuple[Any, ...]],
    label: str,
    unit: str,
    total: int,
) -> list[str]:
    """Call `function` on every chunk, showing progress; returns all their notes. An error ends the rest."""
    futures: list[Future[tuple[int, list[str]]]] = [executor.submit(function, *chunk) for chunk in chunks]
    notes = []
    try:
        with tqdm(total=total, desc=label, unit=unit, delay=2, disable=None, leave=False) as bar:
            for future in as_completed(futures):
                count, some = future.result()
                bar.update(count)
                notes += some
    finally:
        for future in futures:
            future.cancel()
    return notes


@contextmanager
def _workers(executor: Executor | None, threads: int | None) -> Iterator[Executor]:
    """The executor given, or a pool with one thread a core in which no library starts threads of its own."""
    if executor is not None:
        yield executor
        return
    import cv2
    from threadpoolctl import threadpool_limits

    opencv_threads = cv2.getNumThreads()
    torch_threads = _set_torch_threads(1)
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(threads or os.cpu_count())
    try:
        with threadpool_limits(1):
            yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(opencv_threads)
        _set_torch_threads(torch_threads or os.cpu_count() or 1)


def _set_torch_threads(count: int) -> int | None:
    """Set torch's threads for one operation if torch is loaded at all; returns what it was."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    before: int = torch.get_num_threads()
    torch.set_num_threads(count)
    return before


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(time.monotonic() - started, 3)


def _write_submission(path: Path, task: Task, results: dict[str, SceneResult]) -> None:
    placements = {name: result.placements for name, result in results.items()}
    submission.write(path, task.columns, submission.compose(task.rows, placements, predict_scene=task.predicts_scene))


def _write_run(
    path: Path, task: Task, config: Config, results: dict[str, SceneResult], failed: dict[str, str], seconds: float
) -> None:
    packages = ["imc-kit", "pycolmap", "opencv-python-headless", "numpy", "h5py", "kornia", "torch"]
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    _write_json(
        path,
        {
            "input": str(task.root),
            "layout": task.layout,
            "notes": task.notes,
            "config": config,
            "versions": versions,
            "machine": {"system": platform.platform(), "cores": os.cpu_count()},
            "seconds": round(seconds, 3),
            "scenes": {
                name: {"counts": result.counts, "seconds": result.seconds, "notes": result.notes}
                for name, result in results.items()
            },
            "failed": failed,
        },
    )


def _write_result(path: Path, identity: str, result: SceneResult) -> None:
    placements = {
        name: {
            "rotation": placement.pose.rotation.tolist(),
            "translation": placement.pose.translation.tolist(),
            "model": placement.model,
        }
        for name, placement in result.placements.items()
    }
    content = {"counts": result.counts, "seconds": result.seconds, "notes": result.notes, "placements": placements}
    _write_json(path, {"identity": identity, **content})


def _read_result(path: Path, identity: str) -> SceneResult | None:
    """The result that an earlier run left, if it was for the same images and configuration."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if content.pop("identity") != identity:
            return None
        placements = {
            name: Placement(Pose(np.array(entry["rotation"]), np.array(entry["translation"])), entry["model"])
            for name, entry in content.pop("placements").items()
        }
        models = mapping.read_models(path.parent / "models") if content["counts"]["models"] else []
        return SceneResult(placements, models, **content)
    except (OSError, ValueError, KeyError, TypeError, KitError):
        return None


def _write_json(path: Path, content: Any) -> None:
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(json.dumps(content, indent=1, default=plain), "utf-8")
        partial.replace(path)
    except OSError as error:
        raise KitError(f"cannot write {path}: {error.strerror}") from error
