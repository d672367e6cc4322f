"""Find the photos under a folder, and count what else lies there."""

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".webp", ".bmp"])
"""Suffixes of image files, in lower case."""


@dataclass
class Listing:
    """What lies under a folder; all names are relative POSIX paths.

    images: sorted. unwritable: images whose names cannot be in a table (see `fits_table`).
    """

    images: list[str] = field(default_factory=list)
    unwritable: list[str] = field(default_factory=list)


def find_images(folder: Path, out: Path | str | None = None) -> Listing:
    """List all images under `folder`, except those under `out`.

    Hidden files and folders, `__MACOSX` and files without an image suffix are left out. Links are followed, each folder
    once.
    """
    found = Listing()
    visited = {_identity(Path(out))} if out is not None and Path(out).is_dir() else set()
    pending = [folder]
    while pending:
        for current, folders, files in os.walk(pending.pop(0)):
            here = Path(current)
            if (identity := _identity(here)) in visited:
                folders.clear()
                continue
            visited.add(identity)
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
            # Linked folders come last: an image is listed under its real path, and a link upwards ends.
            pending += [here / name for name in folders if (here / name).is_symlink()]
            found.images += [(here / name).relative_to(folder).as_posix() for name in files if _is_image(here / name)]
    found.images.sort()
    found.unwritable = [name for name in found.images if not fits_table(name)]
    found.images = [name for name in found.images if fits_table(name)]
    return found


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_image(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def fits_table(name: str) -> bool:
    """Whether a name can be in a table: it is valid Unicode without control characters."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
