"""Leave out matches on what stands still while the scene moves, such as watermarks and backgrounds."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from imc_kit.pipeline.matching import MatchedFeatures, Matching
from imc_kit.pipeline.tasks import Records
from imc_kit.runtime import deadline, progress
from imc_kit.types import Features, Matches, Pair
from imc_kit.viewgraph.static import examine, static_keypoints

T = TypeVar("T")

_PAIRS_AT_ONCE = 1024
"""Pairs submitted to the executor at once: their matches are in memory together."""


def without_static(
    matching: Matching, found: MatchedFeatures, records: Records, pairs: Sequence[Pair]
) -> MatchedFeatures:
    """The same without matches on watermarks, date stamps and backgrounds that do not move with the scene."""
    if not matching.config.static.on:
        return found
    keypoints = {name: found.features(name).without_descriptors() for name in records}
    examined = partial(each_pair, matching, "static overlays", examine, keypoints, found.matches)
    static = static_keypoints(keypoints, found.matches, pairs, examined)
    if not (shares := [mask.mean() for mask in static.values() if mask.any()]):
        return found
    matching.notes.append(
        f"{len(shares)} of {len(records)} images show something that does not move with the scene, such as a "
        f"watermark, a date or a background: {np.mean(shares):.0%} of their keypoints are ignored "
        "(--static.no-on keeps them)"
    )

    def moving(first: str, second: str) -> Matches:
        matches = found.matches(first, second)
        one, two = matches.indices.T
        kept = ~(static[first][one] | static[second][two])
        return Matches(matches.indices[kept], matches.scores[kept])

    return MatchedFeatures(found.features, moving)


def each_pair(
    matching: Matching,
    what: str,
    work: Callable[[Features, Features, Matches], T | None],
    keypoints: Mapping[str, Features],
    matches: Callable[[str, str], Matches],
    pairs: Sequence[Pair],
) -> dict[Pair, T]:
    """The result of `work` for each pair that has one and was reached before the deadline."""
    found: dict[Pair, T] = {}
    with progress.bar(what, len(pairs), "pair") as bar:
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            part = pairs[start : start + _PAIRS_AT_ONCE]
            firsts, seconds = ([keypoints[pair[side]] for pair in part] for side in (0, 1))
            given = [matches(*pair) for pair in part]
            one = partial(_in_time, work, matching.until)
            for pair, result in zip(
                part, matching.executor.map(one, firsts, seconds, given, chunksize=64), strict=True
            ):
                bar.update()
                found |= {pair: result} if result is not None else {}
    return found


def _in_time(work: Callable[..., T], until: float, *arguments: Any) -> T | None:
    return work(*arguments) if deadline.left(until) else None
