"""What is matched of a scene, and the databases of verified matches made of it."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from imc_kit.colmap import cameras, database, database_edits
from imc_kit.colmap.known_cameras import KnownCamera
from imc_kit.colmap.options import Known
from imc_kit.colmap.verification import verify
from imc_kit.config import Config
from imc_kit.errors import KitError
from imc_kit.pipeline.classified import PairClassifier
from imc_kit.pipeline.completion import SceneContext
from imc_kit.pipeline.matching import MatchedFeatures, Matching
from imc_kit.pipeline.records import ImageRecord, gone
from imc_kit.pipeline.static import without_static
from imc_kit.runtime.meter import Meter
from imc_kit.types import Pair


@dataclass(frozen=True, eq=False)
class Matched:
    """The matches of a scene. known: cameras, by image. pairs: selected for matching. found: what matching found.

    classifier: leaves out verified pairs.
    """

    matching: Matching
    records: Mapping[str, ImageRecord]
    known: Mapping[str, KnownCamera]
    pairs: Sequence[Pair]
    found: MatchedFeatures
    classifier: PairClassifier | None = None

    def with_all(self, config: Config, until: float, cost: Meter) -> Self:
        """The same pairs, matched with all feature pipelines of `config`. Raises KitError if an image is lost."""
        old = self.matching
        matching = Matching(old.scene, old.store, config, old.executor, until)
        matching.positions = old.positions
        with cost("detect"):
            records = matching.detect(self.records)
        if len(records) < len(self.records):
            raise KitError(f"only {len(records)} of {len(self.records)} images have features of all detectors")
        with cost("match"):
            found = without_static(matching, matching.match(records, self.pairs), records, self.pairs)
        return replace(self, matching=matching, records=records, found=found)

    def verified(self, path: Path, context: SceneContext, executor: Executor, until: float) -> Path:
        """Write the database of verified matches. until: the deadline of verification."""
        config, notes, images = context.config, context.notes, self.entries(self.records)
        matches = self.found.strong(self.pairs, config.min_matches)
        notes.extend(database.write_database(path, images, self.found.features, matches, config.cameras))
        notes.extend(gone(self.records))
        notes.extend(verify(path, config.verification, executor, until))
        if self.classifier:
            store = self.matching.store
            notes.extend(self.classifier.remove_improbable(path, self.records, self.found, store, until))
        return path

    def of_place(self, place: SceneContext, whole: Path) -> Path:
        """The database of a place's images, in its folder; `whole` if it has all of them."""
        images = set(place.scene.images)
        own = [name for name in self.records if name in images]
        if len(own) == len(self.records):
            return whole
        path = place.partial / "database.db"
        database_edits.write_part(path, whole, self.entries(own), place.config.cameras)
        return path

    def known_in(self, path: Path) -> Known:
        """The known cameras of a database."""
        return Known(database.camera_ids(path, self.known), self.matching.config.cameras.fixed)

    def entries(self, names: Iterable[str]) -> list[cameras.ImageEntry]:
        """Images as `colmap.database` takes them."""
        entries = []
        for name in names:
            record = self.records[name]
            known = self.known[name].upright(record.info) if name in self.known else None
            entries.append(cameras.ImageEntry(name, record.path, record.info.size, record.info.exif_turn, known))
        return entries
