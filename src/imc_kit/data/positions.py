"""Files that say where photos were taken."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path, PurePosixPath
from typing import Any

from imc_kit.data.gps import Position, geographic_position, number_of
from imc_kit.data.listing import few
from imc_kit.data.tables import read_table
from imc_kit.errors import KitError
from imc_kit.types import Scene

_COLUMNS = {
    "image": "image name image_name image_path file file_name filename sourcefile photo",
    "latitude": "latitude lat gpslatitude",
    "longitude": "longitude lon lng long gpslongitude",
    "altitude": "altitude alt elevation ele gpsaltitude",
    "x": "x",
    "y": "y",
    "z": "z",
}
"""Names of columns, in lower case. `exiftool -csv` writes SourceFile, GPSLatitude, …"""


def read_positions(path: Path) -> tuple[bool, dict[str, Position]]:
    """Read a CSV file of positions: whether they are geographic, and the positions by the image names in the file.

    Its columns are an image's name, and either latitude, longitude and altitude (which may be left out), or x, y and z
    in metres. `_COLUMNS` has the names that are recognised. Other columns are ignored, and so are rows without
    coordinates. Raises `KitError` for a table without these columns, and for values that make no sense.
    """
    table = read_table(path)
    names = {_plain(column): column for column in table.columns}
    columns = {
        kind: next(names[alias] for alias in aliases.split() if alias in names)
        for kind, aliases in _COLUMNS.items()
        if any(alias in names for alias in aliases.split())
    }
    geographic, metric = (
        all(kind in columns for kind in kinds) for kinds in (("latitude", "longitude"), ("x", "y", "z"))
    )
    if "image" not in columns or geographic == metric:
        wanted = "image, latitude, longitude, altitude or image, x, y, z (in metres)"
        raise KitError(f"{path} must have the columns {wanted}, not {', '.join(table.columns)}")
    kinds = ("latitude", "longitude", "altitude") if geographic else ("x", "y", "z")
    chosen = [columns[kind] for kind in kinds if kind in columns]
    found: dict[str, Position] = {}
    for count, row in enumerate(table[[columns["image"], *chosen]].itertuples(index=False, name=None), 1):
        name, *texts = (text.strip() for text in row)
        if not all(texts[: 2 if geographic else 3]):
            continue
        if name in found:
            raise KitError(f"{path} has a position of {name} more than once (row {count})")
        if position := _row(f"{path}, row {count} ({name})", texts, geographic):
            found[name] = position
    return geographic, found


def _plain(column: str) -> str:
    return column.strip().lstrip("#").strip().lower()


def _row(where: str, texts: Sequence[str], geographic: bool) -> Position | None:
    numbers = [number_of(text) if text else inf for text in texts]  # an empty altitude
    if not all(number == number for number in numbers):
        raise KitError(f"{where}: a position is numbers such as 47.3765 (no units, no comma), not {', '.join(texts)}")
    first, second, *third = numbers
    if geographic and not (abs(first) <= 90 and abs(second) <= 180):
        raise KitError(f"{where}: latitudes are −90 … 90 degrees and longitudes −180 … 180, not {first:g}, {second:g}")
    return geographic_position(first, second, third[0] if third else inf) if geographic else (first, second, third[0])


def of_scene(path: Path, scene: Scene) -> tuple[bool, dict[str, Position]]:
    """The same by the names of a scene's images."""
    geographic, rows = read_positions(path)
    found = _matched(rows, [scene])
    return geographic, {found[name][0][1]: position for name, position in rows.items() if len(found[name]) == 1}


def check(path: Path, scenes: Sequence[Scene]) -> None:
    """Raise `KitError` for a file that cannot be used, and for names that fit no image or several.

    A name is an image's path relative to its scene, or the end of its path on disk, such as its file name alone.
    """
    _, rows = read_positions(path)
    if not rows:
        raise KitError(f"{path} has no positions: write one image with its coordinates on each line")
    found = _matched(rows, scenes)
    if unknown := [name for name, those in found.items() if not those]:
        what = f"{len(unknown)} of {len(rows)} names in {path} fit no image ({few(unknown)})"
        raise KitError(f"{what}: write names as in the folder of images, with their suffixes")
    if several := [name for name, those in found.items() if len(those) > 1]:
        raise KitError(f"{several[0]} in {path} fits {len(found[several[0]])} images: write more of its path")
    taken: dict[tuple[str, str], str] = {}
    for name, (image,) in found.items():
        if image in taken:
            raise KitError(f"{taken[image]} and {name} in {path} are the same image: give each image one position")
        taken[image] = name


def _matched(names: Mapping[str, Any], scenes: Sequence[Scene]) -> dict[str, list[tuple[str, str]]]:
    """The images (scene, name) that each name fits. The whole name in a scene goes before the end of a path."""
    whole, ends = defaultdict[str, list[tuple[str, str]]](list), defaultdict[str, list[tuple[str, str]]](list)
    for scene in scenes:
        for image in scene.images:
            whole[image].append((scene.name, image))
            parts = PurePosixPath(scene.root.absolute().as_posix(), image).parts[1:]
            for place in range(len(parts)):
                ends["/".join(parts[place:])].append((scene.name, image))
    found = {}
    for name in names:
        plain = name.replace("\\", "/").removeprefix("./").lstrip("/")
        found[name] = whole.get(name) or whole.get(plain) or ends.get(plain) or []
    return found
