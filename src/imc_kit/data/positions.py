"""Where photos were taken: GPS in EXIF, and files of positions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import inf, isfinite, nan
from pathlib import Path, PurePosixPath
from typing import Any

from imc_kit.data.listing import few
from imc_kit.data.tables import read_table
from imc_kit.errors import KitError
from imc_kit.types import Scene

Position = tuple[float, float, float | None]
"""Latitude and longitude in degrees (WGS84) and altitude in metres above sea level (None: unknown); or x, y, z in
metres."""

_LATITUDE, _LONGITUDE, _ALTITUDE = (1, 2, "NS", 90), (3, 4, "EW", 180), (5, 6)
"""EXIF's tags of the reference and of the value; the letters of plus and minus, and the largest value in degrees."""
_BELOW_SEA_LEVEL = (1, b"\x01")
"""The reference of altitudes below sea level, as Pillow reads it."""
_ALTITUDES = -1000.0, 20000.0
"""Metres. No land is lower than the Dead Sea's shore (−430), and no aircraft that maps flies higher."""
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


def from_exif(gps: Mapping[int, Any]) -> Position | None:
    """The position in EXIF's GPS tags (by number), or None if it is missing, incomplete or nonsense.

    Without its reference, north or south, a latitude is no position; likewise a longitude. Latitude and longitude of
    exactly 0 are what cameras write that have not found satellites.
    """
    latitude, longitude = _degrees(gps, *_LATITUDE), _degrees(gps, *_LONGITUDE)
    altitude = _number(gps.get(_ALTITUDE[1]))
    altitude = -altitude if gps.get(_ALTITUDE[0]) in _BELOW_SEA_LEVEL else altitude
    return _geographic(latitude, longitude, altitude)


def _geographic(latitude: float, longitude: float, altitude: float) -> Position | None:
    if not (abs(latitude) <= 90 and abs(longitude) <= 180) or latitude == longitude == 0:
        return None
    return latitude, longitude, altitude if _ALTITUDES[0] <= altitude <= _ALTITUDES[1] else None


def _degrees(gps: Mapping[int, Any], reference: int, value: int, letters: str, most: int) -> float:
    """A latitude or longitude; nan if it is none."""
    letter, parts = gps.get(reference), gps.get(value)
    letter = letter.decode("latin-1") if isinstance(letter, bytes) else letter
    letter = letter.strip("\0 ").upper() if isinstance(letter, str) else ""
    if letter not in tuple(letters) or not isinstance(parts, tuple) or not 1 <= len(parts) <= 3:
        return nan
    limits = most, 60, 60
    numbers = [_number(part) for part in parts]
    if not all(0 <= number <= limit for number, limit in zip(numbers, limits, strict=False)):
        return nan
    degrees = sum((number / unit for number, unit in zip(numbers, (1, 60, 3600), strict=False)), 0.0)
    return degrees if letter == letters[0] else -degrees


def _number(value: Any) -> float:
    """A rational number of EXIF; nan for anything else, such as one whose denominator is 0."""
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):
        return nan
    return number if isfinite(number) else nan


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
    numbers = [_number(text) if text else inf for text in texts]  # an empty altitude
    if not all(number == number for number in numbers):
        raise KitError(f"{where}: a position is numbers such as 47.3765 (no units, no comma), not {', '.join(texts)}")
    first, second, *third = numbers
    if geographic and not (abs(first) <= 90 and abs(second) <= 180):
        raise KitError(f"{where}: latitudes are −90 … 90 degrees and longitudes −180 … 180, not {first:g}, {second:g}")
    return _geographic(first, second, third[0] if third else inf) if geographic else (first, second, third[0])


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
