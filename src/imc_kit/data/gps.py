"""Where a photo was taken, by the GPS in its EXIF."""

from collections.abc import Mapping
from math import isfinite, nan
from typing import Any

Position = tuple[float, float, float | None]
"""Latitude and longitude in degrees (WGS84) and altitude in metres above sea level (None: unknown); or x, y, z in
metres."""

_LATITUDE, _LONGITUDE, _ALTITUDE = (1, 2, "NS", 90), (3, 4, "EW", 180), (5, 6)
"""EXIF's tags of the reference and of the value; the letters of plus and minus, and the largest value in degrees."""
_BELOW_ZERO = 1, 3, b"\x01", b"\x03"
"""References of altitudes below sea level or, since EXIF 3, below the ellipsoid, as Pillow reads them."""
_ALTITUDES = -1000.0, 20000.0
"""Metres. No land is lower than the Dead Sea's shore (−430), and no aircraft that maps flies higher."""


def from_exif(gps: Mapping[int, Any]) -> Position | None:
    """The position in EXIF's GPS tags (by number), or None if it is missing, incomplete or nonsense.

    Without its reference, north or south, a latitude is no position; likewise a longitude. Latitude and longitude of
    exactly 0 are what cameras write that have not found satellites.
    """
    latitude, longitude = _degrees(gps, *_LATITUDE), _degrees(gps, *_LONGITUDE)
    altitude = number_of(gps.get(_ALTITUDE[1]))
    altitude = -altitude if gps.get(_ALTITUDE[0]) in _BELOW_ZERO else altitude
    return geographic_position(latitude, longitude, altitude)


def geographic_position(latitude: float, longitude: float, altitude: float) -> Position | None:
    """A position, or None unless its latitude and longitude make sense. An altitude that does not is unknown."""
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
    numbers = [number_of(part) for part in parts]
    if not all(0 <= number <= limit for number, limit in zip(numbers, limits, strict=False)):
        return nan
    degrees = sum((number / unit for number, unit in zip(numbers, (1, 60, 3600), strict=False)), 0.0)
    return degrees if letter == letters[0] else -degrees


def number_of(value: Any) -> float:
    """A finite number, also from text or from a rational of EXIF; nan for anything else, such as a zero denominator."""
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):
        return nan
    return number if isfinite(number) else nan
