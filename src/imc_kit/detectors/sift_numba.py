"""The compiled loops of SIFT, over one octave of its scale space. `sift` uses them.

An octave is float32 [layers + 3, h, w]: the image in grey levels of 0 to 255, each layer more blurred. A keypoint is
float32 (x, y, layer, contrast): x and y in pixels of the octave, a fractional layer, and the contrast |DoG| / 255. Many
loops run over slices from index 0, because only such loops can be vectorised.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_kit.runtime.numba_cache import compiled
from imc_kit.types import Float32

SIGMA = 1.6
"""Blur (sigma) of an octave's first layer, in pixels of the octave (Lowe 2004)."""
BORDER = 5
"""Keypoints are at least this many pixels from the edges of an octave, as in OpenCV."""
BINS = 4
"""Spatial bins of a descriptor along each side (Lowe 2004)."""
DIRECTIONS = 8
"""Direction bins of a descriptor (Lowe 2004)."""

_SPACING = 2
"""Pixels between the samples of a descriptor. Each layer has a blur of 1.6 pixels or more, so little is lost: 1 finds
1 % more correct matches from four times the samples, 3 finds 5 % fewer (docs/benchmarks.md)."""
_STRIP = 16
"""Rows of the difference of Gaussians computed at once: few enough to stay in the processor's cache."""
_STEPS = 5
"""Maximum steps of Newton's method from a pixel to the extremum, as in OpenCV."""
_ORIENTATION_BINS = 36
"""Bins of the histogram whose highest peak is a keypoint's orientation (Lowe 2004)."""
_RADIUS, _WIDTH = 4.5, 1.5
"""Radius of the orientation window, and the sigma of its Gaussian weights, in units of the keypoint's blur, as in
OpenCV."""
_BIN = 3.0
"""Side of a descriptor's spatial bin, in units of the keypoint's blur, as in OpenCV and COLMAP."""
_MAX_ENTRY = 0.2
"""Descriptor entries are clipped at this fraction of the descriptor's length (Lowe 2004)."""

_HALF = (BINS + 1) / 2
"""Half the side of a descriptor's square, in spatial bins. The square extends half a bin beyond the bins, because a
gradient votes in all bins whose centres are less than a bin away."""
_MAX_BLUR = 2 * SIGMA * 1.2
"""Upper bound on a keypoint's blur: its layer is below layers + 0.5, so the blur is below 2.25 · SIGMA for 3 layers."""
_MAX_REACH = math.ceil(_RADIUS * _MAX_BLUR)
"""Upper bound on the radius of an orientation window, in pixels."""
_MAX_SQUARE = math.ceil(_HALF * math.sqrt(2) * _BIN * _MAX_BLUR)
"""Upper bound on half the side of the axis-aligned square around a descriptor's rotated square, in pixels."""

Step = tuple[int, int, int]
_LAYER, _Y, _X = (1, 0, 0), (0, 1, 0), (0, 0, 1)


@compiled
def doubled(image: NDArray[np.uint8]) -> Float32:
    """Double an image [h, w]: pixel p moves to 2p, and a pixel in between is the mean of its neighbours."""
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
    """Blur an image [h, w] with a symmetric kernel, first down and then across, and write it to `blurred`.

    kernel: the weights of the pixel itself, its neighbour, and so on. The image is mirrored at its edges.
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
    """Mirror an index beyond the ends of a row of `count` ≥ 2 pixels into the row."""
    while at < 0 or at >= count:
        at = -at if at < 0 else 2 * (count - 1) - at
    return at


@compiled
def extrema(octave: Float32, contrast: float, edge: float) -> Float32:
    """Find keypoints [N, 4]: extrema of the difference of Gaussians (DoG) in position and scale.

    contrast: the smallest |DoG| / 255 times the layers per octave, as in OpenCV.
    edge: the largest ratio of principal curvatures.
    """
    layers, height, width = octave.shape[0] - 3, octave.shape[1], octave.shape[2]
    least = np.float32(255 * contrast / layers / 2)  # half the limit, because the peak between pixels is higher
    found, count = np.empty((1024, 4), np.float32), 0
    dog = np.empty((layers + 2, _STRIP + 2, width), np.float32)
    highest, lowest = np.empty(width, np.float32), np.empty(width, np.float32)
    extreme = np.zeros((width + 7) // 8 * 8, np.uint8)
    eights = extreme.view(np.uint64)  # extrema are rare: test eight pixels at once
    for top in range(BORDER, height - BORDER, _STRIP):
        bottom = min(top + _STRIP, height - BORDER)
        _subtract(octave, top - 1, bottom + 1, dog)
        for layer in range(1, layers + 1):
            for y in range(top, bottom):
                _mark(dog, layer, y - top + 1, least, highest, lowest, extreme)
                for eight in range(len(eights)):
                    if eights[eight]:
                        for x in range(8 * eight, 8 * eight + 8):
                            if extreme[x]:
                                if count == len(found):
                                    found = np.concatenate((found, np.empty_like(found)))
                                if _refined(octave, x, y, layer, contrast, edge, found[count]):
                                    count += 1
    return found[:count]


@compiled
def _subtract(octave: Float32, top: int, bottom: int, dog: Float32) -> None:
    """Write the differences of adjacent layers to `dog` [layers + 2, rows, w], for rows `top` to `bottom` − 1."""
    for layer in range(dog.shape[0]):
        for y in range(top, bottom):
            more, less, difference = octave[layer + 1, y], octave[layer, y], dog[layer, y - top]
            for x in range(len(difference)):
                difference[x] = more[x] - less[x]


@compiled
def _mark(
    dog: Float32, layer: int, y: int, least: Any, highest: Float32, lowest: Float32, extreme: NDArray[np.uint8]
) -> None:
    """Mark in `extreme` which pixels of a row are extrema among their 26 neighbours in position and scale.

    least: the smallest |DoG| of an extremum. highest, lowest: memory for the extremes of the 9 values in each column.
    The border pixels of `extreme` are not changed.
    """
    a, b, c = dog[layer - 1, y - 1], dog[layer - 1, y], dog[layer - 1, y + 1]
    d, here, e = dog[layer, y - 1], dog[layer, y], dog[layer, y + 1]
    f, g, h = dog[layer + 1, y - 1], dog[layer + 1, y], dog[layer + 1, y + 1]
    for x in range(len(here)):
        highest[x] = max(a[x], b[x], c[x], d[x], here[x], e[x], f[x], g[x], h[x])
        lowest[x] = min(a[x], b[x], c[x], d[x], here[x], e[x], f[x], g[x], h[x])
    # The left neighbour, the pixel itself and the right neighbour, from the first pixel inside the border.
    high_left, high, high_right = highest[BORDER - 1 :], highest[BORDER:], highest[BORDER + 1 :]
    low_left, low, low_right = lowest[BORDER - 1 :], lowest[BORDER:], lowest[BORDER + 1 :]
    inner, inner_extreme = here[BORDER:], extreme[BORDER:]
    for x in range(len(here) - 2 * BORDER):
        v = inner[x]
        above_all = (v > least) & (v >= max(high_left[x], high[x], high_right[x]))
        below_all = (v < -least) & (v <= min(low_left[x], low[x], low_right[x]))
        inner_extreme[x] = above_all | below_all


@compiled
def _refined(octave: Float32, x: int, y: int, layer: int, contrast: float, edge: float, keypoint: Float32) -> bool:
    """Write the extremum near a pixel to `keypoint`; return False if there is none, or if it is weak or on an edge.

    Fits a quadratic function to the neighbours (Brown and Lowe 2002).
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
        # Invert the symmetric Hessian by its cofactors.
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
    (l1, y1, x1), (l2, y2, x2) = one, other
    same = _dog(octave, layer + l1 + l2, y + y1 + y2, x + x1 + x2)
    same += _dog(octave, layer - l1 - l2, y - y1 - y2, x - x1 - x2)
    opposite = _dog(octave, layer + l1 - l2, y + y1 - y2, x + x1 - x2)
    opposite += _dog(octave, layer - l1 + l2, y - y1 + y2, x - x1 + x2)
    return (same - opposite) / 4


@compiled
def _blur(octave: Float32, layer: float) -> float:
    """The blur of a layer, in pixels of the octave."""
    return float(SIGMA * 2.0 ** (layer / (octave.shape[0] - 3)))


@compiled
def _direction(dy: Any, dx: Any) -> Any:
    """The direction of (dx, dy) as a fraction of a full circle, in 0 … 1, accurate to 3·10⁻⁶.

    A polynomial replaces the arc tangent, so that the loop around it can be vectorised.
    """
    across, along = abs(dx), abs(dy)
    t = min(across, along) / (max(across, along) + np.float32(1e-20))
    s = t * t
    part = t * (_ATAN[0] + s * (_ATAN[1] + s * (_ATAN[2] + s * (_ATAN[3] + s * _ATAN[4]))))
    part = np.float32(0.25) - part if along > across else part
    part = np.float32(0.5) - part if dx < 0 else part
    return np.float32(1) - part if dy < 0 else part


def _atan_coefficients(terms: int) -> NDArray[np.float32]:
    """Fit p so that t · p(t²) approximates atan(t) / 2π for t in 0 … 1, by least squares at Chebyshev points."""
    t = (1 + np.cos(np.pi * (np.arange(400) + 0.5) / 400)) / 2
    powers = t[:, None] ** (2 * np.arange(terms) + 1)
    return np.linalg.lstsq(powers, np.arctan(t) / (2 * np.pi), rcond=None)[0].astype(np.float32)


_ATAN = tuple(_atan_coefficients(5))


@compiled
def orientations(octave: Float32, keypoints: Float32) -> Float32:
    """The dominant gradient direction [N] around each of the keypoints [N, 4], in degrees clockwise from +x."""
    found = np.empty(len(keypoints), np.float32)
    gradients = np.empty((3, (2 * _MAX_REACH + 1) ** 2), np.float32)
    for number in range(len(keypoints)):
        found[number] = _peak(_direction_votes(octave, keypoints[number], gradients))
    return found


@compiled
def _direction_votes(octave: Float32, keypoint: Float32, gradients: Float32) -> Float32:
    """The histogram of gradient directions around a keypoint, weighted by magnitude and a Gaussian of the distance.

    gradients: memory for dx, dy and the weight of each pixel.
    """
    dx, dy, weights = gradients[0], gradients[1], gradients[2]
    height, width = octave.shape[1], octave.shape[2]
    x, y = round(keypoint[0]), round(keypoint[1])
    layer = octave[round(keypoint[2])]
    blur = _blur(octave, keypoint[2])
    reach = round(_RADIUS * blur)
    window = np.empty(2 * reach + 1, np.float32)
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
        dx[i] = _direction(dy[i], dx[i]) * np.float32(_ORIENTATION_BINS) + np.float32(0.5)
    votes = np.zeros(_ORIENTATION_BINS + 1, np.float32)
    for i in range(count):
        votes[int(dx[i])] += weights[i]
    votes[0] += votes[_ORIENTATION_BINS]  # a direction just below a full circle rounds up to it
    return votes[:_ORIENTATION_BINS]


@compiled
def _peak(votes: Float32) -> Any:
    """The peak of a circular histogram in degrees: smoothed, then interpolated between bins by a parabola."""
    count = len(votes)
    smooth = np.empty_like(votes)
    for i in range(count):
        near = votes[(i - 1) % count] + votes[(i + 1) % count]
        far = votes[(i - 2) % count] + votes[(i + 2) % count]
        smooth[i] = (6 * votes[i] + 4 * near + far) / 16
    best = smooth.argmax()
    before, peak, after = smooth[best - 1], smooth[best], smooth[(best + 1) % count]
    bend = before - 2 * peak + after
    between = (before - after) / (2 * bend) if bend < 0 else np.float32(0)
    return (best + between) * (360 / count) % 360


@compiled
def describe(octave: Float32, keypoints: Float32, orientations: Float32, root: bool) -> Float32:
    """The descriptors [N, 128], of length 1, of keypoints [N, 4] with orientations [N] in degrees.

    A descriptor consists of histograms of gradient directions in 4 × 4 spatial bins, in a square rotated by the
    keypoint's orientation. root: see `SiftConfig`.
    """
    descriptors = np.empty((len(keypoints), BINS * BINS * DIRECTIONS), np.float32)
    samples = np.empty((5, (2 * _MAX_SQUARE // _SPACING + 1) ** 2), np.float32)
    for number in range(len(keypoints)):
        count = _sample(octave, keypoints[number], orientations[number], samples)
        _normalise(_vote(samples, count, orientations[number]), root, descriptors[number])
    return descriptors


@compiled
def _sample(octave: Float32, keypoint: Float32, orientation: Any, samples: Float32) -> int:
    """Write the gradients in the rotated square around a keypoint to `samples`, and return their number.

    samples: [5, …]: dx, dy, weight, and the row and column in the square, in spatial bins from its corner.
    """
    dx, dy, weights, rows, columns = samples[0], samples[1], samples[2], samples[3], samples[4]
    height, width = octave.shape[1], octave.shape[2]
    x, y = keypoint[0], keypoint[1]
    layer = octave[round(keypoint[2])]
    bin_ = _BIN * _blur(octave, keypoint[2])
    angle = math.radians(orientation)
    cosine, sine = math.cos(angle) / bin_, math.sin(angle) / bin_
    reach = _HALF * (abs(cosine) + abs(sine)) * bin_ * bin_  # half the side of the axis-aligned square
    narrow = -1 / (BINS * BINS / 2 * bin_ * bin_)  # Lowe's Gaussian: its sigma is half the side of all bins
    left, right = max(1, math.ceil(x - reach)), min(width - 2, math.floor(x + reach))
    window = np.empty(2 * _MAX_SQUARE + 1, np.float32)
    for column in range(left, right + 1, _SPACING):
        window[column - left] = math.exp((column - x) ** 2 * narrow)
    count = 0
    for row in range(max(1, math.ceil(y - reach)), min(height - 2, math.floor(y + reach)) + 1, _SPACING):
        down = row - y
        begin, end = _inside(down * sine, cosine, reach, bin_)
        begin_, end_ = _inside(-down * cosine, sine, reach, bin_)
        start = max(left, math.ceil(x + max(begin, begin_)))
        start += (left - start) % _SPACING
        across_row = max(0, (min(right, math.floor(x + min(end, end_))) - start) // _SPACING + 1)
        above, here, below = layer[row - 1], layer[row], layer[row + 1]
        of_row = math.exp(down * down * narrow)
        for i in range(across_row):
            column = start + _SPACING * i
            across = column - x
            dx[count + i] = here[column + 1] - here[column - 1]
            dy[count + i] = below[column] - above[column]
            weights[count + i] = of_row * window[column - left]
            rows[count + i] = down * cosine - across * sine + _HALF
            columns[count + i] = across * cosine + down * sine + _HALF
        count += across_row
    return count


@compiled
def _inside(offset: float, slope: float, reach: float, bin_: float) -> tuple[float, float]:
    """The interval of t within ±reach in which |offset + t · slope| < _HALF: the part of a row inside the square."""
    if abs(slope) * bin_ <= 1e-6:  # the row is parallel to two sides of the square
        return -reach, reach
    one, other = (-_HALF - offset) / slope, (_HALF - offset) / slope
    return max(-reach, min(one, other)), min(reach, max(one, other))


@compiled
def _vote(samples: Float32, count: int, orientation: Any) -> Float32:
    """The votes [BINS + 2, BINS + 2, DIRECTIONS + 1] of `count` samples, with a margin of one bin.

    Each gradient votes in the four spatial bins and two direction bins around it, by trilinear interpolation. The last
    direction bin repeats the first.
    """
    dx, dy, weights, rows, columns = samples[0], samples[1], samples[2], samples[3], samples[4]
    first = np.empty(count, np.int32)  # flat index of the top-left bin, lower direction
    shares, next_ = np.empty((4, count), np.float32), np.empty(count, np.float32)
    last = np.float32(BINS + 1) - np.float32(1e-4)  # rounding may put a sample on the edge
    upright = np.float32(orientation / 360)
    for i in range(count):  # this loop can be vectorised
        weight = weights[i] * math.sqrt(dx[i] * dx[i] + dy[i] * dy[i])
        direction = upright - _direction(dy[i], dx[i])
        direction = np.float32(DIRECTIONS) * (direction + np.float32(1) if direction < 0 else direction)
        down, across = min(max(rows[i], np.float32(0)), last), min(max(columns[i], np.float32(0)), last)
        row, column, before = np.int32(down), np.int32(across), min(np.int32(direction), np.int32(DIRECTIONS - 1))
        first[i] = (row * np.int32(BINS + 2) + column) * np.int32(DIRECTIONS + 1) + before
        next_[i] = direction - np.float32(before)
        down, across = down - np.float32(row), across - np.float32(column)
        lower = weight * down
        upper = weight - lower
        shares[1, i], shares[3, i] = upper * across, lower * across
        shares[0, i], shares[2, i] = upper - shares[1, i], lower - shares[3, i]  # never below 0
    votes = np.zeros((BINS + 2, BINS + 2, DIRECTIONS + 1), np.float32)
    flat = votes.reshape(-1)
    for i in range(count):
        for corner in range(4):
            at = first[i] + (corner // 2 * (BINS + 2) + corner % 2) * (DIRECTIONS + 1)
            more = shares[corner, i] * next_[i]
            flat[at] += shares[corner, i] - more
            flat[at + 1] += more
    return votes


@compiled
def _normalise(votes: Float32, root: bool, descriptor: Float32) -> None:
    """Write the votes to `descriptor` [128], clip large entries, and scale it to length 1. root: see `SiftConfig`."""
    length = np.float32(0)
    for r in range(BINS):
        for c in range(BINS):
            for d in range(DIRECTIONS):
                entry = votes[r + 1, c + 1, d] + (votes[r + 1, c + 1, DIRECTIONS] if d == 0 else np.float32(0))
                descriptor[(r * BINS + c) * DIRECTIONS + d] = entry
                length += entry * entry
    limit, size = np.float32(_MAX_ENTRY) * np.float32(math.sqrt(length)), np.float32(0)
    for i in range(len(descriptor)):
        entry = min(descriptor[i], limit)
        size += entry if root else entry * entry
        descriptor[i] = entry
    if size > 0:
        scale = 1 / size if root else 1 / math.sqrt(size)
        for i in range(len(descriptor)):
            entry = descriptor[i] * np.float32(scale)
            descriptor[i] = math.sqrt(entry) if root else entry
