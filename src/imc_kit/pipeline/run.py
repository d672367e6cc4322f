"""A whole run: every scene in turn, within its time, and a submission that is valid from the first second.

While one scene is mapped, by COLMAP on the CPU, the next one is matched, by the GPU or a cluster where there is one.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import TypeVar

from imc_kit.colmap import child
from imc_kit.config import Config, cheap, preset
from imc_kit.data import scenes, submission
from imc_kit.data.scenes import Task
from imc_kit.data.store import Store
from imc_kit.errors import KitError, said
from imc_kit.pipeline.results import Run, SceneResult, write_result, write_run
from imc_kit.pipeline.scene import PairSelection, match_scene, solve_scene
from imc_kit.runtime import deadline
from imc_kit.runtime.executors import workers
from imc_kit.types import Scene

__all__ = ["Run", "SceneResult", "solve", "solve_scene"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_ENOUGH = {"quick": 1.0, "scenes": 3.0}
"""Seconds for each image in which a scene is probably solved. A scene may take them where its fair share is less:
better some scenes solved than none."""
_MOST = 0.8
"""The share of the time left that it may take for that."""
_HOPELESS = 0.3
"""With fewer seconds for each image a scene that has a quick answer is not begun again."""
_WRITING = 0.3, 0.06
"""Of a whole limited run, so many seconds for each scene, and at most this share, are left for writing."""


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
    executor: where detection and matching run, as `cluster.connected` gives one; pools of threads when left out.

    A scene that fails costs that scene alone. Raises KitError when the input or the configuration cannot be used at all
    or `out` cannot be written.
    """
    config = preset("sift") if config is None else config
    started = time.monotonic()
    until = deadline.after(config.time_limit)
    task = task if isinstance(task, Task) else scenes.load(task)
    out = Path(out).absolute()
    path = out / "submission.csv"
    results: dict[str, SceneResult] = {}
    failed: dict[str, str] = {}
    unwritten: KitError | None = None
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
    # When time is limited, every scene gets a quick answer before any gets the dear one.
    rounds = {"quick": cheap(config), "scenes": config} if until < inf else {"scenes": config}
    order = list(task.scenes)
    if until < inf:
        order.sort(key=_effort)  # what small ones do not use, large ones can
    efforts = [_effort(scene) for scene in order]
    seconds, most = _WRITING
    until = deadline.reserved(until, seconds * len(order), most)

    def ending(where: str, number: int) -> float:
        """When a scene must end that is begun, or gone on with, now."""
        images = len(order[number].images)
        fair = deadline.portion(until, efforts[number] / sum(efforts[number:]))
        enough = deadline.after(_ENOUGH[where] * images)
        share = max(fair, min(enough, deadline.portion(until, _MOST)))
        hopeless = order[number].name in results and deadline.left(share) < _HOPELESS * images
        return deadline.after(0) if hopeless else share  # what was finished before is read back

    def begin(where: str, number: int) -> Callable[[], SceneResult]:
        """Match a scene; what it gives maps it."""
        scene = order[number]
        log.info("%s (%d of %d): %d images", scene.name, number + 1, len(order), len(scene.images))
        earlier = results.get(scene.name)
        share = ending(where, number)
        rest = match_scene(
            scene, out / where / scene.name, store, rounds[where], first_half,
            pairs=pairs, separate=task.predicts_scene, until=share,
            fewest=earlier.counts["registered"] if earlier else 0,
        )  # fmt: skip
        return lambda: rest(second_half, max(share, ending(where, number)), number + 1 == len(order))

    ahead = ThreadPoolExecutor(1)
    try:
        # The halves have workers of their own, so that one does not wait for what the other has begun.
        with (
            child.loading(),
            workers(executor, config.threads) as second_half,
            workers(executor, config.threads) as first_half,
        ):
            for where in rounds:
                for scene, begun in zip(order, _one_ahead(ahead, partial(begin, where), len(order)), strict=True):
                    earlier, solved = results.get(scene.name), partial(_gone_on, begun)
                    quick, folder = (out / one / scene.name for one in ("quick", where))
                    try:
                        results[scene.name] = _better(earlier, quick, solved, folder) if earlier else solved()
                        failed.pop(scene.name, None)
                    except Exception as error:  # whatever it is, the other scenes can still be solved
                        failed[scene.name] = said(error)
                        log.error("%s: %s", scene.name, failed[scene.name], exc_info=not isinstance(error, KitError))
                    try:
                        unwritten = None
                        _write_submission(path, task, results)
                        write_run(out / "run.json", task, config, results, failed, time.monotonic() - started)
                    except KitError as error:  # there may be space again after another scene
                        unwritten = error
                        log.error("%s", error)
    finally:
        ahead.shutdown(wait=False, cancel_futures=True)
    if unwritten:
        raise unwritten
    return Run(path, results, failed)


def _one_ahead(pool: Executor, function: Callable[[int], T], count: int) -> Iterator[Future[T]]:
    """What `function` gives for 0, 1, …, by a pool of one thread. It begins with each when the one before is asked for:
    while somebody is busy with that, it is one ahead."""
    coming = pool.submit(function, 0)
    for number in range(1, count + 1):
        current = coming
        if number < count:
            coming = pool.submit(function, number)
        yield current


def _gone_on(begun: Future[Callable[[], SceneResult]]) -> SceneResult:
    """The result of a scene, or its error, once it is matched."""
    return begun.result()()


def _effort(scene: Scene) -> int:
    """About how much a scene costs beside others: images to look at, and pairs to match, up to a number for each."""
    count = len(scene.images)
    return 4 * count + count * min(count, 60) // 2


def _better(quick: SceneResult, source: Path, dear: Callable[[], SceneResult], folder: Path) -> SceneResult:
    """The dear answer to a scene, or the quick one where that has more images.

    source, folder: of the files of the quick answer and of the dear one; those of the better one end up in `folder`.
    """
    try:
        result = dear()
        if result.counts["registered"] >= quick.counts["registered"]:
            return result
        notes = result.notes
    except Exception as error:  # whatever it is, there is an answer
        notes = [said(error)]
        log.error("%s", notes[0], exc_info=not isinstance(error, KitError))
    for path in folder.glob("models"):
        shutil.rmtree(path)
    for path in folder.glob("database-*"):
        path.unlink()
    for path in (*source.glob("models"), *source.glob("database-*")):
        path.replace(folder / path.name)
    models = [replace(model, folder=folder / "models" / model.folder.name) for model in quick.models]
    notes = [*quick.notes, *notes, "the quick answer is kept, as it has more images than what came after it"]
    kept = replace(quick, models=models, notes=notes)
    write_result(folder / "result.json", "the quick answer", kept)  # not what a later run may take for finished
    return kept


def _write_submission(path: Path, task: Task, results: Mapping[str, SceneResult]) -> None:
    placements = {name: result.placements for name, result in results.items()}
    submission.write(path, task.columns, submission.compose(task.rows, placements, predict_scene=task.predicts_scene))
