"""Figures of a comparison of configurations, and its page.

A configuration has one colour in all of them, by its place among the rows, and its name stands beside it.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imc_kit.compare.repeatability import CHANGES
from imc_kit.compare.run import Row, summarize
from imc_kit.data import atomic
from imc_kit.errors import unknown_name
from imc_kit.viz.page import cell, e, number_cell, page, plot, table
from imc_kit.viz.palette import SERIES, package
from imc_kit.viz.scores import draw_seconds
from imc_kit.viz.style import LEGEND, styled


@dataclass(frozen=True)
class Metric:
    """A number of a row: how it is called, drawn and explained. `share` says that it lies between 0 and 1."""

    title: str
    axis: str
    form: str
    value: Callable[[Row], float | None]
    share: bool
    said: str


def _of(share: str) -> Callable[[Row], float | None]:
    return lambda row: None if row.overall is None else getattr(row.overall, share)


METRICS: dict[str, Metric] = {
    "registered": Metric(
        "Registered", "images registered (share)", "{:.0%}",
        lambda row: row.registered / row.images if row.registered is not None and row.images else None, True,
        "The share of the images whose pose came out.",
    ),
    "mAA": Metric(
        "mAA", "mAA", "{:.3f}", lambda row: row.accuracy, True,
        "The share of cameras near their true place, mean over the metric's distances.",
    ),
    "keypoints": Metric(
        "Keypoints", "keypoints per image", "{:,.0f}", lambda row: row.keypoints, False,
        "Of an image, on average.",
    ),
    "inliers": Metric(
        "Inliers", "inliers per verified pair (matches)", "{:,.0f}", lambda row: row.inliers_median, False,
        "Matches of a pair of images that one geometry explains: the median over the pairs that have any.",
    ),
    "repeatability": Metric(
        "Repeatability", "repeatability (share)", "{:.3f}", _of("repeatability"), True,
        "Of the keypoints that two views of a photograph could share, those that both have.",
    ),
    "matching_accuracy": Metric(
        "Matching accuracy", "matching accuracy (share)", "{:.3f}", _of("matching_accuracy"), True,
        "Of the matches between two views of a photograph, those that are right.",
    ),
    "matching_score": Metric(
        "Matching score", "matching score (share)", "{:.3f}", _of("matching_score"), True,
        "Of the keypoints that two views of a photograph could share, those that are in a right match.",
    ),
    "seconds": Metric(
        "Time", "time (seconds)", "{:,.1f} s", lambda row: row.total, False, "From photographs to poses, all stages.",
    ),
}  # fmt: skip
"""What of a comparison can be drawn, by name."""
SHARES = ("repeatability", "matching_accuracy", "matching_score")
"""Those that are known by kind of change."""


def colours(rows: Sequence[Row]) -> dict[str, str]:
    """The colour of each configuration, by its name, in their order."""
    names = dict.fromkeys(row.configuration for row in rows)
    return {name: SERIES[number % len(SERIES)] for number, name in enumerate(names)}


def _metric(name: str, known: Collection[str]) -> Metric:
    if name not in known:
        raise unknown_name("metric of a comparison", name, known)
    return METRICS[name]


def draw_metric(rows: Sequence[Row], name: str) -> Any:
    """One of `METRICS`: a bar for each configuration, and where there are several scenes, a dot for each.

    A bar is the mean over the scenes (of registered images the share of all, of time the sum), and its value stands
    beside it. Raises `KitError` for an unknown name.
    """
    metric = _metric(name, METRICS)
    figure = package("plotly.graph_objects").Figure()
    several = len({row.scene for row in rows if row.scene is not None}) > 1
    palette = colours(rows)
    known = 0
    for row in summarize(rows):
        label, colour, value = html.escape(row.configuration), palette[row.configuration], metric.value(row)
        known += value is not None
        said = "not known" if value is None else metric.form.format(value)
        figure.add_bar(
            y=[label], x=[value], orientation="h", name=label,
            marker={"color": colour, "opacity": 0.35 if several else 1.0, "line": {"width": 0}},
            hovertemplate=f"{label}: {said}<extra></extra>",
        )  # fmt: skip
        figure.add_annotation(
            x=1.0, xref="paper", xanchor="left", xshift=6, y=label, text="did not run" if row.images is None else said,
            showarrow=False,
        )  # fmt: skip
        own = [(one.scene, metric.value(one)) for one in rows if one.configuration == row.configuration]
        dots = [(scene, one) for scene, one in own if scene is not None and one is not None]
        if several and dots:
            figure.add_scatter(
                y=[label] * len(dots), x=[one for _, one in dots], mode="markers", name=f"{label}, scenes",
                marker={"color": colour, "size": 9, "line": {"width": 0}},
                hovertext=[f"{html.escape(scene)}: {metric.form.format(one)}" for scene, one in dots],
                hovertemplate=f"{label}<br>%{{hovertext}}<extra></extra>",
            )  # fmt: skip
    span = {"range": [0, 1.02]} if metric.share else {"rangemode": "tozero"}
    figure.update_layout(
        bargap=0.35, barmode="overlay", showlegend=False, height=110 + 34 * max(1, len(palette)),
        xaxis={"title": {"text": metric.axis}, "tickformat": ".0%" if metric.form == "{:.0%}" else "", **span},
        yaxis={"type": "category", "autorange": "reversed", "automargin": True, "ticks": ""},
    )  # fmt: skip
    styled(figure, empty="" if known else "not known")
    return figure.update_layout(margin={"t": 8, "r": 84})


def draw_changes(rows: Sequence[Row], name: str = "repeatability") -> Any:
    """One of `SHARES` by kind of change, bars side by side for the configurations.

    Raises `KitError` for an unknown name.
    """
    metric = _metric(name, SHARES)
    figure = package("plotly.graph_objects").Figure()
    drawn = []
    for row in summarize(rows):
        shares = {change: getattr(one, name) for change, one in row.repeated.items()}
        shares = {change: share for change, share in shares.items() if share is not None}
        if shares:
            drawn.append(row.configuration)
            label = html.escape(row.configuration)
            figure.add_bar(
                y=[change for change in CHANGES if change in shares],
                x=[shares[change] for change in CHANGES if change in shares],
                orientation="h", name=label, marker={"color": colours(rows)[row.configuration], "line": {"width": 0}},
                hovertemplate=f"{label}, %{{y}}: %{{x:.3f}}<extra></extra>",
            )  # fmt: skip
    figure.update_layout(
        barmode="group", bargap=0.25, showlegend=True, legend=LEGEND | {"traceorder": "normal"},
        height=150 + 22 * len(CHANGES) * max(1, len(drawn)),
        xaxis={"title": {"text": metric.axis}, "range": [0, 1.02]},
        yaxis={"type": "category", "autorange": "reversed", "automargin": True, "ticks": ""},
    )  # fmt: skip
    return styled(figure, empty="" if drawn else "not known")


def draw_stages(rows: Sequence[Row]) -> Any:
    """Seconds by stage, one bar for each configuration, over all scenes."""
    return draw_seconds({row.configuration: row.seconds for row in summarize(rows) if row.seconds})


# ---- the page ----


def write_comparison(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write the page of a comparison: one HTML file that needs no other. Raises `KitError` when it cannot be written.

    title: of what was solved.
    """
    text = page(f"{title}: imc-kit compare", _body(rows, title))
    with atomic.writing(path) as file:
        file.write(text)


def _body(rows: Sequence[Row], title: str) -> str:
    means = summarize(rows)
    scenes = dict.fromkeys(row.scene for row in rows if row.scene is not None)
    known = {name: metric for name, metric in METRICS.items() if any(metric.value(row) is not None for row in means)}
    facts = {
        "configurations": f"{sum(row.images is not None for row in means)} of {len(means)} ran",
        "scenes": str(len(scenes)),
        "images": str(max((row.images or 0 for row in means), default=0)),
    }
    remarks = "".join(
        f"<li><p><strong>{e(row.configuration)}</strong>: {e(remark)}</p></li>"
        for row in means
        for remark in row.remarks
    )
    sums = "Images, pairs and time are summed, all else is a mean over the scenes." if len(scenes) > 1 else ""
    dots = " A bar is the mean over the scenes (of time the sum), a dot is one of them." if len(scenes) > 1 else ""
    figures = [
        f"<div><h3>{e(metric.title)}</h3>{plot(draw_metric(rows, name), metric.title, 'short', metric.said)}</div>"
        for name, metric in known.items()
    ]
    changes = [
        f"<div><h3>{e(METRICS[name].title)} by change</h3>"
        f"{plot(draw_changes(rows, name), f'{METRICS[name].title} by kind of change', 'short', '')}</div>"
        for name in SHARES
        if name in known
    ]
    return "".join(
        [
            f"<h1>Configurations compared on {e(title)}</h1>",
            '<dl class="facts">',
            *(f"<div><dt>{e(term)}</dt><dd>{e(value)}</dd></div>" for term, value in facts.items()),
            "</dl>",
            f'<ul class="advice">{remarks}</ul>' if remarks else "",
            f'<h2>Side by side</h2><p class="soft">Pairs: those of images that verification passed. {sums}</p>',
            _table(means, known, colours(rows), by_scene=False),
            f'<h2>Figures</h2><p class="soft">A configuration has the same colour everywhere.{dots}</p>'
            f'<div class="pair">{"".join(figures)}</div>'
            if figures
            else "",
            f"<h2>By kind of change</h2><p>{e(_VIEWS)}</p><div class=pair>{''.join(changes)}</div>" if changes else "",
            f"<h2>Time by stage</h2>{plot(draw_stages(rows), 'Time by stage', 'short', '')}" if figures else "",
            f"<h2>Scene by scene</h2>{_table(rows, known, colours(rows), by_scene=True)}" if len(scenes) > 1 else "",
        ]
    )


_VIEWS = (
    "Photographs are seen again in ways that are known exactly: turned about the line of sight, from nearer, from the "
    "side as if they were flat, and in another light. All configurations see the same pixels, and keep equally many "
    "keypoints at most."
)


def _table(shown: Sequence[Row], known: dict[str, Metric], palette: dict[str, str], *, by_scene: bool) -> str:
    def of(metric: Metric) -> Callable[[Row], str]:
        return lambda row: number_cell(metric.value(row), form=metric.form)

    def name(row: Row) -> str:
        swatch = f'<span aria-hidden="true" style="color:{palette[row.configuration]}">■</span>'
        inside = f'<span style="white-space:nowrap">{swatch} {e(row.configuration)}</span>'
        return cell(inside, row.configuration)

    columns: dict[str, Callable[[Row], str]] = {"Configuration": name}
    if by_scene:
        columns["Scene"] = lambda row: cell(e(row.scene or ""), row.scene or "")
    columns["#Registered"] = lambda row: number_cell(row.registered, f"{row.registered} of {row.images}")
    for key, metric in known.items():
        if key == "inliers":
            columns["#Pairs"] = lambda row: number_cell(row.verified_pairs)
        if key != "registered":
            columns[f"#{metric.title}"] = of(metric)
    caption = "Configurations by scene" if by_scene else "Configurations"
    lines = [[column(row) for column in columns.values()] for row in shown]
    return f'<div class="wide dense">{table(caption, list(columns), lines)}</div>'
