"""Key.Net (Barroso-Laguna et al. 2019), AffNet, OriNet and HardNet through kornia, always in float32.

Key.Net detects, AffNet (Mishkin et al. 2018) estimates the affine shape, OriNet the orientation, and HardNet (Mishchuk
et al. 2017) describes.

Key.Net works on the levels of an image pyramid. kornia multiplies the position in a level by the ratio of the sizes, as
if the centres of both top-left pixels coincided. On the smallest level this is wrong by 1.5 pixels. It is corrected
here: (0, 0) is the centre of the top-left pixel. Descriptors are still computed at kornia's position.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from imc_kit.detectors import Candidates, register
from imc_kit.detectors.network import NetworkDetector, NetworkDetectorConfig, filled
from imc_kit.runtime.torch_utils import Tensor

_FILES = ("keynet_pytorch.pth", "AffNet.pth", "checkpoint_liberty_with_aug.pth", "OriNet.pth")
_PATCHES = 2048
"""Patches described at once: HardNet needs about 0.5 GB for them. Twice as many would need 1 GB."""


@register
@dataclass(frozen=True)
class KeyNetConfig(NetworkDetectorConfig):
    """Key.Net with AffNet, OriNet and HardNet: corners with scales, orientations and affine shapes. The score is
    Key.Net's response."""

    name: ClassVar[str] = "keynet"
    kind: ClassVar[str] = "keynet_affnet_hardnet"
    files: ClassVar[tuple[str, ...]] = _FILES

    long_side: int | None = 1600
    """Shrink images to at most this many pixels on their longer side before detecting; None keeps their size."""

    def create(self) -> "KeyNetDetector":
        return KeyNetDetector(self)


class KeyNetDetector(NetworkDetector[KeyNetConfig]):
    """See `Detector`. Descriptors are float32 of length 1. A scale is the side of the described square, in pixels,
    before the affine shape is applied."""

    dimension = 128
    smallest = 32
    gpu_batch = 1  # kornia takes one image at a time

    def _load(self) -> Any:
        from kornia.feature import HardNet, KeyNet, LAFAffNetShapeEstimator, OriNet
        from torch import nn

        affnet = LAFAffNetShapeEstimator(pretrained=False, preserve_orientation=False)
        # In the order of `files`.
        networks = {"keynet": KeyNet(pretrained=False), "affnet": affnet, "hardnet": HardNet(pretrained=False)}
        networks["orinet"] = OriNet(pretrained=False)
        for network, path in zip(networks.values(), self.config.paths(), strict=True):
            filled(network, path, f"the {type(network).__name__} of the installed kornia", "state_dict")
        return nn.ModuleDict(networks)

    def _find(self, stack: Tensor, limit: int | None) -> Iterator[Candidates]:
        from kornia.color import rgb_to_grayscale

        return map(self._candidates, rgb_to_grayscale(stack)[:, None])

    def _candidates(self, image: Tensor) -> Candidates:
        """The candidates in one grey image [1, 1, h, w]."""
        import torch
        from kornia import feature

        network = self._network
        # kornia's detector needs a limit; this one keeps everything. At most one of 8 × 8 pixels of a level is the
        # maximum of its 15 × 15 neighbours, and all levels together have less than 4 times the image's pixels.
        pyramid = feature.MultiResolutionDetector(network["keynet"], image.numel() // 16)
        scores, frames = pyramid.detect(image)
        there = feature.laf_is_filled(frames)
        scores, frames = scores[there], frames[there][None]
        step = feature.get_laf_scale(frames)[0, :, :, 0] / pyramid.mr_size  # side of a level's pixel in image pixels

        def describe(rows: Tensor) -> dict[str, Tensor]:
            shaped, descriptors = [], []
            for start in range(0, len(rows), _PATCHES):
                frame = network["affnet"](frames[:, rows[start : start + _PATCHES]], image)
                frame = feature.LAFOrienter(angle_detector=network["orinet"])(frame, image)
                shaped.append(frame)
                descriptors.append(feature.LAFDescriptor(network["hardnet"])(image, frame)[0])
            frame = torch.cat(shaped, 1)
            scales = 2 * feature.get_laf_scale(frame).flatten()  # kornia's scale is half a side
            orientations = -feature.get_laf_orientation(frame).flatten() % 360  # kornia's angle is counter-clockwise
            columns = {"scales": scales, "orientations": orientations, "shapes": frame[0, :, :, :2]}
            return {"descriptors": torch.cat(descriptors), **columns}

        return Candidates(feature.get_laf_center(frames)[0] + (step - 1) / 2, scores, describe)
