"""The order in which a run solves its scenes, and the deadline of each.

With a time limit there are two rounds: every scene first gets a quick answer, then a full one.
"""

import time
from collections.abc import Sequence
from math import inf

from imc_kit.runtime import deadline
from imc_kit.types import Scene

QUICK, FULL = "quick", "scenes"
"""The rounds, by the names of their folders."""

_ENOUGH = {QUICK: 1.0, FULL: 3.0}
"""Seconds per image that probably suffice for a scene. It may take this long even if its fair share is less: better
some scenes solved than none."""
_MAX_SHARE = 0.8
"""Maximum share of the time left for that, so that the scenes after it get some."""
_HOPELESS = 0.3
"""With fewer seconds per image, a scene keeps its quick answer: a full one would be worse."""
_WRITING = 0.3, 0.06
"""Seconds per scene reserved for writing, and their maximum share of the whole time.

These numbers were chosen with time limits on the open scenes (docs/benchmarks.md)."""


class Schedule:
    """The order of a run's scenes and the deadline of each; `until` is the deadline of the whole run."""

    def __init__(self, scenes: Sequence[Scene], until: float) -> None:
        self.limited = until < inf
        self.rounds = (QUICK, FULL) if self.limited else (FULL,)
        # With a time limit, small scenes come first: large ones can use the time they leave.
        self.scenes = sorted(scenes, key=_effort) if self.limited else list(scenes)
        self._efforts = [_effort(scene) for scene in self.scenes]
        seconds, share = _WRITING
        self._until = deadline.reserved(until, seconds * len(self.scenes), share)

    def deadline(self, round_name: str, number: int, answered: bool) -> float:
        """The deadline of scene `number` if it starts or continues now.

        The scene gets its fair share of the time left, by effort, or what probably suffices if that is more. answered:
        whether it has an answer already. If so, and time is hopelessly short, the deadline is now: a result finished
        earlier can still be read back.
        """
        images = len(self.scenes[number].images)
        fair = deadline.portion(self._until, self._efforts[number] / sum(self._efforts[number:]))
        enough = deadline.after(_ENOUGH[round_name] * images)
        end = max(fair, min(enough, deadline.portion(self._until, _MAX_SHARE)))
        if answered and deadline.left(end) < _HOPELESS * images:
            return deadline.after(0)
        return end

    def left(self, number: int, solved: Sequence[int], started: float) -> float:
        """About how many seconds the scenes after `number` take, if the `solved` ones took the time since `started`."""
        if not solved:
            return 0.0
        rest = sum(self._efforts[number + 1 :]) / sum(self._efforts[one] for one in solved)
        return min(rest * (time.monotonic() - started), deadline.left(self._until))


def _effort(scene: Scene) -> int:
    """The rough cost of a scene relative to others, from its images and pairs (at most 60 per image).

    Detection in one image costs about as much as matching four pairs. Above about 60 images, pairs are selected.
    """
    count = len(scene.images)
    return 4 * count + count * min(count, 60) // 2
