"""COLMAP in child processes, with a time limit.

COLMAP is C++: it can abort, crash, hang or exhaust the memory, and that must cost at most one job of one scene. So each
long job (`jobs`) runs in a separate process, and all output goes to a log file. Loading COLMAP takes a fifth of a
second, so on Linux one process loads it once and forks for each job.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

from imc_kit.colmap import watching
from imc_kit.colmap.options import Known
from imc_kit.errors import KitError
from imc_kit.runtime import deadline, progress, python

_LOOK_UP = 0.02
"""Seconds between checks whether a job has ended or must be ended. A job lasts at least a tenth of a second."""
_FORKS = sys.platform == "linux"
"""Elsewhere there is no fork, or libraries do not survive it. Then each job's process loads COLMAP itself."""
_PATIENCE = 1.0
"""Seconds for the forking process to end a job. After them it is killed, with all its jobs."""


class ColmapError(KitError):
    """COLMAP's process crashed, was killed, raised, or ran out of time; the message says which."""


def run(
    job: Mapping[str, Any], what: str, log: Path, time_limit: float, cancelled: threading.Event | None = None
) -> None:
    """Run a job (see `jobs.JOBS`) in a child process, and wait for its end.

    job: its name and arguments; paths become strings. what: the job in words, for messages.
    log: receives COLMAP's output. time_limit: in seconds. cancelled: set by another thread to end the job.

    Raises `ColmapError` when the process fails, runs out of time or is cancelled. The child never outlives this
    process.
    """
    started = time.monotonic()
    try:
        forker = _loaded(log)
    except OSError as error:
        raise ColmapError(f"{what} could not be started: {error.strerror}") from error
    looking = watching.Log(log)
    number, status = forker.begin({"log": log, **job}), None
    try:
        with progress.bar(what.removeprefix("COLMAP's "), look=looking.look):
            while status is None:
                status = forker.status(number, max(0.0, min(_LOOK_UP, time_limit - (time.monotonic() - started))))
                if status is None and cancelled is not None and cancelled.is_set():
                    raise ColmapError(f"{what} was cancelled: its result is no longer needed")
                if status is None and time.monotonic() - started >= time_limit:
                    raise ColmapError(f"{what} {deadline.STOPPED} of {time_limit:.0f} s (its output is in {log})")
    finally:
        if status is None:
            forker.kill(number)
    if status != 0:
        ending = signal.strsignal(-status) or f"signal {-status}" if status < 0 else f"exit status {status}"
        seconds = time.monotonic() - started
        raise ColmapError(f"{what} ended with {ending.lower()} after {seconds:.0f} s (its output is in {log})")


@dataclass(frozen=True)
class Workplace:
    """A job's surroundings: models go to `folder`, which is emptied first, and COLMAP's output to `log`."""

    folder: Path
    log: Path
    threads: int = -1
    seed: int = 0
    known: Known = field(default_factory=Known)
    """The cameras that the user knows."""
    large: "LargeScenes | None" = None
    """Where large scenes are mapped in partitions. None: they are mapped as a whole."""

    def run(
        self, job: str, what: str, time_limit: float, cancelled: threading.Event | None = None, **arguments: Any
    ) -> None:
        """`run` a job that writes models, by its name and arguments."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        full_job = {"job": job, "output": self.folder, "threads": self.threads, "seed": self.seed, **arguments}
        run(full_job, what, self.log, time_limit, cancelled)


@dataclass(frozen=True)
class LargeScenes:
    """What mapping a large scene in partitions (`partitioned`) needs besides a `Workplace`."""

    folder: Path
    """Keeps the finished partitions, from which a later run resumes. All machines of `executor` must see it."""
    executor: Executor
    """Maps the partitions: threads that wait for child processes of this machine, or a cluster."""
    until: float = inf
    """The deadline of all partitions together (`runtime.deadline`)."""


@contextmanager
def loading() -> Iterator[None]:
    """Load COLMAP in the background, so that the first job need not wait. The process that loads it ends with the last
    user of this context."""
    global _users, _forker
    if _FORKS:
        with suppress(OSError):  # `run` will report it
            _loaded(None)
    with _lock:
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users and _forker is not None:
                _forker.end()
                _forker = None


class _Forker:
    """The process that has loaded COLMAP and forks for each job (`jobs`). Several threads may use it."""

    def __init__(self, log: Path | None, *arguments: str) -> None:
        package_root = str(Path(__file__).parents[2])
        # A fork loses NumPy's threads. COLMAP writes its log to standard error, not to files in TMPDIR as well.
        settings = {"OPENBLAS_NUM_THREADS": "1", "GLOG_logtostderr": "1"}
        with (log or Path(os.devnull)).open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "imc_kit.colmap.jobs", *arguments],
                stdin=subprocess.PIPE,  # closes when this process ends, which tells the child
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                env=python.environment(package_root) | settings,
                start_new_session=True,  # Ctrl-C is for this process only
            )
        assert self._process.stdout is not None
        if _FORKS:
            self._poll = select.poll()  # `select.select` takes only low file descriptors
            self._poll.register(self._process.stdout, select.POLLIN)
        self._numbers = count()
        self._statuses: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def begin(self, job: Mapping[str, Any]) -> int:
        """Begin a job, and return its number."""
        number = next(self._numbers)
        self._command(number, job)
        return number

    def status(self, number: int, seconds: float) -> int | None:
        """Wait for the exit status of a job, or of the forking process if that has ended. None after `seconds`."""
        out = self._process.stdout
        assert out is not None
        with self._lock:
            if number not in self._statuses and not out.closed and self._poll.poll(1000 * seconds):
                line = out.readline()
                if line:
                    ended, status = json.loads(line)
                    self._statuses[ended] = status
                else:
                    out.close()
            return self._process.wait() if out.closed else self._statuses.pop(number, None)

    def kill(self, number: int) -> None:
        """End a job."""
        self._command(number, None)
        end = time.monotonic() + _PATIENCE
        while self.status(number, _LOOK_UP) is None:
            if time.monotonic() > end:
                self._process.kill()

    def end(self) -> None:
        """End the forking process and all its jobs."""
        self._process.kill()
        self._process.wait()
        with self._lock:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()

    def _command(self, number: int, job: Mapping[str, Any] | None) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        left = memoryview(json.dumps([number, job], default=str).encode() + b"\n")
        with self._lock, suppress(BrokenPipeError, ValueError):  # the process has ended: `status` will report it
            while left:
                left = left[pipe.write(left) :]


class _Single(_Forker):
    """A process for one job, where forks are not safe."""

    def __init__(self, log: Path | None) -> None:
        super().__init__(log, "one")

    def status(self, number: int, seconds: float) -> int | None:
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self.end()
        return status

    def kill(self, number: int) -> None:
        self.end()


_forker: _Forker | None = None
_users = 0
_lock = threading.Lock()


def _loaded(log: Path | None) -> _Forker:
    """The process that has loaded COLMAP or is loading it. log: receives its startup errors."""
    global _forker
    if not _FORKS:
        return _Single(log)
    with _lock:
        if _forker is not None and not _forker.alive:
            _forker.end()
            _forker = None
        if _forker is None:
            _forker = _Forker(log)
        return _forker
