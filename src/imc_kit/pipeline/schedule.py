"""In which order the scenes of a run are solved, and until when each may take.

With a time limit there are two rounds: every scene first gets a quick answer, then a full one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from imc_kit.runtime import deadline
from imc_kit.types import Scene

QUICK, FULL = "quick", "scenes"
"""The rounds, by the names of their folders."""

_ENOUGH = {QUICK: 1.0, FULL: 3.0}
"""Seconds per image in which a scene is probably solved. A scene may take this long even if its fair share is less:
better some scenes solved than none."""
_MAX_SHARE = 0.8
"""Share of the time left that a scene may take for that, so that the scenes after it get something."""
_HOPELESS = 0.3
"""With fewer seconds per image, a scene that has a quick answer is not begun again: its full answer would be worse."""
_WRITING = 0.3, 0.06
"""Seconds per scene that are reserved for writing, and the share of the whole time that they may be at most.

These numbers were chosen with time limits on the open scenes (docs/benchmarks.md)."""


class Schedule:
    """The order of a run's scenes and the deadline of each; `until` is the deadline of the whole run."""

    def __init__(self, scenes: Sequence[Scene], until: float) -> None:
        self.limited = until < inf
        self.rounds = (QUICK, FULL) if self.limited else (FULL,)
        # Small scenes come first when time is limited: the large ones can use the time that they leave.
        self.scenes = sorted(scenes, key=_effort) if self.limited else list(scenes)
        self._efforts = [_effort(scene) for scene in self.scenes]
        seconds, share = _WRITING
        self._until = deadline.reserved(until, seconds * len(self.scenes), share)

    def deadline(self, round_name: str, number: int, answered: bool) -> float:
        """The moment at which scene `number` must end if it begins or goes on now.

        This is its fair share of the time left, by its effort, or what is probably enough for it if that is more.
        answered: whether it has an answer already. If so, and the time is hopelessly short, the moment is now: what was
        finished before can still be read back.
        """
        images = len(self.scenes[number].images)
        fair = deadline.portion(self._until, self._efforts[number] / sum(self._efforts[number:]))
        enough = deadline.after(_ENOUGH[round_name] * images)
        end = max(fair, min(enough, deadline.portion(self._until, _MAX_SHARE)))
        if answered and deadline.left(end) < _HOPELESS * images:
            return deadline.after(0)
        return end

    def is_last(self, number: int) -> bool:
        """Whether no scene comes after this one in its round."""
        return number + 1 == len(self.scenes)


def _effort(scene: Scene) -> int:
    """Roughly what a scene costs compared with others: its images, and its pairs, of which each image has at most 60.

    Detecting in an image costs about as much as matching four pairs; from about 60 images on, pairs are selected.
    """
    count = len(scene.images)
    return 4 * count + count * min(count, 60) // 2
