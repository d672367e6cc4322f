"""Key.Net (Barroso-Laguna et al. 2019) detects, AffNet (Mishkin et al. 2018) finds the affine shape, OriNet the
orientation, and HardNet (Mishchuk et al. 2017) describes; through kornia, always in float32.

Key.Net looks at levels of a pyramid. kornia multiplies the place in a level by the ratio of the sizes, as if the
centres of both top-left pixels were at one place: off by 1.5 pixels on the smallest level. Put right here, keypoints
are in pixels with the centre of the top-left one at (0, 0). (What is described stays at kornia's place.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from imc_kit.detectors.base import register
from imc_kit.detectors.network import Candidates, NetworkDetector, NetworkDetectorConfig, filled

if TYPE_CHECKING:
    import torch

_PATCHES = 2048
"""So many patches are looked at together: HardNet takes a GB of memory for 4000."""


@register
@dataclass(frozen=True)
class KeyNetConfig(NetworkDetectorConfig):
    """Key.Net with AffNet, OriNet and HardNet: corners in a pyramid, with scales and orientations. The score is
    Key.Net's response."""

    name: ClassVar[str] = "keynet"
    kind: ClassVar[str] = "keynet_affnet_hardnet"

    long_side: int | None = 1600
    """Shrink images to at most this many pixels on their longer side before detecting; None leaves them as they are."""
    upright: bool = False
    """Take every photograph for upright: descriptors tell more apart, but do not survive a turned camera."""

    @property
    def files(self) -> tuple[str, ...]:
        orinet = () if self.upright else ("OriNet.pth",)
        return "keynet_pytorch.pth", "AffNet.pth", "checkpoint_liberty_with_aug.pth", *orinet

    def create(self) -> KeyNetDetector:
        return KeyNetDetector(self)


class KeyNetDetector(NetworkDetector[KeyNetConfig]):
    """As `Detector` says. Descriptors are float32 of length 1; a scale is the side of the square that is described, or
    would be but for its affine shape."""

    dimension = 128
    smallest = 32
    gpu_batch = 1  # kornia takes one image at a time

    def _load(self) -> Any:
        from kornia.feature import HardNet, KeyNet, LAFAffNetShapeEstimator, OriNet
        from torch import nn

        networks = {  # in the order of `files`
            "keynet": KeyNet(pretrained=False),
            "affnet": LAFAffNetShapeEstimator(pretrained=False, preserve_orientation=False),
            "hardnet": HardNet(pretrained=False),
        }
        if not self.config.upright:
            networks["orinet"] = OriNet(pretrained=False)
        for network, path in zip(networks.values(), self.config.paths(), strict=True):
            filled(network, path, f"the {type(network).__name__} of the installed kornia", "state_dict")
        return nn.ModuleDict(networks)

    def _find(self, stack: torch.Tensor, limit: int | None) -> Iterator[Candidates]:
        from kornia.color import rgb_to_grayscale

        return map(self._candidates, rgb_to_grayscale(stack)[:, None])

    def _candidates(self, image: torch.Tensor) -> Candidates:
        """Those of one grey image [1, 1, h, w]."""
        import torch
        from kornia.feature import (
            LAFDescriptor,
            LAFOrienter,
            MultiResolutionDetector,
            get_laf_center,
            get_laf_orientation,
            get_laf_scale,
            laf_is_filled,
        )

        network = self._network
        # Of 8 × 8 pixels of a level one at most is the maximum of the 15 × 15 around it, and all levels together have
        # less than four times the pixels of the image.
        pyramid = MultiResolutionDetector(network["keynet"], image.numel() // 16)
        scores, frames = pyramid.detect(image)
        there = laf_is_filled(frames)
        scores, frames = scores[there], frames[there][None]
        step = get_laf_scale(frames)[0, :, :, 0] / pyramid.mr_size  # pixels of the image in one of the level

        def describe(rows: torch.Tensor) -> dict[str, torch.Tensor]:
            shaped, descriptors = [], []
            for start in range(0, len(rows), _PATCHES):
                frame = network["affnet"](frames[:, rows[start : start + _PATCHES]], image)
                if not self.config.upright:
                    frame = LAFOrienter(angle_detector=network["orinet"])(frame, image)
                shaped.append(frame)
                descriptors.append(LAFDescriptor(network["hardnet"])(image, frame)[0])
            all_shaped = torch.cat(shaped, 1)
            return {
                "descriptors": torch.cat(descriptors),
                "scales": 2 * get_laf_scale(all_shaped).flatten(),  # kornia's is from the centre to the side
                "orientations": (-get_laf_orientation(all_shaped).flatten()) % 360,  # kornia's is counter-clockwise
                "shapes": all_shaped[0, :, :, :2],
            }

        return Candidates(get_laf_center(frames)[0] + (step - 1) / 2, scores, describe)
