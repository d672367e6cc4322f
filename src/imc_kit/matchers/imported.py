"""Features and matches from files of other programs, which replace the first detector and its matcher."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from imc_kit.data.colmap_database import ColmapDatabase
from imc_kit.data.hloc import HlocFiles
from imc_kit.data.imported import Source
from imc_kit.data.listing import is_file
from imc_kit.data.text import read_text
from imc_kit.detectors import Detector, DetectorConfig
from imc_kit.errors import KitError
from imc_kit.matchers import AnyMatcherConfig, Matcher, MatcherConfig


@dataclass(frozen=True)
class ImportedConfig:
    """Features, matches and pairs from files of other programs: see docs/other-programs.md."""

    features: Path | None = None
    """hloc's features (.h5), instead of the detector's. `--detector` says of what kind they are, for matchers that need
    to know."""
    matches: Path | None = None
    """hloc's matches (.h5) of `features`, instead of the matcher's and of the selection of pairs."""
    database: Path | None = None
    """A COLMAP database with features, instead of hloc's. Its matches are used if it has some."""
    pairs: Path | None = None
    """A list of pairs, such as hloc's pairs.txt: match no others."""

    @property
    def has_features(self) -> bool:
        """Whether there are features."""
        return self.features is not None or self.database is not None

    @property
    def has_matches(self) -> bool:
        """Whether there are matches. Raises `KitError` when the database cannot be read."""
        if self.database is None or not is_file(self.database):
            return self.matches is not None
        status = self.database.stat()
        return _has_matches(self.database, status.st_size, status.st_mtime_ns)

    def open(self) -> Source:
        """Open the features and matches. Raises `KitError` when they cannot be read."""
        if self.database:
            return ColmapDatabase(self.database)
        assert self.features is not None
        return HlocFiles(self.features, self.matches)

    def replaced(self, detector: DetectorConfig, matcher: AnyMatcherConfig) -> tuple[DetectorConfig, AnyMatcherConfig]:
        """The detector and the matcher, or what stands for the files in their place."""
        features, matches = self.database or self.features, self.database or self.matches
        if features is None:
            return detector, matcher
        given = ImportedMatches(matches) if matches and self.has_matches else matcher
        return ImportedFeatures(file=features, of_kind=detector.kind), given

    def check(self) -> None:
        """Raise `KitError` when a file is missing or the pairs are no text, and for options that exclude each other."""
        if self.database and (self.features or self.matches):
            raise KitError("--imported.database replaces hloc's files: leave out --imported.features and .matches")
        if self.matches and not self.features:
            raise KitError(f"the matches {self.matches} need their features: give these with --imported.features")
        for path in (self.features, self.matches, self.database, self.pairs):
            if path and not is_file(path):
                raise KitError(f"there is no file {path}")
        if self.pairs:
            read_text(self.pairs)


@cache  # read once per process unless the file changes
def _has_matches(path: Path, *_signature: int) -> bool:
    return ColmapDatabase(path).has_matches()


@dataclass(frozen=True)
class ImportedFeatures(DetectorConfig):
    """Stands for the features in a file. No registered detector: `ImportedConfig` makes it.

    of_kind: the kind of their descriptors.
    """

    name: ClassVar[str] = "imported"

    file: Path = Path()
    of_kind: str = ""

    @property
    def kind(self) -> str:
        return self.of_kind

    def create(self) -> Detector:
        raise KitError(f"{self.file} has features of given photos only: they cannot be detected in others")


@dataclass(frozen=True)
class ImportedMatches(MatcherConfig):
    """Stands for the matches in a file, as `ImportedFeatures` does for features."""

    name: ClassVar[str] = "imported"

    file: Path = Path()

    def accepts(self, kind: str) -> bool:
        return True

    def create(self, kind: str) -> Matcher:
        raise KitError(f"{self.file} has matches of given photos only: others cannot be matched")
