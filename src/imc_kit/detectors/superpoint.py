"""SuperPoint (DeTone et al. 2018): a network of our own, as kornia has none, for both published trainings of it.

Its keypoints are whole pixels, the centre of the top-left one at (0, 0).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from imc_kit.detectors.base import register
from imc_kit.detectors.network import Candidates, NetworkDetector, NetworkDetectorConfig, filled

if TYPE_CHECKING:
    import torch

_FILES = {"v1": "superpoint_v1.pth", "v6": "superpoint_v6_from_tf.pth"}
_WIDTHS = (64, 64, 128, 128)
"""Channels of the four blocks of the backbone. Between them the image is halved, so that a cell has 8 × 8 pixels."""
_CELL = 8


@register
@dataclass(frozen=True)
class SuperPointConfig(NetworkDetectorConfig):
    """SuperPoint, a learned detector. The score is a probability among the 64 pixels of a cell and "none"."""

    name: ClassVar[str] = "superpoint"

    max_keypoints: int = 4096
    """Keep at most this many keypoints of an image, the strongest."""
    long_side: int | None = 1600
    """Shrink images to at most this many pixels on their longer side before detecting; None leaves them as they are."""
    model: Literal["v1", "v6"] = "v1"
    """Which training: v1 is Magic Leap's, which LightGlue was trained with and whose licence forbids commercial use;
    v6 is that of Pautrat and Sarlin, under MIT. Their descriptors cannot be compared with each other."""
    threshold: float = 0.005
    """Drop keypoints of a lower score."""
    nms_radius: int = 4
    """Drop keypoints that have a stronger one within so many pixels, of the shrunk image, in x and y."""
    margin: int = 4
    """Drop keypoints closer than this to the edge of the shrunk image, in its pixels: the network sees the edge."""
    half: bool = False
    """On a GPU compute the layers in half precision: faster, less exact."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.model in _FILES, "model", f"one of {', '.join(_FILES)}")
        self.require(0 < self.threshold < 1, "threshold", "between 0 and 1")
        self.require(self.nms_radius >= 0, "nms_radius", "at least 0")
        self.require(self.margin >= 0, "margin", "at least 0")

    @property
    def kind(self) -> str:
        return "superpoint" if self.model == "v1" else f"superpoint-{self.model}"

    @property
    def files(self) -> tuple[str, ...]:
        return (_FILES[self.model],)

    def create(self) -> SuperPointDetector:
        return SuperPointDetector(self)


class SuperPointDetector(NetworkDetector[SuperPointConfig]):
    """As `Detector` says. Descriptors are float32 of length 1."""

    dimension = 256
    smallest = _CELL

    def _load(self) -> Any:
        (path,) = self.config.paths()
        what = f"SuperPoint {self.config.model}"
        return _v1(path, what) if self.config.model == "v1" else filled(_v6(), path, what)

    def _find(self, stack: torch.Tensor, limit: int | None) -> Iterator[Candidates]:
        import torch
        from torch.nn import functional

        grey = (stack * stack.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        half = self.config.half and self._device.type == "cuda"
        with torch.autocast(self._device.type, torch.float16, enabled=half):
            features = self._network["backbone"](grey)
            logits, dense = self._network["detector"](features), self._network["descriptor"](features)
        # Of each cell 64 channels are its pixels, row by row, and the last says that it has no keypoint.
        scores = functional.pixel_shuffle(logits.float().softmax(1)[:, :-1], _CELL)
        scores = _maxima(scores, self.config.nms_radius)
        dense = functional.normalize(dense.float(), dim=1)
        return map(self._candidates, scores[:, 0], dense[:, None])

    def _candidates(self, scores: torch.Tensor, dense: torch.Tensor) -> Candidates:
        """Those of one image, from the scores [h, w] that are left and its dense descriptors [1, 256, h/8, w/8]."""
        import torch
        from torch.nn import functional

        (height, width), margin = scores.shape, self.config.margin
        inner = scores[margin : max(height - margin, margin), margin : max(width - margin, margin)]
        rows, columns = (inner > self.config.threshold).nonzero(as_tuple=True)
        points = torch.stack([columns, rows], 1).to(dense.dtype) + margin

        def describe(kept: torch.Tensor) -> dict[str, torch.Tensor]:
            size = points.new_tensor([width, height])
            if self.config.model == "v1":
                # Not quite right, yet what LightGlue was trained with: cells are taken for a little larger than 8 × 8.
                places = (points[kept] - (_CELL - 1) / 2) / (size - (_CELL + 1) / 2)
            else:
                places = (points[kept] + 0.5) / size
            sampled = functional.grid_sample(
                dense, (places * 2 - 1)[None, None], mode="bilinear", align_corners=self.config.model == "v1"
            )
            return {"descriptors": functional.normalize(sampled[0, :, 0], dim=0).T}

        return Candidates(points, inner[rows, columns], describe)


def _maxima(scores: torch.Tensor, radius: int) -> torch.Tensor:
    """`scores` [B, 1, h, w] with 0 wherever there is a stronger one within `radius` in x and y.

    One that is dropped itself does not count as stronger; as published, this is carried through for two rounds.
    """
    from torch.nn import functional

    def strongest_near(values: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(values, 2 * radius + 1, stride=1, padding=radius)

    kept = scores == strongest_near(scores)
    for _ in range(2):
        taken = strongest_near(kept.float()) > 0
        left = scores.masked_fill(taken, 0)
        kept = kept | ((left == strongest_near(left)) & ~taken)
    return scores.masked_fill(~kept, 0)


def _v1(path: Path, what: str) -> torch.nn.ModuleDict:
    """Magic Leap's file names each convolution: 1a … 4b of the backbone, then two each for points and descriptors."""
    from torch import nn

    layers: dict[str, nn.Module] = {}
    before = 1
    for block, width in enumerate(_WIDTHS, 1):
        layers[f"conv{block}a"] = nn.Conv2d(before, width, 3, padding=1)
        layers[f"conv{block}b"] = nn.Conv2d(width, width, 3, padding=1)
        before = width
    for head, width in (("P", _CELL**2 + 1), ("D", 256)):
        layers[f"conv{head}a"] = nn.Conv2d(before, 256, 3, padding=1)
        layers[f"conv{head}b"] = nn.Conv2d(256, width, 1)
    filled(nn.ModuleDict(layers), path, what)
    backbone: list[nn.Module] = []
    for block in range(1, len(_WIDTHS) + 1):
        backbone += [layers[f"conv{block}a"], nn.ReLU(), layers[f"conv{block}b"], nn.ReLU(), nn.MaxPool2d(2)]
    return nn.ModuleDict(
        {
            "backbone": nn.Sequential(*backbone[:-1]),  # the last block is not halved
            "detector": nn.Sequential(layers["convPa"], nn.ReLU(), layers["convPb"]),
            "descriptor": nn.Sequential(layers["convDa"], nn.ReLU(), layers["convDb"]),
        }
    )


def _v6() -> torch.nn.ModuleDict:
    """The re-training's file nests the layers, and has a batch normalisation after each activation."""
    from torch import nn

    def block(before: int, width: int, side: int, *, activated: bool = True) -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=nn.Conv2d(before, width, side, padding=side // 2))
        if activated:
            layers["activation"] = nn.ReLU()
        layers["bn"] = nn.BatchNorm2d(width, eps=0.001)
        return nn.Sequential(layers)

    backbone: list[nn.Module] = []
    before = 1
    for number, width in enumerate(_WIDTHS, 1):
        halved = [nn.MaxPool2d(2)] if number < len(_WIDTHS) else []
        backbone.append(nn.Sequential(block(before, width, 3), block(width, width, 3), *halved))
        before = width
    return nn.ModuleDict(
        {
            "backbone": nn.Sequential(*backbone),
            "detector": nn.Sequential(block(before, 256, 3), block(256, _CELL**2 + 1, 1, activated=False)),
            "descriptor": nn.Sequential(block(before, 256, 3), block(256, 256, 1, activated=False)),
        }
    )
