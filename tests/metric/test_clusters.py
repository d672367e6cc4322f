"""2025's score, compared with the hosts' numbers, a plain program and closed forms."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imc_kit import metric
from imc_kit.errors import KitError
from imc_kit.types import Float64
from plain_registration import plain_counts
from posed_tables import BOTH, LIMITS, clustered


def test_2025_hosts_program(shared: Path):
    folder = shared / "metric_cases_2025"
    cases = json.loads((folder / "expected.json").read_text())
    assert len(cases) == 6
    for entry in cases:
        tables = (folder / f"{entry['case']}_{name}.csv" for name in ("truth", "submission"))
        assert metric.score_2025(*tables, entry["thresholds"]).mean == pytest.approx(entry["score"], abs=1e-9)


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
    for bad in (3, None, "123", [0.1, 0.2], [0.1, 0.2, math.nan], [[1], [2], [3]]):
        with pytest.raises(KitError, match="the thresholds of d/B must be numbers from 0 up, 3 or more"):
            metric.score_2025(true, true, {"d/A": LIMITS, "d/B": bad})
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


@pytest.mark.parametrize("seed", range(4))
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
