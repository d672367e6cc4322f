"""A whole run: every scene in turn, within its time, and a submission that is valid from the first second.

While COLMAP maps one scene on the CPU, the next one is matched, on the GPU or a cluster if there is one.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path

from imc_kit import metric
from imc_kit.colmap import child
from imc_kit.config import Config, cheap, preset
from imc_kit.data import atomic, masks, scenes, submission
from imc_kit.data.scenes import Task
from imc_kit.data.store import Store
from imc_kit.errors import KitError, said
from imc_kit.pipeline.out_folder import claimed, prepare_scene, scene_folder
from imc_kit.pipeline.results import Run, SceneResult, write_result, write_run
from imc_kit.pipeline.scene import MatchedScene, PairSelection, match_scene
from imc_kit.pipeline.schedule import QUICK, Schedule
from imc_kit.runtime import deadline
from imc_kit.runtime.executors import workers
from imc_kit.runtime.warned import collecting

README = "README.txt"
"""Explains the files of a run. A file of this name that is there already stays."""

__all__ = ["Run", "SceneResult", "solve"]

log = logging.getLogger(__name__)


def solve(
    task: Task | Path | str,
    out: Path | str,
    config: Config | None = None,
    *,
    pairs: PairSelection | None = None,
    executor: Executor | None = None,
    score: bool = False,
) -> Run:
    """Solve every scene of a task and write `out`/submission.csv.

    task: from `scenes.load`, or the folder that it takes: a competition's root, or a folder of photos.
    out: gets submission.csv, run.json, `scenes/NAME/models/0`, … and the store. The submission is valid from the start
        and is rewritten after each scene. The same call resumes an interrupted run.
    config: the sift preset if None.
    pairs: chooses the pairs, instead of `config.pairs`.
    executor: runs detection and matching, for example one from `dask_executor.connected`; threads if None.
    score: also score the submission against the true poses that lie in the task's root (`metric.find_truth`).

    A failed scene does not affect the others. Raises KitError when the input or the configuration cannot be used at all
    or `out` cannot be written.
    """
    started = time.monotonic()
    config = preset("sift") if config is None else config
    until = deadline.after(config.time_limit)
    task = task if isinstance(task, Task) else scenes.load(task, out=out)
    for note in task.notes:
        log.warning(note)
    truth = metric.find_truth(task.root, task.keys) if score else None  # without it, fail now
    progress = _Progress(task, Path(out).absolute(), config, started)
    schedule = Schedule(task.scenes, until)
    folders = [progress.scene_folder(name, scene.name) for name in schedule.rounds for scene in schedule.scenes]
    with ExitStack() as stack:
        stack.enter_context(claimed(progress.folder, folders))
        progress.warned = stack.enter_context(collecting())
        progress.begin()
        config.check()
        for note in (unmasked := masks.coverage(task.scenes, config.masks)):
            log.warning(note)
        progress.task = replace(task, notes=(*task.notes, *unmasked))
        stack.enter_context(child.loading())
        # Matching and mapping have separate workers, so that neither waits for the other's work.
        mapping, matching = (stack.enter_context(workers(executor, config.threads)) for _ in range(2))
        for name in schedule.rounds:
            one_round = _Round(name, progress, schedule, pairs, matching, mapping)
            with closing(one_round.matched()) as matched:
                for number, future in enumerate(matched):
                    one_round.finish(number, future)
        if truth and not progress.unwritten:
            names = [scene.name for scene in task.scenes]
            progress.score = metric.score_files(truth, progress.submission, scenes=names)
            progress.write()
    if progress.unwritten:
        raise progress.unwritten
    return Run(progress.submission, progress.results, progress.failed, progress.score)


@dataclass(eq=False)
class _Progress:
    """The best results so far, and their files.

    warned: the warnings so far. unwritten: the error of the last attempt to write the files, if any.
    """

    task: Task
    folder: Path
    config: Config
    started: float
    warned: Sequence[str] = ()
    results: dict[str, SceneResult] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unwritten: KitError | None = None
    score: metric.ScoredFiles | None = None

    @property
    def submission(self) -> Path:
        return self.folder / "submission.csv"

    def scene_folder(self, round_name: str, scene: str) -> Path:
        return scene_folder(self.folder / round_name, scene)

    def begin(self) -> None:
        """Write a placeholder submission unless an earlier run left a valid one, and say what the files are."""
        if not os.path.lexists(self.folder / README):
            with atomic.writing(self.folder / README) as file:
                file.write(files("imc_kit.pipeline").joinpath("out_readme.txt").read_text("utf-8"))
        if submission.check(self.submission, self.task.columns, self.task.keys):
            self._write_submission()

    def record(self, scene: str, solve: Callable[[], SceneResult]) -> None:
        """Solve a scene, and write all results so far."""
        try:
            self.results[scene] = solve()
            self.failed.pop(scene, None)
        except Exception as error:  # of any kind: the other scenes can still be solved
            self.failed[scene] = said(error)
            log.error("%s: %s", scene, self.failed[scene], exc_info=not isinstance(error, KitError))
        self.write()

    def write(self) -> None:
        """Write the submission and run.json."""
        run_json, seconds = self.folder / "run.json", time.monotonic() - self.started
        try:
            self._write_submission()
            write_run(run_json, self.task, self.config, self.results, self.failed, seconds, self.warned, self.score)
            self.unwritten = None
        except KitError as error:  # there may be disk space again after another scene
            self.unwritten = error
            log.error("%s", error)

    def _write_submission(self) -> None:
        placements = {name: result.placements for name, result in self.results.items()}
        rows = submission.compose(self.task.rows, placements, predict_scene=self.task.predicts_scene)
        submission.write(self.submission, self.task.columns, rows)


@dataclass(frozen=True, eq=False)
class _Round:
    """One pass over all scenes, for quick or full answers (`name`). Scenes are identified by number in the schedule."""

    name: str
    progress: _Progress
    schedule: Schedule
    pairs: PairSelection | None
    matching: Executor
    mapping: Executor

    def matched(self) -> Generator[Future[MatchedScene | SceneResult], None, None]:
        """The matched scenes. A thread starts to match each scene when the caller asks for the one before it.

        So while the caller works on one scene, only the next one is matched.
        """
        pool = ThreadPoolExecutor(1)
        try:
            coming = None
            for number in range(len(self.schedule.scenes)):
                current, coming = coming, pool.submit(self._match, number)
                if current:
                    yield current
            if coming:
                yield coming
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _match(self, number: int) -> MatchedScene | SceneResult:
        """Match a scene; returns its result instead if an earlier run finished it."""
        scene, task, out = self.schedule.scenes[number], self.progress.task, self.progress.folder
        log.info("%s (%d of %d): %d images", scene.name, number + 1, len(self.schedule.scenes), len(scene.images))
        config = cheap(self.progress.config) if self.name == QUICK else self.progress.config
        earlier = self.progress.results.get(scene.name)
        fewest = earlier.counts["registered"] if earlier else 0
        folder = self.progress.scene_folder(self.name, scene.name)
        prepare_scene(out, folder)
        return match_scene(
            scene, folder, Store(out / "store"), config, self.matching,
            pairs=self.pairs, separate=task.predicts_scene, until=self._deadline(number), fewest=fewest,
        )  # fmt: skip

    def finish(self, number: int, matched: Future[MatchedScene | SceneResult]) -> None:
        """Map a scene once it is matched, and keep the better of its quick and full answers."""
        name, folder = self.schedule.scenes[number].name, self.progress.scene_folder
        answer = partial(self._reconstruct, number, matched)
        if quick := self.progress.results.get(name):
            answer = partial(_better, quick, folder(QUICK, name), answer, folder(self.name, name))
        self.progress.record(name, answer)

    def _reconstruct(self, number: int, matched: Future[MatchedScene | SceneResult]) -> SceneResult:
        scene = matched.result()
        if isinstance(scene, SceneResult):
            return scene
        until = max(scene.until, self._deadline(number))
        return scene.reconstruct(self.mapping, until, alone=number + 1 == len(self.schedule.scenes))

    def _deadline(self, number: int) -> float:
        answered = self.schedule.scenes[number].name in self.progress.results
        return self.schedule.deadline(self.name, number, answered)


def _better(quick: SceneResult, quick_folder: Path, solve: Callable[[], SceneResult], folder: Path) -> SceneResult:
    """The full answer to a scene, from `solve`; the quick one if that has more images or `solve` fails.

    quick_folder, folder: the files of the quick and of the full answer. `folder` ends up with the better answer's
        files.
    """
    try:
        full = solve()
        if full.counts["registered"] >= quick.counts["registered"]:
            return full
        notes = full.notes
    except Exception as error:  # of any kind: there is a quick answer
        notes = [said(error)]
        log.error("%s", notes[0], exc_info=not isinstance(error, KitError))
    shutil.rmtree(folder / "models", ignore_errors=True)
    for path in folder.glob("database-*"):
        path.unlink()
    for path in (*quick_folder.glob("models"), *quick_folder.glob("database-*")):
        path.replace(folder / path.name)
    models = [replace(model, folder=folder / "models" / model.folder.name) for model in quick.models]
    notes = [*quick.notes, *notes, "the quick answer is kept, because it has more images than the full one"]
    kept = replace(quick, models=models, notes=notes)
    write_result(folder / "result.json", "the quick answer", kept)  # a later run must not treat it as finished
    return kept
