"""The loop of nearest neighbours over a block of descriptors' products, compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imc_kit.compiled import compiled
from imc_kit.types import Float32, Int32

_LANES = 64
"""Columns that are looked at together, each with a best of its own: some of the processor's vectors."""


@compiled
def note(
    block: Float32,
    numbers: NDArray[np.intp],
    first: int,
    nearest: Int32,
    best: Float32,
    second: Float32,
    column_nearest: Int32,
    column_best: Float32,
    column_second: Float32,
) -> None:
    """Read the nearest neighbours in both directions off a block [R, W] of nearness: larger is nearer.

    numbers: [W], the column that each of the block's is. first: the number of its first row.
    nearest, best, second: [R], for each row, written: the number of the nearest column, how near that is, and the next.
    column_…: [M], for each column, kept up to date over all blocks: the same, with the numbers of rows.

    Of equals the first is nearest. Each row is read for both directions while it is in the processor's fastest cache.
    """
    count, width = block.shape
    nearest_here = column_nearest[numbers]
    best_here, second_here = column_best[numbers], column_second[numbers]
    lane_best, lane_second = np.empty(_LANES, np.float32), np.empty(_LANES, np.float32)
    lane_at = np.empty(_LANES, np.int32)
    whole = width - width % _LANES
    for i in range(count):
        row = block[i]
        number = np.int32(first + i)
        for j in range(width):
            value, above = row[j], best_here[j]
            second_here[j] = max(second_here[j], min(value, above))
            nearest_here[j] = number if value > above else nearest_here[j]
            best_here[j] = max(value, above)
        lane_best[:], lane_second[:] = -np.inf, -np.inf
        lane_at[:] = 0
        for start in range(0, whole, _LANES):
            part, here = row[start : start + _LANES], np.int32(start)
            for lane in range(_LANES):
                value, above = part[lane], lane_best[lane]
                lane_second[lane] = max(lane_second[lane], min(value, above))
                lane_at[lane] = here if value > above else lane_at[lane]
                lane_best[lane] = max(value, above)
        top, next_, at = np.float32(-np.inf), np.float32(-np.inf), 0
        for lane in range(_LANES):
            value, place = lane_best[lane], lane_at[lane] + lane
            if value > top:
                top, next_, at = value, max(top, lane_second[lane]), place
            else:
                next_ = max(next_, value)
                at = min(at, place) if value == top else at
        for j in range(whole, width):
            if row[j] > top:
                top, next_, at = row[j], top, j
            else:
                next_ = max(next_, row[j])
        nearest[i], best[i], second[i] = numbers[at], top, next_
    column_nearest[numbers], column_best[numbers], column_second[numbers] = nearest_here, best_here, second_here
