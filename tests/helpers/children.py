"""COLMAP's child processes: replace a job by other code, and see which processes are still there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from imc_kit.colmap import child

NO_CORE = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"


class _Injecting:
    """Does jobs like the real thing, but runs `code` in Python instead of those that `which` picks."""

    def __init__(self, real: child._Forker, code: str, which: Callable[[dict[str, Any]], bool], met: list[str]) -> None:
        self.real, self.code, self.which, self.met = real, code, which, met
        self.others: dict[int, subprocess.Popen[bytes]] = {}

    def begin(self, job: Mapping[str, Any]) -> int:
        told = json.loads(json.dumps(job, default=str))
        if not self.which(told):
            return self.real.begin(job)
        self.met.append(told["job"])
        command = [sys.executable, "-c", f"{NO_CORE}\n{self.code}", json.dumps(told)]
        with Path(told["log"]).open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        self.others[-len(self.met)] = process
        return -len(self.met)

    def status(self, number: int, seconds: float) -> int | None:
        if number not in self.others:
            return self.real.status(number, seconds)
        with suppress(subprocess.TimeoutExpired):
            self.others[number].wait(seconds)
        return self.others[number].returncode

    def kill(self, number: int) -> None:
        if number in self.others:
            self.others[number].kill()
            self.others[number].wait()
        else:
            self.real.kill(number)


def inject(monkeypatch: pytest.MonkeyPatch, code: str, which: Callable[[dict[str, Any]], bool]) -> list[str]:
    """Run `code` in Python, with the job as its argument, instead of the jobs that `which` picks; gives their names."""
    met: list[str] = []
    real = child._loaded
    monkeypatch.setattr(child, "_loaded", lambda log: _Injecting(real(log), code, which, met))
    return met


def running(folder: Path) -> list[str]:
    """The processes that have this folder in their arguments, or a file in it open."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            said = (path / "cmdline").read_bytes().decode(errors="replace")
            opened = [str(file.readlink()) for file in (path / "fd").iterdir()]
            found += [said] if any(str(folder) in one for one in (said, *opened)) else []
    return found
