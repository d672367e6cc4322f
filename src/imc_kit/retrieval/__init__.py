"""What all global descriptors share: one vector per image; similar images have similar vectors.

Vectors have length 1, so the dot product of two is their cosine similarity. There are two kinds of descriptors.
Networks describe an image by its pixels. Aggregates sum up local features that are detected anyway, with a vocabulary
trained on the scene, and need no weight file.

To add a descriptor, write one file or one notebook cell: a subclass of `NetworkDescriptorConfig` or `AggregateConfig`,
decorated with `register`, and the class that its `create` returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from imc_kit.runtime.registry import NamedConfig, Registry
from imc_kit.runtime.torch_utils import Device
from imc_kit.types import Features, Float32, Pixels


class Network(Protocol):
    """Describes images by their pixels. Several threads may call it at once."""

    def describe(self, images: Sequence[Pixels]) -> Float32:
        """Compute a vector of length 1 for each image, [N, D].

        images: uint8 [h, w, 3], RGB, of any sizes.
        """


class Aggregate(Protocol):
    """Describes the images of one scene by their local features."""

    def describe(self, images: Sequence[str], features: Callable[[str], Features]) -> Float32:
        """Compute a vector for each image, [N, D]: of length 1, or 0 if the image has no features.

        images: the names of all images of the scene. Only vectors from the same call are comparable.
        features: returns the features of an image. It is called up to twice per image, and only one image's features
            are in memory at a time.
        """


@dataclass(frozen=True)
class DescriptorConfig(NamedConfig):
    """The options of a global descriptor. Raises `KitError` for an invalid value."""

    role: ClassVar[str] = "descriptor"

    def weight_files(self) -> tuple[str, ...]:
        """The weight files that it needs, by name in the manifest. Files that the options name are left out."""
        return ()


DESCRIPTORS: Registry[type[DescriptorConfig]] = Registry("descriptor", "imc_kit.retrieval", "imc_kit.descriptors")
"""The configuration class of each global descriptor, by name. They come from the modules of this package, from modules
that other packages name in the entry-point group `imc_kit.descriptors`, and from notebook cells."""

register = DESCRIPTORS.register
"""Decorator: registers a global descriptor's configuration class under its `name`."""


@dataclass(frozen=True)
class NetworkDescriptorConfig(DescriptorConfig):
    """The options that all networks share."""

    weights: Path | None = None
    """The network's weight file, or a folder that holds it; None searches the usual places."""
    device: Device = "auto"
    """Where it runs; auto uses a GPU if there is one."""
    half: bool = False
    """On a GPU, compute in half precision: it is faster and changes the third digit of the vectors."""
    side: int = 224
    """Resize images to squares with sides of this many pixels. 224 is usual for ImageNet."""
    pooling: str = "mean"
    """How the vectors of all positions in the image become one."""

    multiple: ClassVar[int]
    """`side` must be a multiple of this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = self.side > 0 and self.side % self.multiple == 0
        self._require(valid, "side", f"a multiple of {self.multiple} pixels")

    @property
    def long_side(self) -> int:
        """Longer side, in pixels, at which images may be loaded (see `images.load`): twice `side`, so that shrinking
        them to a square still averages pixels."""
        return 2 * self.side

    @property
    def file(self) -> str:
        """The name of its weight file in the manifest. Most subclasses define a constant."""
        raise NotImplementedError  # each subclass has its own

    def weight_files(self) -> tuple[str, ...]:
        return () if self.weights else (self.file,)

    def create(self) -> "Network":
        """Create the network. Raises `KitError` when something that it needs is missing."""
        raise NotImplementedError  # each subclass has its own


@dataclass(frozen=True)
class AggregateConfig(DescriptorConfig):
    """The options that all aggregates share."""

    size: int = 128
    """Number of clusters in the vocabulary. The vector's length and the time are proportional to it."""
    power: float = 0.5
    """Replace each number x of the sum by sign(x)·|x|^power; below 1 damps descriptors that repeat in an image."""
    sample: int = 50_000
    """Number of local descriptors sampled to train the vocabulary: 390 for each of 128 clusters."""
    keypoints: int | None = None
    """Sum up only this many keypoints per image, the strongest; None takes all."""
    seed: int = 0
    """Random seed for training the vocabulary."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.size >= 1, "size", "at least 1")
        self._require(0 < self.power <= 1, "power", "larger than 0 and at most 1")
        self._require(self.sample >= self.size, "sample", "at least the size of the vocabulary")
        self._require(self.keypoints is None or self.keypoints >= 1, "keypoints", "at least 1, or None")
        self._require(self.seed >= 0, "seed", "at least 0")

    def create(self) -> "Aggregate":
        """Create the object that computes the descriptor."""
        raise NotImplementedError  # each subclass has its own
