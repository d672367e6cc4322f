"""Figures of a scene's image pairs: the matrix of matches and the view graph. Both are plotly figures."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imc_kit.types import Float64, Pair
from imc_kit.viz.images import shortened
from imc_kit.viz.layout import grouped_order, places
from imc_kit.viz.palette import COUNTS, NEUTRAL, OTHER_MODEL, REGISTERED, UNREGISTERED, package
from imc_kit.viz.style import LEGEND, evenly, styled

Counts = Mapping[Pair, int]
"""Counts by image pair, in either order; a missing pair has 0."""

_EDGE_CLASSES = (("fewer than 30", 30, 0.8), ("30 to 100", 100, 1.6), ("100 and more", np.inf, 3.0))
"""Edges of the view graph: a label, the inliers below which it applies, and the width of the line.

COLMAP starts a model from a pair with at least 100 inliers, and adds an image with at least 30 matches to points.
"""
_LABELLED = 30
"""Axes with more images than this have no names, which would overlap; the pointer shows them."""


def block_order(names: Sequence[str], counts: Counts) -> list[str]:
    """The images in an order that puts those with many matches together: see `layout.grouped_order`."""
    return [names[number] for number in grouped_order(_matrix(names, counts))]


def draw_matrix(names: Sequence[str], matches: Counts, inliers: Counts, *, most: int = 300) -> Any:
    """Matches above the diagonal and inliers (verified matches) below it, in `block_order`, on a logarithmic scale.

    most: at most this many images are shown, evenly spread over that order.
    """
    go = package("plotly.graph_objects")
    order = block_order(names, inliers or matches)
    shown = [order[number] for number in evenly(len(order), most)]
    figure = go.Figure()
    present = [count for count in (*matches.values(), *inliers.values()) if count] or [1, 10]
    low, high = np.log10(min(present)), np.log10(max(present))
    ticks = [base * 10**power for power in range(8) for base in (1, 3) if low <= np.log10(base * 10**power) <= high]
    escaped = [html.escape(name) for name in shown]
    for kind, counts, keep in (("matches", matches, np.triu), ("inliers", inliers, np.tril)):
        table = keep(_matrix(shown, counts), 1 if kind == "matches" else -1).astype(np.int32)
        with np.errstate(divide="ignore"):
            height = np.where(table > 0, np.log10(table), np.nan).astype(np.float32)
        figure.add_heatmap(
            x=escaped, y=escaped, z=height, customdata=table, name=kind, coloraxis="coloraxis", hoverongaps=False,
            hovertemplate=f"%{{y}}<br>%{{x}}<br><b>%{{customdata}}</b> {kind}<extra></extra>",
        )  # fmt: skip
    labels = [html.escape(shortened(name, 16)) for name in shown]
    axis = {
        "type": "category", "tickvals": escaped, "ticktext": labels, "showticklabels": len(shown) <= _LABELLED,
        "constrain": "domain", "showgrid": False, "ticks": "", "categoryorder": "array", "categoryarray": escaped,
    }  # fmt: skip
    start, end = -0.5, max(len(shown), 1) - 0.5  # plotly finds no range without data
    images = f"{len(names)} image{'' if len(names) == 1 else 's'}"
    title = f"{len(shown)} of {images}" if len(shown) < len(names) else images
    figure.update_layout(
        xaxis=axis | {"title": {"text": title}, "tickangle": -60, "range": [start, end]},
        yaxis=axis | {"range": [end, start], "scaleanchor": "x"},
        coloraxis={
            "showscale": bool(matches or inliers),
            "colorscale": COUNTS, "cmin": float(low), "cmax": float(max(high, low + 0.1)),
            "colorbar": {
                "title": {"text": "matches"}, "thickness": 14,
                "tickvals": np.log10(ticks).tolist(), "ticktext": [f"{tick:,}" for tick in ticks],
            },
        },
    )  # fmt: skip
    return styled(figure, empty="" if names else "no images")


def draw_graph(names: Sequence[str], inliers: Counts, models: Mapping[str, int | None]) -> Any:
    """The view graph: images are dots and verified pairs are lines, thicker with more inliers.

    models: the number of the model that registered an image; unregistered images have None or are missing.
    """
    go = package("plotly.graph_objects")
    figure = go.Figure()
    matrix = _matrix(names, inliers)
    at = places(matrix)
    rows, columns = np.nonzero(np.triu(matrix, 1))
    counts = matrix[rows, columns]
    below = 0.0
    for label, limit, width in _EDGE_CLASSES:
        some = (counts >= below) & (counts < limit)
        below = limit
        if some.any():
            ends = np.full((int(some.sum()), 3, 2), np.nan)
            ends[:, 0], ends[:, 1] = at[rows[some]], at[columns[some]]
            x, y = ends.reshape(-1, 2).astype(np.float32).T
            figure.add_scatter(
                x=x, y=y, mode="lines", line={"color": NEUTRAL, "width": width}, opacity=0.55, hoverinfo="skip",
                name=f"{label} inliers ({int(some.sum())} pairs)",
            )  # fmt: skip
    kinds = (
        ("registered", REGISTERED, "circle", lambda model: model == 0),
        ("in a smaller model", OTHER_MODEL, "diamond", lambda model: model is not None and model > 0),
        ("unregistered", UNREGISTERED, "x", lambda model: model is None),
    )
    partners = (matrix > 0).sum(axis=1)
    for kind, colour, symbol, belongs in kinds:
        members = [number for number, name in enumerate(names) if belongs(models.get(name))]
        if members:
            hover = [
                f"{html.escape(names[n])}<br>verified pairs: {partners[n]}<br>inliers: {int(matrix[n].sum()):,}"
                for n in members
            ]
            figure.add_scatter(
                x=at[members, 0].astype(np.float32), y=at[members, 1].astype(np.float32), mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 1.5, "color": "white"}},
                name=f"{kind} ({len(members)})", hovertext=hover, hovertemplate="%{hovertext}<extra></extra>",
            )  # fmt: skip
    hidden = {"visible": False}
    figure.update_layout(
        xaxis=hidden, yaxis=hidden | {"scaleanchor": "x"}, legend=LEGEND, showlegend=True, hovermode="closest"
    )
    return styled(figure, empty="" if names else "no images")


def _matrix(names: Sequence[str], counts: Counts) -> Float64:
    """The counts as a symmetric matrix [n, n], without the pairs of other images."""
    number = {name: n for n, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)))
    for (first, second), count in counts.items():
        if first in number and second in number and first != second:
            matrix[number[first], number[second]] = matrix[number[second], number[first]] = count
    return matrix
