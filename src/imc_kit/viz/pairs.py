"""Figures of a scene's image pairs: the matrix of matches and the view graph. Both are plotly figures."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import pdist, squareform

from imc_kit.types import Float64, Pair
from imc_kit.viz.images import shortened
from imc_kit.viz.palette import COUNTS, LEGEND, NEUTRAL, OTHER_MODEL, REGISTERED, UNREGISTERED, evenly, package, styled

Counts = Mapping[Pair, int]
"""Counts by image pair, in either order; a missing pair has 0."""

_EDGE_CLASSES = (("fewer than 30", 30, 0.8), ("30 to 100", 100, 1.6), ("100 and more", np.inf, 3.0))
"""Classes of edges in the view graph: label, number of inliers below which it applies, line width in pixels.

The limits are COLMAP's: 100 inliers to start a model from a pair, 30 2D–3D inliers to register an image.
"""
_LABELLED = 30
"""With more images than this, names would overlap, so the axes have none; hovering shows them."""


def block_order(names: Sequence[str], counts: Counts) -> list[str]:
    """Order images so that those with many common matches are adjacent.

    It is the order of the leaves of a hierarchical clustering, which sorts a chain of overlapping photos and keeps
    images apart that nothing connects.
    """
    if len(names) < 2:
        return list(names)
    distances = 1 / (1 + np.log1p(_matrix(names, counts)[np.triu_indices(len(names), 1)]))
    tree = linkage(distances, "average", optimal_ordering=len(names) <= _ORDERED)
    return [names[number] for number in leaves_list(tree)]


def draw_matrix(names: Sequence[str], matches: Counts, inliers: Counts, *, most: int = 300) -> Any:
    """Draw matches above the diagonal and inliers (verified matches) below it, in `block_order`, on a log scale.

    most: show at most this many images, evenly sampled from that order.
    """
    figure, order = package("plotly.graph_objects").Figure(), block_order(names, inliers or matches)
    shown = [order[number] for number in evenly(len(order), most)]
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
    start, end = -0.5, max(len(shown), 1) - 0.5  # plotly sets no range without data
    images = f"{len(names)} image{'' if len(names) == 1 else 's'}"
    title = f"{len(shown)} of {images}" if len(shown) < len(names) else images
    bar = {"tickvals": np.log10(ticks).tolist(), "ticktext": [f"{tick:,}" for tick in ticks]}
    bar |= {"title": {"text": "matches"}, "thickness": 14}
    figure.update_layout(
        xaxis=axis | {"title": {"text": title}, "tickangle": -60, "range": [start, end]},
        yaxis=axis | {"range": [end, start], "scaleanchor": "x"},
        coloraxis={"showscale": bool(matches or inliers), "colorscale": COUNTS, "cmin": float(low),
                   "cmax": float(max(high, low + 0.1)), "colorbar": bar},
    )  # fmt: skip
    return styled(figure, empty="" if names else "no images")


def draw_graph(names: Sequence[str], inliers: Counts, models: Mapping[str, int | None]) -> Any:
    """Draw the view graph: images are dots, verified pairs are lines, and more inliers make a line thicker.

    models: for each image, the number of the model that contains it; unregistered images have None or are missing.
    """
    figure, matrix = package("plotly.graph_objects").Figure(), _matrix(names, inliers)
    at = places(matrix)
    rows, columns = np.nonzero(np.triu(matrix, 1))
    below = np.digitize(matrix[rows, columns], [limit for _, limit, _ in _EDGE_CLASSES])
    for number, (label, _, width) in enumerate(_EDGE_CLASSES):
        some = below == number
        if some.any():
            ends = np.full((int(some.sum()), 3, 2), np.nan)
            ends[:, 0], ends[:, 1] = at[rows[some]], at[columns[some]]
            x, y = ends.reshape(-1, 2).astype(np.float32).T
            figure.add_scatter(
                x=x, y=y, mode="lines", line={"color": NEUTRAL, "width": width}, opacity=0.55, hoverinfo="skip",
                name=f"{label} inliers ({int(some.sum())} pairs)",
            )  # fmt: skip
    partners, inside = (matrix > 0).sum(axis=1), [models.get(name) for name in names]
    for kind, colour, symbol, members in (
        ("registered", REGISTERED, "circle", [n for n, model in enumerate(inside) if model == 0]),
        ("in a smaller model", OTHER_MODEL, "diamond", [n for n, model in enumerate(inside) if model]),
        ("unregistered", UNREGISTERED, "x", [n for n, model in enumerate(inside) if model is None]),
    ):
        if members:
            about = "{}<br>verified pairs: {}<br>inliers: {:,}"
            hover = [about.format(html.escape(names[n]), partners[n], int(matrix[n].sum())) for n in members]
            figure.add_scatter(
                x=at[members, 0].astype(np.float32), y=at[members, 1].astype(np.float32), mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 1.5, "color": "white"}},
                name=f"{kind} ({len(members)})", hovertext=hover, hovertemplate="%{hovertext}<extra></extra>",
            )  # fmt: skip
    figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False, "scaleanchor": "x"})
    figure.update_layout(legend=LEGEND, showlegend=True, hovermode="closest")
    return styled(figure, empty="" if names else "no images")


def _matrix(names: Sequence[str], counts: Counts) -> Float64:
    """The counts as a symmetric matrix [n, n]; pairs with images not in `names` are ignored."""
    number = {name: n for n, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)))
    for (first, second), count in counts.items():
        if first in number and second in number and first != second:
            matrix[number[first], number[second]] = matrix[number[second], number[first]] = count
    return matrix


_ORDERED = 500
"""With more images than this, leaves are not ordered optimally, which takes 0.5 s for 500 images, 8 s for 1000."""
_APART = 1.3
"""Distance between unconnected images / longest path: above 1, so that the parts of a scene do not overlap."""
_STEPS = 60
"""Iterations of the layout. On castle_P19, half as many move dots by 3 % of the figure's width, twice as many by less
than 1 %."""


def places(counts: Float64) -> Float64:
    """Positions [n, 2] of n images in the drawing, whose distances resemble path lengths in the view graph.

    counts: inliers of each pair, symmetric [n, n]. An edge has length 1.5 with few inliers, 0.5 with the most.
    Classical multidimensional scaling provides the start; stress majorisation (Gansner, Koren and North, 2004) improves
    it.
    """
    n = len(counts)
    if n < 2:
        return np.zeros((n, 2))
    lengths = np.where(counts > 0, 1.5 - np.log1p(counts) / np.log1p(max(counts.max(), 1)), 0)
    distance = shortest_path(lengths, directed=False)
    finite = np.isfinite(distance)
    distance[~finite] = _APART * max(distance[finite].max(), 1.0)
    centred = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centred @ distance**2 @ centred)
    found = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 1e-9))
    # Images with the same distances to all others start at the same point; without noise they would stay there.
    found = found + np.random.default_rng(0).normal(0, 1e-3, found.shape)
    weights = _inverse(distance) ** 2
    solve = np.linalg.pinv(np.diag(weights.sum(axis=1)) - weights)
    for _ in range(_STEPS):
        pull = weights * distance * _inverse(squareform(pdist(found)))
        found = solve @ ((np.diag(pull.sum(axis=1)) - pull) @ found)
    return np.asarray(found, np.float64)


def _inverse(values: NDArray[np.float64]) -> Float64:
    """1 / values, and 0 where these are 0."""
    return np.divide(1, values, out=np.zeros_like(values), where=values > 0)
