"""COLMAP in processes of their own, with a time limit.

COLMAP is C++: it can abort, crash, hang or eat memory, and that must cost one attempt at one scene. So the calls that
do its long work run in `jobs`, each in a process of its own, and everything that prints goes to a log file. To load
COLMAP takes a fifth of a second, so on Linux one process does that, once, and forks for each job.
"""

from __future__ import annotations

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
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from imc_kit.errors import KitError
from imc_kit.runtime import deadline

_LOOK_UP = 0.02
"""Seconds between looks whether a job has ended, or is to be given up."""
_FORKS = sys.platform == "linux"
"""Elsewhere libraries do not survive a fork, or there is none: each job has a process that loads COLMAP itself."""
_PATIENCE = 1.0
"""Seconds after which the process that forks is killed itself, when it does not kill a job."""


class ColmapError(KitError):
    """COLMAP's process crashed, was killed, raised, or ran out of time; the message says which."""


def run(
    job: Mapping[str, Any], what: str, log: Path, time_limit: float, given_up: threading.Event | None = None
) -> None:
    """Run one job (see `jobs.JOBS`) in a child process and wait for it.

    The job gets paths as strings. `what` names it in messages; COLMAP's output is appended to `log`; `time_limit` is in
    seconds. Raises ColmapError when the process does not end well, or when another thread sets `given_up`. The child
    ends with this process, however that ends.
    """
    started = time.monotonic()
    try:
        forker = _loaded(log)
    except OSError as error:
        raise ColmapError(f"{what} could not be started: {error.strerror}") from error
    number, status = forker.begin({"log": log, **job}), None
    try:
        while status is None:
            status = forker.status(number, max(0.0, min(_LOOK_UP, time_limit - (time.monotonic() - started))))
            if status is None and given_up is not None and given_up.is_set():
                raise ColmapError(f"{what} was given up, as there was no more need of it")
            if status is None and time.monotonic() - started >= time_limit:
                raise ColmapError(f"{what} {deadline.STOPPED} of {time_limit:.0f} s (its output is in {log})")
    finally:
        if status is None:
            forker.kill(number)
    if status != 0:
        ending = signal.strsignal(-status) or f"signal {-status}" if status < 0 else f"exit status {status}"
        seconds = time.monotonic() - started
        raise ColmapError(f"{what} ended with {ending.lower()} after {seconds:.0f} s (its output is in {log})")


def fill(folder: Path, job: str, what: str, config: Any, log: Path, **arguments: Any) -> None:
    """Run a job that writes its models to `folder`, which is emptied first; the rest and what it raises as `run`.

    config: the dataclass of the step's configuration; its `time_limit` is the job's.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run({"job": job, "output": folder, "config": asdict(config), **arguments}, what, log, config.time_limit)


@contextmanager
def loading() -> Iterator[None]:
    """Meanwhile COLMAP is loaded, while others are busy, so that the first job need not wait for it. The process that
    has it ends when the last that asked for this is done."""
    global _users, _forker
    if _FORKS:
        with suppress(OSError):  # `run` will say it
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
    """The process that has loaded COLMAP; see `jobs`. Several threads may use it."""

    def __init__(self, log: Path | None, *arguments: str) -> None:
        package_root = str(Path(__file__).parents[2])
        path = os.pathsep.join([package_root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        with (log or Path(os.devnull)).open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "imc_kit.colmap.jobs", *arguments],
                stdin=subprocess.PIPE,  # stays open while we live: that is how the process knows
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},  # NumPy's would be lost in a fork
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        assert self._process.stdout is not None
        if _FORKS:
            self._said = select.poll()  # `select.select` takes only files of low numbers
            self._said.register(self._process.stdout, select.POLLIN)
        self._numbers = count()
        self._statuses: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def begin(self, job: Mapping[str, Any]) -> int:
        """Begin a job; gives its number."""
        number = next(self._numbers)
        self._command(number, job)
        return number

    def status(self, number: int, seconds: float) -> int | None:
        """The exit status of a job, or of this process if that has ended; None if nothing comes in so many seconds."""
        out = self._process.stdout
        assert out is not None
        with self._lock:
            if number not in self._statuses and not out.closed and self._said.poll(1000 * seconds):
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
        """End this process and with it all jobs."""
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
        with self._lock, suppress(BrokenPipeError, ValueError):  # it has ended, as `status` will say
            while left:
                left = left[pipe.write(left) :]


class _Single(_Forker):
    """A process for one job."""

    def __init__(self, log: Path | None) -> None:
        super().__init__(log, "one")

    def status(self, number: int, seconds: float) -> int | None:
        """As `_Forker.status` says."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self.end()
        return status

    def kill(self, number: int) -> None:
        """As `_Forker.kill` says."""
        self.end()


_forker: _Forker | None = None
_users = 0
_lock = threading.Lock()


def _loaded(log: Path | None) -> _Forker:
    """The process that has loaded COLMAP, or does so now. log: gets what keeps it from that."""
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
