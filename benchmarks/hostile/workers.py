"""Run cases in worker processes, which may crash or hang."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context
from multiprocessing.context import ForkContext
from pathlib import Path
from random import Random

from hostile.cases import Failed, Kind, Place, last_frames

MEMORY = 6 << 30
"""Bytes of address space for a case without runs of its own; libraries reserve about two of them."""
Job = tuple[str, int]
"""The name of a class and the number of a case."""


@dataclass(frozen=True)
class Result:
    """What became of a case. said: what the survivor is, or what failed."""

    name: str
    case: int
    survived: bool
    said: str
    seconds: float


def run_all(jobs: Iterable[Job], kinds: Mapping[str, Kind], place: Place, seed: int, workers: int) -> Iterator[Result]:
    """Run the cases in several processes at once; yields the results as they come."""
    waiting, context = deque(jobs), get_context("fork")
    idle: list[_Worker] = []
    busy: dict[connection.Connection, _Worker] = {}
    numbers = iter(range(10**9))
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker(context, kinds, place, seed, next(numbers))
                worker.begin(waiting.popleft())
                busy[worker.pipe] = worker
            connection.wait(busy, timeout=1.0)
            for pipe, worker in list(busy.items()):
                if result := worker.result():
                    del busy[pipe]
                    idle += [worker] if not pipe.closed else []
                    yield result
    finally:
        for worker in (*idle, *busy.values()):
            worker.end()


class _Worker:
    """A process that runs one case after the other."""

    def __init__(self, context: ForkContext, kinds: Mapping[str, Kind], place: Place, seed: int, number: int) -> None:
        self.kinds = kinds
        self.folder = place.folder / f"worker-{number}"
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, kinds, replace(place, folder=self.folder), seed), daemon=True
        )
        self.process.start()
        theirs.close()

    def begin(self, job: Job) -> None:
        self.job, self.started = job, time.monotonic()
        self.pipe.send(job)

    def result(self) -> Result | None:
        """The result of the case once there is one, for example that the process died or did not come to an end."""
        seconds, limit = time.monotonic() - self.started, self.kinds[self.job[0]].seconds
        try:
            if self.pipe.poll():
                survived, said = self.pipe.recv()
                return Result(*self.job, survived, said, seconds)
            if seconds < limit:
                return None
            said = f"still running after {limit:.0f} s"
        except EOFError:
            self.process.join()
            said = f"the process died with exit code {self.process.exitcode}"
        self.end()
        return Result(*self.job, False, said, seconds)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _work(pipe: connection.Connection, kinds: Mapping[str, Kind], place: Place, seed: int) -> None:
    warnings.simplefilter("ignore")
    nothing = os.open(os.devnull, os.O_WRONLY)  # libraries in C print what they think of damaged files
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    logging.disable()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            name, number = pipe.recv()
            kind = kinds[name]
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY if kind.share else hard, hard))
            pipe.send(_one(kind, number, place, seed))


def _one(kind: Kind, number: int, place: Place, seed: int) -> tuple[bool, str]:
    """Whether the case survived, and what was said."""
    place = replace(place, folder=fresh(place.folder))
    try:
        return True, kind.case(number, Random(f"{seed} {kind.name} {number}"), place)
    except Failed as failure:
        return False, str(failure)
    except BaseException:  # what the kit raised is what this looks for
        return False, last_frames(traceback.format_exc())


def fresh(folder: Path) -> Path:
    """An empty folder in place of whatever is there."""
    for path in folder.rglob("*") if folder.exists() else ():
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
