"""Figures of scores and costs: accuracy by distance, time and memory by stage. All are plotly figures."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from imc_kit.metric import SceneScore
from imc_kit.viz.palette import CATEGORIES, LEGEND, NEUTRAL, SERIES, STAGES, package, styled

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")
"""Five symbols and six colours have no common factor, so each of thirty scenes has its own combination."""


def draw_accuracy(scores: Mapping[str, SceneScore]) -> Any:
    """Draw the share of each scene's cameras within each of the metric's distances of the truth.

    The legend shows the mAA, which is the mean over the distances. Scenes of three images or fewer have no mAA and are
    left out.
    """
    figure = package("plotly.graph_objects").Figure()
    counted = {name: score for name, score in scores.items() if score.images and np.isfinite(score.score)}
    for number, (name, score) in enumerate(counted.items()):
        order = np.argsort(score.thresholds)
        label = html.escape(name)
        figure.add_scatter(
            x=np.array(score.thresholds)[order], y=100 * np.array(score.fractions)[order], mode="lines+markers",
            line={"color": SERIES[number % len(SERIES)], "width": 2},
            marker={"size": 8, "symbol": _SYMBOLS[number % len(_SYMBOLS)]},
            name=f"{label}, mAA {score.score:.3f}",
            hovertemplate=f"{label}<br>%{{y:.0f}} % within %{{x:g}}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        xaxis={"title": {"text": "distance from the truth (unit of the truth)"}, "type": "log", "dtick": 1},
        yaxis={"title": {"text": "cameras (%)"}, "range": [-2, 102]},
        showlegend=True, legend={"orientation": "h", "x": 0, "y": -0.25, "yanchor": "top"},
    )  # fmt: skip
    return styled(figure, empty="" if counted else "no scene has a score")


def draw_seconds(seconds: Mapping[str, Mapping[str, float]]) -> Any:
    """Draw seconds by stage, one stacked bar for each scene: {scene: {stage: seconds}}."""
    return _bars(seconds, "time (seconds)", "{:.1f} s", stacked=True)


def draw_memory(memory: Mapping[str, Mapping[str, float]]) -> Any:
    """Draw the peak memory of each stage, bars side by side for each scene: {scene: {stage: bytes}}."""
    gigabytes = {scene: {stage: used / 1e9 for stage, used in stages.items()} for scene, stages in memory.items()}
    return _bars(gigabytes, "peak memory (GB)", "{:.2f} GB", stacked=False)


def _bars(values: Mapping[str, Mapping[str, float]], title: str, form: str, *, stacked: bool) -> Any:
    figure = package("plotly.graph_objects").Figure()
    present = dict.fromkeys(stage for stages in values.values() for stage in stages)
    stages = [stage for stage in STAGES if stage in present] + [stage for stage in present if stage not in STAGES]
    for stage in stages:
        heights = {html.escape(scene): costs.get(stage, 0.0) for scene, costs in values.items()}
        figure.add_bar(
            y=list(heights), x=list(heights.values()), orientation="h", name=html.escape(stage),
            marker={"color": STAGES.get(stage, NEUTRAL), "line": {"width": 0}},
            hovertemplate="%{hovertext}<extra></extra>",
            hovertext=[f"{scene}, {html.escape(stage)}: {form.format(height)}" for scene, height in heights.items()],
        )  # fmt: skip
    bar = 20 if len(values) <= 3 else 7  # height in pixels of one of several bars side by side
    row = 34 if stacked else max(34, bar * len(stages) + 14)
    figure.update_layout(
        barmode="stack" if stacked else "group", bargap=0.35 if stacked else 14 / row,
        xaxis={"title": {"text": title}, "rangemode": "tozero"}, yaxis=CATEGORIES,
        legend=LEGEND | {"traceorder": "normal"}, showlegend=True, height=130 + row * len(values),
    )  # fmt: skip
    return styled(figure, empty="" if stages else "nothing was measured")
