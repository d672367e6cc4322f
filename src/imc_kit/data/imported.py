"""What readers of other programs' features and matches have in common, and which of their names means which image."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from imc_kit.data.listing import few
from imc_kit.errors import KitError
from imc_kit.types import Float32, Matches, Pair, Scene


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """The features of a photo as it is stored, unchecked. The centre of the top-left pixel is (0, 0).

    keypoints: float32 [N, 2], (x, y) in pixels. scores: float32 [N], larger is stronger. descriptors: float16, float32
    or packed uint8 [N, D]; D is 0 if there are none. image_size: (width, height) of the stored photo, if it is known.
    rounded: whether the keypoints were stored with half precision.
    """

    keypoints: Float32
    scores: Float32
    descriptors: NDArray[Any]
    image_size: tuple[int, int] | None
    rounded: bool = False


class Source(Protocol):
    """The files of another program. All methods raise `KitError` with the file when they cannot be read.

    path: the file with the features. names: the images that have features, as the files name them.
    """

    path: Path
    names: Collection[str]

    def features(self, name: str) -> StoredFeatures: ...

    def pairs(self) -> list[Pair]:
        """The matched pairs of `names`, each once."""

    def matches(self, first: str, second: str) -> Matches:
        """The matches of one of `pairs`."""


def names_of(scene: Scene, source: Source) -> dict[str, str]:
    """The name in the files of each image of a scene that has features.

    The names in the files are relative to the scene's folder, or to a folder above it, such as the input's. All images
    of a scene are named alike. Raises `KitError` when the files name them in two ways.
    """
    known = set(source.names)
    found = [{name: prefix + name for name in scene.images if prefix + name in known} for prefix in _prefixes(scene)]
    best, *others = sorted(found, key=len, reverse=True)
    if best and others and len(others[0]) == len(best):
        two = few([next(iter(names.values())) for names in (best, others[0])])
        raise KitError(f"{source.path} names the images of {scene.name} in two ways ({two}): use only one")
    return best


def aliases(scene: Scene) -> dict[str, str]:
    """The images of a scene by all names that `names_of` understands."""
    return {prefix + name: name for prefix in _prefixes(scene) for name in scene.images}


def coverage(scenes: Sequence[Scene], source: Source) -> list[str]:
    """A note if the files have features of further images, which are none of the scenes'.

    Raises `KitError` when they have features of none of the images, and for a name that fits images of two scenes.
    """
    used: dict[str, Scene] = {}
    for scene in scenes:
        for name in names_of(scene, source).values():
            if name in used:
                both = f"{used[name].name} and {scene.name}"
                hint = "name the images relative to the input's folder"
                raise KitError(f"{source.path}: {name!r} is an image of {both}: {hint}")
            used[name] = scene
    others = sorted(set(source.names).difference(used))
    if not used:
        hint = "names must be relative to a scene's folder or to the input's"
        raise KitError(f"{source.path} has features of no image of the input ({few(others) or 'it is empty'}): {hint}")
    return [f"{source.path} has features of {len(others)} images that are not solved: {few(others)}"] if others else []


def _prefixes(scene: Scene) -> Iterator[str]:
    """What the names of images begin with, relative to the scene's folder and to each folder above it."""
    yield ""
    root = scene.root.absolute()
    for folder in root.parents:
        yield f"{root.relative_to(folder).as_posix()}/"
