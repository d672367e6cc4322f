"""The plotly figure of a 3D model: its points, its cameras and the true cameras."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.metric import SceneScore
from imc_kit.types import Float64, Model
from imc_kit.viz import space
from imc_kit.viz.palette import LEGEND, NEUTRAL, REGISTERED, TRUTH, evenly, package, styled
from imc_kit.viz.space import match_names, similarity

_ROOM = 1.04
"""Length of the axes / drawn extent: plotly clips lines at the very end of its axes."""
_NOTEBOOK_SHAPE = 1.5
"""Width / height of a figure in a notebook."""


@dataclass(frozen=True, eq=False)
class _Placed:
    """A model in the frame of the drawing: z points up, and the model is aligned with the truth if that is known.

    centers: [n, 3], of the cameras `names`. axes: [n, 3, 3], their world-to-camera rotations. true: centres by name.
    """

    names: Sequence[str]
    centers: Float64
    axes: Float64
    points: Float64
    true: Mapping[str, Float64]
    unit: str


def draw_model(model: Model, score: SceneScore | None = None, *, most: int = 15000) -> Any:
    """Draw a 3D model: its points in colour, its cameras as frusta and, if they are known, the true cameras.

    score: the metric's result. With it, the model is drawn in the frame and unit of the truth, as the metric aligned
        it, with a line from each camera to its true position. Images are matched by the ends of their names. A score
        that has fewer than three of the model's cameras is ignored.
    most: draw at most this many points, evenly sampled; points far outside are left out.

    The mean up direction of the cameras is +z. The viewpoint is behind the cameras, far enough away to show everything.
    Its distance depends on the aspect ratio of the view, so `layout.meta["distances"]` lists pairs (width / height,
    distance from the plotly camera's `center`) for the report's page.
    """
    figure = package("plotly.graph_objects").Figure()
    placed = _placed(model, score)
    near = np.flatnonzero(space.not_far(placed.points, placed.centers))
    chosen = near[evenly(len(near), most)]
    points, true = placed.points[chosen], np.array(list(placed.true.values())).reshape(-1, 3)
    size = space.frustum_size(placed.centers)
    drawn = np.concatenate([points, placed.centers - size, placed.centers + size, true])
    low, high = (drawn.min(axis=0), drawn.max(axis=0)) if len(drawn) else (np.zeros(3), np.ones(3))
    sides = np.maximum(high - low, max(0.1 * (high - low).max(), 1e-9))
    middle = (low + high) / 2
    eye = space.eye(placed.axes)
    seen = [points, true]
    if len(chosen):
        known = len(model.colors) == len(model.points) and model.colors.any()
        shown = [f"#{bytes(color).hex()}" for color in model.colors[chosen]] if known else NEUTRAL
        figure.add_scatter3d(
            **_xyz(points), mode="markers", hoverinfo="skip", name=f"points ({len(model.points):,})",
            marker={"size": 1.8, "color": shown, "line": {"width": 0}}, showlegend=False,
        )  # fmt: skip
    if placed.names:
        frames = [model.frames.get(name, (0.5, 0.375)) for name in placed.names]
        frusta = space.frusta(placed.centers, placed.axes, frames, size)
        _add_cameras(figure, placed, frusta)
        _add_truth(figure, placed)
        bar = _add_scale(figure, [*middle[:2], low[2]], sides, eye, placed.unit)
        seen += [frusta[np.isfinite(frusta).all(axis=1)], bar - [0, 0, 0.06 * sides.max()]]  # its label is below
    center, distances = space.view((np.concatenate(seen) - middle) / (_ROOM * sides.max()), eye)
    ends = np.stack([middle - _ROOM / 2 * sides, middle + _ROOM / 2 * sides], axis=1)
    spans = zip("xyz", ends.tolist(), strict=True)
    look = {
        "center": _named(center),
        "eye": _named(center + eye * distances[_NOTEBOOK_SHAPE]),
        "up": {"x": 0, "y": 0, "z": 1},
    }
    figure.update_layout(
        scene={**{f"{name}axis": {"visible": False, "range": span} for name, span in spans},
               "aspectmode": "manual", "aspectratio": _named(sides / sides.max()), "camera": look},
        meta={"distances": list(distances.items())}, legend=LEGEND | {"itemsizing": "constant"},
    )  # fmt: skip
    return styled(figure, empty="" if placed.names else "no model")


def _placed(model: Model, score: SceneScore | None) -> _Placed:
    names = sorted(model.poses)
    centers = np.array([model.poses[name].center for name in names]).reshape(-1, 3)
    axes = np.array([model.poses[name].rotation for name in names]).reshape(-1, 3, 3)
    points, true, unit = model.points, {}, "unit of the model"
    to_truth = None if score is None else similarity(names, centers, score)
    if score is not None and to_truth is not None:
        rows = match_names(names, score.names)
        true = {name: score.truth[rows[name]] for name in names if name in rows}
        centers, points = (places @ to_truth[:, :3].T + to_truth[:, 3] for places in (centers, points))
        axes = axes @ to_truth[:, :3].T / np.cbrt(np.linalg.det(to_truth[:, :3]))
        unit = "unit of the truth"
    level = space.level(axes)
    true = {name: level @ center for name, center in true.items()}
    return _Placed(names, centers @ level.T, axes @ level.T, points @ level.T, true, unit)


def _add_cameras(figure: Any, placed: _Placed, frusta: Float64) -> None:
    _add_lines(figure, frusta, "frusta", {"color": REGISTERED, "width": 2.5})
    hover = [html.escape(name) for name in placed.names]
    for number, name in enumerate(placed.names):
        if name in placed.true:
            error = np.linalg.norm(placed.true[name] - placed.centers[number])
            hover[number] += f"<br>{error:.3g} ({placed.unit}) from the truth"
    figure.add_scatter3d(
        **_xyz(placed.centers), mode="markers", marker={"size": 4, "color": REGISTERED},
        name=f"cameras ({len(placed.names)})", hovertext=hover, hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip


def _add_truth(figure: Any, placed: _Placed) -> None:
    """Add the true cameras, and a line from each to its estimate."""
    if not placed.true:
        return
    true = np.array(list(placed.true.values()))
    links = np.full((len(true), 3, 3), np.nan)
    links[:, 0], links[:, 1] = true, placed.centers[[name in placed.true for name in placed.names]]
    _add_lines(figure, links.reshape(-1, 3), "errors", {"color": TRUTH, "width": 3})
    figure.add_scatter3d(
        **_xyz(true), mode="markers", name=f"true cameras ({len(true)})",
        marker={"size": 5, "color": TRUTH, "symbol": "diamond-open"},
        hovertext=[html.escape(name) for name in placed.true], hovertemplate="%{hovertext}, true<extra></extra>",
    )  # fmt: skip


def _add_scale(figure: Any, ground: Sequence[float], sides: Float64, eye: Float64, unit: str) -> Float64:
    """Add a scale bar of a round length and return its points [3, 3].

    ground: [3], the middle of the floor of the scene's box. sides: [3], of that box. The bar is in front of `ground`.
    """
    length = space.round_length(0.3 * float(sides[:2].max()))
    towards = np.array([eye[0], eye[1], 0]) / np.hypot(eye[0], eye[1])
    across = np.array([-towards[1], towards[0], 0])  # from left to right in the view
    room = (sides - np.abs(across) * length)[:2] / 2 / np.maximum(np.abs(towards[:2]), 1e-9)
    # Move towards the eye, but stay inside the axes, where plotly draws, and inside the view.
    start = ground + towards * max(0.0, 0.6 * float(room.min())) - across * length / 2
    bar = np.asarray(start + np.array([[0.0], [0.5], [1.0]]) * across * length, np.float64)
    text = {"mode": "lines+text", "text": ["", f"{length:g} ({unit})", ""], "textposition": "bottom center"}
    _add_lines(figure, bar, "scale", {"color": NEUTRAL, "width": 5}, **text)
    return bar


def _add_lines(figure: Any, places: Float64, name: str, line: Mapping[str, Any], **more: Any) -> None:
    """Add a polyline [K, 3] with gaps (nan), which the legend does not list."""
    look = {"mode": "lines", "hoverinfo": "skip", "showlegend": False, "line": line} | more
    figure.add_scatter3d(**_xyz(places), name=name, **look)


def _named(place: Float64) -> dict[str, float]:
    return dict(zip("xyz", place.tolist(), strict=True))


def _xyz(places: Float64) -> dict[str, NDArray[np.float32]]:
    return dict(zip("xyz", places.astype(np.float32).T, strict=True))
