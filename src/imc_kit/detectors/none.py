"""No detector, for matchers that take photos."""

from dataclasses import dataclass
from typing import ClassVar

from imc_kit.detectors import Detector, DetectorConfig, register
from imc_kit.errors import KitError


@register
@dataclass(frozen=True)
class NoDetectorConfig(DetectorConfig):
    """No detector: a matcher such as LoFTR finds the points itself."""

    name: ClassVar[str] = "none"
    kind: ClassVar[str] = "photographs"

    def create(self) -> Detector:
        raise KitError("detector 'none' detects nothing: choose a matcher that takes photos with it, such as loftr")
