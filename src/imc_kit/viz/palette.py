"""Shared by all figures: the plotting packages, the layout, and the colours.

Objects use the colours of Okabe and Ito (https://jfly.uni-koeln.de/color/), stages those of Paul Tol's muted scheme
(https://sronpersonalpages.nl/~pault/), because eight hues are not enough for both. Both palettes are safe for the
colour-blind. No figure relies on colour alone: a label, a symbol or a position shows the same.
"""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.errors import KitError

INLIER = "#56B4E9"
"""Light blue: matches that passed verification, in figures of matches."""
OUTLIER = "#D55E00"
REGISTERED = "#0072B2"
UNREGISTERED = OUTLIER
OTHER_MODEL = "#CC79A7"
"""Registered, but not in the scene's largest model."""
TRUTH = "#009E73"
MASKED = OUTLIER
QUERY = "#E69F00"
NEUTRAL = "#808080"
"""Grey, visible on white and on black: axes, links, points without a colour."""

SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""For series of one kind, such as scenes or configurations."""

STAGES = {
    "inspect": "#999933", "upright": "#882255", "masks": "#117733", "detect": "#88CCEE", "pairs": "#CC6677",
    "match": "#AA4499", "verify": "#DDCC77", "map": "#44AA99", "complete": "#332288",
}  # fmt: skip
"""Colours of the pipeline's stages, in its order; other stages come last, in `NEUTRAL`."""

SCORES = "viridis"
"""Colour map of detector and matcher scores."""
COUNTS = "cividis"
"""Colour map of match counts."""


def package(module: str) -> Any:
    """Import a module of matplotlib or plotly. Raises `KitError` with the extra to install when it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise KitError(f'figures need matplotlib and plotly (pip install "imc-kit[viz]"): {error}') from error


LEGEND = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"}
"""A legend in one line above the figure."""
CATEGORIES = {"type": "category", "autorange": "reversed", "automargin": True, "ticks": ""}
"""The vertical axis of horizontal bars: names from top to bottom."""


def styled(figure: Any, empty: str = "") -> Any:
    """Apply the common layout, in which only data is coloured. empty: text for a figure without data."""
    figure.update_layout(
        template="plotly_white", margin={"l": 8, "r": 8, "t": 36, "b": 8}, font={"size": 13, "color": "#333333"},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
    )  # fmt: skip
    if empty:
        figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
        figure.add_annotation(text=empty, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 16})
    return figure


def evenly(count: int, most: int) -> NDArray[np.intp]:
    """At most `most` evenly spaced indices in 0 … count − 1."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.intp)
