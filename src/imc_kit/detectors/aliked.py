"""ALIKED (Zhao et al. 2023) through kornia, always in float32.

kornia puts the centre of the top-left pixel at (0, 0), as this project does.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from imc_kit.detectors import Candidates, register
from imc_kit.detectors.network import NetworkDetector, NetworkDetectorConfig
from imc_kit.runtime.torch_utils import Tensor, fill, read_state


@register
@dataclass(frozen=True)
class AlikedConfig(NetworkDetectorConfig):
    """ALIKED, a learned detector. The score is the network's, in 0 … 1."""

    name: ClassVar[str] = "aliked"

    max_keypoints: int = 4096
    """Keep at most this many keypoints per image, the strongest."""
    long_side: int | None = 1024
    """Shrink images to at most this many pixels on their longer side before detecting; None keeps their size."""
    model: Literal["t16", "n16", "n16rot", "n32"] = "n16"
    """The network. t16: tiny; n16: normal; n16rot: trained on rotated images; n32: samples twice as many positions per
    descriptor."""
    threshold: float = 0.2
    """Drop keypoints with a lower score. The default is the authors'."""

    @property
    def kind(self) -> str:
        """t16 is a separate kind, because its descriptors are half as long."""
        return "aliked-t16" if self.model == "t16" else "aliked"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 < self.threshold < 1, "threshold", "between 0 and 1")

    @property
    def files(self) -> tuple[str, ...]:
        return (f"aliked-{self.model}.pth",)

    def create(self) -> "AlikedDetector":
        return AlikedDetector(self)


class AlikedDetector(NetworkDetector[AlikedConfig]):
    """See `Detector`. Descriptors are float32 of length 1."""

    def _load(self) -> Any:
        """kornia's network. It keeps every maximum above the threshold, because the limit applies after the mask."""
        import torch
        from kornia.feature import ALIKED

        self.dimension = 64 if self.config.model == "t16" else 128  # as published
        name = f"aliked-{self.config.model}"
        (path,) = self.config.paths()
        network = ALIKED(name, max_num_keypoints=sys.maxsize, detection_threshold=self.config.threshold)
        # The published files lack this constant and nothing else.
        state = {"dkd.hw_grid": network.dkd.hw_grid, **read_state(path)}
        fill(network, state, path, f"the {name} of the installed kornia")
        # On a CPU, convolutions are faster if the channels of a pixel are adjacent in memory.
        return network.to(memory_format=torch.channels_last)

    def _find(self, stack: Tensor, limit: int | None) -> Iterator[Candidates]:
        import torch

        stack = stack.contiguous(memory_format=torch.channels_last)
        maps, score_maps = _dense_maps(self._network, stack)
        return map(self._candidates, maps.chunk(len(maps)), score_maps.chunk(len(maps)))

    def _candidates(self, dense: Tensor, score_map: Tensor) -> Candidates:
        """The candidates in one image. dense: its descriptor map [1, D, h, w]. score_map: [1, 1, h, w]."""
        height, width = score_map.shape[-2:]
        # If no score exceeds the threshold, kornia lowers the threshold and finds keypoints even in a black image.
        if (score_map > self.config.threshold).any():
            (positions,), (scores,), _ = self._network.dkd(score_map)
        else:
            positions, scores = score_map.new_empty(0, 2), score_map.new_empty(0)

        def describe(rows: Tensor) -> dict[str, Tensor]:
            (descriptors,), _ = self._network.desc_head(dense, [positions[rows]])
            return {"descriptors": descriptors}

        # kornia's coordinates run from −1 at the centre of the first pixel to 1 at the centre of the last.
        return Candidates(positions.new_tensor([width - 1, height - 1]) * (positions + 1) / 2, scores, describe)


def _dense_maps(network: Any, stack: Tensor) -> tuple[Tensor, Tensor]:
    """kornia's `extract_dense_map` in half the memory: descriptors [B, D, h, w] of length 1, and scores [B, 1, h, w].

    Each of the four levels is written to its channels of one tensor, which is then normalised in place.
    """
    import torch

    height, width = stack.shape[-2:]
    down, across = -height % 32, -width % 32
    top, left = down // 2, across // 2
    padded = torch.nn.functional.pad(stack, [left, across - left, top, down - top], mode="replicate")
    level = network.block1(padded)
    parts = [network.gate(network.conv1(level))]
    for number, pool in ((2, network.pool2), (3, network.pool4), (4, network.pool4)):
        level = getattr(network, f"block{number}")(pool(level))
        parts.append(network.gate(getattr(network, f"conv{number}")(level)))
    del level, padded
    depth = parts[0].shape[1]
    size = len(stack), 4 * depth, *parts[0].shape[2:]
    maps = torch.empty(size, dtype=stack.dtype, device=stack.device, memory_format=torch.channels_last)
    for start, larger in enumerate((lambda part: part, network.upsample2, network.upsample8, network.upsample32)):
        maps[:, start * depth : (start + 1) * depth] = larger(parts.pop(0))
    scores = torch.sigmoid(network.score_head(maps))
    maps /= torch.linalg.vector_norm(maps, dim=1, keepdim=True).clamp_min(1e-12)
    inside = (..., slice(top, top + height), slice(left, left + width))
    return maps[inside], scores[inside]
