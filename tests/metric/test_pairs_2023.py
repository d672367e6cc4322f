"""2023's score, compared with a plain program and closed forms."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from imc_kit import metric
from imc_kit.errors import KitError
from imc_kit.types import Float64
from plain_registration import rotation
from posed_tables import cameras, posed, turn


def plain_2023(true: list[tuple[Float64, Float64]], other: list[tuple[Float64, Float64]], thresholds) -> list[float]:
    """One pair at a time, the angle from quaternions. A pose is (R, t)."""
    good = np.zeros(len(thresholds))
    pairs = list(combinations(range(len(true)), 2))
    for i, j in pairs:
        (r_true, t_true), (r, t) = (
            (b[0] @ a[0].T, b[1] - b[0] @ a[0].T @ a[1]) for a, b in ((true[i], true[j]), (other[i], other[j]))
        )
        if not np.isfinite(r).all():
            continue
        cosine = abs(quaternion(r_true) @ quaternion(r))
        degrees = math.degrees(2 * math.acos(min(1, cosine)))
        t = t * np.linalg.norm(t_true) / np.linalg.norm(t)
        metres = min(np.linalg.norm(t_true - t), np.linalg.norm(t_true + t))
        good += [degrees <= d and metres <= m for d, m in thresholds]
    return (good / len(pairs)).tolist()


def quaternion(r: Float64) -> Float64:
    """By Bar-Itzhack's matrix, whose largest eigenvector it is."""
    d = r - r.T
    delta = np.array([d[2, 1], d[0, 2], d[1, 0]])
    k = np.block([[np.trace(r).reshape(1, 1), delta[None]], [delta[:, None], r + r.T - np.trace(r) * np.eye(3)]])
    return np.linalg.eigh(k)[1][:, -1]


@pytest.mark.parametrize("seed", range(4))
def test_2023_plain_program(seed: int):
    random = np.random.default_rng(seed)
    true = cameras(random, 8, 3.0)
    other = [(r @ turn(4 * random.normal()), t + 0.3 * random.normal(size=3)) for r, t in true]
    other[3] = np.full((3, 3), np.nan), np.full(3, np.nan)
    result = metric.score_2023(posed(true), posed(other)).datasets["d"]["s"]
    expected = plain_2023(true, other, result.thresholds)
    assert result.fractions == pytest.approx(expected, abs=1e-12)
    assert 0 < result.score < 1
    assert (result.images, result.registered) == (8, 7)
    lacking = metric.score_2023(posed(true), posed(other).drop(index=3))
    assert lacking.datasets["d"]["s"].fractions == result.fractions


def test_2023_frame_and_unit_do_not_matter(random: np.random.Generator):
    true = cameras(random, 6, 20.0)
    world, offset = rotation(random), random.normal(size=3)
    moved = [(r @ world.T, 0.2 * (t - r @ world.T @ offset)) for r, t in true]
    assert metric.score_2023(posed(true), posed(moved)).mean == 1


def test_2023_one_camera_turned(random: np.random.Generator):
    # It turns by 5.5 degrees about its own centre, and the baselines of at most 1 m with it: less than 0.1 m.
    centers = 0.25 * random.uniform(-1, 1, size=(5, 3))
    true = [(r, -r @ center) for r, center in zip((rotation(random) for _ in range(5)), centers, strict=True)]
    turned = [*true[:4], (turn(5.5) @ true[4][0], turn(5.5) @ true[4][1])]
    # Of ten pairs four have it; they are accurate from 6 to 10 degrees.
    assert metric.score_2023(posed(true), posed(turned)).mean == pytest.approx((6 + 4 / 2) / 10)


def test_2023_translation_error(random: np.random.Generator):
    # One pair, its baseline of 2 m turned by a right angle: off by √2 · 2 m whatever its length and sign. A baseline
    # of nothing is off by 2 m.
    identity = np.eye(3)
    true = [(identity, np.zeros(3)), (identity, np.array([2.0, 0, 0]))]
    thresholds = {"d/s": ([1] * 4, [2.8, 2.82, 2.83, 5])}
    for t, mean in (
        ([0, 9, 0], 0.5),
        ([0, -0.1, 0], 0.5),
        ([-7, 0, 0], 1),
        ([0, 0, 0], 1),
    ):  # a baseline of nothing is off by 2 m
        other = [true[0], (identity, np.array(t, float))]
        result = metric.score_2023(posed(true), posed(other), thresholds)
        assert result.mean == mean, t


def test_2023_means_and_thresholds(random: np.random.Generator):
    true = pd.concat(
        [posed(cameras(random, 4), *name) for name in (("x", "1"), ("x", "2"), ("haiper", "bike"), ("y", "1"))]
    )
    single = posed(cameras(random, 1), "x", "3")
    result = metric.score_2023(pd.concat([true, single]), true[(true["dataset"] == "x") & (true["scene"] == "1")])
    assert {name: [s.score for s in scenes.values()][:2] for name, scenes in result.datasets.items()} == {
        "x": [1, 0],
        "haiper": [0],
        "y": [0],
    }
    assert math.isnan(result.datasets["x"]["3"].score)
    assert result.mean == pytest.approx(1 / 6)  # the mean of 1/2, 0 and 0
    assert result.datasets["haiper"]["bike"].thresholds[0] == pytest.approx((1, 0.05))
    assert result.datasets["y"]["1"].thresholds[-1] == pytest.approx((10, 5))
    assert str(result).splitlines()[-1].split() == ["mean", "0.1667"]
    assert json.loads(json.dumps(result.to_json(), allow_nan=False)) == {
        "mean": pytest.approx(1 / 6),
        "scenes": {"x/1": 1, "x/2": 0, "x/3": None, "haiper/bike": 0, "y/1": 0},
    }
    with pytest.raises(KitError, match="y/1 needs as many thresholds in degrees as in metres, not 2 and 1"):
        metric.score_2023(true, true, {"y/1": ([1, 2], [1])})


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        (3, "d/s must be two lists"),
        (None, "d/s must be two lists"),
        ([1, 2, 3], "d/s must be two lists"),
        ([1, 2], "d/s, in degrees, must be numbers from 0 up"),
        ("12", "d/s, in degrees, must be numbers from 0 up"),
        (([1], ["far"]), "d/s, in metres, must be numbers from 0 up"),
        (([], []), "d/s, in degrees, must be numbers from 0 up"),
    ],
)
def test_2023_bad_thresholds(random: np.random.Generator, thresholds, message: str):
    true = posed(cameras(random, 4))
    with pytest.raises(KitError, match=f"the thresholds of {message}"):
        metric.score_2023(true, true, {"d/s": thresholds})


def test_2023_names_with_slashes(random: np.random.Generator):
    true = pd.concat([posed(cameras(random, 4), "a/b", "c"), posed(cameras(random, 4), "a", "d")])
    assert {name: set(part) for name, part in metric.score_2023(true, true).datasets.items()} == {
        "a/b": {"c"}, "a": {"d"},
    }  # fmt: skip
    same = pd.concat([true, posed(cameras(random, 4), "a", "b/c")])
    with pytest.raises(KitError, match="both called a/b/c"):
        metric.score_2023(same, same)
