"""The compiled loops of `nearest`, over blocks of nearness and over the centres of an inverted index."""

import numpy as np
from numpy.typing import NDArray

from imc_kit.runtime.numba_cache import compiled
from imc_kit.types import Float32, Int32

_GROUP = 64
"""Columns per group. Vector instructions find the largest value of each group; its column is then searched only in the
best group. 64 floats fill 4 to 16 vector registers."""


_ODD, _PAIRS, _NIBBLES = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)


@compiled
def differing_bits(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> Float32:
    """Minus the number of bits that differ between the rows of `left` [R, W] and the columns of `right` [W, M]."""
    block = np.zeros((len(left), right.shape[1]), np.float32)
    for i in range(len(left)):
        row = block[i]
        for k in range(len(right)):
            word, words = left[i, k], right[k]
            for j in range(len(words)):  # the compiler recognises this bit count (Warren 2012)
                bits = word ^ words[j]
                bits -= (bits >> np.uint64(1)) & _ODD
                bits = (bits & _PAIRS) + ((bits >> np.uint64(2)) & _PAIRS)
                bits = (bits + (bits >> np.uint64(4))) & _NIBBLES
                row[j] -= np.int32((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))
    return block


@compiled
def _update_columns(row: Float32, number: np.int32, nearest: Int32, best: Float32, second: Float32) -> None:
    """Update the two nearest neighbours of each column with row `number`."""
    for j in range(len(row)):
        value, above = row[j], best[j]
        second[j] = max(second[j], min(value, above))
        nearest[j] = number if value > above else nearest[j]
        best[j] = max(value, above)


@compiled
def _top_two(row: Float32) -> tuple[int, np.float32, np.float32]:
    """The first column with the largest value of a row, that value, and the second largest."""
    best, second, group = np.float32(-np.inf), np.float32(-np.inf), 0
    for start in range(0, len(row), _GROUP):
        largest = np.float32(-np.inf)
        for value in row[start : start + _GROUP]:
            largest = max(largest, value)
        second = max(second, min(best, largest))
        if largest > best:
            best, group = largest, start
    at = -1
    for j in range(group, min(group + _GROUP, len(row))):
        if at < 0 and row[j] == best:
            at = j
        else:
            second = max(second, row[j])
    return at, best, second


@compiled
def update_neighbours(
    block: Float32,
    first: int,
    numbers: NDArray[np.intp],
    of_rows: tuple[Int32, Float32, Float32],
    of_columns: tuple[Int32, Float32, Float32],
) -> None:
    """Update the two nearest neighbours in both directions with a block [R, W] of nearness (larger is nearer).

    first: the index of the block's first row. numbers: [W], the indices of its columns.
    of_rows: for each of N rows, the nearest column, its nearness and the second nearness. Rows of the block are set.
    of_columns: the same for each of M columns, updated.

    Of equally near neighbours the first is the nearest. Each row is read twice while the fastest cache holds it.
    """
    nearest, best, second = of_rows
    all_nearest, all_best, all_second = of_columns
    column_nearest, column_best, column_second = all_nearest[numbers], all_best[numbers], all_second[numbers]
    for i in range(len(block)):
        row, number = block[i], np.int32(first + i)
        _update_columns(row, number, column_nearest, column_best, column_second)
        at, best[number], second[number] = _top_two(row)
        nearest[number] = numbers[at]
    all_nearest[numbers], all_best[numbers], all_second[numbers] = column_nearest, column_best, column_second


@compiled
def nearest_cells(near: Float32, halves: Float32, most: int, ratio: float) -> NDArray[np.int16]:
    """The cells nearest to each point [M, most], nearest first; −1 for cells that are too far.

    near: [M, K], a·b − |b|²/2 for each point a and each cell's centre b. halves: [M], |a|²/2.
    ratio: the largest squared distance of a centre, relative to that of the nearest centre.
    """
    chosen = np.full((len(near), most), -1, np.int16)
    top = np.empty(most, np.float32)
    for i in range(len(near)):
        top[:] = -np.inf
        for cell in range(near.shape[1]):
            value = near[i, cell]
            if value > top[most - 1]:
                k = most - 1
                while k > 0 and value > top[k - 1]:  # insert it into the sorted list
                    top[k], chosen[i, k] = top[k - 1], chosen[i, k - 1]
                    k -= 1
                top[k], chosen[i, k] = value, cell
        least = halves[i] - ratio * max(halves[i] - top[0], 0.0)
        for k in range(1, most):
            if top[k] < least:  # top is −∞ if there are fewer cells
                chosen[i, k] = -1
    return chosen
