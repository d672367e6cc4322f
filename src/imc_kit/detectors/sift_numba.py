"""The loops of SIFT over one octave of its scale space, compiled. See `sift` for what they are for.

An octave is float32 [layers + 3, h, w]: the image, in grey levels of 0 to 255, blurred more in each layer. A keypoint
is a row (x, y, layer, contrast) of float32, in pixels of the octave and in layers, both with fractions; the contrast is
|DoG| as a share of 255. Many loops are over slices with an index from 0 on: only such can be vectorised.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.runtime.numba_cache import compiled
from imc_kit.types import Float32

SIGMA = 1.6
"""Blur of an octave's first layer, in its pixels."""
BORDER = 5
"""Pixels at the edges of an octave in which there are no keypoints."""
SPACING = 2
"""Pixels from one sample of a descriptor to the next. The blur of 2 pixels or more leaves little between them: four
times the samples give one match in a hundred more."""
BINS = 4, 8
"""Of a descriptor: along each side, and of directions."""

_STRIP = 16
"""Rows that are looked at together: few enough that they stay in the processor's cache."""
_STEPS = 5
"""Of Newton's method, at most, from a pixel to an extremum."""
_TURNS = 36
"""Bins of the histogram in which a keypoint's orientation is the highest."""
_RADIUS, _WIDTH = 4.5, 1.5
"""Of the window for the orientation, and its Gaussian's sigma, in the blur of the keypoint."""
_BIN = 3.0
"""A descriptor's bin is so many times as wide as the blur of the keypoint."""
_MOST = 0.2
"""No entry of a descriptor is larger than this share of its length."""

Step = tuple[int, int, int]
_LAYER, _Y, _X = (1, 0, 0), (0, 1, 0), (0, 0, 1)

_REACH = math.ceil(_RADIUS * 2 * SIGMA * 1.2)  # the blur of a keypoint is below 2.4 sigma
_SQUARE = math.ceil((BINS[0] + 1) / 2 * math.sqrt(2) * _BIN * 2 * SIGMA * 1.2)


@compiled
def doubled(image: NDArray[np.uint8]) -> Float32:
    """An image [h, w] at twice its size: pixel p is at 2p, and what is between pixels is their mean."""
    height, width = image.shape
    large = np.empty((2 * height, 2 * width), np.float32)
    for y in range(2 * height):
        one, other, row = image[y // 2], image[min((y + 1) // 2, height - 1)], large[y]
        for x in range(width - 1):
            left = np.float32(one[x]) + np.float32(other[x])
            right = np.float32(one[x + 1]) + np.float32(other[x + 1])
            row[2 * x] = left / 2
            row[2 * x + 1] = (left + right) / 4
        row[2 * width - 2 :] = (np.float32(one[width - 1]) + np.float32(other[width - 1])) / 2
    return large


@compiled
def blur(image: Float32, kernel: Float32, blurred: Float32) -> None:
    """Write an image [h, w] blurred by a symmetric kernel to another, down and across.

    kernel: the weight of a pixel itself, of the one beside it, and so on. What lies behind an edge is mirrored there.
    """
    height, width = image.shape
    reach = len(kernel) - 1
    padded = np.empty(width + 2 * reach, np.float32)
    row = padded[reach : reach + width]
    for y in range(height):
        here, out = image[y], blurred[y]
        for x in range(width):
            row[x] = kernel[0] * here[x]
        for k in range(1, reach + 1):
            above, below, weight = image[_mirrored(y - k, height)], image[_mirrored(y + k, height)], kernel[k]
            for x in range(width):
                row[x] += weight * (above[x] + below[x])
        for k in range(1, reach + 1):
            padded[reach - k] = row[_mirrored(-k, width)]
            padded[reach + width - 1 + k] = row[_mirrored(width - 1 + k, width)]
        for x in range(width):
            out[x] = kernel[0] * row[x]
        for k in range(1, reach + 1):
            left, right, weight = padded[reach - k :], padded[reach + k :], kernel[k]
            for x in range(width):
                out[x] += weight * (left[x] + right[x])


@compiled
def _mirrored(at: int, count: int) -> int:
    """The pixel of a row of so many, at least two, that stands for one behind its ends."""
    while at < 0 or at >= count:
        at = -at if at < 0 else 2 * (count - 1) - at
    return at


@compiled
def extrema(octave: Float32, contrast: float, edge: float) -> Float32:
    """Keypoints [N, 4]: extrema of the difference of Gaussians, in place and scale.

    contrast: times three layers in an octave, as OpenCV has it. edge: the largest ratio of principal curvatures.
    """
    layers, height, width = octave.shape[0] - 3, octave.shape[1], octave.shape[2]
    least = np.float32(255 * contrast / layers / 2)  # of the pixel; what is between pixels has more
    found = np.empty((1024, 4), np.float32)
    count = 0
    dog = np.empty((layers + 2, _STRIP + 2, width), np.float32)
    highest, lowest = np.empty(width, np.float32), np.empty(width, np.float32)
    # The same, seen from pixels inside the border: of their left neighbours, their own, and of their right ones.
    high, high_here, high_right = highest[BORDER - 1 :], highest[BORDER:], highest[BORDER + 1 :]
    low, low_here, low_right = lowest[BORDER - 1 :], lowest[BORDER:], lowest[BORDER + 1 :]
    extreme = np.zeros((width + 7) // 8 * 8, np.uint8)
    extreme_here, eights = extreme[BORDER:], extreme.view(np.uint64)
    for top in range(BORDER, height - BORDER, _STRIP):
        bottom = min(top + _STRIP, height - BORDER)
        for layer in range(layers + 2):
            for y in range(top - 1, bottom + 1):
                blurred, less, difference = octave[layer + 1, y], octave[layer, y], dog[layer, y - top + 1]
                for x in range(width):
                    difference[x] = blurred[x] - less[x]
        for layer in range(1, layers + 1):
            for y in range(top, bottom):
                at = y - top + 1
                a, b, c = dog[layer - 1, at - 1], dog[layer - 1, at], dog[layer - 1, at + 1]
                d, here, e = dog[layer, at - 1], dog[layer, at], dog[layer, at + 1]
                f, g, h = dog[layer + 1, at - 1], dog[layer + 1, at], dog[layer + 1, at + 1]
                inner = here[BORDER:]
                for x in range(width):
                    highest[x] = max(a[x], b[x], c[x], d[x], here[x], e[x], f[x], g[x], h[x])
                    lowest[x] = min(a[x], b[x], c[x], d[x], here[x], e[x], f[x], g[x], h[x])
                for x in range(width - 2 * BORDER):
                    v = inner[x]
                    above_all = (v > least) & (v >= max(high[x], high_here[x], high_right[x]))
                    below_all = (v < -least) & (v <= min(low[x], low_here[x], low_right[x]))
                    extreme_here[x] = above_all | below_all
                for eight in range(len(eights)):
                    if eights[eight]:
                        for x in range(8 * eight, 8 * eight + 8):
                            if extreme[x]:
                                if count == len(found):
                                    longer = np.empty((2 * count, 4), np.float32)
                                    longer[:count] = found
                                    found = longer
                                if _refined(octave, x, y, layer, contrast, edge, found[count]):
                                    count += 1
    return found[:count]


@compiled
def _refined(octave: Float32, x: int, y: int, layer: int, contrast: float, edge: float, keypoint: Float32) -> bool:
    """Write the extremum near a pixel to `keypoint`; False where there is none that is worth it.

    It is that of a parabola through the neighbours (Brown and Lowe 2002).
    """
    layers, height, width = octave.shape[0] - 3, octave.shape[1], octave.shape[2]
    for _ in range(_STEPS):
        v = _dog(octave, layer, y, x)
        left, right = _dog(octave, layer, y, x - 1), _dog(octave, layer, y, x + 1)
        above, below = _dog(octave, layer, y - 1, x), _dog(octave, layer, y + 1, x)
        finer, coarser = _dog(octave, layer - 1, y, x), _dog(octave, layer + 1, y, x)
        dx, dy, ds = (right - left) / 2, (below - above) / 2, (coarser - finer) / 2
        dxx, dyy, dss = left + right - 2 * v, above + below - 2 * v, finer + coarser - 2 * v
        dxy = _mixed(octave, layer, y, x, _Y, _X)
        dxs = _mixed(octave, layer, y, x, _LAYER, _X)
        dys = _mixed(octave, layer, y, x, _LAYER, _Y)
        # The inverse of a symmetric matrix by its cofactors.
        xx, xy, xs = dyy * dss - dys * dys, dxs * dys - dxy * dss, dxy * dys - dxs * dyy
        yy, ys, ss = dxx * dss - dxs * dxs, dxy * dxs - dxx * dys, dxx * dyy - dxy * dxy
        determinant = dxx * xx + dxy * xy + dxs * xs
        if determinant == 0:
            return False
        to_x = -(xx * dx + xy * dy + xs * ds) / determinant
        to_y = -(xy * dx + yy * dy + ys * ds) / determinant
        to_layer = -(xs * dx + ys * dy + ss * ds) / determinant
        if max(abs(to_x), abs(to_y), abs(to_layer)) < 0.5:
            peak = abs(v + (dx * to_x + dy * to_y + ds * to_layer) / 2) / 255
            keypoint[0], keypoint[1], keypoint[2], keypoint[3] = x + to_x, y + to_y, layer + to_layer, peak
            on_edge = ss <= 0 or (dxx + dyy) ** 2 * edge >= (edge + 1) ** 2 * ss
            return peak * layers >= contrast and not on_edge
        if max(abs(to_x), abs(to_y), abs(to_layer)) > max(height, width):
            return False
        x, y, layer = x + round(to_x), y + round(to_y), layer + round(to_layer)
        inside = BORDER <= x < width - BORDER and BORDER <= y < height - BORDER
        if not (inside and 1 <= layer <= layers):
            return False
    return False


@compiled
def _dog(octave: Float32, layer: int, y: int, x: int) -> float:
    return float(octave[layer + 1, y, x] - octave[layer, y, x])


@compiled
def _mixed(octave: Float32, layer: int, y: int, x: int, one: Step, other: Step) -> float:
    """The mixed second derivative of the difference of Gaussians."""
    l1, y1, x1 = one
    l2, y2, x2 = other
    same = _dog(octave, layer + l1 + l2, y + y1 + y2, x + x1 + x2)
    same += _dog(octave, layer - l1 - l2, y - y1 - y2, x - x1 - x2)
    opposite = _dog(octave, layer + l1 - l2, y + y1 - y2, x + x1 - x2)
    opposite += _dog(octave, layer - l1 + l2, y - y1 + y2, x - x1 + x2)
    return (same - opposite) / 4


@compiled
def _blur(octave: Float32, layer: float) -> float:
    """Of a layer, in pixels of the octave."""
    return float(SIGMA * 2.0 ** (layer / (octave.shape[0] - 3)))


@compiled
def _turn(dy: Any, dx: Any) -> Any:
    """The direction of (dx, dy) as a share of a whole turn, in 0 … 1, to 3·10⁻⁶; the loop around it can be vectorised.

    A polynomial for the arc tangent, fitted by least squares at Chebyshev's points.
    """
    across, along = abs(dx), abs(dy)
    t = min(across, along) / (max(across, along) + np.float32(1e-20))
    s = t * t
    part = t * (_ATAN[0] + s * (_ATAN[1] + s * (_ATAN[2] + s * (_ATAN[3] + s * _ATAN[4]))))
    part = np.float32(0.25) - part if along > across else part
    part = np.float32(0.5) - part if dx < 0 else part
    return np.float32(1) - part if dy < 0 else part


def _fitted(terms: int) -> NDArray[np.float32]:
    """The polynomial of t² that times t is nearest to atan(t) / 2π for t in 0 … 1."""
    t = (1 + np.cos(np.pi * (np.arange(400) + 0.5) / 400)) / 2
    powers = t[:, None] ** (2 * np.arange(terms) + 1)
    coefficients = np.linalg.lstsq(powers, np.arctan(t) / (2 * np.pi), rcond=None)[0]
    return coefficients.astype(np.float32)


_ATAN = tuple(_fitted(5))


@compiled
def orientations(octave: Float32, keypoints: Float32) -> Float32:
    """Of keypoints [N, 4] the most frequent direction of gradients around each, [N], in degrees clockwise."""
    turns = np.empty(len(keypoints), np.float32)
    height, width = octave.shape[1], octave.shape[2]
    most = (2 * _REACH + 1) ** 2
    dx, dy, weights = np.empty(most, np.float32), np.empty(most, np.float32), np.empty(most, np.float32)
    window = np.empty(2 * _REACH + 1, np.float32)
    votes, smooth = np.empty(_TURNS + 1, np.float32), np.empty(_TURNS, np.float32)
    for number in range(len(keypoints)):
        x, y = round(keypoints[number, 0]), round(keypoints[number, 1])
        layer = octave[round(keypoints[number, 2])]
        blur = _blur(octave, keypoints[number, 2])
        reach = round(_RADIUS * blur)
        for i in range(2 * reach + 1):
            window[i] = math.exp(-((i - reach) ** 2) / (2 * (_WIDTH * blur) ** 2))
        left, top = max(x - reach, 1), max(y - reach, 1)
        across = min(x + reach, width - 2) + 1 - left
        count = 0
        for row in range(top, min(y + reach, height - 2) + 1):
            above, here, below = layer[row - 1, left:], layer[row, left - 1 :], layer[row + 1, left:]
            of_row, of_column = window[row - y + reach], window[left - x + reach :]
            for i in range(across):
                dx[count + i] = here[i + 2] - here[i]
                dy[count + i] = below[i] - above[i]
                weights[count + i] = of_row * of_column[i]
            count += across
        for i in range(count):
            weights[i] *= math.sqrt(dx[i] * dx[i] + dy[i] * dy[i])
            dx[i] = _turn(dy[i], dx[i]) * np.float32(_TURNS) + np.float32(0.5)
        votes[:] = 0
        for i in range(count):
            votes[int(dx[i])] += weights[i]
        votes[0] += votes[_TURNS]  # what is rounded up to a whole turn
        for i in range(_TURNS):
            near = votes[(i - 1) % _TURNS] + votes[(i + 1) % _TURNS]
            far = votes[(i - 2) % _TURNS] + votes[(i + 2) % _TURNS]
            smooth[i] = (6 * votes[i] + 4 * near + far) / 16
        best = smooth.argmax()
        before, peak, after = smooth[best - 1], smooth[best], smooth[(best + 1) % _TURNS]
        bend = before - 2 * peak + after
        between = (before - after) / (2 * bend) if bend < 0 else np.float32(0)
        turns[number] = (best + between) * (360 / _TURNS) % 360
    return turns


@compiled
def describe(octave: Float32, keypoints: Float32, turns: Float32, root: bool) -> Float32:
    """The descriptors [N, 128], of length 1, of keypoints [N, 4] with orientations [N].

    Histograms of the gradients' directions in 4 × 4 squares, upright in the keypoint's orientation. Each gradient
    counts in all squares and directions that it is between, by how near it is. root: as in `SiftConfig`.
    """
    height, width = octave.shape[1], octave.shape[2]
    side, directions = BINS
    descriptors = np.empty((len(keypoints), side * side * directions), np.float32)
    most = (2 * _SQUARE // SPACING + 1) ** 2
    dx, dy, weights = np.empty(most, np.float32), np.empty(most, np.float32), np.empty(most, np.float32)
    rows, columns = np.empty(most, np.float32), np.empty(most, np.float32)
    window = np.empty(2 * _SQUARE + 1, np.float32)
    squares, next_, first = np.empty((4, most), np.float32), np.empty(most, np.float32), np.empty(most, np.int32)
    votes = np.empty((side + 2, side + 2, directions + 1), np.float32)
    every = votes.reshape(-1)
    half = (side + 1) / 2  # of the square in which gradients count, in bins
    last = np.float32(side + 1) - np.float32(1e-4)  # by rounding a sample may be at its edge
    for number in range(len(keypoints)):
        x, y = keypoints[number, 0], keypoints[number, 1]
        layer = octave[round(keypoints[number, 2])]
        bin_ = _BIN * _blur(octave, keypoints[number, 2])
        angle = math.radians(turns[number])
        cosine, sine = math.cos(angle) / bin_, math.sin(angle) / bin_
        reach = half * (abs(cosine) + abs(sine)) * bin_ * bin_
        narrow = -1 / (side * side / 2 * bin_ * bin_)
        left, right = max(1, math.ceil(x - reach)), min(width - 2, math.floor(x + reach))
        for column in range(left, right + 1, SPACING):
            window[column - left] = math.exp((column - x) ** 2 * narrow)
        count = 0
        for row in range(max(1, math.ceil(y - reach)), min(height - 2, math.floor(y + reach)) + 1, SPACING):
            down = row - y
            # Where the row is in the square: |right·cos + down·sin| < half and |down·cos − right·sin| < half.
            begin, end = -reach, reach
            if abs(cosine) * bin_ > 1e-6:
                one, other = (-half - down * sine) / cosine, (half - down * sine) / cosine
                begin, end = max(begin, min(one, other)), min(end, max(one, other))
            if abs(sine) * bin_ > 1e-6:
                one, other = (down * cosine - half) / sine, (down * cosine + half) / sine
                begin, end = max(begin, min(one, other)), min(end, max(one, other))
            start = max(left, math.ceil(x + begin))
            start += (left - start) % SPACING
            samples = max(0, (min(right, math.floor(x + end)) - start) // SPACING + 1)
            above, here, below = layer[row - 1], layer[row], layer[row + 1]
            of_row = math.exp(down * down * narrow)
            for i in range(samples):
                column = start + SPACING * i
                across = column - x
                dx[count + i] = here[column + 1] - here[column - 1]
                dy[count + i] = below[column] - above[column]
                columns[count + i] = across * cosine + down * sine + half
                rows[count + i] = down * cosine - across * sine + half
                weights[count + i] = of_row * window[column - left]
            count += samples
        # Of each sample its first square and direction, and how much of its weight is in each square around it and in
        # the next direction. All that can be vectorised is here.
        upright = np.float32(turns[number] / 360)
        for i in range(count):
            weight = weights[i] * math.sqrt(dx[i] * dx[i] + dy[i] * dy[i])
            turned = upright - _turn(dy[i], dx[i])
            turned = np.float32(directions) * (turned + np.float32(1) if turned < 0 else turned)
            down, across = min(max(rows[i], np.float32(0)), last), min(max(columns[i], np.float32(0)), last)
            row_, column_ = np.int32(down), np.int32(across)
            direction = min(np.int32(turned), np.int32(directions - 1))
            first[i] = (row_ * np.int32(side + 2) + column_) * np.int32(directions + 1) + direction
            down -= np.float32(row_)
            across -= np.float32(column_)
            next_[i] = turned - np.float32(direction)
            lower = weight * down
            upper = weight - lower
            squares[1, i], squares[3, i] = upper * across, lower * across
            squares[0, i], squares[2, i] = upper - squares[1, i], lower - squares[3, i]  # never below 0
        votes[:] = 0
        for i in range(count):
            for square in range(4):
                at = first[i] + (square // 2 * (side + 2) + square % 2) * (directions + 1)
                more = squares[square, i] * next_[i]
                every[at] += squares[square, i] - more
                every[at + 1] += more
        descriptor = descriptors[number]
        length = np.float32(0)
        for r in range(side):
            for c in range(side):
                for d in range(directions):
                    entry = votes[r + 1, c + 1, d] + (votes[r + 1, c + 1, directions] if d == 0 else np.float32(0))
                    descriptor[(r * side + c) * directions + d] = entry
                    length += entry * entry
        limit, size = np.float32(_MOST) * np.float32(math.sqrt(length)), np.float32(0)
        for i in range(len(descriptor)):
            entry = min(descriptor[i], limit)
            size += entry if root else entry * entry
            descriptor[i] = entry
        if size > 0:
            scale = 1 / size if root else 1 / math.sqrt(size)
            for i in range(len(descriptor)):
                entry = descriptor[i] * np.float32(scale)
                descriptor[i] = math.sqrt(entry) if root else entry
    return descriptors
