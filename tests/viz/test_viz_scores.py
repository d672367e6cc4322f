"""Figures of scores and costs."""

from __future__ import annotations

import numpy as np
import pytest

from imc_kit.metric import score_centers
from imc_kit.viz import draw_accuracy, draw_memory, draw_seconds
from imc_kit.viz.palette import NEUTRAL, SERIES, STAGES

SECONDS = {"a": {"map": 3.0, "detect": 1.5, "polish": 1.0}, "<b>": {"detect": 2.0}}


def test_the_share_of_cameras_at_each_threshold() -> None:
    truth = np.random.default_rng(0).normal(size=(10, 3))
    found = truth.copy()
    found[:3] += 0.3
    thresholds = [1.0, 0.01, 0.1]
    figure = draw_accuracy(
        {"a": score_centers(truth, found, thresholds), "<b>": score_centers(truth, truth, thresholds)}
    )
    one, other = figure.data
    assert list(one.x) == [0.01, 0.1, 1.0]
    np.testing.assert_allclose(one.y, [100 * 4 / 7, 100 * 4 / 7, 100])  # three are never counted
    assert one.name == "a, mAA 0.714"
    assert other.name == "&lt;b&gt;, mAA 1.000"
    assert (one.line.color, other.line.color) == SERIES[:2]
    assert one.marker.symbol != other.marker.symbol
    assert figure.layout.yaxis.title.text == "cameras (%)"
    assert "unit of the truth" in figure.layout.xaxis.title.text
    assert tuple(figure.layout.yaxis.range) == (-2, 102)


def test_scenes_without_a_score_are_left_out() -> None:
    three = np.eye(3)
    figure = draw_accuracy({"three": score_centers(three, three)})
    assert len(figure.data) == 0
    assert "no scene has a score" in figure.to_json()


def test_seconds_are_stacked_by_stage_in_the_pipelines_order() -> None:
    figure = draw_seconds(SECONDS)
    assert [bar.name for bar in figure.data] == ["detect", "map", "polish"]
    assert [bar.marker.color for bar in figure.data] == [STAGES["detect"], STAGES["map"], NEUTRAL]
    assert list(figure.data[0].x) == [1.5, 2.0]
    assert list(figure.data[1].x) == [3.0, 0.0]
    assert list(figure.data[0].y) == ["a", "&lt;b&gt;"]
    assert figure.layout.barmode == "stack"
    assert figure.layout.xaxis.title.text == "time (seconds)"
    assert figure.data[0].hovertext[0] == "a, detect: 1.5 s"


def test_memory_stands_side_by_side_in_gigabytes() -> None:
    figure = draw_memory({"a": {"detect": 2.5e9, "map": 5e8}})
    assert figure.layout.barmode == "group"
    assert [bar.x[0] for bar in figure.data] == [2.5, 0.5]
    assert figure.layout.xaxis.title.text == "peak memory (GB)"


def test_many_scenes_stay_one_page_long() -> None:
    stages = dict.fromkeys(STAGES, 1e9)
    assert draw_memory({"a": stages}).layout.height < 400
    assert draw_memory({f"{n}": stages for n in range(12)}).layout.height < 1200
    assert draw_seconds({f"{n}": stages for n in range(12)}).layout.height < 600


@pytest.mark.parametrize("draw", [draw_seconds, draw_memory])
@pytest.mark.parametrize("values", [{}, {"a": {}}])
def test_nothing_measured(draw, values) -> None:  # type: ignore[no-untyped-def]
    assert "nothing was measured" in draw(values).to_json()
    assert len(draw_accuracy({}).data) == 0
