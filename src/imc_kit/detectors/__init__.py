"""Local features: a detector for each family, by name."""

from __future__ import annotations

from imc_kit.detectors.aliked import AlikedConfig
from imc_kit.detectors.base import Detector, DetectorConfig, extract
from imc_kit.detectors.dedode import DedodeConfig
from imc_kit.detectors.disk import DiskConfig
from imc_kit.detectors.keynet import KeyNetConfig
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.detectors.opencv import AkazeConfig, OrbConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.detectors.superpoint import SuperPointConfig
from imc_kit.detectors.xfeat import XFeatConfig
from imc_kit.errors import unknown_name

__all__ = [
    "DETECTORS",
    "AkazeConfig",
    "AlikedConfig",
    "DedodeConfig",
    "Detector",
    "DetectorConfig",
    "DiskConfig",
    "KeyNetConfig",
    "NoDetectorConfig",
    "OrbConfig",
    "SiftConfig",
    "SuperPointConfig",
    "XFeatConfig",
    "config_class",
    "extract",
]

DETECTORS: dict[str, type[DetectorConfig]] = {
    config.name: config
    for config in (
        SiftConfig,
        OrbConfig,
        AkazeConfig,
        AlikedConfig,
        SuperPointConfig,
        DiskConfig,
        XFeatConfig,
        DedodeConfig,
        KeyNetConfig,
        NoDetectorConfig,
    )
}


def config_class(name: str) -> type[DetectorConfig]:
    """The options of a detector, by its name. Raises `KitError` with the nearest name if there is none."""
    if name not in DETECTORS:
        raise unknown_name("detector", name, DETECTORS)
    return DETECTORS[name]
