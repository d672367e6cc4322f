"""Which images a table names, and the similarity to the truth."""

from __future__ import annotations

import numpy as np

from imc_kit.metric import score_centers
from imc_kit.viz.space import match_names, similarity


def test_a_table_names_images_by_longer_paths() -> None:
    names = ["a.jpg", "left/a.jpg", "b c.jpg"]
    paths = ["test/s/images/left/a.jpg", "test/s/images/a.jpg", "b c.jpg", "elsewhere.jpg", "xa.jpg"]
    assert match_names(names, paths) == {"left/a.jpg": 0, "a.jpg": 1, "b c.jpg": 2}


def test_the_similarity_is_the_metrics() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    centers, names = rng.normal(size=(6, 3)), list("abcdef")
    score = score_centers(2 * centers @ turn.T + [1, 2, 3], centers, [0.1], names=names)
    found = similarity(names, centers, score)
    assert found is not None
    np.testing.assert_allclose(found[:, :3], 2 * turn, atol=1e-9)
    np.testing.assert_allclose(centers @ found[:, :3].T + found[:, 3], score.truth, atol=1e-9)
    assert similarity(names[:2], centers[:2], score) is None
    assert similarity(names, np.ones((6, 3)), score) is None
