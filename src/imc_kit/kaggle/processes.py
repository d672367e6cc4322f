"""Other programs, run to their end."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from imc_kit.errors import KitError


def run(
    command: Sequence[str], failure: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """What a command writes to its output. Raises `KitError`: `failure`, and the last lines that the command said."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode != 0:
        said = [line for line in (done.stderr.strip() or done.stdout).splitlines() if line.strip()]
        raise KitError(f"{failure}: {' '.join(' '.join(said[-3:]).split()) or f'exit status {done.returncode}'}")
    return done.stdout
