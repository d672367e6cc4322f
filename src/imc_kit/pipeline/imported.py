"""Put the features and matches that other programs made of one scene's photos into the store.

From there on they are like the kit's own: upright, and checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from imc_kit.config import fingerprint
from imc_kit.data.images import ImageInfo
from imc_kit.data.imported import StoredFeatures, names_of
from imc_kit.data.listing import few
from imc_kit.data.store import Table, pair_key
from imc_kit.errors import KitError
from imc_kit.matchers.imported import ImportedConfig
from imc_kit.pipeline.records import ImageRecord
from imc_kit.runtime import progress
from imc_kit.types import Features, Float32, Matches, Pair, Scene

_IMAGES_AT_ONCE, _PAIRS_AT_ONCE = 32, 1024
"""Each chunk of the store is in memory at once: 130 MB of SIFT features of 8192 keypoints, or 80 MB of matches."""
_ROUGH = 1024
"""Half precision rounds coordinates from here on to whole pixels."""


class Imported:
    """The features and matches in files, of the images of one scene."""

    def __init__(self, config: ImportedConfig, scene: Scene) -> None:
        """Raises `KitError` when the files cannot be read."""
        self.config = config
        self._source = config.open()
        self._scene = scene
        self._names = names_of(scene, self._source)

    @cached_property
    def _pairs(self) -> dict[Pair, bool]:
        """The matched pairs of the scene's images in both orders, and whether the files have this order."""
        image = {name: image for image, name in self._names.items()}
        pairs = [(image[a], image[b]) for a, b in self._source.pairs() if a in image and b in image]
        return {(b, a): False for a, b in pairs} | dict.fromkeys(pairs, True)

    def keyed(self, records: Mapping[str, ImageRecord]) -> dict[str, ImageRecord]:
        """The images that have features, with keys for the store that depend on their names in the files too."""
        return {
            name: replace(record, digest=f"{record.digest}~{fingerprint(self._names[name])}")
            for name, record in records.items()
            if name in self._names
        }

    def fill_features(self, table: Table[Features], records: Mapping[str, ImageRecord]) -> list[str]:
        """Add the missing features of images to a table; returns notes on those that have none, and on rounded ones.

        Raises `KitError` for features that do not fit their photo, and for those without what they need to be matched.
        """
        path, keyed, notes, rough = self._source.path, self.keyed(records), list[str](), 0
        if lacking := [name for name in records if name not in keyed]:
            notes.append(f"{path} has no features of {len(lacking)} images: {few(lacking)}")
        of_key = {record.key: (name, record) for name, record in keyed.items()}
        missing = table.missing(of_key)
        with progress.bar("imported features", len(missing), "image") as bar:
            for start in range(0, len(missing), _IMAGES_AT_ONCE):
                chunk = {}
                for key in missing[start : start + _IMAGES_AT_ONCE]:
                    name, record = of_key[key]
                    found = self._source.features(self._names[name])
                    rough += found.rounded and max(record.info.size) > _ROUGH
                    chunk[key] = self._upright(name, found, record.info)
                    bar.update()
                table.put(chunk)
        if rough:
            hint = "hloc's as_half=False keeps them exact"
            notes.append(f"{path} has keypoints in half precision, in {rough} large photos rounded to pixels: {hint}")
        return notes

    def pairs(self, records: Mapping[str, ImageRecord]) -> list[Pair]:
        """The matched pairs of these images, in their order.

        Raises `KitError` when there are none.
        """
        rank = {name: number for number, name in enumerate(records)}
        pairs = [pair for pair in self._pairs if rank.get(pair[0], len(rank)) < rank.get(pair[1], -1)]
        if not pairs:
            raise KitError(f"{self._matches_path} has no matches of two images of {self._scene.name}")
        return sorted(pairs, key=lambda pair: (rank[pair[0]], rank[pair[1]]))

    def fill_matches(
        self,
        table: Table[Matches],
        features: Table[Features],
        records: Mapping[str, ImageRecord],
        pairs: Sequence[Pair],
    ) -> None:
        """Add the missing matches of those of these pairs that have some to a table.

        Raises `KitError` for matches of keypoints that do not exist.
        """
        of_key = {pair_key(records[a].key, records[b].key): (a, b) for a, b in pairs if (a, b) in self._pairs}
        missing = table.missing(of_key)
        counts = dict[str, int]()
        for start in range(0, len(missing), _PAIRS_AT_ONCE):
            chunk = {}
            for key in missing[start : start + _PAIRS_AT_ONCE]:
                chunk[key] = found = self._matches(*of_key[key])
                for name, column in zip(of_key[key], found.indices.T, strict=True):
                    if name not in counts:
                        counts[name] = len(features[records[name].key])
                    if column.max(initial=-1) >= counts[name]:
                        where = f"{self._matches_path} ({', '.join(of_key[key])})"
                        what = f"{name} has {counts[name]} keypoints, so there is no keypoint {column.max()}"
                        raise KitError(f"{where}: {what}; give the matches of these features")
            table.put(chunk)

    def _matches(self, first: str, second: str) -> Matches:
        """The matches of a pair of images in this order."""
        if self._pairs[first, second]:
            return self._source.matches(self._names[first], self._names[second])
        found = self._source.matches(self._names[second], self._names[first])
        return Matches(np.ascontiguousarray(found.indices[:, ::-1]), found.scores)

    @property
    def _matches_path(self) -> Path:
        return self.config.matches or self._source.path

    def _upright(self, name: str, found: StoredFeatures, info: ImageInfo) -> Features:
        """The features in the upright image."""
        where = f"{self._source.path} ({self._names[name]})"
        if found.image_size not in (None, info.stored_size):
            sizes = "{} × {} pixels, but the photo is stored with {} × {}".format(*found.image_size, *info.stored_size)
            raise KitError(f"{where}: the features are of {sizes}; make them of the photos as they are stored")
        if not self.config.has_matches and len(found.keypoints) and not found.descriptors.shape[1]:
            raise KitError(
                f"{where}: the features have no descriptors, so they cannot be matched: give their matches too"
            )
        try:
            keypoints = info.to_upright(_inside(found.keypoints, info.stored_size))
            return Features(keypoints, found.scores, found.descriptors, info.size)
        except ValueError as error:
            raise KitError(f"{where}: {error}") from error


def _inside(keypoints: Float32, size: tuple[int, int]) -> Float32:
    """Keypoints that half precision may have moved beyond the edge, back at it; others stay."""
    low, high = np.float32(-0.5), np.array(size, np.float32) - np.float32(0.5)
    reach = np.spacing(np.array(size, np.float16)).astype(np.float32)
    kept = np.clip(keypoints, low, high)
    return np.where(np.abs(kept - keypoints) <= reach, kept, keypoints)
