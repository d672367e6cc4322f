"""Figures of a scene's pairs: the matrix of matches, the view graph. Both return a plotly figure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float64
from imc_kit.viz.images import shortened
from imc_kit.viz.palette import COUNTS, NEUTRAL, OTHER_MODEL, REGISTERED, UNREGISTERED, package
from imc_kit.viz.style import LEGEND, evenly, styled

Counts = Mapping[tuple[str, str], int]
"""By pair of image names, either way round; what is missing is none."""

_EDGE_CLASSES = (("fewer than 30", 30, 0.8), ("30 to 100", 100, 1.6), ("100 and more", np.inf, 3.0))
"""Of the view graph: a label, the count of inliers below which it holds, the width of the line."""
_LABELLED = 30
"""Axes of matrices with more images have no names: the pointer shows them."""


def block_order(names: Sequence[str], counts: Counts) -> list[str]:
    """The images, such that those with many matches stand together: blocks show along the diagonal of a matrix.

    Groups without any match between them come one after the other, the largest first. Within a group the order is
    that of the Fiedler vector of the normalised Laplacian of log(1 + count), which is what sorts a chain of overlapping
    photographs (Atkins, Boman and Hendrickson, 1998).
    """
    weights = np.log1p(_table(names, counts))
    order = []
    for group in _groups(weights > 0):
        if len(group) > 2:
            inside = weights[np.ix_(group, group)]
            root = 1 / np.sqrt(inside.sum(axis=1))
            fiedler = np.linalg.eigh(np.eye(len(group)) - root[:, None] * inside * root)[1][:, 1] * root
            if fiedler[0] > fiedler[-1]:  # either direction is right: take the one that is nearer to the order given
                fiedler = -fiedler
            group = group[np.argsort(fiedler, kind="stable")]
        order += [names[number] for number in group]
    return order


def draw_matrix(names: Sequence[str], matches: Counts, inliers: Counts, *, most: int = 300) -> Any:
    """Matches above the diagonal, verified matches (inliers) below it, in `block_order`, on a logarithmic scale.

    Of more than `most` images so many are shown, evenly taken from that order.
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
        table = keep(_table(shown, counts), 1 if kind == "matches" else -1).astype(np.int32)
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
    # Given, as plotly finds no range where there is nothing to see.
    start, end = -0.5, max(len(shown), 1) - 0.5
    of = f"{len(shown)} of {len(names)} images" if len(shown) < len(names) else _images(len(names))
    figure.update_layout(
        xaxis=axis | {"title": {"text": of}, "tickangle": -60, "range": [start, end]},
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
    """The view graph: an image is a dot, verified pairs are lines, the thicker the more inliers they have.

    models: the number of the model that registered an image; None, or a missing name, is unregistered. Images that
    share more inliers are drawn nearer to each other; those that share none do not hang together.
    """
    go = package("plotly.graph_objects")
    figure = go.Figure()
    table = _table(names, inliers)
    places = _layout(table)
    rows, columns = np.nonzero(np.triu(table, 1))
    counts = table[rows, columns]
    below = 0.0
    for label, limit, width in _EDGE_CLASSES:
        some = (counts >= below) & (counts < limit)
        below = limit
        if some.any():
            ends = np.full((int(some.sum()), 3, 2), np.nan)
            ends[:, 0], ends[:, 1] = places[rows[some]], places[columns[some]]
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
    partners = (table > 0).sum(axis=1)
    for kind, colour, symbol, belongs in kinds:
        members = [number for number, name in enumerate(names) if belongs(models.get(name))]
        if members:
            hover = [
                f"{html.escape(names[n])}<br>verified pairs: {partners[n]}<br>inliers: {int(table[n].sum()):,}"
                for n in members
            ]
            figure.add_scatter(
                x=places[members, 0].astype(np.float32), y=places[members, 1].astype(np.float32), mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 1.5, "color": "white"}},
                name=f"{kind} ({len(members)})", hovertext=hover, hovertemplate="%{hovertext}<extra></extra>",
            )  # fmt: skip
    hidden = {"visible": False}
    figure.update_layout(
        xaxis=hidden, yaxis=hidden | {"scaleanchor": "x"}, legend=LEGEND, showlegend=True, hovermode="closest"
    )
    return styled(figure, empty="" if names else "no images")


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _table(names: Sequence[str], counts: Counts) -> Float64:
    """The counts as a symmetric matrix [n, n]; pairs with an image that is not named are left out."""
    number = {name: n for n, name in enumerate(names)}
    table = np.zeros((len(names), len(names)))
    for (first, second), count in counts.items():
        if first in number and second in number and first != second:
            table[number[first], number[second]] = table[number[second], number[first]] = count
    return table


def _groups(linked: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """The connected components of a graph [n, n], the largest first, each with its members ascending."""
    group = np.arange(len(linked))
    while True:
        # Each takes the smallest number among its neighbours' and its own, until nothing changes.
        smallest = np.where(linked, group, len(linked)).min(axis=1, initial=len(linked))
        taken = np.minimum(group, smallest)
        if (taken == group).all():
            break
        group = taken
    members = [np.flatnonzero(group == number) for number in np.unique(group)]
    return sorted(members, key=lambda some: (-len(some), int(some[0])))


def _layout(table: Float64) -> Float64:
    """A place [n, 2] for each node: distances in the plane like those along the graph's edges.

    An edge is the shorter the more inliers it has. Classical scaling gives the start, which majorisation of the
    weighted stress (Gansner, Koren and North, 2004) then improves.
    """
    n = len(table)
    if n < 2:
        return np.zeros((n, 2))
    top = np.log1p(table.max())
    distance = np.full((n, n), np.inf)
    distance[table > 0] = 1.5 - np.log1p(table[table > 0]) / top
    np.fill_diagonal(distance, 0)
    for middle in range(n):  # Floyd and Warshall
        np.minimum(distance, distance[:, middle, None] + distance[middle], out=distance)
    finite = np.isfinite(distance)
    distance[~finite] = 1.3 * max(distance[finite].max(), 1.0)
    centred = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centred @ distance**2 @ centred)
    places = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 1e-9))
    # Nodes that are alike in every distance start at one place, where the iteration below could not part them.
    places = places + np.random.default_rng(0).normal(0, 1e-3, places.shape)
    with np.errstate(divide="ignore"):
        weights = np.where(distance > 0, distance**-2.0, 0)
    inverse = np.linalg.pinv(np.diag(weights.sum(axis=1)) - weights)
    for _ in range(60):
        apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
        pull = np.where(apart > 0, weights * distance / np.maximum(apart, 1e-12), 0)
        places = inverse @ ((np.diag(pull.sum(axis=1)) - pull) @ places)
    return np.asarray(places, np.float64)
