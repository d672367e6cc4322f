"""From latitude, longitude and altitude to metres, and back."""

import numpy as np

from imc_kit.types import Float64

_DIGITS = 7, 7, 2
"""Decimal places of an origin: 1 cm. It is rounded first, so that its text is exact."""


def east_north_up(places: Float64) -> tuple[Float64, tuple[float, float, float]]:
    """Positions east, north and up [N, 3] in metres, and their origin: latitude, longitude, altitude.

    places: latitudes and longitudes in degrees (WGS84) and altitudes in metres, [N, 3]. Unknown altitudes are nan, and
        so is then the position's third coordinate. The origin is in their middle, whatever outliers there are.

    Altitudes in EXIF are above sea level, those of WGS84 above an ellipsoid. As both differ by nearly the same
    everywhere in a scene, and by 100 m at most, scales are off by less than 0.002 %.
    """
    import pycolmap

    known = np.isfinite(places[:, 2])
    middle = float(np.median(places[known, 2])) if known.any() else 0.0
    filled = np.column_stack([places[:, :2], np.where(known, places[:, 2], middle)])
    gps = pycolmap.GPSTransform()
    # The median is taken in space, because longitudes jump from 180° to −180°; the altitude is not, for its precision.
    center = gps.ecef_to_ellipsoid(np.median(gps.ellipsoid_to_ecef(filled), axis=0)[None])[0]
    latitude, longitude, altitude = (
        round(float(value), digits) for value, digits in zip([*center[:2], middle], _DIGITS, strict=True)
    )
    metres = np.array(gps.ellipsoid_to_enu(filled, latitude, longitude, altitude), np.float64)
    metres[~known, 2] = np.nan
    return metres, (latitude, longitude, altitude)


def geographic(metres: Float64, origin: tuple[float, float, float]) -> Float64:
    """The latitudes, longitudes and altitudes [N, 3] of positions east, north and up of an origin."""
    import pycolmap

    return np.array(pycolmap.GPSTransform().enu_to_ellipsoid(metres, *origin), np.float64)
