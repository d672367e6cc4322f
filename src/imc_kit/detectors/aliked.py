"""ALIKED (Zhao et al. 2023) through kornia, in float32, on the CPU or a GPU.

Its keypoints are in pixels with the centre of the top-left one at (0, 0), as this project wants them.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from imc_kit import weights
from imc_kit.detectors.base import DetectorConfig, strongest
from imc_kit.learned import Device, device, fill, read_state
from imc_kit.types import Features, Mask, Pixels

if TYPE_CHECKING:
    import torch

_GPU_BATCH = 4
"""Images in one pass on a GPU: each takes more than a GB per megapixel. On a CPU more than one gain nothing."""


@dataclass(frozen=True)
class AlikedConfig(DetectorConfig):
    """ALIKED, a learned detector. The score is the network's, in 0 … 1."""

    name: ClassVar[str] = "aliked"
    kind: ClassVar[str] = "aliked"

    max_keypoints: int = 4096
    """Keep at most this many keypoints of an image, the strongest."""
    long_side: int | None = 1024
    """Shrink images to at most this many pixels on their longer side before detecting; None leaves them as they are."""
    model: Literal["t16", "n16", "n16rot", "n32"] = "n16"
    """Which network: t16 is tiny, n16 normal, n16rot trained with rotated images, n32 samples twice as much."""
    threshold: float = 0.2
    """Drop keypoints of a lower score."""
    weights: Path | None = None
    """The file of the network, or a folder that holds it; None looks in all the usual places."""
    device: Device = "auto"
    """Where it runs: auto is the GPU if there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.model in _DIMENSIONS, "model", f"one of {', '.join(_DIMENSIONS)}")
        self.require(0 < self.threshold < 1, "threshold", "between 0 and 1")
        self.require(self.device in ("auto", "cpu", "cuda"), "device", "auto, cpu or cuda")

    def weight_files(self) -> tuple[str, ...]:
        return () if self.weights else (f"aliked-{self.model}.pth",)

    def create(self) -> AlikedDetector:
        return AlikedDetector(self)


_DIMENSIONS = {"t16": 64, "n16": 128, "n16rot": 128, "n32": 128}


class AlikedDetector:
    """As `Detector` says. Descriptors are float32 of length 1."""

    def __init__(self, config: AlikedConfig) -> None:
        """Raises `KitError` when torch or kornia, the weight file or the GPU that was asked for is missing."""
        self.config = config
        self.dimension = _DIMENSIONS[config.model]
        self._device = device(config.device, "detector 'aliked'")
        self._network = _load(config).to(self._device)

    def detect(self, images: Sequence[Pixels], masks: Sequence[Mask | None]) -> list[Features]:
        """As `Detector.detect` says. On a GPU, images of the same size go through the network together."""
        of_size = defaultdict(list)
        for i, (image, _) in enumerate(zip(images, masks, strict=True)):
            of_size[image.shape].append(i)
        features: dict[int, Features] = {}
        batch = 1 if self._device.type == "cpu" else _GPU_BATCH
        for same in of_size.values():
            for start in range(0, len(same), batch):
                chunk = same[start : start + batch]
                found = self._detect([images[i] for i in chunk], [masks[i] for i in chunk])
                features.update(zip(chunk, found, strict=True))
        return [features[i] for i in range(len(images))]

    def _detect(self, images: list[Pixels], masks: list[Mask | None]) -> list[Features]:
        import torch

        with torch.inference_mode():
            stack = torch.from_numpy(np.stack(images)).to(self._device).permute(0, 3, 1, 2).float() / 255
            maps, score_maps = self._network.extract_dense_map(stack)
            return [self._describe(maps[i : i + 1], score_maps[i : i + 1], mask) for i, mask in enumerate(masks)]

    def _describe(self, dense: torch.Tensor, score_map: torch.Tensor, mask: Mask | None) -> Features:
        """The features of one image, from its dense descriptors [1, D, h, w] and its scores [1, 1, h, w]."""
        import torch

        height, width = score_map.shape[-2:]
        nothing = Features.empty((width, height), self.dimension)
        # Where no score exceeds the threshold, kornia takes a lower one: it would find keypoints in a black image.
        if not (score_map > self.config.threshold).any():
            return nothing
        (places,), (scores,), _ = self._network.dkd(score_map)
        # Places go from −1 at the centre of the first pixel to 1 at that of the last.
        points = (places.new_tensor([width - 1, height - 1]) * (places + 1) / 2).cpu().numpy()
        kept = strongest(points, scores.cpu().numpy(), mask, self.config.max_keypoints)
        if not len(kept):
            return nothing
        chosen = torch.from_numpy(kept).to(places.device)
        (descriptors,), _ = self._network.desc_head(dense, [places[chosen]])
        return Features(points[kept], scores[chosen].cpu().numpy(), descriptors.cpu().numpy(), (width, height))


def _load(config: AlikedConfig) -> Any:
    """kornia's network, which keeps every maximum above the threshold: the budget is spent here, after the mask."""
    from kornia.feature import ALIKED

    name = f"aliked-{config.model}"
    path = weights.find(f"{name}.pth", config.weights)
    network = ALIKED(name, max_num_keypoints=sys.maxsize, detection_threshold=config.threshold)
    # All that the published files lack is a constant.
    fill(network, {"dkd.hw_grid": network.dkd.hw_grid, **read_state(path)}, path, f"the {name} of the installed kornia")
    return network
