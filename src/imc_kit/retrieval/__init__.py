"""What all global descriptors share: one vector for each image, so that similar images have similar vectors.

Vectors have length 1, so the dot product of two is their cosine similarity. There are two kinds of descriptors.
Networks describe an image by its pixels. Aggregates sum up local features that are detected anyway, with a vocabulary
that is learned from the scene, and need no weight file.

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

    @property
    def config(self) -> "NetworkDescriptorConfig": ...

    def describe(self, images: Sequence[Pixels]) -> Float32:
        """A row of length 1 for each image, [N, D].

        images: uint8 [h, w, 3], RGB, of any sizes.
        """


class Aggregate(Protocol):
    """Describes the images of one scene by their local features."""

    @property
    def config(self) -> "AggregateConfig": ...

    def describe(self, images: Sequence[str], features: Callable[[str], Features]) -> Float32:
        """A row for each image, [N, D]: of length 1, or 0 where an image has no features.

        images: the names of all images of the scene. Only rows of the same call are comparable.
        features: returns the features of an image. It is called up to twice for each image, and the features of one
            image are in memory at a time.
        """


@dataclass(frozen=True)
class DescriptorConfig(NamedConfig):
    """The options of a global descriptor. Raises `KitError` when one of them makes no sense."""

    role: ClassVar[str] = "descriptor"

    def weight_files(self) -> tuple[str, ...]:
        """The weight files that it needs, by their names in the manifest. Files that the options name are left out."""
        return ()


DESCRIPTORS: Registry[type[DescriptorConfig]] = Registry("descriptor", "imc_kit.retrieval", "imc_kit.descriptors")
"""The configuration class of each global descriptor by its name: those of this package's modules, those of other
packages that name a module in the entry-point group `imc_kit.descriptors`, and those of notebook cells."""

register = DESCRIPTORS.register
"""Decorator for the configuration class of a global descriptor: makes it known by its `name`."""


@dataclass(frozen=True)
class NetworkDescriptorConfig(DescriptorConfig):
    """The options that all networks share."""

    weights: Path | None = None
    """The network's weight file, or a folder that holds it; None looks in all the usual places."""
    device: Device = "auto"
    """Where it runs: auto is the GPU if there is one."""
    half: bool = False
    """On a GPU, compute in half precision: it is faster and changes the third digit of the vectors."""
    side: int = 224
    """Images are resized to a square with sides of this many pixels. 224 is the usual size for ImageNet."""
    pooling: str = "mean"
    """How the vectors of all places in the image become one."""

    multiple: ClassVar[int]
    """`side` must be a multiple of this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = self.side > 0 and self.side % self.multiple == 0
        self._require(valid, "side", f"a multiple of {self.multiple} pixels")

    @property
    def long_side(self) -> int:
        """Images may be loaded with this many pixels on their longer side (see `images.load`): twice what is used, so
        that shrinking them to a square still averages pixels."""
        return 2 * self.side

    @property
    def file(self) -> str:
        """The name of its weight file in the manifest. A constant for most."""
        raise NotImplementedError  # each subclass has its own

    def weight_files(self) -> tuple[str, ...]:
        return () if self.weights else (self.file,)

    def create(self) -> "Network":
        """The network. Raises `KitError` when something that it needs is missing."""
        raise NotImplementedError  # each subclass has its own


@dataclass(frozen=True)
class AggregateConfig(DescriptorConfig):
    """The options that all aggregates share."""

    size: int = 128
    """Size of the vocabulary: number of clusters. The vector's length and the time are proportional to it."""
    power: float = 0.5
    """Replace each number x of the sum by sign(x)·|x|^power: less than 1 damps descriptors that repeat in an image."""
    sample: int = 50_000
    """Number of local descriptors sampled to train the vocabulary: 390 for each of 128 clusters."""
    keypoints: int | None = None
    """Sum up only the strongest keypoints of an image, this many; None takes all."""
    seed: int = 0
    """Seed of the random numbers that the vocabulary depends on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.size >= 1, "size", "at least 1")
        self._require(0 < self.power <= 1, "power", "larger than 0 and at most 1")
        self._require(self.sample >= self.size, "sample", "at least the size of the vocabulary")
        self._require(self.keypoints is None or self.keypoints >= 1, "keypoints", "at least 1, or None")
        self._require(self.seed >= 0, "seed", "at least 0")

    def create(self) -> "Aggregate":
        """The object that computes it."""
        raise NotImplementedError  # each subclass has its own
