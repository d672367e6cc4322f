"""Image files in a folder, and which of them a requested name means."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"})
"""Suffixes of image files, in lower case."""


def find_images(folder: Path) -> tuple[list[str], list[str]]:
    """List all images under `folder` by their POSIX path in it, sorted.

    The second list holds the images whose names cannot stand in a table (see `fits_table`). Hidden files and folders,
    `__MACOSX` and files without an image suffix are left out. Links are followed, each folder once.
    """
    images = []
    visited = set()
    pending = [folder]
    while pending:
        for current, folders, files in os.walk(pending.pop(0)):
            here = Path(current)
            status = here.stat()
            if (status.st_dev, status.st_ino) in visited:
                folders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
            # Linked folders come last, so that an image is listed under its real path and a link upwards ends there.
            pending += [here / name for name in folders if (here / name).is_symlink()]
            images += [(here / name).relative_to(folder).as_posix() for name in files if _is_image(here / name)]
    images.sort()
    return [name for name in images if fits_table(name)], [name for name in images if not fits_table(name)]


def _is_image(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def fits_table(name: str) -> bool:
    """Whether a name can stand in a table: it is valid Unicode without control characters."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def match_names(wanted: Sequence[str], present: Sequence[str]) -> dict[str, str]:
    """Find the file in `present` that each wanted name means; names without a file are left out.

    A name means the file of that name. Failing that, it means the only file that is equal but for case and Unicode
    form, then but for the suffix too, if no other wanted name means that file.
    """
    files = set(present)
    found = {name: name for name in wanted if name in files}
    for form in (_folded_case, _without_suffix):
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for file in files.difference(found.values()):
            alike[form(file)].append(file)
        near = {name: alike[form(name)] for name in wanted if name not in found}
        only = {name: candidates[0] for name, candidates in near.items() if len(candidates) == 1}
        claims = Counter(only.values())
        found |= {name: file for name, file in only.items() if claims[file] == 1}
    return found


def _folded_case(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _without_suffix(name: str) -> str:
    path = PurePosixPath(_folded_case(name))
    return str(path.with_suffix("")) if path.suffix in IMAGE_SUFFIXES else str(path)
