"""What the plotly figures share: their look, their legend, and a selection where there are too many of a kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEGEND = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"}
"""A legend in one line above the figure."""
CATEGORIES = {"type": "category", "autorange": "reversed", "automargin": True, "ticks": ""}
"""The vertical axis of horizontal bars: names from top to bottom."""


def styled(figure: Any, empty: str = "") -> Any:
    """Give a figure the common look, in which only data has colours. `empty`: the text of a figure without data."""
    figure.update_layout(
        template="plotly_white", margin={"l": 8, "r": 8, "t": 36, "b": 8}, font={"size": 13, "color": "#333333"},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
    )  # fmt: skip
    if empty:
        figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
        figure.add_annotation(text=empty, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 16})
    return figure


def evenly(count: int, most: int) -> NDArray[np.intp]:
    """The numbers of at most `most` of `count` things, evenly spread."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.intp)
