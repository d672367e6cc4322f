"""COLMAP's child processes: what takes the place of one, and which are still there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imc_kit.colmap import child

NO_CORE = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"


def inject(monkeypatch: pytest.MonkeyPatch, code: str, which: Callable[[dict[str, Any]], bool]) -> list[str]:
    """Let Python run `code` in the place of these jobs, which it finds in its arguments; gives the jobs' names."""
    met: list[str] = []
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        job = json.loads(command[-1])
        if which(job):
            met.append(job["job"])
            command = [sys.executable, "-c", f"{NO_CORE}\n{code}", command[-1]]
        return real(command, **options)

    monkeypatch.setattr(child.subprocess, "Popen", popen)
    return met


def running(folder: Path) -> list[str]:
    """The processes that have this folder in their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = path.read_bytes().decode(errors="replace")
        except OSError:  # it has just ended
            continue
        found += [said] if str(folder) in said else []
    return found
