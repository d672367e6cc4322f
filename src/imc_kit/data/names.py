"""Which files the names in tables and lists of images mean."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from imc_kit.data.listing import IMAGE_SUFFIXES, few
from imc_kit.data.text import content_lines
from imc_kit.errors import KitError, hint
from imc_kit.types import Scene


def chosen_images(scenes: Sequence[Scene], root: Path, images: Path | str | Sequence[str]) -> set[tuple[str, str]]:
    """The images (scene, name) that are listed; arguments and errors as for `Task.only_images`."""
    listed = isinstance(images, Path | str)
    names = [line for _, line in content_lines(images)] if isinstance(images, Path | str) else list(images)
    what = f"{images} names" if listed else "the images have"
    if not names:
        raise KitError(f"{what} no image: give at least one")
    homes: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for scene in scenes:
        for image in scene.images:
            path = (scene.root / image).relative_to(root).as_posix()
            for name in (image, f"{scene.name}/{image}", path):
                homes[name].add((scene.name, image))
    names = [name.removeprefix("./") for name in names]
    if unknown := [name for name in names if name not in homes]:
        missing = f"{len(unknown)} images that do not exist in {root}: {few(unknown)}"
        raise KitError(f"{what} {missing}{hint(unknown[0], homes)}")
    if several := [name for name in names if len(homes[name]) > 1]:
        where = few([f"{scene}/{image}" for scene, image in sorted(homes[several[0]])])
        raise KitError(f"{what} {several[0]!r}, which is in several scenes: write {where}")
    return {home for name in names for home in homes[name]}


def match_names(wanted: Sequence[str], present: Sequence[str]) -> dict[str, str]:
    """Find the file in `present` that each wanted name refers to; names without a file are left out.

    A name refers to the file of that name. Failing that, it refers to the only file that differs in case and Unicode
    form, or else in the suffix too, if no other wanted name refers to that file.
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
