"""What all global descriptors have in common: one vector for an image, so that images which show the same are similar.

The similarity of two images is the product of their vectors, whose length is 1: a cosine. There are two kinds.
Networks describe an image from its pixels. Aggregates sum up the local features that are detected anyway, with a
vocabulary that is learned from the scene's own, and need no weight file.

To add one, write one file with a subclass of `NetworkDescriptorConfig` or `AggregateConfig` and the class that its `create`
returns, and name the subclass in `retrieval/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from imc_kit.errors import KitError
from imc_kit.runtime.torch_utils import Device
from imc_kit.types import Features, Float32, Pixels


class Network(Protocol):
    """Describes images by their pixels. May be called from several threads at once."""

    @property
    def config(self) -> NetworkDescriptorConfig: ...

    def describe(self, images: Sequence[Pixels]) -> Float32:
        """A row of length 1 for each image, [N, D].

        images: uint8 [h, w, 3], RGB, of any sizes.
        """


class Aggregate(Protocol):
    """Describes the images of one scene by their local features."""

    @property
    def config(self) -> AggregateConfig: ...

    def describe(self, images: Sequence[str], features: Callable[[str], Features]) -> Float32:
        """A row for each image, [N, D], of length 1, or all zero where an image has no features.

        images: all names of the scene. Rows are comparable with those of the same call only.
        features: those of an image, by its name. It is asked up to twice for each, and one image's are held at a time.
        """


@dataclass(frozen=True)
class DescriptorConfig:
    """The options of a global descriptor. Raises `KitError` when one of them makes no sense."""

    name: ClassVar[str]
    """In the registry, and in commands."""

    def require(self, right: bool, option: str, wanted: str) -> None:
        """Raises `KitError` unless `right`: the value of `option` is not what is `wanted` of it."""
        if not right:
            raise KitError(f"{option} of descriptor {self.name!r} must be {wanted}, not {getattr(self, option)!r}")

    def weight_files(self) -> tuple[str, ...]:
        """The names, in the manifest of weights, of the files that it looks for in the usual places."""
        return ()


@dataclass(frozen=True)
class NetworkDescriptorConfig(DescriptorConfig):
    """The options that all networks share."""

    weights: Path | None = None
    """The file of the network, or a folder that holds it; None looks in all the usual places."""
    device: Device = "auto"
    """Where it runs: auto is the GPU if there is one."""
    half: bool = False
    """On a GPU, compute in half precision: faster, and the vectors differ in their third digit."""
    side: int = 224
    """Images are resized to a square with sides of so many pixels."""
    pooling: str = "mean"
    """How the vectors of all places in the image become one."""

    poolings: ClassVar[tuple[str, ...]]
    """The values of `pooling` that it has."""
    multiple: ClassVar[int]
    """Of what `side` must be a multiple."""

    def __post_init__(self) -> None:
        self.require(self.device in ("auto", "cpu", "cuda"), "device", "auto, cpu or cuda")
        multiple = self.multiple
        self.require(self.side >= multiple and self.side % multiple == 0, "side", f"a multiple of {multiple} pixels")
        self.require(self.pooling in self.poolings, "pooling", f"one of {', '.join(self.poolings)}")

    @property
    def long_side(self) -> int:
        """Photographs need not be larger than this many pixels on their longer side (see `images.load`)."""
        return 2 * self.side

    @property
    def file(self) -> str:
        """The name of its file in the manifest of weights. A constant for most."""
        raise NotImplementedError  # each subclass has its own

    def weight_files(self) -> tuple[str, ...]:
        return () if self.weights else (self.file,)

    def create(self) -> Network:
        """The network itself. Raises `KitError` when something that it needs is missing."""
        raise NotImplementedError  # each subclass has its own


@dataclass(frozen=True)
class AggregateConfig(DescriptorConfig):
    """The options that all aggregates share."""

    size: int = 128
    """Of the vocabulary: clusters, or components of a mixture."""
    power: float = 0.5
    """Each number x of the sum becomes sign(x)·|x|^power: less than 1 damps what occurs in bursts."""
    sample: int = 50_000
    """Of so many local descriptors, from all over the scene, the vocabulary is learned."""
    keypoints: int | None = None
    """Of an image, the strongest that are summed up; None takes all."""
    seed: int = 0
    """For the vocabulary."""

    def __post_init__(self) -> None:
        self.require(self.size >= 1, "size", "at least 1")
        self.require(0 < self.power <= 1, "power", "larger than 0 and at most 1")
        self.require(self.sample >= self.size, "sample", "at least the size of the vocabulary")
        self.require(self.keypoints is None or self.keypoints >= 1, "keypoints", "at least 1, or None")
        self.require(self.seed >= 0, "seed", "at least 0")

    def create(self) -> Aggregate:
        """What computes it."""
        raise NotImplementedError  # each subclass has its own
