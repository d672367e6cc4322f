"""The loops of nearest neighbours, compiled: over a block of descriptors' products, and over the nearness of cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imc_kit.runtime.numba_cache import compiled
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


@compiled
def lookups(near: Float32, halves: Float32, most: int, farthest: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """In which cells to look points up: at most so many, the nearest, of those that are not too far.

    near: [M, K], of each point a·b − |b|²/2 for the centre b of each cell. halves: [M], |a|²/2 of each point.
    farthest: the largest squared distance of a cell's centre, in that of the nearest centre.

    Gives the points [L], cell by cell and in order, and [K + 1] the place of each cell's first, and the end.
    """
    points, cells = near.shape
    chosen = np.full((points, most), -1)
    bounds = np.zeros(cells + 1, np.intp)
    top, at = np.empty(most, np.float32), np.empty(most, np.intp)
    for i in range(points):
        top[:] = -np.inf
        row = near[i]
        for j in range(cells):
            value = row[j]
            if value > top[most - 1]:
                k = most - 1
                while k > 0 and value > top[k - 1]:
                    top[k], at[k] = top[k - 1], at[k - 1]
                    k -= 1
                top[k], at[k] = value, j
        least = halves[i] - farthest * max(halves[i] - top[0], 0.0)
        for k in range(most):
            if k == 0 or top[k] >= least:  # never where there is no such cell: it is −∞
                chosen[i, k] = at[k]
                bounds[at[k] + 1] += 1
    for cell in range(cells):
        bounds[cell + 1] += bounds[cell]
    who, place = np.empty(bounds[cells], np.intp), bounds.copy()
    for i in range(points):
        for k in range(most):
            cell = chosen[i, k]
            if cell >= 0:
                who[place[cell]] = i
                place[cell] += 1
    return who, bounds
