"""One colour for one thing in every figure, apart also for the colour-blind; and the packages that draw.

Roles have the colours of Okabe and Ito (https://jfly.uni-koeln.de/color/), stages those of Paul Tol's muted scheme
(https://sronpersonalpages.nl/~pault/): eight hues are not enough for both. No figure tells things apart by colour
alone: there is a label, a symbol or a place too.
"""

from __future__ import annotations

import importlib
from typing import Any

from imc_kit.errors import KitError

INLIER = "#56B4E9"
OUTLIER = "#D55E00"
REGISTERED = "#0072B2"
UNREGISTERED = OUTLIER
OTHER_MODEL = "#CC79A7"
"""Registered, but not in the scene's largest model."""
TRUTH = "#009E73"
MASKED = OUTLIER
QUERY = "#E69F00"
NEUTRAL = "#808080"
"""Seen on white and on black: axes, links, points that have no colour."""

SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Where many of a kind are drawn, such as scenes; the symbols go round in another rhythm."""

STAGES = {
    "inspect": "#999933",
    "upright": "#882255",
    "masks": "#117733",
    "detect": "#88CCEE",
    "pairs": "#CC6677",
    "match": "#AA4499",
    "verify": "#DDCC77",
    "map": "#44AA99",
    "complete": "#332288",
}
"""By the pipeline's name of the stage, in its order; others come last, in `NEUTRAL`."""

SCORES = "viridis"
"""Colours of a detector's and a matcher's scores."""
COUNTS = "cividis"
"""Colours of counts of matches."""


def package(module: str) -> Any:
    """Import a module of matplotlib or plotly. Raises `KitError` that names the extra when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise KitError(f'figures need matplotlib and plotly (pip install "imc-kit[viz]"): {error}') from error
