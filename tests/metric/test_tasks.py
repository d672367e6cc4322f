"""The scores by the scenes of a task."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from imc_kit import metric
from imc_kit.errors import KitError
from posed_tables import BOTH, LIMITS, cameras, clustered, posed, table


def test_scenes_of_a_task_of_2024(random: np.random.Generator):
    centers = random.normal(size=(8, 3))
    true = pd.concat([table(centers, random), table(centers[:3], random, scene="few")])
    found = metric.score_scenes("2024", ["a", "few", "new"], true, true, {"a": LIMITS})
    assert set(found) == {"a", "few"}
    assert found["a"].models[0].thresholds == LIMITS
    assert found["a"].accuracy == 1
    assert found["few"].accuracy is None  # too few images for a score


@pytest.mark.parametrize(("layout", "scenes"), [("2024", ["a"]), ("2023", ["a/a"]), ("2025", ["a"])])
def test_nothing_is_said_about_other_scenes(
    layout: str, scenes: list[str], random: np.random.Generator, caplog: pytest.LogCaptureFixture
):
    """The truth and the thresholds have them, the submission does not."""
    poses = cameras(random, 6)
    true = pd.concat([posed(poses, "a", "a"), posed(poses, "b", "b")])
    if layout == "2025":
        true = true.assign(image=true["image_path"])
    limits = {"2023": ([1.0], [1.0]), "2024": (1.0,), "2025": (0.0, 0.0, 1.0)}[layout]
    found = metric.score_scenes(layout, scenes, true, true[true["scene"] == "a"], {"a/a": limits, "b/b": limits})
    assert list(found) == scenes
    assert found[scenes[0]].accuracy == 1
    assert "b" not in {word.strip(":,") for record in caplog.messages for word in record.replace("/", " ").split()}
    assert metric.score_scenes("2024", ["b"], true, true[true["scene"] == "a"])["b"].accuracy == 0
    assert "the submission has no row of b/b" in caplog.text  # it is asked for
    metric.score_scenes("2024", ["a"], true, true, {"c": (1.0,)})
    assert "thresholds are given for scenes that are not in the truth: c" in caplog.text


def test_a_scene_is_found_by_its_name_with_the_dataset(random: np.random.Generator):
    """Two datasets have a scene of one name, and only one of them is asked for."""
    poses = cameras(random, 6)
    true = pd.concat([posed(poses, "x", "s"), posed(poses, "y", "s")])
    assert metric.score_scenes("2024", ["x/s"], true, true)["x/s"].accuracy == 1
    assert metric.score_scenes("2024", ["s"], true, true) == {}


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
    slashed = posed(poses, "x/y", "3")
    assert metric.score_scenes("2023", ["x/y/3"], slashed, slashed)["x/y/3"].accuracy == 1
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
