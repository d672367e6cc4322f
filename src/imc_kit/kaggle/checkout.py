"""The checkout of this project that a kit is built from, and helpers to run programs."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imc_kit.errors import KitError
from imc_kit.runtime.python import environment

CHECKOUT = Path(__file__).resolve().parents[3]
PACKED = ("src", "pyproject.toml", "README.md", "LICENSE")
"""The files and folders that this package's wheel is built from."""


def run(command: Sequence[str], failure: str, **options: Any) -> str:
    """Run a program to its end and return its output, which is UTF-8. options: for `subprocess.run`.

    Raises `KitError` if it fails; the message is `failure` and the last three lines that the program wrote.
    """
    options = {"env": environment(), "encoding": "utf-8", "errors": "surrogateescape"} | options
    done = subprocess.run(command, capture_output=True, **options)
    if done.returncode != 0:
        said = [line for line in (done.stderr.strip() or done.stdout).splitlines() if line.strip()]
        raise KitError(f"{failure}: {' '.join(' '.join(said[-3:]).split()) or f'exit status {done.returncode}'}")
    return str(done.stdout)


def git(*arguments: str) -> str:
    """The output of a git command in the checkout. Raises `KitError` if it fails."""
    return run(["git", "-C", str(CHECKOUT), *arguments], "git failed")


def commit() -> str:
    """The commit's short name, followed by "-modified" if files that the wheel is built from have been changed."""
    modified = git("status", "--porcelain", "--", *PACKED).strip()
    return git("rev-parse", "--short=12", "HEAD").strip() + ("-modified" if modified else "")
