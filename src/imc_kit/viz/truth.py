"""A model beside the truth: which of its images a table names, and the similarity between their frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imc_kit.metric import SceneScore
from imc_kit.types import Float64


class Similarity(NamedTuple):
    """x ↦ scale · turn · x + shift."""

    scale: float
    turn: Float64
    shift: Float64

    def moved(self, points: Float64) -> Float64:
        """The places of points [N, 3]."""
        return np.asarray(self.scale * points @ self.turn.T + self.shift, np.float64)


def match_names(names: Sequence[str], paths: Sequence[str]) -> dict[str, int]:
    """For each image's name the row in which a table names it by a path that ends with it, the longest if several do.

    Names are relative to the scene's folder, a table's paths may begin further up.
    """
    known = set(names)
    rows: dict[str, int] = {}
    for row, path in enumerate(paths):
        parts = path.split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((end for end in ends if end in known), None)
        if name is not None:
            rows.setdefault(name, row)
    return rows


def similarity(names: Sequence[str], centers: Float64, score: SceneScore) -> Similarity | None:
    """From the model's frame to the truth's, as the metric chose it; None when fewer than three cameras are in both.

    The aligned centres are the submitted ones under one similarity, which three cameras give back (Umeyama, 1991).
    """
    rows = match_names(names, score.names)
    known = {name: row for name, row in rows.items() if np.isfinite(score.aligned[row]).all()}
    shared = [(number, known[name]) for number, name in enumerate(names) if name in known]
    if len(shared) < 3:
        return None
    here, there = centers[[n for n, _ in shared]], score.aligned[[row for _, row in shared]]
    a, b = here - here.mean(axis=0), there - there.mean(axis=0)
    if not (a**2).sum() or not (b**2).sum():
        return None
    left, values, right = np.linalg.svd(b.T @ a)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right)) or 1.0])
    turn = (left * signs) @ right
    scale = float((values * signs).sum() / (a**2).sum())
    if scale <= 0:
        return None
    return Similarity(scale, turn, there.mean(axis=0) - scale * turn @ here.mean(axis=0))
