"""Figures of a scene: the matrix of matches, the view graph, the 3D model. All return a plotly figure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.metric import SceneScore
from imc_kit.types import Float64, Model
from imc_kit.viz.images import shortened
from imc_kit.viz.palette import COUNTS, NEUTRAL, OTHER_MODEL, REGISTERED, TRUTH, UNREGISTERED, package

Counts = Mapping[tuple[str, str], int]
"""By pair of image names, either way round; what is missing is none."""

_EDGE_CLASSES = (("fewer than 30", 30, 0.8), ("30 to 100", 100, 1.6), ("100 and more", np.inf, 3.0))
"""Of the view graph: a label, the count of inliers below which it holds, the width of the line."""
_LABELLED = 30
"""Axes of matrices with more images have no names: the pointer shows them."""
_ROOM = 1.04
"""The axes of the 3D view are so many times as long as what is drawn."""
_ASPECTS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Width / height of views of the model."""
_USUAL = 1.5
"""That of a notebook's cell."""
_VIEW = np.pi / 4
"""The angle, from top to bottom, that plotly's camera sees."""


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
    shown = [order[number] for number in np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int)]
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


def draw_model(model: Model, score: SceneScore | None = None, *, most: int = 15000) -> Any:
    """The 3D model: its points in colour, its cameras as frusta, the true cameras beside them where they are known.

    score: what the metric found; its images are matched to the model's by the ends of their names. The model is then
        drawn in the frame and the unit of the truth, as the metric aligned it, with a line from each camera to its
        true place. Left out of account when fewer than three of the model's cameras are in it.
    most: so many points are drawn, evenly taken from all; those far outside are left out.

    Drawn with the mean of the cameras' upright directions up, seen from where the cameras are and so far away that all
    is in view. How far that is depends on the shape of the view: `layout.meta["distances"]` has pairs of width / height
    and distance from the camera's `center`, for whoever knows that shape.
    """
    go = package("plotly.graph_objects")
    names = sorted(model.poses)
    centers = np.array([model.poses[name].center for name in names]).reshape(-1, 3)
    axes = np.array([model.poses[name].rotation for name in names]).reshape(-1, 3, 3)
    points, colors = model.points, model.colors
    truth = {} if score is None else _true_centers(names, score)
    scale, turn, shift = _similarity(names, centers, score)
    aligned = score is not None and scale > 0
    if aligned:
        centers, axes, points = scale * centers @ turn.T + shift, axes @ turn.T, scale * points @ turn.T + shift
    level = _level(axes)
    true_names = [name for name in names if name in truth] if aligned else []
    true_centers = np.array([truth[name] for name in true_names]).reshape(-1, 3) @ level.T
    centers, axes, points = centers @ level.T, axes @ level.T, points @ level.T
    near = _not_far(points, centers)
    chosen = np.flatnonzero(near)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(most, len(chosen))).round().astype(int)]
    size = _frustum_size(centers)
    unit = "unit of the truth" if aligned else "unit of the model"

    figure = go.Figure()
    if len(chosen):
        known = len(colors) == len(points) and colors.any()
        shown = [f"#{bytes(color).hex()}" for color in colors[chosen]] if known else NEUTRAL
        figure.add_scatter3d(
            **_xyz(points[chosen]), mode="markers", hoverinfo="skip", name=f"points ({len(points):,})",
            marker={"size": 1.8, "color": shown, "line": {"width": 0}}, showlegend=False,
        )  # fmt: skip
    if names:
        frusta = _frusta(centers, axes, [model.frames.get(name, (0.5, 0.375)) for name in names], size)
        figure.add_scatter3d(
            **_xyz(frusta), mode="lines", hoverinfo="skip", line={"color": REGISTERED, "width": 2.5}, showlegend=False,
            name="frusta",
        )  # fmt: skip
        hover = [html.escape(name) for name in names]
        if aligned:
            errors = {name: np.linalg.norm(truth[name] @ level.T - center)
                      for name, center in zip(names, centers, strict=True) if name in truth}  # fmt: skip
            hover = [
                f"{html.escape(name)}<br>{errors[name]:.3g} ({unit}) from the truth"
                if name in errors
                else html.escape(name)
                for name in names
            ]
        figure.add_scatter3d(
            **_xyz(centers), mode="markers", marker={"size": 4, "color": REGISTERED}, name=f"cameras ({len(names)})",
            hovertext=hover, hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
    if true_names:
        place = dict(zip(names, centers, strict=True))
        links = np.full((len(true_names), 3, 3), np.nan)
        links[:, 0], links[:, 1] = true_centers, [place[name] for name in true_names]
        figure.add_scatter3d(
            **_xyz(links.reshape(-1, 3)), mode="lines", hoverinfo="skip", line={"color": TRUTH, "width": 3},
            showlegend=False, name="errors",
        )  # fmt: skip
        figure.add_scatter3d(
            **_xyz(true_centers), mode="markers", name=f"true cameras ({len(true_names)})",
            marker={"size": 5, "color": TRUTH, "symbol": "diamond-open"},
            hovertext=[html.escape(name) for name in true_names], hovertemplate="%{hovertext}, true<extra></extra>",
        )  # fmt: skip
    drawn = np.concatenate([points[chosen], centers - size, centers + size, true_centers, np.empty((0, 3))])
    low, high = (drawn.min(axis=0), drawn.max(axis=0)) if len(drawn) else (np.zeros(3), np.ones(3))
    sides = np.maximum(high - low, max(0.1 * (high - low).max(), 1e-9))
    middle = (low + high) / 2
    ranges = [
        [float(center - _ROOM / 2 * side), float(center + _ROOM / 2 * side)]
        for center, side in zip(middle, sides, strict=True)
    ]
    eye = _eye(axes)
    seen = [points[chosen], true_centers]
    if names:
        length = _round(0.3 * float(sides[:2].max()))
        towards = np.array([eye[0], eye[1], 0]) / np.hypot(eye[0], eye[1])
        across = np.array([-towards[1], towards[0], 0])  # as it is seen
        room = (sides - np.abs(across) * length)[:2] / 2 / np.maximum(np.abs(towards[:2]), 1e-9)
        # Towards the eye, but inside, as plotly cuts off the rest, and not so near that it is below the view.
        front = middle + towards * max(0.0, 0.6 * float(room.min()))
        start = [front[0], front[1], low[2]] - across * length / 2
        bar = start + np.array([[0.0], [0.5], [1.0]]) * across * length
        figure.add_scatter3d(
            **_xyz(bar), mode="lines+text", text=["", f"{length:g} ({unit})", ""], textposition="bottom center",
            line={"color": NEUTRAL, "width": 5}, hoverinfo="skip", showlegend=False, name="scale",
        )  # fmt: skip
        seen += [frusta[np.isfinite(frusta).all(axis=1)], bar - [0, 0, 0.06 * sides.max()]]  # the text is below it
    placed = (np.concatenate([*seen, np.empty((0, 3))]) - middle) / (_ROOM * sides.max())
    center, distances = _view(placed, eye)
    figure.update_layout(
        scene={
            **{f"{name}axis": {"visible": False, "range": span} for name, span in zip("xyz", ranges, strict=True)},
            "aspectmode": "manual",
            "aspectratio": dict(zip("xyz", (sides / sides.max()).tolist(), strict=True)),
            "camera": {
                "center": dict(zip("xyz", center.tolist(), strict=True)),
                "eye": dict(zip("xyz", (center + eye * distances[_USUAL]).tolist(), strict=True)),
                "up": {"x": 0, "y": 0, "z": 1},
            },
        },
        meta={"distances": list(distances.items())},
        legend=LEGEND | {"itemsizing": "constant"},
    )  # fmt: skip
    return styled(figure, empty="" if names else "no model")


LEGEND = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"}


def styled(figure: Any, empty: str = "") -> Any:
    """The same quiet look for all: nothing but the data is coloured. `empty` is said where there is nothing to see."""
    figure.update_layout(
        template="plotly_white", margin={"l": 8, "r": 8, "t": 36, "b": 8}, font={"size": 13, "color": "#333333"},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
    )  # fmt: skip
    if empty:
        figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
        figure.add_annotation(text=empty, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 16})
    return figure


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


def _true_centers(names: Sequence[str], score: SceneScore) -> dict[str, Float64]:
    """The true centre of each of the model's images that the truth names."""
    rows = match_names(names, score.names)
    return {name: score.truth[row] for name, row in rows.items()}


def match_names(names: Sequence[str], paths: Sequence[str]) -> dict[str, int]:
    """For each image's name the row in which a table names it by a path that ends with it, the longest if several do.

    Names are relative to the scene's folder, a table's paths may begin further up.
    """
    known = set(names)
    rows: dict[str, int] = {}
    for row, path in enumerate(paths):
        parts = path.split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((end for end in ends if end in known), None)
        if name is not None:
            rows.setdefault(name, row)
    return rows


def _similarity(names: Sequence[str], centers: Float64, score: SceneScore | None) -> tuple[float, Float64, Float64]:
    """Scale, rotation and translation from the model's frame to the truth's, as the metric chose them; scale 0: none.

    The aligned centres are the submitted ones under one similarity, which three cameras give back (Umeyama, 1991).
    """
    none = (0.0, np.eye(3), np.zeros(3))
    if score is None:
        return none
    rows = match_names(names, score.names)
    known = {name: row for name, row in rows.items() if np.isfinite(score.aligned[row]).all()}
    shared = [(number, known[name]) for number, name in enumerate(names) if name in known]
    if len(shared) < 3:
        return none
    here, there = centers[[n for n, _ in shared]], score.aligned[[row for _, row in shared]]
    a, b = here - here.mean(axis=0), there - there.mean(axis=0)
    if not (a**2).sum() or not (b**2).sum():
        return none
    left, values, right = np.linalg.svd(b.T @ a)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right)) or 1.0])
    turn = (left * signs) @ right
    scale = float((values * signs).sum() / (a**2).sum())
    return scale, turn, there.mean(axis=0) - scale * turn @ here.mean(axis=0)


def _level(axes: Float64) -> Float64:
    """The rotation [3, 3] that turns the mean of the cameras' upright directions (−y) to +z."""
    up = -axes[:, 1].mean(axis=0) if len(axes) else np.array([0.0, 0.0, 1.0])
    length = np.linalg.norm(up)
    if length < 1e-6:
        return np.eye(3)
    up = up / length
    across = np.eye(3)[np.abs(up).argmin()]
    right = np.cross(across, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(up, right), up])


def _eye(axes: Float64) -> Float64:
    """The direction to look from, of length 1: behind the cameras and a little above."""
    ahead = axes[:, 2].mean(axis=0) if len(axes) else np.zeros(3)
    flat = np.array([ahead[0], ahead[1], 0])
    length = np.linalg.norm(flat)
    # Cameras all around look nowhere on the whole: any side is as good.
    back = -flat / length if length > 0.2 else np.array([0.8, 0.6, 0])
    eye = 0.85 * back + [0, 0, 0.35]
    return np.asarray(eye / np.linalg.norm(eye), np.float64)


def _view(points: Float64, eye: Float64) -> tuple[Float64, dict[float, float]]:
    """What to look at from the direction `eye` to have all points [K, 3] in the middle of the view, and from how far.

    The distances, with a little room, are by the width / height of the view.
    """
    if not len(points):
        return np.zeros(3), dict.fromkeys(_ASPECTS, 1.0)
    right = np.cross([0, 0, 1], eye)
    right /= np.linalg.norm(right)
    up = np.cross(eye, right)
    slope, near = np.tan(_VIEW / 2), points @ eye
    # A camera at the distance t sees a point at the height h where h is at most slope · (t - near), and likewise below.
    above, below = ((near + side * (points @ up) / slope).max() for side in (1, -1))
    tall = (above + below) / 2
    wide = {aspect: (near + np.abs(points @ right) / (slope * aspect)).max() for aspect in _ASPECTS}
    return up * slope * (above - below) / 2, {aspect: 1.08 * float(max(tall, far)) for aspect, far in wide.items()}


def _not_far(points: Float64, centers: Float64) -> NDArray[np.bool_]:
    """Which points lie within the box of all cameras and the middle 92 % of the points, and a quarter more."""
    if not len(points):
        return np.zeros(0, np.bool_)
    box = np.percentile(points, [4, 96], axis=0)
    everything = np.concatenate([box, centers])
    low, high = everything.min(axis=0), everything.max(axis=0)
    # The width of the middle of the points is the measure: cameras are all kept anyway.
    margin = 0.25 * (box[1] - box[0])
    return np.asarray(((points >= low - margin) & (points <= high + margin)).all(axis=1), np.bool_)


def _frustum_size(centers: Float64) -> float:
    """Half of the usual distance between neighbouring cameras, but seen at all, and not larger than the scene."""
    if len(centers) < 2:
        return 0.3
    extent = float(np.linalg.norm(np.ptp(centers, axis=0))) or 1.0
    apart = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    return float(np.clip(0.6 * np.median(apart.min(axis=1)), 0.03 * extent, 0.12 * extent))


def _round(length: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not larger."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(max(base for base in (1, 2, 5) if base * power <= length * (1 + 1e-9)) * power)


def _frusta(centers: Float64, axes: Float64, frames: Sequence[tuple[float, float]], size: float) -> Float64:
    """All cameras as one broken line [K, 3]: the pyramid of what each sees, and a tick on its upper side."""
    lines = []
    for center, rotation, (across, down) in zip(centers, axes, frames, strict=True):
        corners = [(-across, -down), (across, -down), (across, down), (-across, down)]
        # In the camera's own frame: 0 is its centre, 1 to 4 are the corners, 5 is above the middle of the upper side.
        own = np.array([(0, 0, 0), *((x, y, 1) for x, y in corners), (0, -1.5 * down, 1)]) * size
        path = own[[0, 1, 2, 3, 4, 1, 5, 2, 0, 3, 4, 0]]
        lines += [path @ rotation + center, np.full((1, 3), np.nan)]
    return np.concatenate(lines)


def _xyz(places: Float64) -> dict[str, NDArray[np.float32]]:
    return dict(zip("xyz", places.astype(np.float32).T, strict=True))
