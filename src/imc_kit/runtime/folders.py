"""Folders for output."""

from pathlib import Path

from imc_kit.errors import KitError


def make(folder: Path, *, empty: bool = False) -> None:
    """Make a folder with its parents. Raises `KitError` if it cannot be made, or if it must be `empty` and is not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if empty and any(folder.iterdir()):
            raise KitError(f"{folder} is not empty: choose another --out")
    except OSError as error:
        raise KitError(f"cannot make the folder {folder} ({error.strerror}): choose another --out") from error
