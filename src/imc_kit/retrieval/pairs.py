"""Lists of pairs of images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

Pair = tuple[str, str]


def exhaustive(images: Sequence[str]) -> list[Pair]:
    """Every pair of `images` once, in their order: n · (n − 1) / 2."""
    return list(combinations(images, 2))
