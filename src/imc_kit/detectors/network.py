"""What all network detectors share: the device, batches of images of one size, and what to do if memory runs out.

A network proposes keypoints with scores. `NetworkDetector` applies the mask and the limit, and lets the network
describe only the keypoints that remain. An image of a single colour has no keypoints, even if a network responds to its
edges.
"""

import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.data.images import Photo
from imc_kit.detectors import Candidates, DetectorConfig, describe_strongest, in_original
from imc_kit.errors import KitError
from imc_kit.runtime import weights
from imc_kit.runtime.torch_utils import Device, Tensor, device, fill, on_device, read_state, unless_out_of_memory
from imc_kit.types import Features, Mask, Pixels

logger = logging.getLogger(__name__)

_SMALLEST_SIDE = 64
"""If memory runs out, images are not shrunk below this longer side, in pixels. At this size a network already needs
only about a hundredth of the memory of its default size, so shrinking further does not help."""


@dataclass(frozen=True)
class NetworkDetectorConfig(DetectorConfig):
    """The options that all network detectors share."""

    weights: Path | None = None
    """The network's weight file, or a folder with all its files; None searches the usual places."""
    device: Device = "auto"
    """Where it runs; auto uses a GPU if there is one."""

    @property
    def files(self) -> tuple[str, ...]:
        """All weight files of the network, by name in the manifest `weights.toml`."""
        raise NotImplementedError  # each subclass has its own

    def weight_files(self) -> tuple[str, ...]:
        return () if self.weights else self.files

    def paths(self) -> list[Path]:
        """The paths of `files`.

        Raises `KitError` if one is missing or damaged, or if `weights` is a single file but the network has several.
        """
        valid = len(self.files) == 1 or self.weights is None or self.weights.is_dir()
        self._require(valid, "weights", "a folder that holds its files, or None")
        return [weights.find(name, self.weights) for name in self.files]


C = TypeVar("C", bound=NetworkDetectorConfig)


class NetworkDetector(ABC, Generic[C]):
    """A `Detector` that is a network. A subclass loads it (`_load`) and finds the candidates in a batch (`_find`)."""

    dimension: int
    smallest: ClassVar[int] = 1
    """Smallest shorter side, in pixels, that the network accepts; smaller images have no keypoints."""
    gpu_batch: ClassVar[int] = 4
    """Images per pass on a GPU: each takes about 1 GB per megapixel. On a CPU, one at a time is as fast."""

    def __init__(self, config: C) -> None:
        """Raises `KitError` if torch, kornia, a weight file or the requested GPU is missing."""
        self.config = config
        self._device = device(config.device, f"detector {config.name!r}")
        self._network = self._load().to(self._device)
        self._batch = 1 if self._device.type == "cpu" else self.gpu_batch

    @abstractmethod
    def _load(self) -> Any:
        """The network with its weights, ready to run."""

    @abstractmethod
    def _find(self, stack: Tensor, limit: int | None) -> Iterator[Candidates]:
        """Find the candidates in each image of a batch, float32 [B, 3, h, w], RGB in 0 … 1.

        limit: the strongest `limit` candidates per image suffice, and more are allowed. None asks for all, because a
            mask selects among them.
        """

    def detect(self, images: Sequence[Pixels], masks: Sequence[Mask | None]) -> list[Features]:
        """See `Detector.detect`. On a GPU, images of the same size go through the network together.

        If memory runs out, tries smaller batches and then a smaller image, with a warning in the log. Raises `KitError`
        if even a small image does not fit.
        """
        features, of_shape = {}, defaultdict(list)
        for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
            fully_masked = mask is not None and not mask.any()
            if fully_masked or min(image.shape[:2]) < self.smallest or (image == image[:1, :1]).all():
                features[i] = Features.empty((image.shape[1], image.shape[0]), self.dimension)
            else:
                of_shape[image.shape].append(i)
        for same in of_shape.values():
            while same:
                chunk = same[: self._batch]
                found = self._detect_if_possible([images[i] for i in chunk], [masks[i] for i in chunk])
                if found is None and len(chunk) > 1:
                    self._batch = len(chunk) // 2
                    logger.warning(
                        "detector %r: not enough memory for %d images at once; continuing with %d",
                        self.config.name, len(chunk), self._batch,
                    )  # fmt: skip
                    continue
                if found is None:
                    found = [self._detect_smaller(images[chunk[0]], masks[chunk[0]])]
                features.update(zip(chunk, found, strict=True))
                same = same[len(chunk) :]
        return [features[i] for i in range(len(images))]

    def _detect_if_possible(self, images: list[Pixels], masks: list[Mask | None]) -> list[Features] | None:
        """The result of `_detect`, or None if memory runs out."""
        return unless_out_of_memory(lambda: self._detect(images, masks), self._device)

    def _detect_smaller(self, image: Pixels, mask: Mask | None) -> Features:
        """Detect in an image that does not fit into memory: halve its pixels until it fits."""
        height, width = image.shape[:2]
        size, scale = (width, height), 1.0
        while max(size) > _SMALLEST_SIDE:
            scale *= 0.5**0.5
            size = max(1, round(width * scale)), max(1, round(height * scale))
            small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            allowed = None
            if mask is not None:  # allow a shrunk pixel if all pixels that it covers are allowed, up to rounding
                allowed = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.999
            found = self._detect_if_possible([small], [allowed])
            if found is not None:
                logger.warning(
                    "detector %r: not enough memory for an image of %d × %d pixels; it was shrunk to %d × %d",
                    self.config.name, width, height, *size,
                )  # fmt: skip
                return in_original(found[0], Photo(small, (width, height), 0, False))
        raise KitError(
            f"detector {self.config.name!r} has not enough memory even for an image of {size[0]} × {size[1]} pixels:"
            " use fewer threads, free memory, or set its device to cpu"
        )

    def _detect(self, images: list[Pixels], masks: list[Mask | None]) -> list[Features]:
        """Detect in images of one size, in one pass."""
        import torch

        limit = self.config.max_keypoints if all(mask is None for mask in masks) else None
        with torch.inference_mode():
            stack = on_device(np.stack(images), self._device).permute(0, 3, 1, 2).float() / 255
            return [
                describe_strongest(self, _in_numpy(candidates), mask, (stack.shape[3], stack.shape[2]))
                for candidates, mask in zip(self._find(stack, limit), masks, strict=True)
            ]


def _in_numpy(candidates: Candidates) -> Candidates:
    """Convert candidates from torch tensors to NumPy arrays."""
    import torch

    def array(tensor: Tensor) -> NDArray[np.float32]:
        return tensor.float().cpu().numpy()

    def describe(kept: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
        fields = candidates.describe(torch.from_numpy(kept).to(candidates.points.device))
        return {name: array(values) for name, values in fields.items()}

    return Candidates(array(candidates.points), array(candidates.scores), describe)


def filled(network: Any, path: Path, what: str, key: str | None = None) -> Any:
    """Load a weight file into `network` with `torch_utils.fill`, and return `network`, ready to run.

    what: the network's name in messages. key: the entry of the file that holds the weights, if it has several entries.
    Raises `KitError` for a file that cannot be read or does not fit the network exactly.
    """
    state = read_state(path)
    if key is not None:
        inner = state.get(key)
        state = dict(inner) if isinstance(inner, Mapping) else {}
    fill(network, state, path, what)
    return network


def rows_of(descriptors: Tensor) -> Callable[[Tensor], dict[str, Tensor]]:
    """`Candidates.describe` for descriptors [N, D] that are already computed."""
    return lambda rows: {"descriptors": descriptors[rows]}
