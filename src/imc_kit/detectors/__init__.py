"""Local features: a detector for each family, by name."""

from __future__ import annotations

from imc_kit.detectors.aliked import AlikedConfig
from imc_kit.detectors.base import Detector, DetectorConfig, extract
from imc_kit.detectors.opencv import AkazeConfig, OrbConfig, SiftConfig
from imc_kit.errors import unknown_name

__all__ = [
    "DETECTORS",
    "AkazeConfig",
    "AlikedConfig",
    "Detector",
    "DetectorConfig",
    "OrbConfig",
    "SiftConfig",
    "config_class",
    "extract",
]

DETECTORS: dict[str, type[DetectorConfig]] = {
    config.name: config for config in (SiftConfig, OrbConfig, AkazeConfig, AlikedConfig)
}


def config_class(name: str) -> type[DetectorConfig]:
    """The options of a detector, by its name. Raises `KitError` with the nearest name if there is none."""
    if name not in DETECTORS:
        raise unknown_name("detector", name, DETECTORS)
    return DETECTORS[name]
