"""Competition layouts and plain folders of photographs, as scenes to solve and rows to answer.

The layouts as Kaggle publishes them; the rows of the test split are always those of `sample_submission.csv`.

- 2023: `<split>/<dataset>/<scene>/images/*`, named by `image_path` relative to `<split>`; `train/train_labels.csv`.
- 2024: `<split>/<scene>/images/*`, named by `image_path` relative to the root; `train/train_labels.csv`, where
  `image_name` is the file's name alone.
- 2025: `<split>/<dataset>/*`, named by `dataset` and `image`; `train_labels.csv`; the `scene` is part of the answer.
- folder: any folder of images, which is one scene.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from imc_kit.data.tables import POSE_COLUMNS, read_table
from imc_kit.errors import KitError, unknown_name
from imc_kit.types import Scene

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"})
"""Suffixes of image files, in lower case."""
SPLITS = ("test", "train")
_NAMED_BY = (("image_path",), ("dataset", "image"), ("scene", "image_name"))
"""The columns that name a row's image: of 2023 and 2024, of 2025, of 2024's training labels."""

Key = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One line that the submission must have.

    key: all columns but the pose, in order, as they were read.
    scene: the name of the scene that the image belongs to.
    image: the image's name within that scene; None when there is no such file.
    """

    key: Key
    scene: str
    image: str | None


@dataclass(frozen=True)
class Task:
    """What a run has to answer.

    columns: all columns of the submission, in order.
    scenes: those with at least one image, in the order in which rows first name them, each with all images in its
        folder, asked for or not. A row may name a scene that is not among them: its folder is missing or empty.
    notes: what a person should know about the input, one sentence each.
    """

    root: Path
    layout: str
    columns: tuple[str, ...]
    scenes: tuple[Scene, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def predicts_scene(self) -> bool:
        """Whether the `scene` column is part of the answer."""
        return self.layout == "2025"

    @property
    def keys(self) -> list[Key]:
        """For each row, what the submission must say in the columns that are not part of the answer."""
        answered = {"scene"} if self.predicts_scene else set()
        return [{column: row.key[column] for column in row.key if column not in answered} for row in self.rows]

    def only(self, *names: str) -> Task:
        """What this task asks of some of its scenes. Raises `KitError` for a name that is none of them."""
        known = [scene.name for scene in self.scenes]
        for name in names:
            if name not in known:
                raise unknown_name("scene", name, known)
        chosen = tuple(scene for scene in self.scenes if scene.name in names)
        return replace(self, scenes=chosen, rows=tuple(row for row in self.rows if row.scene in names))


class _Place(NamedTuple):
    """Where the image of a row is looked for."""

    scene: str
    folder: PurePosixPath
    """The scene's own, relative to the root and without `images`."""
    image: str


def load(root: Path | str, split: str = "test") -> Task:
    """Recognise the layout under `root` and list what the `split` ("test" or "train") asks for; decodes no image.

    A requested name that differs from one file alone, and only in case, Unicode form or extension, stands for that
    file. A file that is not there, or whose path leaves its scene, keeps its row. Both are said in the task's notes.
    Where a competition's table of rows is missing, every image is a row. Hidden files and folders, `__MACOSX` and
    files without an image's suffix do not count.

    Raises `KitError` when there is no such folder or no image at all, and when the table of rows cannot be read,
    lacks a column or asks for an image twice.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    root = Path(root)
    if not _is_folder(root):
        raise KitError(f"{root} is not a folder: give the root of a competition's data or a folder of images")
    root = root.resolve()
    labels = [path for path in (root / "train" / "train_labels.csv", root / "train_labels.csv") if path.is_file()]
    table = root / "sample_submission.csv" if split == "test" else (labels or [root / "train_labels.csv"])[0]
    if table.exists():
        columns, keys = _read_keys(table)
        return _task(root, split, _layout_of(columns, keys), columns, keys, [])

    layout, columns, keys = _made_up_keys(root, split)
    if layout != "folder":
        note = f"there is no {table}, so every image in {root / split} is a row"
        return _task(root, split, layout, columns, keys, [note])
    if labels or split == "train":
        raise KitError(
            f"{root} has neither {table.name} nor images in a folder {split}: choose another split or folder"
        )
    return _task(root, split, layout, columns, keys, [])


def _read_keys(table: Path) -> tuple[tuple[str, ...], list[Key]]:
    frame = read_table(table, ("dataset", "scene", *POSE_COLUMNS))
    columns = tuple(frame.columns)
    if not any(names[-1] in columns for names in _NAMED_BY):
        raise KitError(f"{table} lacks the column image_path (or image, as in 2025): it has {', '.join(columns)}")
    kept = [column for column in columns if column not in POSE_COLUMNS]
    keys = [dict(zip(kept, values, strict=True)) for values in frame[kept].itertuples(index=False, name=None)]
    if not keys:
        raise KitError(f"{table} asks for no rows")
    seen: dict[str, int] = {}
    for number, key in enumerate(keys, 1):
        image = _said(key)
        if seen.setdefault(image, number) != number:
            rows = f"in rows {seen[image]} and {number}"
            raise KitError(f"{table} asks for {image} twice, {rows}: leave one of them out")
    return columns, keys


def _said(key: Key) -> str:
    """A row's image, in its own words."""
    names = next(names for names in _NAMED_BY if names[-1] in key)
    return "/".join(key[name] for name in names)


def _layout_of(columns: Sequence[str], keys: Iterable[Key]) -> str:
    if "image_path" not in columns:
        return "2025" if "image" in columns else "2024"
    from_root = tuple(f"{split}/" for split in SPLITS)
    return "2024" if any(key["image_path"].startswith(from_root) for key in keys) else "2023"


def _made_up_keys(root: Path, split: str) -> tuple[str, tuple[str, ...], list[Key]]:
    """The layout that the images speak for, and the rows that its published table would have for them."""
    by_path = ("image_path", "dataset", "scene", *POSE_COLUMNS)
    paths = [PurePosixPath(name) for name in _find_images(root / split)[0]]
    for layout, prefix, depth in (("2024", split, 1), ("2023", "", 2)):
        inside = [path for path in paths if path.parts[depth:-1][:1] == ("images",)]
        if inside:
            keys = [_path_key(str(prefix / path), path.parts[0], path.parts[depth - 1]) for path in inside]
            return layout, by_path, keys
    flat = [(path.parts[0], "/".join(path.parts[1:])) for path in paths if len(path.parts) > 1]
    if flat:
        columns = ("image_id", "dataset", "scene", "image", *POSE_COLUMNS)
        keys = [{"image_id": f"{name}/{image}", "dataset": name, "scene": "", "image": image} for name, image in flat]
        return "2025", columns, keys
    name = root.name if root.name and _is_writable(root.name) else "images"
    return "folder", by_path, [_path_key(image, name, name) for image in _find_images(root)[0]]


def _path_key(path: str, dataset: str, scene: str) -> Key:
    return {"image_path": path, "dataset": dataset, "scene": scene}


def _task(root: Path, split: str, layout: str, columns: tuple[str, ...], keys: list[Key], notes: Iterable[str]) -> Task:
    notes = list(notes)
    places = [_place(split, layout, key) for key in keys]
    refused = [_said(key) for key, place in zip(keys, places, strict=True) if place is None]
    if refused:
        notes.append(f"rows whose path lies in no scene get a guess: {_few(refused)}")
    asked: defaultdict[tuple[str, PurePosixPath], list[str]] = defaultdict(list)
    for place in places:
        if place is not None:
            asked[place.scene, place.folder].append(place.image)

    categories = _read_categories(root / split / "categories.csv", notes)
    scenes = []
    files: dict[str, dict[str, str]] = {}
    for (name, inner), images in asked.items():
        folder = root / inner
        if layout in ("2023", "2024") and _is_folder(folder / "images"):
            folder = folder / "images"
        present, unwritable = _find_images(folder)
        files[name] = _match(images, present)
        notes += _remarks(name, folder, images, files[name], unwritable)
        if present:
            scenes.append(Scene(name, folder, tuple(present), categories.get(name, ())))
    if not scenes:
        raise KitError(
            f"there are no images for {split} in {root}: put files with one of the suffixes "
            f"{' '.join(sorted(IMAGE_SUFFIXES))} there, or give another folder"
        )
    rows = tuple(
        Row(key, _scene_column(layout, key), None)
        if place is None
        else Row(key, place.scene, files[place.scene].get(place.image))
        for key, place in zip(keys, places, strict=True)
    )
    return Task(root, layout, columns, tuple(scenes), rows, tuple(notes))


def _place(split: str, layout: str, key: Key) -> _Place | None:
    """Where the image of a row should be; None when its path does not lie inside a scene."""
    if layout == "2025":
        names = [split, key["dataset"], key["image"]]
    elif "image_path" not in key:
        names = [split, key["scene"], "images", key["image_name"]]
    elif layout == "2023":
        names = [split, key["image_path"]]
    else:
        names = [key["image_path"]]
    if not all(map(_is_inside, names)):
        return None
    parts = PurePosixPath(*names).parts
    if layout == "folder":
        return _Place(key["scene"], PurePosixPath(), "/".join(parts))
    if len(parts) < 3 or parts[0] not in SPLITS:
        return None
    # The folder `images`, where there is one, ends the scene's own; else its depth does.
    if layout == "2025":
        end = start = 1 + len(PurePosixPath(key["dataset"]).parts)
    elif "images" in parts[2:-1]:
        end = parts.index("images", 2)
        start = end + 1
    else:
        end = start = 2 if layout == "2024" else 3
    if not parts[start:]:
        return None
    scene = parts[1:end] if parts[0] == split else parts[:end]
    return _Place("/".join(scene), PurePosixPath(*parts[:end]), "/".join(parts[start:]))


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return path.parts != () and not path.is_absolute() and ".." not in path.parts and _is_writable(name)


def _scene_column(layout: str, key: Key) -> str:
    """The scene that a row's columns name, where its path names none."""
    if layout == "2025":
        return key["dataset"]
    return f"{key['dataset']}/{key['scene']}" if layout == "2023" else key["scene"]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


def _is_writable(name: str) -> bool:
    """Whether a file's name can stand in a table: it is Unicode, on one line."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def _find_images(folder: Path) -> tuple[list[str], list[str]]:
    """The POSIX paths of all images under `folder`, sorted; apart, those whose names cannot stand in a table."""
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
            # Links come last, so that an image is named by its real path, and a link to a folder above ends there.
            pending += [here / name for name in folders if (here / name).is_symlink()]
            images += [
                (here / name).relative_to(folder).as_posix()
                for name in files
                if not name.startswith(".")
                and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
                and (here / name).is_file()
            ]
    images.sort()
    return [name for name in images if _is_writable(name)], [name for name in images if not _is_writable(name)]


def _match(asked: Sequence[str], present: Sequence[str]) -> dict[str, str]:
    """The file that each name asked for stands for: the very one, or the only one that is alike and not taken."""
    files = set(present)
    found = {name: name for name in asked if name in files}
    for form in (_in_one_case, _without_suffix):
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for file in files.difference(found.values()):
            alike[form(file)].append(file)
        near = {name: alike[form(name)] for name in asked if name not in found}
        only = {name: candidates[0] for name, candidates in near.items() if len(candidates) == 1}
        claims = Counter(only.values())
        found |= {name: file for name, file in only.items() if claims[file] == 1}
    return found


def _in_one_case(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _without_suffix(name: str) -> str:
    path = PurePosixPath(_in_one_case(name))
    return str(path.with_suffix("")) if path.suffix in IMAGE_SUFFIXES else str(path)


def _remarks(
    scene: str, folder: Path, asked: Sequence[str], found: dict[str, str], unwritable: Sequence[str]
) -> list[str]:
    notes = []
    missing = [name for name in asked if name not in found]
    if missing and not _is_folder(folder):
        notes.append(f"{scene}: there is no folder {folder}, so its rows get a guess")
    elif missing:
        notes.append(f"{scene}: {len(missing)} of {len(asked)} images asked for have no file: {_few(missing)}")
    renamed = [f"{name} is {file}" for name, file in found.items() if name != file]
    if renamed:
        notes.append(f"{scene}: names differ from the files in case or extension: {_few(renamed)}")
    if unwritable:
        notes.append(f"{scene}: left out for their names: {_few([ascii(name) for name in unwritable])}")
    return notes


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _read_categories(path: Path, notes: list[str]) -> dict[str, tuple[str, ...]]:
    if not path.is_file():
        return {}
    try:
        table = read_table(path, ("scene", "categories"))
    except KitError as error:
        notes.append(f"categories are left out: {error}")
        return {}
    pairs = zip(table["scene"], table["categories"], strict=True)
    return {scene: tuple(filter(None, map(str.strip, text.split(";")))) for scene, text in pairs}
