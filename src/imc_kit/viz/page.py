"""HTML pages that need no network, no server and no other file: the page template and its elements."""

import base64
import gzip
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from importlib import resources
from string import Template
from typing import Any

from imc_kit.errors import printable
from imc_kit.viz.palette import package

__all__ = ["cell", "e", "facts", "number_cell", "page", "picture", "plot", "table"]

_MOVES = {
    "left": "Rotate left", "right": "Rotate right", "above": "From above", "nearer": "Nearer", "farther": "Farther",
    "reset": "Reset view",
}  # fmt: skip
"""The buttons of a 3D view: the label of each action of page.js."""


def e(text: str) -> str:
    """The HTML of a text, with its control characters escaped."""
    return escape(printable(text, lines=True))


def page(title: str, body: str) -> str:
    """A complete page with its style, its script and plotly embedded. `body` is HTML, `title` is plain text."""
    here = resources.files("imc_kit.viz")
    html, style, script = (here.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    return Template(html).substitute(title=e(title), style=style, body=body, plotly=_packed_plotly(), script=script)


def facts(values: Mapping[str, str]) -> str:
    """A list of key figures. values: text by name."""
    return f'<dl class="facts">{"".join(f"<div><dt>{e(k)}</dt><dd>{e(v)}</dd></div>" for k, v in values.items())}</dl>'


def picture(uri: str, said: str) -> str:
    """A picture with its caption; the caption alone if `uri` is empty."""
    image = f'<img src="{uri}" alt="{e(said)}">' if uri else ""
    return f"<figure>{image}<figcaption>{e(said)}</figcaption></figure>"


def plot(figure: Any, label: str, kind: str, said: str, *, movable: bool = False) -> str:
    """A plotly figure, which the page draws when it scrolls into view.

    label: for screen readers. kind: its class in page.css, which sets its shape. said: its caption.
    movable: add buttons that move the camera of a 3D view.
    """
    pressed = "".join(f'<button type="button" data-move="{move}">{text}</button>' for move, text in _MOVES.items())
    bar = f'<div class="buttons" role="group" aria-label="{e(f"View of: {label}")}">{pressed}</div>' if movable else ""
    caption = f"<figcaption>{e(said)}</figcaption>" if said else ""
    data = figure.to_json().replace("<", "\\u003c")
    return (
        f'<figure><div class="plot {kind}" role="img" aria-label="{e(label)}"></div>{bar}{caption}'
        f'<script type="application/json">{data}</script></figure>'
    )


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, row_header: int = 0) -> str:
    """A table that sorts by any column. A title that begins with '#' marks a column of numbers.

    rows: cells made by `cell` and `number_cell`. row_header: the column that names the row; if it is 1, column 0 holds
    pictures and does not sort.
    """
    titles = []
    for column, title in enumerate(head):
        kind, text = ' class="number"' if title.startswith("#") else "", e(title.lstrip("#"))
        if column > 0 or row_header != 1:
            kind, text = f"{kind} aria-sort=none", f'<button type="button">{text}</button>'
        titles.append(f'<th scope="col"{kind}>{text}</th>')
    body = []
    for row in rows:
        cells = list(row)
        cells[row_header] = cells[row_header].replace("<td", '<th scope="row"', 1).removesuffix("</td>") + "</th>"
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table class="sortable"><caption class="soft">{e(caption)}</caption>'
        f"<thead><tr>{''.join(titles)}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )


def cell(inside: str, value: str | None, kind: str = "") -> str:
    """A cell with HTML inside. value: its sort key, if not its text. kind: its class in page.css."""
    attributes = f' class="{kind}"' if kind else ""
    attributes += f' data-value="{e(value)}"' if value is not None else ""
    return f"<td{attributes}>{inside}</td>"


def number_cell(value: float | None, said: str | None = None, *, form: str = "{:,}") -> str:
    """A cell with a number, shown as `said` or in the format `form`; a dash for None, which sorts last."""
    if value is None:
        return '<td class="number" data-value="">–</td>'
    return f'<td class="number" data-value="{value}">{said or form.format(value)}</td>'


@lru_cache(maxsize=1)
def _packed_plotly() -> str:
    """plotly.js from the Python package, compressed."""
    source: str = package("plotly.offline").get_plotlyjs()
    return base64.b64encode(gzip.compress(source.encode(), 9, mtime=0)).decode()
