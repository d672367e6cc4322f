"""What the tests of figures share."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go


def trace(figure: go.Figure, name: str) -> Any:
    """The one trace whose name begins so."""
    (found,) = [one for one in figure.data if one.name.startswith(name)]
    return found
