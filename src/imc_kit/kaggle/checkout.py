"""The checkout of this project that a kit is built from."""

from __future__ import annotations

from pathlib import Path

from imc_kit.kaggle.processes import run

CHECKOUT = Path(__file__).resolve().parents[3]
PACKED = ("src", "pyproject.toml", "README.md", "LICENSE")
"""What this package's wheel is built from."""


def git(*arguments: str) -> str:
    """What git says of the checkout. Raises `KitError` when it fails."""
    return run(["git", "-C", str(CHECKOUT), *arguments], "git failed")


def commit() -> str:
    """The short name of the checkout's commit; "-modified" follows where what is packed is not as it was committed."""
    modified = git("status", "--porcelain", "--", *PACKED).strip()
    return git("rev-parse", "--short=12", "HEAD").strip() + ("-modified" if modified else "")
