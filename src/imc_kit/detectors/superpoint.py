"""SuperPoint (DeTone et al. 2018), with both published sets of weights. kornia lacks the network, so it is here.

Keypoints have integer coordinates; (0, 0) is the centre of the top-left pixel.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from imc_kit.detectors import Candidates, register
from imc_kit.detectors.network import NetworkDetector, NetworkDetectorConfig
from imc_kit.runtime.torch_utils import Tensor, fill, read_state

_FILES = {"v1": "superpoint_v1.pth", "v6": "superpoint_v6_from_tf.pth"}
_WIDTHS = (64, 64, 128, 128)
"""Channels of the four blocks of the backbone, as published. The resolution is halved between them."""
_CELL = 8
"""Side of a cell in image pixels: a cell is one pixel of the last block."""


@register
@dataclass(frozen=True)
class SuperPointConfig(NetworkDetectorConfig):
    """SuperPoint, a learned detector. The score is a pixel's probability among the 64 of its cell and "no keypoint"."""

    name: ClassVar[str] = "superpoint"

    max_keypoints: int = 4096
    """Keep at most this many keypoints per image, the strongest."""
    long_side: int | None = 1600
    """Shrink images to at most this many pixels on their longer side before detecting; None keeps their size."""
    model: Literal["v1", "v6"] = "v1"
    """The weights. v1: Magic Leap's, which LightGlue was trained with; non-commercial licence. v6: by Pautrat and
    Sarlin, MIT licence. Their descriptors cannot be matched with each other."""
    threshold: float = 0.005
    """Drop keypoints with a lower score. The default is the authors'."""
    nms_radius: int = 4
    """Drop keypoints with a stronger one within this distance in x and y, in pixels of the shrunk image. The default is
    the authors'."""
    margin: int = 4
    """Drop keypoints closer than this to the edge of the shrunk image, in its pixels, because the network responds to
    the edge. The default is the authors'."""
    half: bool = False
    """On a GPU, compute the layers in half precision: faster, less accurate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 < self.threshold < 1, "threshold", "between 0 and 1")
        self._require(self.nms_radius >= 0, "nms_radius", "at least 0")
        self._require(self.margin >= 0, "margin", "at least 0")

    @property
    def kind(self) -> str:
        return "superpoint" if self.model == "v1" else f"superpoint-{self.model}"

    @property
    def files(self) -> tuple[str, ...]:
        return (_FILES[self.model],)

    def create(self) -> "SuperPointDetector":
        return SuperPointDetector(self)


class SuperPointDetector(NetworkDetector[SuperPointConfig]):
    """See `Detector`. Descriptors are float32 of length 1."""

    dimension = 256
    smallest = _CELL

    def _load(self) -> Any:
        (path,) = self.config.paths()
        network, state = _network(normalised=self.config.model == "v6"), read_state(path)
        if self.config.model == "v1":
            names = _names_in_v1()
            parts = {key: key.partition(".") for key in state}
            state = {f"{names.get(layer, layer)}.{part}": state[key] for key, (layer, _, part) in parts.items()}
        fill(network, state, path, f"SuperPoint {self.config.model}")
        return network

    def _find(self, stack: Tensor, limit: int | None) -> Iterator[Candidates]:
        import torch
        from torch.nn import functional

        grey = (stack * stack.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        half = self.config.half and self._device.type == "cuda"
        with torch.autocast(self._device.type, torch.float16, enabled=half):
            features = self._network["backbone"](grey)
            logits, dense = self._network["detector"](features), self._network["descriptor"](features)
        # Channels 0 to 63 of a cell are its pixels, row by row; the last one stands for "no keypoint".
        scores = functional.pixel_shuffle(logits.float().softmax(1)[:, :-1], _CELL)
        scores = _maxima(scores, self.config.nms_radius)
        dense = functional.normalize(dense.float(), dim=1)
        return map(self._candidates, scores[:, 0], dense[:, None])

    def _candidates(self, scores: Tensor, dense: Tensor) -> Candidates:
        """The candidates in one image. scores: [h, w], 0 if suppressed. dense: descriptors [1, 256, h/8, w/8]."""
        import torch
        from torch.nn import functional

        (height, width), margin = scores.shape, self.config.margin
        inner = scores[margin : max(height - margin, margin), margin : max(width - margin, margin)]
        rows, columns = (inner > self.config.threshold).nonzero(as_tuple=True)
        points = torch.stack([columns, rows], 1).to(dense.dtype) + margin

        def describe(kept: Tensor) -> dict[str, Tensor]:
            size = points.new_tensor([width, height])
            places, v1 = (points[kept] + 0.5) / size, self.config.model == "v1"
            if v1:  # Inexact (cells count as slightly larger than 8 × 8 pixels), but LightGlue was trained with it.
                places = (points[kept] - (_CELL - 1) / 2) / (size - (_CELL + 1) / 2)
            sampled = functional.grid_sample(dense, (places * 2 - 1)[None, None], "bilinear", align_corners=v1)
            return {"descriptors": functional.normalize(sampled[0, :, 0], dim=0).T}

        return Candidates(points, inner[rows, columns], describe)


def _maxima(scores: Tensor, radius: int) -> Tensor:
    """Set `scores` [B, 1, h, w] to 0 where there is a stronger one within `radius` in x and y.

    A suppressed score does not suppress others: two more rounds restore such pixels, as published.
    """
    from torch.nn import functional

    def strongest_near(values: Tensor) -> Tensor:
        return functional.max_pool2d(values, 2 * radius + 1, stride=1, padding=radius)

    kept = scores == strongest_near(scores)
    for _ in range(2):
        taken = strongest_near(kept.float()) > 0
        left = scores.masked_fill(taken, 0)
        kept = kept | ((left == strongest_near(left)) & ~taken)
    return scores.masked_fill(~kept, 0)


def _network(*, normalised: bool) -> Any:
    """The network, with layer names as in the file of v6.

    normalised: whether batch normalisation follows each activation, as in v6 but not in v1.
    """
    from torch import nn

    def block(before: int, width: int, side: int, *, activated: bool = True) -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=nn.Conv2d(before, width, side, padding=side // 2))
        if activated:
            layers["activation"] = nn.ReLU()
        if normalised:
            layers["bn"] = nn.BatchNorm2d(width, eps=0.001)
        return nn.Sequential(layers)

    backbone: list[nn.Module] = []
    before = 1
    for number, width in enumerate(_WIDTHS, 1):
        halved = [nn.MaxPool2d(2)] if number < len(_WIDTHS) else []
        backbone.append(nn.Sequential(block(before, width, 3), block(width, width, 3), *halved))
        before = width
    parts = {"backbone": nn.Sequential(*backbone)}
    for name, width in (("detector", _CELL**2 + 1), ("descriptor", 256)):
        parts[name] = nn.Sequential(block(before, 256, 3), block(256, width, 1, activated=False))
    return nn.ModuleDict(parts)


def _names_in_v1() -> dict[str, str]:
    """The layers of `_network` by name in Magic Leap's file: conv1a … conv4b, convPa, convPb, convDa, convDb."""
    parts = {str(number + 1): f"backbone.{number}" for number in range(len(_WIDTHS))}
    parts |= {"P": "detector", "D": "descriptor"}
    return {f"conv{part}{half}": f"{ours}.{i}.conv" for part, ours in parts.items() for i, half in enumerate("ab")}
