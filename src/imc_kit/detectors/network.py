"""What all network detectors have in common: the device, batches of images of one size, and what happens when memory
runs out.

A network says where keypoints may be and how strong they are; the mask, the budget and uniqueness are settled here, and
only what is kept is described. An image of a single colour has no keypoints, whatever a network makes of its edges.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import cv2
import numpy as np

from imc_kit.data.images import Photo
from imc_kit.detectors.base import DetectorConfig, in_original, strongest
from imc_kit.errors import KitError
from imc_kit.runtime import weights
from imc_kit.runtime.torch_utils import Device, device, fill, on_device, read_state
from imc_kit.types import Features, Mask, Pixels

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_SMALLEST_SIDE = 64
"""An image is not shrunk further, for want of memory, once its longer side has at most so many pixels."""
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
"""What torch says on a GPU, on Windows, on Linux, and what cuDNN and cuBLAS say."""


@dataclass(frozen=True)
class NetworkDetectorConfig(DetectorConfig):
    """The options that all network detectors share."""

    weights: Path | None = None
    """The file of the network, or a folder that holds all its files; None looks in all the usual places."""
    device: Device = "auto"
    """Where it runs: auto is the GPU if there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.device in ("auto", "cpu", "cuda"), "device", "auto, cpu or cuda")

    @property
    def files(self) -> tuple[str, ...]:
        """The names, in the manifest of weights, of all files of the network. A constant for most."""
        raise NotImplementedError  # each subclass has its own

    def weight_files(self) -> tuple[str, ...]:
        return () if self.weights else self.files

    def paths(self) -> list[Path]:
        """Where these files are. Raises `KitError` for one that is missing or not usable, and where `weights` is a
        single file but the network has several."""
        whole = len(self.files) == 1 or self.weights is None or self.weights.is_dir()
        self.require(whole, "weights", "a folder that holds its files, or None")
        return [weights.find(name, self.weights) for name in self.files]


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a network finds in one image, before mask and budget.

    points: [N, 2], (x, y), the centre of the top-left pixel at (0, 0).
    scores: [N], larger is stronger.
    describe: given rows of these, K of them, the remaining fields of `Features` by their names: `descriptors` [K, D],
        and perhaps `scales` and `orientations` [K] and `shapes` [K, 2, 2].
    """

    points: torch.Tensor
    scores: torch.Tensor
    describe: Callable[[torch.Tensor], dict[str, torch.Tensor]]


C = TypeVar("C", bound=NetworkDetectorConfig)


class NetworkDetector(ABC, Generic[C]):
    """As `Detector` says. A subclass loads its network and says what that finds in a batch."""

    dimension: int
    smallest: ClassVar[int] = 1
    """Where a side of the image has fewer pixels the network finds nothing."""
    gpu_batch: ClassVar[int] = 4
    """Images in one pass on a GPU: each takes about a GB per megapixel. On a CPU more than one gain nothing."""

    def __init__(self, config: C) -> None:
        """Raises `KitError` when torch or kornia, a weight file or the GPU that was asked for is missing."""
        self.config = config
        self._device = device(config.device, f"detector {config.name!r}")
        self._network = self._load().to(self._device)
        self._batch = 1 if self._device.type == "cpu" else self.gpu_batch

    @abstractmethod
    def _load(self) -> Any:
        """The network, filled and ready to run."""

    @abstractmethod
    def _find(self, stack: torch.Tensor, limit: int | None) -> Iterator[Candidates]:
        """What there is in each of a batch of images: float32 [B, 3, h, w], RGB in 0 … 1.

        limit: how many candidates of an image suffice, the strongest; None where a mask decides among all. More may be
            given.
        """

    def detect(self, images: Sequence[Pixels], masks: Sequence[Mask | None]) -> list[Features]:
        """As `Detector.detect` says. On a GPU, images of the same size go through the network together.

        Where memory runs out, smaller batches and then a smaller image are tried, which is logged. Raises `KitError`
        when it does not suffice for a small image.
        """
        of_size = defaultdict(list)
        features: dict[int, Features] = {}
        for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
            nowhere = mask is not None and not mask.any()
            if nowhere or min(image.shape[:2]) < self.smallest or (image == image[:1, :1]).all():
                features[i] = Features.empty((image.shape[1], image.shape[0]), self.dimension)
            else:
                of_size[image.shape].append(i)
        for same in of_size.values():
            while same:
                chunk = same[: self._batch]
                found = self._attempt([images[i] for i in chunk], [masks[i] for i in chunk])
                if found is not None:
                    features.update(zip(chunk, found, strict=True))
                    same = same[len(chunk) :]
                elif len(chunk) > 1:
                    self._batch = len(chunk) // 2
                    logger.warning(
                        "detector %r: memory does not suffice for %d images at once, so it goes on with %d",
                        self.config.name, len(chunk), self._batch,
                    )  # fmt: skip
                else:
                    features[chunk[0]] = self._detect_smaller(images[chunk[0]], masks[chunk[0]])
                    same = same[1:]
        return [features[i] for i in range(len(images))]

    def _attempt(self, images: list[Pixels], masks: list[Mask | None]) -> list[Features] | None:
        """`_detect`, or None when memory runs out; then nothing of the attempt is held any more."""
        import torch

        try:
            return self._detect(images, masks)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
                raise
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _detect_smaller(self, image: Pixels, mask: Mask | None) -> Features:
        """The features of an image for which memory did not suffice: found at half as many pixels, or less."""
        height, width = image.shape[:2]
        size, scale = (width, height), 1.0
        while max(size) > _SMALLEST_SIDE:
            scale *= 0.5**0.5
            size = max(1, round(width * scale)), max(1, round(height * scale))
            small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            # A pixel is allowed where all that it covers is.
            allowed = None
            if mask is not None:
                allowed = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.999
            found = self._attempt([small], [allowed])
            if found is not None:
                logger.warning(
                    "detector %r: memory does not suffice for an image of %d × %d pixels, so it was shrunk to %d × %d",
                    self.config.name, width, height, *size,
                )  # fmt: skip
                return in_original(found[0], Photo(small, (width, height), 0, False))
        raise KitError(
            f"detector {self.config.name!r} has not enough memory even for an image of {size[0]} × {size[1]} pixels:"
            " use fewer threads, free memory, or set its device to cpu"
        )

    def _detect(self, images: list[Pixels], masks: list[Mask | None]) -> list[Features]:
        """The features of images of one size, in one pass."""
        import torch

        limit = self.config.max_keypoints if all(mask is None for mask in masks) else None
        with torch.inference_mode():
            stack = on_device(np.stack(images), self._device).permute(0, 3, 1, 2).float() / 255
            return [
                self._features(candidates, mask, (stack.shape[3], stack.shape[2]))
                for candidates, mask in zip(self._find(stack, limit), masks, strict=True)
            ]

    def _features(self, candidates: Candidates, mask: Mask | None, size: tuple[int, int]) -> Features:
        import torch

        points, scores = candidates.points.float().cpu().numpy(), candidates.scores.float().cpu().numpy()
        kept = strongest(points, scores, mask, self.config.max_keypoints)
        if not len(kept):
            return Features.empty(size, self.dimension)
        fields = candidates.describe(torch.from_numpy(kept).to(candidates.points.device))
        arrays = {name: values.float().cpu().numpy() for name, values in fields.items()}
        return Features(points[kept], scores[kept], image_size=size, **arrays)


def filled(network: Any, path: Path, what: str, key: str | None = None) -> Any:
    """`network`, which `what` names, filled from a file, or from what stands under `key` in it, as `learned.fill` does.

    Raises `KitError` for a file that cannot be read or is not exactly that network's.
    """
    state = read_state(path)
    if key is not None:
        within = state.get(key)
        state = dict(within) if isinstance(within, Mapping) else {}
    fill(network, state, path, what)
    return network


def rows_of(descriptors: torch.Tensor) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """The `describe` of `Candidates` that are described already."""
    return lambda rows: {"descriptors": descriptors[rows]}
