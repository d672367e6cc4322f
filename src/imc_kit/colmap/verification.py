"""Geometric verification of the matched pairs of a database, by COLMAP's own RANSAC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imc_kit.colmap import child
from imc_kit.colmap.options import Value, with_options


@dataclass(frozen=True)
class VerificationConfig:
    """How the two-view geometry of every matched pair is estimated."""

    options: Mapping[str, Value] = field(default_factory=dict)
    """Any of `pycolmap.TwoViewGeometryOptions`, by dotted name, for example ransac.max_error."""
    time_limit: float = 3600.0
    """Seconds that one scene may take."""
    max_trials: int = 2000
    """RANSAC's limit. COLMAP's own 10,000 go to pairs that do not overlap, and take several times longer."""

    def check(self) -> None:
        """Raise KitError for an option that pycolmap does not have."""
        import pycolmap

        with_options(pycolmap.TwoViewGeometryOptions(), self.options, "verification")


def verify(database: Path, config: VerificationConfig, log: Path, threads: int = -1, seed: int = 0) -> None:
    """Write the two-view geometry of every pair in `database` that has matches; raises ColmapError."""
    job = {
        "job": "verify",
        "database": str(database),
        "options": {"ransac.max_num_trials": config.max_trials, **config.options},
        "threads": threads,
        "seed": seed,
    }
    child.run(job, "COLMAP's geometric verification", log, config.time_limit)


def inlier_counts(database: Path) -> dict[tuple[str, str], int]:
    """The number of verified matches of each pair of image names that passed verification."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        names = {image.image_id: image.name for image in opened.read_all_images()}
        pair_ids, counts = opened.read_two_view_geometry_num_inliers()
    pairs = (pycolmap.pair_id_to_image_pair(pair_id) for pair_id in pair_ids)
    return {(names[a], names[b]): count for (a, b), count in zip(pairs, counts, strict=True) if count}
