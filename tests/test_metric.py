"""The scores against the hosts' own numbers, against slow and plain programs, and against closed forms."""

from __future__ import annotations

import json
import logging
import math
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imc_kit import metric, registration
from imc_kit.errors import KitError
from imc_kit.submission import NO_POSE
from imc_kit.types import Float64
from plain_registration import plain_counts, rotation, similar

CASES = (
    *("00_perfect_8", "01_noise_20", "02_outliers_24", "03_nan_20", "04_mirror_16", "05_coincident_10"),
    *("06_missing_18", "08_shuffled_12", "09_noise_20", "10_perfect_4", "11_drift_30"),
)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# Problems and plain programs.


def plain_maa(counts, images: int) -> float:
    return float(np.mean([max(0, count - 3) / (images - 3) for count in counts]))


def turn(degrees: float) -> Float64:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def text(values) -> str:
    return ";".join(map(repr, np.asarray(values, float).ravel().tolist()))


def pose(center: Float64, r: Float64) -> tuple[str, str]:
    return text(r), text(-r @ np.asarray(center))


def table(centers: Float64, random: np.random.Generator, dataset: str = "a", scene: str = "a") -> pd.DataFrame:
    rows = [
        (f"test/{scene}/images/{i}.png", dataset, scene, *pose(center, rotation(random)))
        for i, center in enumerate(centers)
    ]
    return pd.DataFrame(rows, columns=["image_path", "dataset", "scene", "rotation_matrix", "translation_vector"])


# 2024.


@pytest.mark.parametrize("case", CASES)
def test_hosts_program(shared: Path, case: str):
    folder = shared / "metric_cases"
    expected = {entry["case"]: entry for entry in json.loads((folder / "expected.json").read_text())}
    assert set(expected) == set(CASES)
    entry = expected[case]
    thresholds = {entry["dataset"]: entry["thresholds"]}
    result = metric.score(folder / f"{case}_truth.csv", str(folder / f"{case}_submission.csv"), thresholds)
    assert result.mean == pytest.approx(entry["score"], abs=1e-9)
    assert list(result.scenes) == [entry["dataset"]]
    assert result.scenes[entry["dataset"]].score == result.mean


def problem(kind: str, seed: int) -> tuple[Float64, Float64]:
    random = np.random.default_rng(seed)
    truth = random.normal(size=(9, 3))
    estimated = truth + 0.08 * random.normal(size=truth.shape)
    if kind == "outliers":
        estimated[:3] = random.normal(size=(3, 3))
    elif kind == "far outlier":
        estimated[4] = 1e7
    elif kind == "missing":
        estimated[1], estimated[5, 2] = np.nan, np.inf
    elif kind == "planar":
        truth[:, 2] = 0
    elif kind == "collinear":
        truth[:, 1:] = 0
        estimated[:, 1:] = 0
    elif kind == "collinear truth":
        truth[:, 1:] = 0
    elif kind == "all different":
        estimated = random.normal(size=truth.shape)
    elif kind == "coincident guesses":
        truth, estimated = 100 * truth, 100 * truth + 0.08 * random.normal(size=truth.shape)
        estimated[:4] = estimated[4:].mean(axis=0)
    elif kind == "coincident truth":
        truth *= 100
        truth[:4] = truth[4]
        estimated = truth + 0.08 * random.normal(size=truth.shape)
    elif kind == "some collinear":
        truth, estimated = 100 * truth, 100 * truth + 0.08 * random.normal(size=truth.shape)
        truth[:5, 1:] = 0
        estimated[:5, 1:] = 0
    return truth, similar(estimated, random)


# In the last three, the turn about a line is open for some triplets. The scene is large so that none can be lucky.
KINDS = ("noise", "outliers", "far outlier", "missing", "planar", "collinear", "collinear truth", "all different")
KINDS += ("coincident guesses", "coincident truth", "some collinear")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_plain_program(kind: str, seed: int):
    truth, estimated = problem(kind, seed)
    result = metric.score_centers(truth, estimated)
    counts, total = plain_counts(truth, estimated, metric.THRESHOLDS)
    assert list(result.counts) == counts
    assert result.score == pytest.approx(plain_maa(counts, len(truth)), abs=1e-12)
    errors = np.linalg.norm(result.aligned - truth, axis=1)
    assert sum(int((errors < threshold).sum()) for threshold in metric.THRESHOLDS) == total


@pytest.mark.parametrize("pieces", [(1, 1), (5, 40), (1000, 100)])
def test_pieces_do_not_matter(pieces: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    truth, estimated = problem("outliers", 11)
    whole = metric.score_centers(truth, estimated).counts
    monkeypatch.setattr(registration, "_TRIPLETS", pieces[0])
    monkeypatch.setattr(registration, "_ELEMENTS", pieces[1])
    assert metric.score_centers(truth, estimated).counts == whole


@pytest.mark.parametrize(("scale", "offset"), [(1e-6, 0.0), (1e6, 1e8), (3.0, 1e4)])
def test_frame_and_unit_do_not_matter(random: np.random.Generator, scale: float, offset: float):
    truth = random.normal(size=(12, 3))
    estimated = truth + 0.05 * random.normal(size=truth.shape)
    counts = metric.score_centers(truth, estimated).counts
    assert 3 < min(counts) < 12
    assert metric.score_centers(truth, similar(estimated, random, scale, offset)).counts == counts
    moved = similar(truth, random, scale, offset)
    assert metric.score_centers(moved, estimated, scale * np.array(metric.THRESHOLDS)).counts == counts


@pytest.mark.parametrize(("images", "right"), [(4, 4), (8, 5), (70, 65), (130, 129)])  # 64 bits to the word of a set
def test_some_right_and_some_far_off(random: np.random.Generator, images: int, right: int):
    truth = 10 * random.normal(size=(images, 3))
    estimated = similar(truth, random)
    estimated[right:] += 1e3 * np.arange(1, images - right + 1)[:, None]
    if images > 100:  # thousands of triplets are enough
        estimated[:90] = np.nan
        right -= 90
    result = metric.score_centers(truth, estimated)
    assert result.counts == (right,) * 6
    assert result.fractions == pytest.approx([(right - 3) / (images - 3)] * 6)


def test_mirror(random: np.random.Generator):
    truth = random.normal(size=(10, 3))
    mirrored = truth * (1, 1, -1)
    assert metric.score_centers(truth, truth).score == 1
    assert metric.score_centers(truth, mirrored, (0.01, 0.02)).score < 0.2
    truth[:, 0] = 4  # in a plane, half a turn does what a mirror does
    assert metric.score_centers(truth, truth * (1, 1, -1)).score == 1


def test_alignment(random: np.random.Generator):
    truth = random.normal(size=(7, 3))
    estimated = similar(truth, random)
    estimated[2] = np.nan
    result = metric.score_centers(truth, estimated, names=list("abcdefg"))
    assert np.isnan(result.aligned[2]).all()
    np.testing.assert_allclose(np.delete(result.aligned, 2, 0), np.delete(truth, 2, 0), atol=1e-12)
    assert (result.images, result.registered, result.names) == (7, 6, tuple("abcdefg"))


@pytest.mark.parametrize("known", [0, 1, 2])
def test_too_few_to_align(random: np.random.Generator, known: int):
    truth = random.normal(size=(6, 3))
    estimated = np.full_like(truth, np.nan)
    estimated[:known] = truth[:known]
    result = metric.score_centers(truth, estimated)
    assert (result.score, result.registered, set(result.counts)) == (0, known, {0})
    assert np.isnan(result.aligned).all()


@pytest.mark.parametrize("images", [0, 1, 2, 3])
def test_too_few_to_score(random: np.random.Generator, images: int):
    truth = random.normal(size=(images, 3))
    result = metric.score_centers(truth, truth)
    assert math.isnan(result.score)
    assert result.to_json()["score"] is None


@pytest.mark.parametrize("place", [0.0, 1.1, 1e12])
def test_one_place_for_all(random: np.random.Generator, place: float):
    truth = random.normal(size=(11, 3))
    assert metric.score_centers(truth, np.full_like(truth, place)).counts == (0,) * 6
    poses = table(np.full_like(truth, place), random)  # the rotations differ, so the centres do by rounding
    assert metric.score(table(truth, random), poses).mean == 0


@pytest.mark.parametrize("extreme", [1e-300, 1e160, 1e300])
def test_extreme_numbers(random: np.random.Generator, extreme: float):
    truth = random.normal(size=(8, 3))
    estimated = truth.copy()
    estimated[0] = extreme
    assert metric.score_centers(truth, estimated).counts[0] == 7


@pytest.mark.parametrize("thresholds", [(), (0.1, 0), (-1,), (math.nan,), (math.inf,), ("far",), None, 3])
def test_bad_thresholds(thresholds):
    with pytest.raises(KitError, match="thresholds are positive numbers"):
        metric.score_centers(np.eye(3), np.eye(3), thresholds)


@pytest.mark.parametrize(("truth", "estimated"), [((4, 2), (4, 2)), ((4, 3), (5, 3)), ((3,), (3,))])
def test_bad_shapes(truth: tuple[int, ...], estimated: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"\[m, 3\]"):
        metric.score_centers(np.zeros(truth), np.zeros(estimated))
    with pytest.raises(ValueError, match="finite"):
        metric.score_centers(np.full((4, 3), np.nan), np.zeros((4, 3)))


# Tables.


def test_missing_is_nan_and_order_is_nothing(random: np.random.Generator, tmp_path: Path):
    truth = random.normal(size=(10, 3))
    true = table(truth, random)
    submission = table(truth + 0.1 * random.normal(size=truth.shape), random)
    nan, lacking = submission.copy(), submission.drop(index=[2, 7])
    nan.loc[[2, 7], ["rotation_matrix", "translation_vector"]] = NO_POSE
    shuffled = lacking.sample(frac=1, random_state=3)
    shuffled.to_csv(tmp_path / "shuffled.csv", index=False)
    scores = [metric.score(true, other) for other in (nan, lacking, shuffled, tmp_path / "shuffled.csv")]
    assert len({score.mean for score in scores}) == 1
    assert {score.scenes["a"].registered for score in scores} == {8}
    assert 0 < scores[0].mean < metric.score(true, submission).mean


def test_scenes(random: np.random.Generator, caplog: pytest.LogCaptureFixture):
    centers = random.normal(size=(6, 3))
    scenes = {name: table(centers, random, name, name) for name in ("right", "half", "absent")}
    small = table(centers[:3], random, "small", "small")
    true = pd.concat([*scenes.values(), small])
    result = metric.score(true, pd.concat([scenes["right"], scenes["half"].iloc[:5], small]))
    assert {name: scene.score for name, scene in result.scenes.items() if name != "small"} == {
        "right": 1,
        "half": pytest.approx(2 / 3),
        "absent": 0,
    }
    assert result.mean == pytest.approx(5 / 9)
    assert not caplog.records
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record["mean"] == result.mean
    assert record["scenes"] == {"right": 1, "half": pytest.approx(2 / 3), "absent": 0, "small": None}
    assert record["details"]["half"]["counts"] == [5] * 6
    lines = str(result).splitlines()
    assert [line.split()[0] for line in lines] == ["scene", "right", "half", "absent", "small", "mean"]
    assert lines[2].split()[1:5] == ["6", "5", "0.6667", "0.025:5"]
    assert math.isnan(metric.score(small, small).mean)


def test_bounds_are_shown_where_not_all_triplets_are_tried(
    random: np.random.Generator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    centers = random.normal(size=(20, 3))
    true = pd.concat([table(centers, random, "few", "few"), table(centers, random, "many", "many")])
    noisy = centers + 0.05 * random.normal(size=centers.shape)
    other = pd.concat([table(centers, random, "few", "few"), table(noisy, random, "many", "many")])
    exact = metric.score(true, other).scenes["many"]
    assert exact.exact
    assert exact.at_most == exact.score
    assert "at_most" not in exact.to_json()
    assert not caplog.records
    monkeypatch.setattr(registration, "EXHAUSTIVE", 10)
    monkeypatch.setattr(registration, "SAMPLED", 200)
    result = metric.score(true, other)
    few, many = result.scenes["few"], result.scenes["many"]
    assert few.exact  # reaching all is proof enough
    assert not many.exact
    assert many.score <= exact.score <= many.at_most
    assert many.to_json()["at_most"] == many.at_most
    assert many.to_json()["counts_at_most"] == list(many.most)
    lines = str(result).splitlines()
    assert lines[1].split()[3] == "1.0000"
    assert lines[2].split()[3] == f"{many.score:.4f}–{many.at_most:.4f}"
    assert lines[2].split()[4] == f"0.025:{many.counts[0]}–{many.most[0]}"
    assert lines[3].split()[1] == f"{(1 + many.score) / 2:.4f}–{(1 + many.at_most) / 2:.4f}"
    assert f"at least {many.score:.4f} and at most {many.at_most:.4f}" in caplog.text


def test_same_scene_in_two_datasets(random: np.random.Generator):
    first, second = (table(random.normal(size=(5, 3)), random, dataset, "church") for dataset in "xy")
    result = metric.score(pd.concat([first, second]), first)
    assert {name: scene.score for name, scene in result.scenes.items()} == {"x/church": 1, "y/church": 0}


def test_thresholds_by_scene(random: np.random.Generator, caplog: pytest.LogCaptureFixture):
    truth = random.normal(size=(8, 3))
    true, other = table(truth, random), table(truth + 0.01 * random.normal(size=truth.shape), random)
    assert metric.score(true, other).scenes["a"].thresholds == metric.THRESHOLDS
    loose = metric.score(true, other, {"a": [5.0]})
    assert loose.scenes["a"].thresholds == (5.0,)
    assert loose.mean == 1 > metric.score(true, other, {"a": metric.TRANSPARENT_THRESHOLDS}).mean
    assert not caplog.records
    metric.score(true, other, {"b": [5.0]})
    assert "thresholds are given for scenes that are not in the truth: b" in caplog.text


def test_unknown_rows_are_ignored(random: np.random.Generator, caplog: pytest.LogCaptureFixture):
    true = table(random.normal(size=(6, 3)), random)
    extra = table(random.normal(size=(3, 3)), random, "b", "b")
    assert metric.score(true, pd.concat([true, extra])).mean == 1
    assert caplog.record_tuples == [
        (
            "imc_kit.metric",
            logging.WARNING,
            "3 rows of the submission are not in the truth, such as b, b, test/b/images/0.png",
        )
    ]


def test_nothing_submitted(random: np.random.Generator):
    true = table(random.normal(size=(6, 3)), random)
    assert metric.score(true, true.iloc[:0]).mean == 0


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.drop(columns="scene"), "lacks the column scene"),
        (lambda t: pd.concat([t, t.iloc[[1]]]), r"row 6, a, a, test/a/images/1\.png, a second time"),
        (lambda t: t.replace(t.iloc[2, 3], "1;2;3"), r"row 3 \(a, a, test/a/images/2\.png\): a rotation is 9 numbers"),
        (lambda t: t.replace(t.iloc[2, 4], "1;2;3;4"), r"row 3 .*a translation is 3 numbers"),
        (lambda t: t.replace(t.iloc[2, 4], "1;2;x"), r"row 3 .*not '1;2;x'"),
        (lambda t: t.replace(t.iloc[4, 3], ""), "row 5 .*a rotation is 9 numbers"),
    ],
)
def test_hostile_tables(random: np.random.Generator, tmp_path: Path, as_file: bool, spoil, message: str):
    good = table(random.normal(size=(5, 3)), random)
    bad = spoil(good)
    if as_file:
        bad.to_csv(tmp_path / "bad.csv", index=False)
        bad, message = tmp_path / "bad.csv", f"bad.csv.*{message}"
    for score in (metric.score, metric.score_2023):
        with pytest.raises(KitError, match=message):
            score(good, bad)
        with pytest.raises(KitError, match=message):
            score(bad, good)


def test_hostile_truth(random: np.random.Generator, tmp_path: Path):
    good = table(random.normal(size=(5, 3)), random)
    with pytest.raises(KitError, match="the truth has no rows"):
        metric.score(good.iloc[:0], good)
    nan = good.copy()
    nan.loc[3, ["rotation_matrix", "translation_vector"]] = NO_POSE
    with pytest.raises(KitError, match=r"the truth has no finite pose for a, a, test/a/images/3\.png"):
        metric.score(nan, good)
    with pytest.raises(KitError, match="no file"):
        metric.score(tmp_path / "none.csv", good)


# 2023.


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


def posed(poses, dataset: str = "d", scene: str = "s") -> pd.DataFrame:
    rows = [(f"{dataset}/{scene}/{i}.png", dataset, scene, text(r), text(t)) for i, (r, t) in enumerate(poses)]
    return pd.DataFrame(rows, columns=["image_path", "dataset", "scene", "rotation_matrix", "translation_vector"])


def cameras(random: np.random.Generator, count: int, size: float = 1.0) -> list[tuple[Float64, Float64]]:
    return [(rotation(random), size * random.normal(size=3)) for _ in range(count)]


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
    with pytest.raises(KitError, match="as many thresholds"):
        metric.score_2023(true, true, {"y/1": ([1, 2], [1])})


# 2025.

LIMITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def clustered(
    groups: dict[str, dict[str, Float64 | None]], random: np.random.Generator, dataset: str = "d"
) -> pd.DataFrame:
    """scene or cluster: image: centre, None for no pose."""
    rows = [
        (dataset, scene, image, *(NO_POSE if center is None else pose(center, rotation(random))))
        for scene, images in groups.items()
        for image, center in images.items()
    ]
    return pd.DataFrame(rows, columns=["dataset", "scene", "image", "rotation_matrix", "translation_vector"])


@pytest.fixture
def scenes(random: np.random.Generator) -> dict[str, dict[str, Float64 | None]]:
    """Of 8, 5 and 3 images."""
    return {
        "A": {f"a{i}": random.normal(size=3) for i in range(8)},
        "B": {f"b{i}": random.normal(size=3) for i in range(5)},
        "outliers": {f"o{i}": None for i in range(3)},
    }


BOTH = {"d/A": LIMITS, "d/B": LIMITS}


def harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b)


def part(images: dict, count: int) -> dict:
    return dict(list(images.items())[:count])


def test_2025_perfect(random: np.random.Generator, scenes):
    renamed = {"1": scenes["B"], "0": scenes["A"], "outliers": scenes["outliers"]}
    result = metric.score_2025(clustered(scenes, random), clustered(renamed, random), BOTH)
    dataset = result.datasets["d"]
    assert (result.mean, dataset.accuracy, dataset.clustering) == (1, 1, 1)
    assert dataset.clusters == {"A": "0", "B": "1"}
    assert dataset.scenes["A"].counts == (8,) * 6
    assert str(result).splitlines()[1].split() == ["d", "1.0000", "1.0000", "1.0000"]
    assert json.loads(json.dumps(result.to_json(), allow_nan=False)) == {
        "mean": 1,
        "datasets": {"d": {"score": 1, "accuracy": 1, "clustering": 1}},
        "scenes": {"d/A": 1, "d/B": 1},
    }


def test_2025_outliers_in_a_cluster(random: np.random.Generator, scenes):
    given = {"0": scenes["A"] | {"o0": np.zeros(3), "o1": None}, "1": scenes["B"], "outliers": {"o2": None}}
    dataset = metric.score_2025(clustered(scenes, random), clustered(given, random), BOTH).datasets["d"]
    assert (dataset.accuracy, dataset.clustering) == (1, pytest.approx(13 / 15))
    assert dataset.score == pytest.approx(harmonic(1, 13 / 15))


def test_2025_split_and_left_out(random: np.random.Generator, scenes):
    rest = dict.fromkeys(("a7", "b4", *scenes["outliers"]))
    given = {"0": part(scenes["A"], 5), "1": {f"a{i}": scenes["A"][f"a{i}"] for i in (5, 6)}}
    given |= {"2": part(scenes["B"], 4), "outliers": rest}
    dataset = metric.score_2025(clustered(scenes, random), clustered(given, random), BOTH).datasets["d"]
    assert dataset.accuracy == pytest.approx((2 + 1) / (5 + 2))
    assert dataset.clustering == 1


def test_2025_one_cluster_for_all(random: np.random.Generator, scenes):
    everything = {image: center for images in scenes.values() for image, center in images.items()}
    dataset = metric.score_2025(clustered(scenes, random), clustered({"x": everything}, random), BOTH).datasets["d"]
    assert (dataset.accuracy, dataset.clustering) == (1, pytest.approx(13 / 32))  # each scene in its own frame
    assert dataset.clusters == {"A": "x", "B": "x"}


def test_2025_most_images_then_best_poses(random: np.random.Generator, scenes):
    halves = [dict(list(scenes["A"].items())[i::2]) for i in (0, 1)]
    halves[0] = {image: random.normal(size=3) for image in halves[0]}
    given = {"wrong": halves[0], "right": halves[1], "2": scenes["B"]}
    result = metric.score_2025(clustered(scenes, random), clustered(given, random), BOTH)
    assert result.datasets["d"].clusters == {"A": "right", "B": "2"}
    given["wrong"]["a1"] = given["right"].pop("a1")
    result = metric.score_2025(clustered(scenes, random), clustered(given, random), BOTH)
    assert result.datasets["d"].clusters == {"A": "wrong", "B": "2"}


def test_2025_a_scene_that_nothing_shows(random: np.random.Generator, scenes):
    rest = dict.fromkeys((*scenes["B"], *scenes["outliers"]))
    after = clustered({"0": scenes["A"], "outliers": rest}, random)
    dataset = metric.score_2025(clustered(scenes, random), after, BOTH).datasets["d"]
    assert (dataset.accuracy, dataset.clustering) == (pytest.approx(5 / 7), pytest.approx(8 / 16))
    before = clustered({"outliers": rest, "0": scenes["A"]}, random)
    dataset = metric.score_2025(clustered(scenes, random), before, BOTH).datasets["d"]
    assert (dataset.accuracy, dataset.clustering) == (pytest.approx(5 / 2), 1)
    assert dataset.clusters == {"A": "0", "B": "outliers"}


def test_2025_datasets(random: np.random.Generator, scenes):
    true = [clustered(scenes, random, name) for name in "de"]
    limits = BOTH | {"e/A": LIMITS, "e/B": LIMITS}
    assert metric.score_2025(pd.concat(true), true[0], limits).mean == 0.5
    alone = clustered({"outliers": scenes["outliers"]}, random, "f")
    assert metric.score_2025(pd.concat([true[0], alone]), true[0], BOTH).datasets["f"].score == 0


def test_2025_bad_thresholds(random: np.random.Generator, scenes, caplog: pytest.LogCaptureFixture):
    true = clustered(scenes, random)
    with pytest.raises(KitError, match="no thresholds are given for d/B"):
        metric.score_2025(true, true, {"d/A": LIMITS})
    with pytest.raises(KitError, match="equally many"):
        metric.score_2025(true, true, {"d/A": LIMITS, "d/B": LIMITS[:4]})
    metric.score_2025(true, true, BOTH | {"d/C": LIMITS})
    assert "not in the truth: d/C" in caplog.text


def test_2025_hostile_tables(random: np.random.Generator, scenes):
    true = clustered(scenes, random)
    with pytest.raises(KitError, match="the submission has row 17, d, a0, a second time"):
        metric.score_2025(true, pd.concat([true, true.iloc[[0]]]), BOTH)
    with pytest.raises(KitError, match="the truth lacks the column image"):
        metric.score_2025(true.drop(columns="image"), true, BOTH)
    posed_outliers = true.replace("A", "outliers")
    with pytest.raises(KitError, match="no finite pose for d, o0"):
        metric.score_2025(true.replace("outliers", "C"), true, BOTH)
    assert metric.score_2025(posed_outliers, true, {"d/B": LIMITS}).mean == 1


@pytest.mark.parametrize("seed", range(6))
def test_2025_plain_program(seed: int):
    """All scenes against all clusters, as one table; every image is in some cluster, no scene is without one."""
    random = np.random.default_rng(seed)
    truth = {scene: {f"{scene}{i}": random.normal(size=3) for i in range(6)} for scene in "ABC"}
    given: dict[str, dict[str, Float64 | None]] = {name: {} for name in ("0", "outliers", "1", "2")}
    for scene, images in truth.items():
        for image, center in images.items():
            likely = {"A": "0", "B": "1", "C": "2"}[scene]
            cluster = likely if random.random() < 0.8 else str(random.choice(["0", "1", "2", "outliers"]))
            given[cluster][image] = center + 0.04 * random.normal(size=3)
    given = {name: images for name, images in given.items() if images}

    shared = sizes = reached = 0
    for images in truth.values():
        choices = []
        for place, (name, cluster) in enumerate(given.items()):
            if name != "outliers":
                centers = np.array([cluster.get(image, np.full(3, np.nan)) for image in images])
                counts, _ = plain_counts(np.array(list(images.values())), centers, LIMITS)
                gained = sum(max(0, count - 3) for count in counts[2:])
                choices.append((len(images.keys() & cluster.keys()), gained, -place, len(cluster)))
        common, gained, _, size = max(choices)
        shared, sizes, reached = shared + common, sizes + size, reached + gained
    accuracy, clustering = reached / (4 * 3 * 3), shared / sizes

    limits = {f"d/{scene}": LIMITS for scene in truth}
    result = metric.score_2025(clustered(truth, random), clustered(given, random), limits).datasets["d"]
    assert (result.accuracy, result.clustering) == (pytest.approx(accuracy), pytest.approx(clustering))
    assert result.score == pytest.approx(harmonic(accuracy, clustering) if accuracy else 0)


# By the scenes of a task.


def test_scenes_of_a_task_of_2024(random: np.random.Generator):
    centers = random.normal(size=(8, 3))
    true = pd.concat([table(centers, random), table(centers[:3], random, scene="few")])
    found = metric.score_scenes("2024", ["a", "few", "new"], true, true, {"a": LIMITS})
    assert set(found) == {"a", "few"}
    assert found["a"].models[0].thresholds == LIMITS
    assert found["a"].accuracy == 1
    assert found["few"].accuracy is None  # too few images for a score


def test_scenes_of_a_task_of_2023(random: np.random.Generator):
    poses = cameras(random, 6)
    true = pd.concat([posed(poses, "x", "1"), posed(poses, "y", "1"), posed(poses, "y", "2")])
    other = pd.concat([posed(poses, "x", "1"), posed(cameras(random, 6), "y", "1"), posed(poses, "y", "2")])
    found = metric.score_scenes("2023", ["x/1", "y/1", "y/2"], true, other)
    parts = metric.score_2023(true, other).datasets
    means = {name: one.accuracy for name, one in found.items()}
    assert means == {"x/1": 1, "y/1": parts["y"]["1"].score, "y/2": 1}
    assert means["y/1"] < 0.5
    assert found["y/2"].models[0].counts == (6,) * 6
    # A scene that the truth does not know has no score, though another dataset has one of its name.
    assert set(metric.score_scenes("2023", ["x/2", "y/2"], true, other)) == {"y/2"}


def test_scenes_of_a_task_of_2025(random: np.random.Generator, scenes):
    named = {"cluster2": scenes["A"], "cluster1": scenes["B"], "outliers": scenes["outliers"]}
    true, submitted = clustered(scenes, random), clustered(named, random)
    found = metric.score_scenes("2025", ["d"], true, submitted, BOTH)
    assert found["d"].accuracy == 1
    assert {number: one.names for number, one in found["d"].models.items()} == {
        1: tuple(scenes["A"]), 0: tuple(scenes["B"]),
    }  # fmt: skip
    elsewhere = submitted.replace({"cluster1": "one", "cluster2": "cluster10"})
    assert list(metric.score_scenes("2025", ["d"], true, elsewhere, BOTH)["d"].models) == [9]
    with pytest.raises(KitError, match="--thresholds"):
        metric.score_scenes("2025", ["d"], true, submitted)


@pytest.mark.parametrize(("content", "message"), [(None, "cannot read"), ("{", "cannot read"), ("[1]", "an object")])
def test_thresholds_that_are_none(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(KitError, match=message) as error:
        metric.read_thresholds(tmp_path / "t.json")
    assert "t.json" in str(error.value)
