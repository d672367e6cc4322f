"""Kaggle's limits for a notebook: time, memory, disk, cores."""

from dataclasses import dataclass

from imc_kit.errors import require

NOTEBOOK_HOURS = 9.0
"""Kaggle stops a notebook that runs longer (code requirements of the competitions of 2023 to 2025)."""
GB = 1e9
SHORTEST_REHEARSAL = 600.0
"""Minimum time limit of a rehearsal in seconds: starting Python and compiling take the same time for any number of
images."""


@dataclass(frozen=True)
class Limits:
    """Limits for a notebook; the defaults are Kaggle's."""

    hours: float = NOTEBOOK_HOURS
    """Hours for the hidden test. A rehearsal gets hours × its images / `images`, at least 10 minutes."""
    images: int = 2000
    """Assumed number of images in the hidden test. If doubled, a rehearsal gets half the time."""
    memory: float = 30.0
    """Gigabytes of memory."""
    disk: float = 19.5
    """Gigabytes in the working folder. Kaggle allows 20."""
    cores: int = 4
    """CPU cores."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(value > 0, f"limits.{name}", "above 0", value)

    def seconds(self, images: int) -> float:
        """The time limit in seconds for this number of images."""
        return max(SHORTEST_REHEARSAL, 3600 * self.hours * images / self.images)
