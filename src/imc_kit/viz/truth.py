"""A model compared with the truth: which images a table names, and the similarity between the two frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imc_kit.metric import SceneScore
from imc_kit.types import Float64


class Similarity(NamedTuple):
    """x ↦ scale · rotation · x + shift."""

    scale: float
    rotation: Float64
    shift: Float64

    def moved(self, points: Float64) -> Float64:
        """Where points [N, 3] go."""
        return np.asarray(self.scale * points @ self.rotation.T + self.shift, np.float64)


def match_names(names: Sequence[str], paths: Sequence[str]) -> dict[str, int]:
    """For each image its row in a table: the first whose path ends with the image's name.

    Names are relative to the scene's folder; a table's paths may begin further up. If a path ends with several names,
    it belongs to the longest.
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
    """The metric's similarity from the model's frame to the truth's; None with fewer than three cameras in both.

    `score.aligned` are the submitted centres under one similarity, so a least-squares fit to them finds it (Umeyama,
    1991).
    """
    rows = match_names(names, score.names)
    shared = [(number, rows[name]) for number, name in enumerate(names) if name in rows]
    shared = [(number, row) for number, row in shared if np.isfinite(score.aligned[row]).all()]
    if len(shared) < 3:
        return None
    here, there = centers[[n for n, _ in shared]], score.aligned[[row for _, row in shared]]
    a, b = here - here.mean(axis=0), there - there.mean(axis=0)
    if not a.any() or not b.any():
        return None
    left, values, right = np.linalg.svd(b.T @ a)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right)) or 1.0])
    rotation = (left * signs) @ right
    scale = float((values * signs).sum() / (a * a).sum())
    return Similarity(scale, rotation, there.mean(axis=0) - scale * rotation @ here.mean(axis=0)) if scale > 0 else None
