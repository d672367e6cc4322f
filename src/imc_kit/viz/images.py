"""Figures of photos: keypoints, matches, masks, neighbours; and a gallery that shows figures side by side.

Each figure is a `matplotlib.figure.Figure`. Its axes are in pixels of the original, upright image, even if the photo
was downsampled. As everywhere in the kit, points are (x, y) with the centre of the top-left pixel at (0, 0).
"""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.data.images import Photo
from imc_kit.types import Correspondences, Features, Float32, Mask
from imc_kit.viz.palette import INLIER, MASKED, OUTLIER, QUERY, SCORES, package

Indices = NDArray[np.intp]

_CELLS = 8
"""Rows and columns of the grid that spreads the drawn matches over a photo: of 120, about two per cell."""
_GAP = 0.02
"""The gap between two photos side by side, as a fraction of their height."""


def draw_keypoints(photo: Photo, features: Features, *, most: int = 2000) -> Any:
    """Draw keypoints on their photo: circles with their scale as diameter (small if unknown), coloured by score.

    most: draw at most this many, those with the best scores.
    """
    if tuple(photo.size) != tuple(features.image_size):
        raise ValueError(f"the features belong to an image of {features.image_size} pixels, not {photo.size}")
    order = np.argsort(features.scores, kind="stable")[max(0, len(features) - most) :]  # the best on top
    points, scores = features.keypoints[order], features.scores[order]
    figure, axes = _canvas(photo.size, right=0.16 if len(order) else 0.0)
    axes.imshow(photo.pixels, extent=_extent(photo), aspect="auto")
    small = max(photo.size) / 150
    diameters = np.full(len(order), small) if features.scales is None else np.maximum(features.scales[order], small / 2)
    circles = package("matplotlib.collections").EllipseCollection(
        diameters, diameters, np.zeros(len(order)), units="xy", offsets=points, offset_transform=axes.transData,
        facecolors="none", linewidths=1.0, cmap=SCORES, gid="keypoints",
    )  # fmt: skip
    circles.set_array(scores)
    axes.add_collection(circles)
    if len(order):
        low, high = np.percentile(scores, [1, 99])  # a few extreme scores must not leave all others dark
        circles.set_clim(low, max(high, low + 1e-12))
        figure.colorbar(circles, cax=figure.add_axes((0.86, 0.05, 0.03, 0.9)), extend="both", label="score")
    total = f" of {len(features)}" if len(order) < len(features) else ""
    scale = "" if features.scales is None else ", circles show the scale"
    _add_legend(axes, [(f"{_count(len(order), 'keypoint')}{total}{scale}", None)])
    return figure


def draw_matches(
    first: Photo, second: Photo, matches: Correspondences, inliers: Mask | None = None, *, most: int = 120
) -> Any:
    """Draw matches between two photos, which are shown side by side at the same height. Better matches are more opaque.

    inliers: bool [K], True for matches that passed verification; None if unknown.
    most: draw at most this many matches: inliers and outliers in proportion, spread over the first photo, the best of
        each part first.
    """
    if inliers is not None and inliers.shape != (len(matches),):
        raise ValueError(f"inliers must be bool [{len(matches)}], not {inliers.dtype} {inliers.shape}")
    good = np.ones(len(matches), np.bool_) if inliers is None else inliers.astype(np.bool_)
    chosen = _choose(matches, good, most, first.size)
    height = max(first.size[1], second.size[1])
    scales = [height / photo.size[1] for photo in (first, second)]
    widths = [scale * photo.size[0] for scale, photo in zip(scales, (first, second), strict=True)]
    start = widths[0] + _GAP * height  # left edge of the second photo
    figure, axes = _canvas((start + widths[1], height))
    axes.imshow(first.pixels, extent=(0, widths[0], height, 0))
    axes.imshow(second.pixels, extent=(start, start + widths[1], height, 0))
    axes.set(xlim=(0, start + widths[1]), ylim=(height, 0))

    ends = np.stack([(matches.first + 0.5) * scales[0], (matches.second + 0.5) * scales[1] + [start, 0]], axis=1)
    legend: list[tuple[str, str | None]] = []
    # Draw outliers first, so that inliers lie on top.
    for name, colour, members in (("outlier", OUTLIER, ~good), ("inlier", INLIER, good)):
        some = chosen[members[chosen]]
        colours = package("matplotlib.colors").to_rgba_array(colour).repeat(len(some), axis=0)
        colours[:, 3] = _opacity(matches.scores[some])
        lines, look = list(ends[some]), {"colors": colours, "linewidths": 1.1, "gid": f"{name}s"}
        axes.add_collection(package("matplotlib.collections").LineCollection(lines, **look))
        axes.scatter(*ends[some].reshape(-1, 2).T, s=5, c=colours.repeat(2, axis=0), linewidths=0, zorder=3)
        if inliers is not None:
            legend.insert(0, (_count(int(members.sum()), name), colour))
    if inliers is None:
        legend = [(_count(len(matches), "match", "es"), INLIER)]
    if len(chosen) < len(matches):
        legend.append((f"{len(chosen)} drawn", None))
    _add_legend(axes, legend)
    return figure


def draw_mask(photo: Photo, mask: Mask) -> Any:
    """Draw the photo with its masked part tinted and outlined.

    mask: bool [H, W] at any resolution, False where keypoints are not allowed.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask is [H, W], not {mask.shape}")
    figure, axes = _canvas(photo.size)
    axes.imshow(photo.pixels, extent=_extent(photo), aspect="auto")
    width, height = photo.size
    shade = np.zeros((*mask.shape, 4))
    shade[~mask] = package("matplotlib.colors").to_rgba(MASKED, 0.55)
    if mask.size:
        axes.imshow(shade, extent=_extent(photo), aspect="auto", interpolation="nearest", gid="mask")
    if mask.any() and not mask.all() and min(mask.shape) > 1:
        sides = zip(mask.shape, (height, width), strict=True)
        rows, columns = ((np.arange(n) + 0.5) * side / n - 0.5 for n, side in sides)
        axes.contour(columns, rows, mask, levels=[0.5], colors="white", linewidths=1.2)
    share = float(mask.mean()) if mask.size else 0.0
    _add_legend(axes, [(f"{1 - share:.0%} masked", MASKED), (f"{share:.0%} left for keypoints", None)])
    return figure


def draw_neighbours(query: tuple[str, Photo], neighbours: Sequence[tuple[str, Photo, float]]) -> Any:
    """Draw an image (name, photo) and its most similar images by global descriptor (name, photo, similarity)."""
    columns = min(4, 1 + len(neighbours))
    rows = -(-(1 + len(neighbours)) // columns)
    figure = package("matplotlib.figure").Figure(figsize=(2.6 * columns, 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    labelled = [(*query, "query"), *((name, photo, f"similarity {value:.3f}") for name, photo, value in neighbours)]
    for axes, (name, photo, text) in zip(grid, labelled, strict=False):
        axes.imshow(photo.pixels)
        axes.set_title(f"{shortened(name, 30)}\n{text}", fontsize=9)
    height, width = query[1].pixels.shape[:2]
    look = {"fill": False, "edgecolor": QUERY, "linewidth": 5, "gid": "query"}
    grid[0].add_patch(package("matplotlib.patches").Rectangle((-0.5, -0.5), width, height, **look))
    if not neighbours:
        grid[0].text(0.5, -0.08, "no neighbours", transform=grid[0].transAxes, ha="center", fontsize=9)
    return figure


def shortened(name: str, most: int) -> str:
    """Shorten a name to `most` characters by cutting its beginning: image names differ at their ends."""
    return name if len(name) <= most else "…" + name[1 - most :]


def spread(points: Float32, scores: Float32, most: int, size: tuple[int, int]) -> Indices:
    """Indices of at most `most` points [K, 2], spread over an image of `size` = (width, height).

    The best point of each grid cell comes first, then the second best, and so on; each round is sorted by score.
    """
    cells = np.clip((points + 0.5) * _CELLS / np.maximum(size, 1), 0, _CELLS - 1).astype(np.intp)
    cell = cells[:, 0] * _CELLS + cells[:, 1]
    by_cell = np.lexsort((-scores, cell))
    starts = np.searchsorted(cell[by_cell], cell[by_cell])
    rounds = np.empty(len(points), np.intp)
    rounds[by_cell] = np.arange(len(points)) - starts
    return np.lexsort((-scores, rounds))[:most]


def _choose(matches: Correspondences, good: Mask, most: int, size: tuple[int, int]) -> Indices:
    """Indices of the matches to draw: inliers and outliers in proportion, and at least one of each if there is one."""
    inside, outside = np.flatnonzero(good), np.flatnonzero(~good)
    if len(matches) <= most:
        return np.arange(len(matches))
    wanted = round(most * len(inside) / len(matches))
    wanted = min(max(wanted, min(len(inside), 1)), most - min(len(outside), 1))
    chosen = ((rows, spread(matches.first[rows], matches.scores[rows], count, size))
              for rows, count in ((inside, wanted), (outside, most - wanted)))  # fmt: skip
    return np.concatenate([rows[best] for rows, best in chosen])


def _opacity(scores: Float32) -> NDArray[np.float64]:
    """0.25 for the lowest score, 0.95 for the highest; 0.8 if all are equal."""
    if not len(scores) or scores.max() == scores.min():
        return np.full(len(scores), 0.8)
    return np.asarray(0.25 + 0.7 * (scores - scores.min()) / np.ptp(scores), np.float64)


def _canvas(size: tuple[float, float], right: float = 0.0) -> tuple[Any, Any]:
    """A figure filled by axes of `size` = (width, height), without frame or margin.

    right: fraction of the figure's width that stays free.
    """
    width, height = size
    inches = 7.0 * min(1.0, 1.5 * width / height)  # tall photos get narrower figures
    figure = package("matplotlib.figure").Figure(figsize=(inches, inches * (1 - right) * height / width), dpi=128)
    axes = figure.add_axes((0, 0, 1 - right, 1))
    axes.set_axis_off()
    axes.set_aspect("auto")
    return figure, axes


def _extent(photo: Photo) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a photo's axes."""
    return -0.5, photo.size[0] - 0.5, photo.size[1] - 0.5, -0.5


def _add_legend(axes: Any, lines: Sequence[tuple[str, str | None]]) -> None:
    """Add a dark box in the lower left corner, readable on any photo. lines: (text, colour of its dot or None)."""
    box = package("matplotlib.offsetbox")
    parts = []
    for text, colour in lines:
        dot = [box.TextArea("●", textprops={"color": colour, "fontsize": 11})] if colour else []
        parts.append(box.HPacker(children=[*dot, box.TextArea(text, textprops={"color": "white"})], sep=4, pad=0))
    packed = box.HPacker(children=parts, sep=12, pad=0)
    anchored = box.AnchoredOffsetbox("lower left", child=packed, pad=0.5, borderpad=0.4, frameon=True)
    anchored.patch.set(facecolor="black", alpha=0.75, linewidth=0, boxstyle="round,pad=0,rounding_size=0.3")
    axes.add_artist(anchored)


def _count(count: int, one: str, ending: str = "s") -> str:
    return f"{count} {one}{'' if count == 1 else ending}"


_SHARPNESS = 1.5
"""Image pixels per page pixel: at 1, text is blurred on high-density screens; at 2, the files are twice as large."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures with captions; a notebook shows them side by side in rows."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


def gallery(figures: Mapping[str, Any], *, width: int = 340) -> Gallery:
    """Show matplotlib figures side by side in a notebook. figures: by caption. width: of each, in page pixels."""
    parts = []
    for caption, figure in figures.items():
        file, text = io.BytesIO(), html.escape(caption)
        dpi = _SHARPNESS * width / figure.get_figwidth()
        figure.savefig(file, format="jpeg", dpi=dpi, facecolor="white", pil_kwargs={"quality": 85})
        source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        parts.append(
            f'<figure style="margin:0;width:{width}px;max-width:100%">'
            f'<img src="{source}" alt="{text}" style="width:100%;height:auto;margin:0">'
            f'<figcaption style="margin-top:4px;line-height:1.35">{text}</figcaption></figure>'
        )
    return Gallery(f'<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start">{"".join(parts)}</div>')


def figure_uri(figure: Any) -> str:
    """A matplotlib figure as the data URI of a WebP picture, for a page."""
    return data_uri(lambda file: figure.savefig(file, format="webp", transparent=True, pil_kwargs={"quality": 72}))


def data_uri(save: Callable[[io.BytesIO], None]) -> str:
    """What `save` writes, a WebP picture, as a data URI."""
    save(file := io.BytesIO())
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
