"""Read a competition's folder, or any folder of photos, as scenes to solve and submission rows to fill.

The layouts, as Kaggle publishes them, for a split "test" or "train":

======  ==================================  ===============================  ======================
layout  image files                         a row names its image by         table of the train split
======  ==================================  ===============================  ======================
2023    SPLIT/DATASET/SCENE/images/IMAGE    image_path, relative to SPLIT    train/train_labels.csv
2024    SPLIT/SCENE/images/IMAGE            image_path, relative to root;    train/train_labels.csv
                                            in train: scene and image_name
2025    SPLIT/DATASET/IMAGE                 dataset and image                train_labels.csv
folder  IMAGE: the whole folder is a scene  image_path, relative to root     none
======  ==================================  ===============================  ======================

The table of the test split is `sample_submission.csv`. In 2025 the column `scene` is part of the answer, and the kit
treats a dataset as a scene.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias

from imc_kit.data.listing import IMAGE_SUFFIXES, exists, few, find_images, fits_table, is_folder
from imc_kit.data.names import chosen_images, match_names
from imc_kit.data.tables import POSE_COLUMNS, read_table
from imc_kit.errors import KitError, unknown_name
from imc_kit.types import Scene

SPLITS = ("test", "train")
_NAMED_BY = (("image_path",), ("dataset", "image"), ("scene", "image_name"))
"""The columns that name a row's image: in 2023 and 2024; in 2025; in 2024's training labels."""

Key = dict[str, str]
Out: TypeAlias = Path | str | None


@dataclass(frozen=True)
class Row:
    """One row that the submission must have.

    key: the values of all columns but the pose, in order, as read.
    scene: the name of the image's scene.
    image: the image's name within that scene; None if there is no such file.
    """

    key: Key
    scene: str
    image: str | None


@dataclass(frozen=True)
class Task:
    """The scenes to solve and the rows to fill.

    layout: "2023", "2024", "2025" or "folder".
    columns: all columns of the submission, in order.
    scenes: those with at least one image, in the order of their first rows. Each has all images in its folder,
        requested or not. A row's scene is absent here if its folder is missing or empty.
    notes: remarks on the input for the user, one sentence each.
    """

    root: Path
    layout: str
    columns: tuple[str, ...]
    scenes: tuple[Scene, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def predicts_scene(self) -> bool:
        """Whether the column `scene` is part of the answer."""
        return self.layout == "2025"

    @property
    def keys(self) -> list[Key]:
        """For each row, the values of the columns that are not part of the answer."""
        answered = "scene" if self.predicts_scene else None
        return [{column: value for column, value in row.key.items() if column != answered} for row in self.rows]

    def only(self, *names: str) -> "Task":
        """The task restricted to some scenes. Raises `KitError` for an unknown scene."""
        known = [scene.name for scene in self.scenes]
        if unknown := [name for name in names if name not in known]:
            raise unknown_name("scene", unknown[0], known)
        chosen = tuple(scene for scene in self.scenes if scene.name in names)
        return replace(self, scenes=chosen, rows=tuple(row for row in self.rows if row.scene in names))

    def only_images(self, images: Path | str | Sequence[str]) -> "Task":
        """The task restricted to some images; the rows of others and the scenes without any are left out.

        images: POSIX paths relative to the input's root or to the scene's, or `SCENE/IMAGE`; or a text file with one in
            each line, between blank lines and comments, which begin with `#`.

        Raises `KitError` for a path that is no image of the task, with the nearest one, or that several scenes have.
        """
        chosen = chosen_images(self.scenes, self.root, images)
        scenes = [
            replace(scene, images=tuple(image for image in scene.images if (scene.name, image) in chosen))
            for scene in self.scenes
        ]
        rows = tuple(row for row in self.rows if row.image is not None and (row.scene, row.image) in chosen)
        return replace(self, scenes=tuple(scene for scene in scenes if scene.images), rows=rows)


def load(root: Path | str, split: str = "test", *, out: Out = None) -> Task:
    """Recognise the layout under `root`, and list the scenes and rows of a split ("test" or "train").

    A requested name that differs from exactly one file only in case, Unicode form or extension means that file. A row
    whose file is missing, or whose path leaves the scene, is kept; the task's notes mention it. If a competition's
    table of rows is missing, every image is a row. Everything under `out`, the folder of the run's results, is ignored,
    and so are the files that `find_images` leaves out; the notes count those that may be photos.

    Raises `KitError` when the folder is missing, holds no image or is `out` itself, and when the table of rows cannot
    be read, lacks a column or asks for an image twice.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    root = Path(root)
    if not is_folder(root):
        raise KitError(f"{root} is not a folder: give the root of a competition's data or a folder of images")
    root = root.resolve()
    if out is not None and Path(out).resolve() == root:
        raise KitError(f"the results would lie among the photos of {root}: choose another --out, as {root / 'results'}")
    labels = [path for path in (root / "train" / "train_labels.csv", root / "train_labels.csv") if path.is_file()]
    table = root / "sample_submission.csv" if split == "test" else (labels or [root / "train_labels.csv"])[0]
    notes = []
    layout, columns, keys = _read_keys(table) if exists(table) else _keys_of_all_images(root, split, out)
    if layout != "folder" and not exists(table):
        notes.append(f"there is no {table}, so every image in {root / split} is a row")
        notes += find_images(root / split, out).elsewhere()
    elif layout == "folder" and (labels or split == "train"):
        found = f"{root} has neither {table.name} nor images in a folder {split}"
        raise KitError(f"{found}: choose another split or folder")
    return _task(root, split, layout, columns, keys, notes, out)


def _read_keys(table: Path) -> tuple[str, tuple[str, ...], list[Key]]:
    """The layout and the columns of a table of rows, and the key of each row."""
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
        image = _image_of(key)
        if seen.setdefault(image, number) != number:
            raise KitError(f"{table} asks for {image} twice, in rows {seen[image]} and {number}: leave one of them out")
    if "image_path" not in columns:
        return "2025" if "image" in columns else "2024", columns, keys
    from_root = tuple(split + slash for split in SPLITS for slash in "/\\")
    return "2024" if any(key["image_path"].startswith(from_root) for key in keys) else "2023", columns, keys


def _image_of(key: Key) -> str:
    """The name of a row's image, as the row gives it."""
    names = next(names for names in _NAMED_BY if names[-1] in key)
    return "/".join(key[name] for name in names)


def _keys_of_all_images(root: Path, split: str, out: Out) -> tuple[str, tuple[str, ...], list[Key]]:
    """The layout that fits the image files, its columns, and each image's key as in its table."""
    by_path = ("image_path", "dataset", "scene", *POSE_COLUMNS)
    paths = [PurePosixPath(name) for name in find_images(root / split, out).images]
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
    name = root.name if root.name and fits_table(root.name) else "images"
    return "folder", by_path, [_path_key(image, name, name) for image in find_images(root, out).images]


def _path_key(path: str, dataset: str, scene: str) -> Key:
    return {"image_path": path, "dataset": dataset, "scene": scene}


def _task(
    root: Path, split: str, layout: str, columns: tuple[str, ...], keys: list[Key], notes: list[str], out: Out
) -> Task:
    """The task whose rows have these keys, and the files that the rows refer to."""
    places = [_place(root, split, layout, key) for key in keys]
    if outside := [_image_of(key) for key, place in zip(keys, places, strict=True) if not place.image]:
        notes.append(f"rows whose path lies in no scene get a guess: {few(outside)}")
    wanted: defaultdict[tuple[str, PurePosixPath], list[str]] = defaultdict(list)
    for place in places:
        if place.image:
            wanted[place.scene, place.folder].append(place.image)

    categories = _read_categories(root / split / "categories.csv", notes)
    scenes = []
    files: dict[str, dict[str, str]] = {}
    for (name, inside_root), images in wanted.items():
        folder = root / inside_root
        if layout in ("2023", "2024") and is_folder(folder / "images"):
            folder = folder / "images"
        listing = find_images(folder, out)
        files[name] = match_names(images, listing.images)
        notes += _remarks(name, folder, images, files[name])
        notes += [f"{name}: {note}" for note in listing.notes()]
        if listing.images:
            scenes.append(Scene(name, folder, tuple(listing.images), categories.get(name, ())))
    if not scenes:
        todo = f"put files with one of the suffixes {' '.join(sorted(IMAGE_SUFFIXES))} there, or give another folder"
        found = f"there are no images for {split} in {root}"
        raise KitError("; ".join([found, *find_images(root, out).notes(), todo]))
    there = (files.get(place.scene, {}).get(place.image) for place in places)
    rows = tuple(Row(key, place.scene, file) for key, place, file in zip(keys, places, there, strict=True))
    return Task(root, layout, columns, tuple(scenes), rows, tuple(notes))


class _Place(NamedTuple):
    """Where to look for a row's image.

    folder: the scene's folder, relative to the root, without `images`.
    image: the name in the scene; "" if the row's path is in no scene.
    """

    scene: str
    folder: PurePosixPath = PurePosixPath()
    image: str = ""


def _place(root: Path, split: str, layout: str, key: Key) -> _Place:
    by_columns = {"2025": key["dataset"], "2023": f"{key['dataset']}/{key['scene']}"}
    outside = _Place(by_columns.get(layout, key["scene"]))
    if layout == "2025":
        names = [split, key["dataset"], key["image"]]
    elif "image_path" not in key:
        names = [split, key["scene"], "images", key["image_name"]]
    else:
        names = [split, key["image_path"]] if layout == "2023" else [key["image_path"]]
    if "\\" in "".join(names) and not exists(root.joinpath(*names)):  # a table from Windows
        names = [name.replace("\\", "/") for name in names]
    if not all(map(_is_inside, names)):
        return outside
    parts = PurePosixPath(*names).parts
    if layout == "folder":
        return outside._replace(image="/".join(parts))
    if len(parts) < 3 or parts[0] not in SPLITS:
        return outside
    # The scene's folder ends before a folder `images`. Without one, the layout's depth determines it.
    if layout == "2025":
        end = start = 1 + len(PurePosixPath(names[1]).parts)
    elif "images" in parts[2:-1]:
        end = parts.index("images", 2)
        start = end + 1
    else:
        end = start = 2 if layout == "2024" else 3
    if not parts[start:]:
        return outside
    scene = parts[1:end] if parts[0] == split else parts[:end]
    return _Place("/".join(scene), PurePosixPath(*parts[:end]), "/".join(parts[start:]))


def _is_inside(name: str) -> bool:
    """Whether a relative path stays below its start and can name a file."""
    path = PurePosixPath(name)
    return path.parts != () and not path.is_absolute() and ".." not in path.parts and fits_table(name)


def _remarks(scene: str, folder: Path, wanted: list[str], found: dict[str, str]) -> list[str]:
    notes = []
    missing = [name for name in wanted if name not in found]
    if missing and not is_folder(folder):
        notes.append(f"{scene}: there is no folder {folder}, so its rows get a guess")
    elif missing:
        notes.append(f"{scene}: {len(missing)} of {len(wanted)} requested images have no file: {few(missing)}")
    if renamed := [f"{name} is {file}" for name, file in found.items() if name != file]:
        notes.append(f"{scene}: names differ from the files in case or extension: {few(renamed)}")
    return notes


def _read_categories(path: Path, notes: list[str]) -> dict[str, tuple[str, ...]]:
    """The categories of each scene from 2024's `categories.csv`; if it cannot be read, none and a note."""
    if not path.is_file():
        return {}
    try:
        table = read_table(path, ("scene", "categories"))
    except KitError as error:
        notes.append(f"categories are left out: {error}")
        return {}
    pairs = zip(table["scene"], table["categories"], strict=True)
    return {scene: tuple(filter(None, map(str.strip, text.split(";")))) for scene, text in pairs}
