"""Where the photos of a scene were taken, in metres, and whether that selects pairs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from imc_kit.colmap.geodesy import east_north_up
from imc_kit.colmap.steps import PositionsConfig
from imc_kit.data import positions
from imc_kit.pipeline.records import ImageRecord
from imc_kit.retrieval.nearby import neighbours
from imc_kit.retrieval.pairs import PairsConfig
from imc_kit.types import Float64, Scene

log = logging.getLogger(__name__)

_NEARLY_ALL = 0.9
"""Minimum share of images with positions for `pairs` auto."""
_REPLACED = "similar", "matches"
"""Methods of pair selection that positions replace. The others ask for certain pairs."""


@dataclass(frozen=True, eq=False)
class Positions:
    """Where photos were taken.

    metres: x, y, z [3] in metres by image name. With GPS they are east, north and up, and z is nan if unknown.
    origin: see `Alignment`.
    """

    metres: Mapping[str, Float64] = field(default_factory=dict)
    origin: tuple[float, float, float] | None = None
    scene: str = ""

    def solid(self) -> dict[str, list[float]]:
        """Those with all three coordinates."""
        return {name: place.tolist() for name, place in self.metres.items() if np.isfinite(place).all()}

    def table(self, names: Sequence[str]) -> Float64:
        """The positions of these images, [N, 3]: nan for those without, and z = 0 where it is unknown."""
        nowhere = np.full(3, np.nan)
        rows = np.array([self.metres.get(name, nowhere) for name in names], np.float64).reshape(-1, 3)
        known = np.isfinite(rows[:, :2]).all(axis=1)
        rows[known, 2] = np.nan_to_num(rows[known, 2])
        return rows

    def select_pairs(self, names: Sequence[str], config: PositionsConfig, pairs: PairsConfig) -> bool:
        """Whether the pairs of these images are selected by position (`PositionsConfig.pairs`)."""
        if config.pairs == "off" or pairs.method not in _REPLACED or not self.metres:
            return False
        if config.pairs == "on":
            return True
        places = self.table(names)
        places = places[np.isfinite(places[:, 0])]
        if len(names) <= max(pairs.exhaustive_up_to, config.k + 1) or len(places) < _NEARLY_ALL * len(names):
            return False
        apart = float(np.median(neighbours(places, config.k)[0][:, -1]))
        told = f"the {config.k} photos nearest to a photo are up to {apart:.0f} m away"
        if apart < config.max_error:
            log.info("%s: positions select no pairs, as they may be wrong by more: %s", self.scene, told)
            return False
        log.info("%s: positions select the pairs: %s", self.scene, told)
        return True


def locate(scene: Scene, records: Mapping[str, ImageRecord], config: PositionsConfig, notes: list[str]) -> Positions:
    """The positions of a scene's images, from EXIF or the file of positions. notes: gets one if some are missed."""
    gps = {name: record.info.gps for name, record in records.items() if record.info.gps}
    geographic, found = True, gps if config.on else {}
    if config.on and config.file:
        geographic, found = positions.of_scene(config.file, scene)
        found = {name: position for name, position in found.items() if name in records}
    if not found and (config.pairs == "on" or config.adjust):
        notes.append("no image has a position, so --positions.pairs and --positions.adjust have no effect")
    rows, origin = np.array(list(found.values()), np.float64).reshape(-1, 3), None
    if geographic and found:
        rows, origin = east_north_up(rows)
    return Positions(dict(zip(found, rows, strict=True)), origin, scene.name)
