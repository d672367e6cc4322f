"""How right a tour is."""

from __future__ import annotations

import numpy as np


def wrong_steps(order: np.ndarray) -> int:
    """How many steps of the tour join views that are not neighbours, where views are numbered round the circle."""
    apart = np.abs(np.diff(order, append=order[0]))
    return int((np.minimum(apart, len(order) - apart) != 1).sum())
