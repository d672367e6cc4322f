"""A whole run: every scene in turn, within its time, and a submission that is valid from the first second.

While COLMAP maps one scene on the CPU, the next one is matched, on the GPU or a cluster if there is one.
"""

import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path

from imc_kit import metric
from imc_kit.colmap import child, known_cameras
from imc_kit.config import Config, cheap, preset
from imc_kit.data import atomic, masks, positions, scenes, submission
from imc_kit.data.imported import coverage
from imc_kit.data.scenes import Task
from imc_kit.data.store import Store
from imc_kit.errors import KitError, said
from imc_kit.pipeline.classified import PairClassifier
from imc_kit.pipeline.earlier import better
from imc_kit.pipeline.out_folder import claimed, prepare_scene, scene_folder
from imc_kit.pipeline.results import Run, SceneResult, write_run
from imc_kit.pipeline.scene import MatchedScene, PairSelection, match_scene
from imc_kit.pipeline.schedule import FULL, QUICK, Schedule
from imc_kit.runtime import deadline, progress
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
    classifier: PairClassifier | None = None,
    executor: Executor | None = None,
    score: bool = False,
) -> Run:
    """Solve every scene of a task and write `out`/submission.csv.

    task: from `scenes.load`, or the folder that it takes: a competition's root, or a folder of photos.
    out: gets submission.csv, run.json, `scenes/NAME/models/0`, … and the store. The submission is valid from the start
        and is rewritten after each scene. The same call resumes an interrupted run.
    config: the sift preset if None.
    pairs: chooses the pairs, instead of `config.pairs`.
    classifier: leaves out verified pairs that look alike and are not the same (not in the quick answers).
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
    answers = _Answers(task, Path(out).absolute(), config, started)
    schedule = Schedule(task.scenes, until)
    folders = [answers.scene_folder(name, scene.name) for name in schedule.rounds for scene in schedule.scenes]
    with ExitStack() as stack:
        stack.enter_context(claimed(answers.folder, folders))
        answers.warned = stack.enter_context(collecting())
        answers.begin()
        config.check()
        known_cameras.check(config.cameras.known, task.scenes, task.root)
        if config.positions.file:
            positions.check(config.positions.file, task.scenes)
        notes = masks.coverage(task.scenes, config.masks)
        if config.imported.has_features:
            notes += coverage(task.scenes, config.imported.open())
        for note in notes:
            log.warning(note)
        answers.task = replace(task, notes=(*task.notes, *notes))
        stack.enter_context(child.loading())
        # Matching and mapping have separate workers, so that neither waits for the other's work.
        mapping, matching = (stack.enter_context(workers(executor, config.threads)) for _ in range(2))
        for name in schedule.rounds:
            one_round = _Round(name, answers, schedule, pairs, classifier, matching, mapping, time.monotonic())
            with closing(one_round.matched()) as matched:
                for number, future in enumerate(matched):
                    one_round.finish(number, future)
        if truth and not answers.unwritten:
            names = [scene.name for scene in task.scenes]
            answers.score = metric.score_files(truth, answers.submission, scenes=names)
            answers.write()
    if answers.unwritten:
        raise answers.unwritten
    return Run(answers.submission, answers.results, answers.failed, answers.score)


@dataclass(eq=False)
class _Answers:
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
        """Say what the files are, and write a placeholder submission unless an earlier run left a valid one."""
        if not os.path.lexists(self.folder / README):
            with atomic.writing(self.folder / README) as file:
                file.write(files("imc_kit.pipeline").joinpath("out_readme.txt").read_text("utf-8"))
        flaws = submission.check(self.submission, self.task.columns, self.task.keys)
        if flaws:
            self._write_submission()
        if flaws or not (self.folder / "run.json").exists():
            self._write_run()

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
        try:
            self._write_submission()
            self._write_run()
            self.unwritten = None
        except KitError as error:  # there may be disk space again after another scene
            self.unwritten = error
            log.error("%s", error)

    def _write_submission(self) -> None:
        placements = {name: result.placements for name, result in self.results.items()}
        rows = submission.compose(self.task.rows, placements, predict_scene=self.task.predicts_scene)
        submission.write(self.submission, self.task.columns, rows)

    def _write_run(self) -> None:
        run_json, seconds = self.folder / "run.json", time.monotonic() - self.started
        write_run(run_json, self.task, self.config, self.results, self.failed, seconds, self.warned, self.score)


@dataclass(frozen=True, eq=False)
class _Round:
    """One pass over all scenes, for quick or full answers (`name`). Scenes are identified by number in the schedule.

    solved: those that were not solved before.
    """

    name: str
    answers: _Answers
    schedule: Schedule
    pairs: PairSelection | None
    classifier: PairClassifier | None
    matching: Executor
    mapping: Executor
    started: float
    solved: list[int] = field(default_factory=list)

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
        scene, task, out = self.schedule.scenes[number], self.answers.task, self.answers.folder
        log.info("%s: %d images", self._title(number), len(scene.images))
        config = cheap(self.answers.config) if self.name == QUICK else self.answers.config
        earlier = self.answers.results.get(scene.name)
        fewest = earlier.counts["registered"] if earlier else 0
        folder = self.answers.scene_folder(self.name, scene.name)
        prepare_scene(out, folder)
        with progress.titled(self._title(number)):
            return match_scene(
                scene, folder, Store(out / "store"), config, self.matching,
                pairs=self.pairs, classifier=None if self.name == QUICK else self.classifier,
                separate=task.predicts_scene, until=self._deadline(number), fewest=fewest,
            )  # fmt: skip

    def finish(self, number: int, matched: Future[MatchedScene | SceneResult]) -> None:
        """Map a scene once it is matched, and keep the better of its quick and full answers."""
        name, folder = self.schedule.scenes[number].name, self.answers.scene_folder
        answer = partial(self._reconstruct, number, matched)
        if quick := self.answers.results.get(name):
            answer = partial(better, quick, folder(QUICK, name), answer, folder(self.name, name))
        with progress.titled(self._title(number)):
            self.answers.record(name, answer)
        if name not in self.answers.failed:
            result, left = self.answers.results[name], self.schedule.left(number, self.solved, self.started)
            images, seconds = len(self.schedule.scenes[number].images), progress.duration(sum(result.seconds.values()))
            registered = f"{result.counts['registered']} of {images} images registered in {seconds}"
            others = f"; about {progress.duration(left)} for the other scenes" if left else ""
            log.info("%s: %s%s", self._title(number), registered, others)

    def _reconstruct(self, number: int, matched: Future[MatchedScene | SceneResult]) -> SceneResult:
        scene = matched.result()
        if isinstance(scene, SceneResult):
            return scene
        self.solved.append(number)
        until = max(scene.until, self._deadline(number))
        return scene.reconstruct(self.mapping, until, alone=number + 1 == len(self.schedule.scenes))

    def _title(self, number: int) -> str:
        """The scene, which of how many it is, and the round if there are two."""
        which = f"{number + 1} of {len(self.schedule.scenes)}"
        one_of_two = {QUICK: ", quick round", FULL: ", full round"}[self.name] if self.schedule.limited else ""
        return f"{self.schedule.scenes[number].name} ({which}{one_of_two})"

    def _deadline(self, number: int) -> float:
        answered = self.schedule.scenes[number].name in self.answers.results
        return self.schedule.deadline(self.name, number, answered)
