"""Files of hloc (Hierarchical-Localization): features.h5, matches.h5 and pairs.txt.

The format, from hloc's `extract_features.py`, `match_features.py`, `match_dense.py` and `utils/io.py`:

- features: a group per image, whose path is the image's name, with `keypoints` [N, 2], and mostly with `descriptors`
  [D, N], `scores` [N] and `image_size` (width, height). Most values are float16. Photos are read without EXIF's
  orientation, and the centre of the top-left pixel is (0, 0): hloc adds 0.5 when it writes COLMAP's databases.
- matches: a group NAME/NAME per pair, where each `/` in a name is replaced by `-`. `matches0` [N] holds, for each
  keypoint of the first image, the index of its partner or −1, and `matching_scores0` [N] the scores.
- pairs: a line with two names, separated by a space.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from imc_kit.data.imported import StoredFeatures
from imc_kit.errors import KitError, said
from imc_kit.types import Features, Matches, Pair


class HlocFiles:
    """A file of features, and perhaps one of matches (`data.imported.Source`)."""

    def __init__(self, features: Path, matches: Path | None = None) -> None:
        self.path, self._matches = features, matches
        names = set[str]()
        with _reading(features) as file:
            file.visititems(lambda _, one: names.add(one.parent.name[1:]) if isinstance(one, h5py.Dataset) else None)
        self.names: Collection[str] = sorted(names - {""})

    def features(self, name: str) -> StoredFeatures:
        """The features of an image. Only keypoints are required: features of hloc's `match_dense` have nothing else."""
        with _reading(self.path, name) as file:
            group = file[name]
            if "keypoints" not in group:
                raise ValueError("there is no dataset 'keypoints'")
            keypoints = _numbers(group["keypoints"], "fiu", (-1, 2))
            count = len(keypoints)
            scores = _numbers(group["scores"], "fiu", (count,)) if "scores" in group else np.ones(count)
            descriptors = np.empty((count, 0), np.float32)
            if "descriptors" in group:
                descriptors = np.ascontiguousarray(_numbers(group["descriptors"], "f", (-1, count)).T)
            size = _numbers(group["image_size"], "fiu", (2,)) if "image_size" in group else None
            rounded = keypoints.dtype == np.float16
            descriptors = descriptors.astype(np.float32) if descriptors.itemsize > 2 else descriptors
            image_size = None if size is None else (int(size[0]), int(size[1]))
            columns = keypoints.astype(np.float32), scores.astype(np.float32), descriptors
            return StoredFeatures(*columns, image_size, rounded)

    def pairs(self) -> list[Pair]:
        """The pairs in the file of matches whose images both have features.

        Raises `KitError` when there are none, and when a name in the file means two images.
        """
        if self._matches is None:
            return []
        images = defaultdict(list)
        for name in self.names:
            images[_dashed(name)].append(name)
        found = dict[frozenset[str], Pair]()
        with _reading(self._matches) as file:
            for first, group in file.items():
                for second in group if first in images and isinstance(group, h5py.Group) else ():
                    if second in images:
                        for dashed in (first, second):
                            if len(images[dashed]) > 1:
                                both = " and ".join(map(repr, images[dashed][:2]))
                                raise KitError(f"{self._matches}: {dashed!r} may mean {both}: rename one of the photos")
                        pair = images[first][0], images[second][0]
                        found.setdefault(frozenset(pair), pair)
        if not found:
            raise KitError(
                f"{self._matches} has no matches of two images of {self.path}: give the matches made with it"
            )
        return list(found.values())

    def matches(self, first: str, second: str) -> Matches:
        """The matches of one of `pairs`."""
        assert self._matches is not None  # there are no pairs without it
        with _reading(self._matches, f"{first}, {second}") as file:
            group = file[f"{_dashed(first)}/{_dashed(second)}"]
            if "matches0" not in group:
                raise ValueError("there is no dataset 'matches0'")
            partner = _numbers(group["matches0"], "iu", (-1,)).astype(np.int64)
            count = len(partner)
            scores = np.ones(count)
            if "matching_scores0" in group:
                scores = _numbers(group["matching_scores0"], "fiu", (count,))
            if count and partner.min() < -1:
                raise ValueError(f"matches0 has the index {partner.min()}, and only −1 means no match")
            matched = np.flatnonzero(partner >= 0)
            rows = np.stack([matched, partner[matched]], 1)
            return Matches(rows.astype(np.int32), scores[matched].astype(np.float32))


def write_features(path: Path, features: Iterable[tuple[str, Features]]) -> None:
    """Write features of photos as they are stored, by image name. Keypoints keep their precision, unlike hloc's own.

    Descriptors and scores are left out where there are no descriptors.
    """
    with h5py.File(path, "w", libver="latest") as file:
        for name, one in features:
            group = file.create_group(name)
            group["keypoints"], group["image_size"] = one.keypoints, np.array(one.image_size)
            if one.descriptors.shape[1]:
                group["descriptors"], group["scores"] = one.descriptors.T, one.scores


def write_matches(folder: Path, counts: Mapping[str, int], matches: Iterable[tuple[str, str, Matches]]) -> None:
    """Write matches.h5 and pairs.txt into a folder.

    counts: the number of keypoints of each image. matches: those of each pair; each keypoint is in at most one.

    Raises `KitError` for names that these formats cannot tell apart or hold.
    """
    for name in counts:
        if len(name.split()) > 1:
            raise KitError(f"hloc's list of pairs cannot hold names with spaces, such as {name!r}: rename the photos")
    known = dict[str, str]()
    for name in counts:
        if (other := known.setdefault(_dashed(name), name)) != name:
            raise KitError(f"hloc's matches cannot tell {other!r} from {name!r}: rename one of the photos")
    with h5py.File(folder / "matches.h5", "w", libver="latest") as file, (folder / "pairs.txt").open("w") as pairs:
        for first, second, one in matches:
            partner, scores = np.full(counts[first], -1, np.int32), np.zeros(counts[first], np.float32)
            rows, columns = one.indices.T
            partner[rows], scores[rows] = columns, one.scores
            group = file.create_group(f"{_dashed(first)}/{_dashed(second)}")
            group["matches0"], group["matching_scores0"] = partner, scores
            pairs.write(f"{first} {second}\n")


def _dashed(name: str) -> str:
    return name.replace("/", "-")


def _numbers(dataset: Any, kinds: str, shape: tuple[int, ...]) -> Any:
    """A dataset of the dtype kinds and the shape; -1 is any length. Raises ValueError for another one."""
    fits = len(dataset.shape) == len(shape) and all(n in (-1, m) for n, m in zip(shape, dataset.shape, strict=True))
    if dataset.dtype.kind not in kinds or not (fits or 0 in dataset.shape):
        wanted = str(list(shape)).replace("-1", "N")
        raise ValueError(f"{dataset.name} is {dataset.dtype} {list(dataset.shape)} instead of numbers {wanted}")
    return dataset[()] if fits else np.empty([max(0, n) for n in shape], dataset.dtype)


@contextmanager
def _reading(path: Path, what: str = "") -> Iterator[Any]:
    """Open an HDF5 file, and turn any error inside the block into a `KitError` with the file and `what` of it."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except KitError:
        raise
    except Exception as error:  # h5py raises many kinds for damaged files
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error) or said(error)
        raise KitError(f"cannot read {path}{what and f' ({what})'} as a file of hloc: {reason}") from error
