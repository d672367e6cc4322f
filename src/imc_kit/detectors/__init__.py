"""Local features: one module for each family of detectors. `DETECTORS` finds them by name."""

from __future__ import annotations

from imc_kit.detectors.base import (
    DETECTORS,
    Candidates,
    Detector,
    DetectorConfig,
    ImageDetector,
    extract,
    register,
    strongest,
)

__all__ = ["DETECTORS", "Candidates", "Detector", "DetectorConfig", "ImageDetector", "extract", "register", "strongest"]
