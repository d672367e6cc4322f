"""2024's score, compared with the hosts' numbers, a plain program and closed forms."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imc_kit import metric
from imc_kit.errors import KitError
from imc_kit.metric import similarity
from imc_kit.types import Float64
from plain_registration import plain_counts, similar
from posed_tables import table

CASES = (
    *("00_perfect_8", "01_noise_20", "02_outliers_24", "03_nan_20", "04_mirror_16", "05_coincident_10"),
    *("06_missing_18", "08_shuffled_12", "09_noise_20", "10_perfect_4", "11_drift_30"),
)


def plain_maa(counts, images: int) -> float:
    return float(np.mean([max(0, count - 3) / (images - 3) for count in counts]))


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


KINDS = ("noise", "outliers", "far outlier", "missing", "planar", "collinear", "collinear truth", "all different")
KINDS += ("coincident guesses", "coincident truth", "some collinear")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_plain_program(kind: str, seed: int):
    truth, estimated = problem(kind, seed)
    result = metric.score_centers(truth, estimated)
    counts, total = plain_counts(truth, estimated, metric.THRESHOLDS)
    assert list(result.counts) == counts
    assert result.score == pytest.approx(plain_maa(counts, len(truth)), abs=1e-12)
    errors = np.linalg.norm(result.aligned - truth, axis=1)
    assert sum(int((errors < threshold).sum()) for threshold in metric.THRESHOLDS) == total


@pytest.mark.parametrize("pieces", [(7, 1), (1000, 100)])
def test_pieces_do_not_matter(pieces: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    truth, estimated = problem("outliers", 11)
    whole = metric.score_centers(truth, estimated).counts
    monkeypatch.setattr(similarity, "_TRIPLETS", pieces[0])
    monkeypatch.setattr(similarity, "_ELEMENTS", pieces[1])
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
    truth[:, 0] = 4  # in a plane, a rotation by 180° does what a mirror does
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


@pytest.mark.parametrize("thresholds", [(), (0.1, -0.1), (-1,), (math.nan,), (math.inf,), ("far",), "12", None, 3])
def test_bad_thresholds(random: np.random.Generator, thresholds):
    with pytest.raises(KitError, match="thresholds must be numbers from 0 up"):
        metric.score_centers(np.eye(3), np.eye(3), thresholds)
    true = pd.concat([table(random.normal(size=(5, 3)), random, scene=scene) for scene in "ab"])
    with pytest.raises(KitError, match="the thresholds of b must be numbers from 0 up"):
        metric.score(true, true, {"b": thresholds})


@pytest.mark.parametrize(("truth", "estimated"), [((4, 2), (4, 2)), ((4, 3), (5, 3)), ((3,), (3,))])
def test_bad_shapes(truth: tuple[int, ...], estimated: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"\[m, 3\]"):
        metric.score_centers(np.zeros(truth), np.zeros(estimated))
    with pytest.raises(ValueError, match="finite"):
        metric.score_centers(np.full((4, 3), np.nan), np.zeros((4, 3)))


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
    assert [record.getMessage() for record in caplog.records] == [
        "the submission has no row of absent/absent: no score there"
    ]
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
    monkeypatch.setattr(similarity, "EXHAUSTIVE", 10)
    monkeypatch.setattr(similarity, "SAMPLED", 200)
    result = metric.score(true, other)
    few, many = result.scenes["few"], result.scenes["many"]
    assert few.exact  # no bound is higher than all images
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


def test_no_scene_is_lost_to_its_name(random: np.random.Generator):
    groups = [("x", "b"), ("y", "b"), ("z", "x/b"), ("z", "c"), ("p/q", "d")]
    true = pd.concat([table(random.normal(size=(5, 3)), random, *group) for group in groups])
    result = metric.score(true, true[true["dataset"] == "x"], {"z/x/b": [7.0]})
    assert {name: scene.score for name, scene in result.scenes.items()} == {
        "x/b": 1, "y/b": 0, "z/x/b": 0, "c": 0, "d": 0,
    }  # fmt: skip
    assert result.scenes["z/x/b"].thresholds == (7.0,)
    same = pd.concat([true, table(random.normal(size=(5, 3)), random, "z/x", "b")])
    with pytest.raises(KitError, match="two scenes that are both called z/x/b: give one another name"):
        metric.score(same, same)


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
