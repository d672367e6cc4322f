"""Figures of a comparison of configurations, and its page.

Each configuration has the same colour in all figures, chosen by its order in the rows, and a label with its name.
"""

import html
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imc_kit.compare.repeatability import CHANGES
from imc_kit.compare.rows import Row, of_seeds, summarize, verdicts
from imc_kit.config import Config, plain
from imc_kit.data import atomic
from imc_kit.errors import unknown_name
from imc_kit.viz.advice import Advice
from imc_kit.viz.page import cell, e, facts, number_cell, page, picture, plot, table
from imc_kit.viz.palette import CATEGORIES, LEGEND, SERIES, package, styled
from imc_kit.viz.report_scene import advice_html
from imc_kit.viz.scores import draw_seconds


@dataclass(frozen=True)
class Metric:
    """A number of a row: its title, axis label, format and caption. share: whether it lies in 0 … 1."""

    title: str
    axis: str
    form: str
    value: Callable[[Row], float | None]
    share: bool
    said: str


def _share(name: str, said: str) -> Metric:
    """The metric of one of the `SHARES`: the mean over the kinds of change."""
    title = name.replace("_", " ")
    axis = f"{title} (share)"
    return Metric(title.capitalize(), axis, "{:.3f}", lambda row: getattr(row.overall, name, None), True, said)


METRICS: dict[str, Metric] = {
    "registered": Metric(
        "Registered", "images registered (share)", "{:.0%}", lambda row: row.share_registered, True,
        "Share of the images that have a pose."),
    "mAA": Metric(
        "mAA", "mAA", "{:.3f}", lambda row: row.accuracy, True,
        "Share of the cameras near their true position: the mean over the score's distances."),
    "keypoints": Metric(
        "Keypoints", "keypoints per image", "{:,.0f}", lambda row: row.keypoints, False, "Mean over the images."),
    "inliers": Metric(
        "Inliers", "inliers per verified pair (matches)", "{:,.0f}", lambda row: row.inliers_median, False,
        "Verified matches of an image pair: the median over the verified pairs."),
    "repeatability": _share("repeatability", "Share of the keypoints visible in both images that both images detect."),
    "matching_accuracy": _share("matching_accuracy", "Share of the matches between two images that are correct."),
    "matching_score": _share(
        "matching_score", "Share of the keypoints visible in both images that have a correct match."),
    "seconds": Metric(
        "Time", "time (seconds)", "{:,.1f} s", lambda row: row.total, False, "From photos to poses, all stages."),
}  # fmt: skip
"""The metrics that can be drawn, by name."""
SHARES = ("repeatability", "matching_accuracy", "matching_score")
"""The metrics that are known for each kind of change."""
_CHANGES = (
    "Each photo is changed in known ways: rotated, enlarged, seen from the side as a flat picture, lit differently. "
    "All configurations get the same pixels and the same limit on keypoints."
)


_SPREAD = (
    "The difference of the mean mAA of each two configurations. It is more than the spread over seeds if every seed of "
    "one scores above every seed of the other."
)
_PAIR = (
    "A pair with the median number of inliers in the first configuration that solved the scene, with up to 80 matches: "
    "blue ones passed verification, orange ones did not."
)
_BUDGET = ("detector.max_keypoints", "detector.long_side")
"""Options that are shown even if they are equal: the budgets of a fair comparison."""
_SPREADING = ("mAA", "seconds")
"""The metrics whose range over the seeds is shown."""
SamePairs = dict[str, dict[str, str]]
"""Pictures of the matches of one pair in each scene, as data URIs by the pair and by a label with the configuration."""


def colours(rows: Sequence[Row]) -> dict[str, str]:
    """The colour of each configuration, by its name, in their order."""
    names = dict.fromkeys(row.configuration for row in rows)
    return {name: SERIES[number % len(SERIES)] for number, name in enumerate(names)}


def _scenes(rows: Sequence[Row]) -> set[str]:
    return {row.scene for row in rows if row.scene is not None}


def _metric(name: str, known: Collection[str]) -> Metric:
    if name not in known:
        raise unknown_name("metric of a comparison", name, known)
    return METRICS[name]


def draw_metric(rows: Sequence[Row], name: str) -> Any:
    """Draw one of `METRICS`: a bar for each configuration and, with several scenes, a dot for each scene.

    A bar is the mean over the scenes; for registered images it is the share of all images, for time the sum. Raises
    `KitError` for an unknown name.
    """
    metric, palette, several = _metric(name, METRICS), colours(rows), len(_scenes(rows)) > 1
    figure, summary = package("plotly.graph_objects").Figure(), summarize(rows)
    by_scene = summarize(rows, by_scene=True)
    for row in summary:
        label, colour, value = html.escape(row.configuration), palette[row.configuration], metric.value(row)
        said = "did not run" if row.images is None else "not known" if value is None else metric.form.format(value)
        figure.add_bar(
            y=[label], x=[value], orientation="h", name=label,
            marker={"color": colour, "opacity": 0.35 if several else 1.0, "line": {"width": 0}},
            hovertemplate=f"{label}: {said}<extra></extra>",
        )  # fmt: skip
        figure.add_annotation(x=1, xref="paper", xanchor="left", xshift=6, y=label, text=said, showarrow=False)
        own = {one.scene: metric.value(one) for one in by_scene if one.configuration == row.configuration}
        dots = {scene: dot for scene, dot in own.items() if scene and dot is not None}
        if several and dots:
            figure.add_scatter(
                y=[label] * len(dots), x=list(dots.values()), mode="markers", name=f"{label}, scenes",
                marker={"color": colour, "size": 9, "line": {"width": 0}},
                hovertext=[f"{html.escape(str(scene))}: {metric.form.format(dot)}" for scene, dot in dots.items()],
                hovertemplate=f"{label}<br>%{{hovertext}}<extra></extra>",
            )  # fmt: skip
    span = {"range": [0, 1.02]} if metric.share else {"rangemode": "tozero"}
    figure.update_layout(
        bargap=0.35, barmode="overlay", showlegend=False, height=110 + 34 * max(1, len(palette)), yaxis=CATEGORIES,
        xaxis={"title": {"text": metric.axis}, "tickformat": ".0%" if metric.form == "{:.0%}" else "", **span},
    )  # fmt: skip
    known = any(metric.value(row) is not None for row in summary)
    return styled(figure, empty="" if known else "not known").update_layout(margin={"t": 8, "r": 84})


def draw_changes(rows: Sequence[Row], name: str = "repeatability") -> Any:
    """Draw one of `SHARES` by kind of change, with the configurations' bars side by side.

    Raises `KitError` for an unknown name.
    """
    metric, palette, figure = _metric(name, SHARES), colours(rows), package("plotly.graph_objects").Figure()
    for row in summarize(rows):
        shares = {change: share for change, one in row.repeated.items() if (share := getattr(one, name)) is not None}
        if shares:
            label = html.escape(row.configuration)
            figure.add_bar(
                y=list(shares), x=list(shares.values()), orientation="h", name=label,
                marker={"color": palette[row.configuration], "line": {"width": 0}},
                hovertemplate=f"{label}, %{{y}}: %{{x:.3f}}<extra></extra>",
            )  # fmt: skip
    figure.update_layout(
        barmode="group", bargap=0.25, showlegend=True, legend=LEGEND | {"traceorder": "normal"}, yaxis=CATEGORIES,
        height=150 + 22 * len(CHANGES) * max(1, len(figure.data)),
        xaxis={"title": {"text": metric.axis}, "range": [0, 1.02]},
    )  # fmt: skip
    return styled(figure, empty="" if figure.data else "not known")


def draw_stages(rows: Sequence[Row]) -> Any:
    """Draw the seconds of each stage, summed over all scenes, in one bar for each configuration."""
    return draw_seconds({row.configuration: row.seconds for row in summarize(rows) if row.seconds})


# ---- the page ----


def write_comparison(
    rows: Sequence[Row],
    path: Path,
    title: str,
    about: str = "",
    configs: Mapping[str, Config] | None = None,
    pairs: SamePairs | None = None,
) -> None:
    """Write the page of a comparison: one HTML file that needs no other. Raises `KitError` when it cannot be written.

    title: the name of the input. about: a line below it. configs: by name; the page shows what differs. pairs: pictures
    of matches.
    """
    text = page(f"{title}: imc-kit compare", _body(rows, title, about, configs or {}, pairs or {}))
    with atomic.writing(path) as file:
        file.write(text)


def _body(rows: Sequence[Row], title: str, about: str, configs: Mapping[str, Config], pairs: SamePairs) -> str:
    means, scenes, seeds = summarize(rows), _scenes(rows), len({row.seed for row in rows})
    known = {name: metric for name, metric in METRICS.items() if any(metric.value(row) is not None for row in means)}
    remarks = [Advice(f"{row.configuration}: {text}", "") for row in means for text in row.remarks]
    sums = dots = spread = ""
    if seeds > 1:
        spread = f" Numbers are means over {seeds} seeds; below mAA and time are the lowest and the highest."
    if len(scenes) > 1:
        sums = " Images, pairs and time are sums over the scenes; all other columns are means over them."
        dots = " A bar is the mean over the scenes (for time the sum), a dot is one scene."
    numbers = {
        "configurations": f"{sum(row.images is not None for row in means)} of {len(means)} ran",
        "scenes": str(len(scenes)),
        **({"seeds": str(seeds)} if seeds > 1 else {}),
        "images": str(max((row.images or 0 for row in means), default=0)),
    }
    parts = [
        f'<h1>Configurations compared on {e(title)}</h1><p class="soft">{e(about)}</p>{facts(numbers)}',
        advice_html(remarks),
        f'<h2>Results</h2><p class="soft">Pairs are those that passed verification.{sums}{spread}</p>',
        _table("Configurations", means, rows, known),
    ]
    if compared := verdicts(rows):
        inside = "".join(f"<li><p>{e(sentence)}</p></li>" for sentence in compared)
        parts.append(f"<h2>Which differences count?</h2><p>{e(_SPREAD)}</p><ul>{inside}</ul>")
    if known:
        figures = ((metric.title, draw_metric(rows, name), metric.said) for name, metric in known.items())
        said = f"Each configuration has the same colour everywhere.{dots}"
        parts.append(f'<h2>Figures</h2><p class="soft">{said}</p>{_figures(figures)}')
    changes = [(f"{METRICS[name].title} by change", draw_changes(rows, name), "") for name in SHARES if name in known]
    if changes:
        parts.append(f"<h2>By kind of change</h2><p>{e(_CHANGES)}</p>{_figures(changes)}")
    if known:
        parts.append(f"<h2>Time by stage</h2>{plot(draw_stages(rows), 'Time by stage', 'short', '')}")
    if len(scenes) > 1:
        by_scene = summarize(rows, by_scene=True)
        parts.append(f"<h2>Scene by scene</h2>{_table('Configurations by scene', by_scene, rows, known)}")
    for pair, pictures in pairs.items():
        inside = "".join(picture(uri, label) for label, uri in pictures.items())
        said = f'<p class="soft">{e(_PAIR)}</p>'
        parts.append(f'<h2>The same pair, {e(pair)}</h2>{said}<div class="pair">{inside}</div>')
    if configs:
        parts.append(f"<h2>Settings that differ, and the budgets</h2>{_settings(configs)}")
    return "".join(parts)


def _figures(figures: Iterable[tuple[str, Any, str]]) -> str:
    """Figures side by side, each with its title and its caption."""
    inside = (f"<div><h3>{e(title)}</h3>{plot(figure, title, 'short', said)}</div>" for title, figure, said in figures)
    return f'<div class="pair">{"".join(inside)}</div>'


def _settings(configs: Mapping[str, Config]) -> str:
    """A table of the options whose values differ, and of the `_BUDGET`."""
    options = {name: dict(_flat(json.loads(json.dumps(one, default=plain)))) for name, one in configs.items()}
    every = dict.fromkeys(key for own in options.values() for key in own)
    shown = [key for key in every if key in _BUDGET or len({str(own.get(key, "–")) for own in options.values()}) > 1]
    rows = [
        [cell(f"<code>{e(key)}</code>", key), *(cell(e(str(own.get(key, "–"))), None) for own in options.values())]
        for key in shown
    ]
    return f'<div class="wide">{table("Settings that differ", ["Option", *options], rows)}</div>'


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All options of a nested configuration, by dotted name."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield from _flat(one, f"{name}.{key}".lstrip("."))
    if not isinstance(value, dict | list):
        yield name, value


def _table(caption: str, means: Sequence[Row], rows: Sequence[Row], known: dict[str, Metric]) -> str:
    """A table of the metrics in `known`, with a column of scenes if the means are of scenes. rows: of all seeds."""
    by_scene, palette, lines = bool(_scenes(means)), colours(rows), []
    for row in means:
        own = [one for one in rows if row.scene in (None, one.scene)]
        swatch = f'<span aria-hidden="true" style="color:{palette[row.configuration]}">■</span>'
        inside = f'<span style="white-space:nowrap">{swatch} {e(row.configuration)}</span>'
        columns = {"Configuration": cell(inside, row.configuration)}
        if by_scene:
            columns["Scene"] = cell(e(row.scene or ""), row.scene or "")
        columns["#Registered"] = number_cell(row.registered, f"{row.registered} of {row.images}")
        for key, metric in known.items():
            if key == "inliers":
                columns["#Pairs"] = number_cell(row.verified_pairs)
            if key != "registered":
                value = metric.value(row)
                said = "" if value is None else metric.form.format(value)
                if key in _SPREADING and len(seeds := of_seeds(own, row.configuration, metric.value)) > 1:
                    ends = "–".join(metric.form.removesuffix(" s").format(end) for end in (seeds[0], seeds[-1]))
                    said += f'<br><span class="soft">{ends}</span>'
                columns[f"#{metric.title}"] = number_cell(value, said)
        lines.append(columns)
    inside = table(caption, list(lines[0]) if lines else [], [list(columns.values()) for columns in lines])
    return f'<div class="wide dense">{inside}</div>'
