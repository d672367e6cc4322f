"""How much the frames of a fixed camera differ: the distances that order the views of a turntable.

Frames are small, grey, aligned and equally exposed: float32 [N, h, w], 0 to 255. Static content (the backdrop, a
watermark, highlights, which stay with the lamps) does not show how close two views are, so pixels are weighted by how
much they change. A thin watermark on photos with different exposures still misleads.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float32, Float64, Pixels

_STILL = 2.5
"""Grey levels (0 to 255). A pixel that varies less around its median over all frames is static: noise and JPEG cause
this much variation."""
_FAR = 40.0
"""Grey levels. Differences from the median are clipped to this; otherwise a few frames would decide what changes."""
_SCALES = (1.0, 2.0, 4.0, 8.0)
"""Blurs (sigma in pixels) at which frames are compared: coarse scales relate views farther apart, fine ones order
neighbours."""
_DIFFERENT = 20.0
"""Grey levels. Differences between two frames are clipped to this: beyond it, more contrast means nothing."""
_MOST_SHAKE = 0.1
"""Maximum motion of a nominally fixed camera, as a fraction of the frame's sides. Larger motions are alignment
errors."""
_ROUNDS, _ITERATIONS, _EPSILON, _BLUR = 2, 30, 1e-4, 5
"""Alignment: rounds, each with a new median frame, and the iterations, tolerance and blur of OpenCV's ECC."""


def comparable(images: Sequence[Pixels], long_side: int = 96) -> Float32:
    """Turn photos of any sizes into frames [N, h, w] whose longer side is `long_side`.

    It removes exposure differences and small camera movements.
    """
    if not images:
        return np.empty((0, long_side, long_side), np.float32)
    height, width = np.median([image.shape[:2] for image in images], axis=0)
    scale = long_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
    return _aligned(_levelled(np.array([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in small], np.float32)))


def still_share(stack: Float32) -> float:
    """The share of static pixels in frames [N, h, w]; 0 for fewer than two frames."""
    return float(np.mean(_changes(stack) < _STILL)) if len(stack) > 1 else 0.0


def distances(stack: Float32) -> Float64:
    """The pairwise distances of frames [N, h, w]: [N, N], from 0 for equal frames to at most 1.

    Deterministic. 135 frames take up to 2 s on one core.
    """
    total = np.zeros((len(stack), len(stack)))
    for sigma in _SCALES if len(stack) > 1 else ():
        blurred = np.array([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in stack])
        weights = np.maximum(_changes(blurred) - _STILL / (1 + sigma), 0)  # blur weakens noise
        seen = weights > 0
        if not seen.any():
            continue
        weights = weights[seen] / weights[seen].sum() / np.float32(_DIFFERENT * len(_SCALES))
        values = np.ascontiguousarray(blurred[:, seen])
        for number, value in enumerate(values[:-1]):
            apart = np.minimum(np.abs(values[number + 1 :] - value), np.float32(_DIFFERENT)) @ weights
            total[number, number + 1 :] += apart
    return total + total.T


def _changes(stack: Float32) -> Float32:
    """The RMS deviation of each pixel from its median over the frames, in grey levels, clipped at `_FAR`, [h, w]."""
    apart = np.minimum(np.abs(stack - np.median(stack, axis=0)), np.float32(_FAR))
    return np.asarray(np.sqrt(np.mean(apart * apart, axis=0)), np.float32)


def _levelled(stack: Float32) -> Float32:
    """Bring frames to one exposure: equal median and spread of the pixels that change.

    If most pixels are static, so is the exposure. If only some are, they are a watermark.
    """
    still = _changes(stack) < _STILL
    if still.mean() > 0.5:
        return stack
    pixels = stack[:, ~still]
    middles = np.median(pixels, axis=1, keepdims=True)
    spreads = np.mean(np.abs(pixels - middles), axis=1, keepdims=True)
    flat = spreads < 1
    if flat.all():
        return stack
    gains = np.where(flat, 1, np.median(spreads[~flat]) / np.maximum(spreads, 1))
    levelled = np.zeros_like(stack)
    levelled[:, ~still] = np.clip((pixels - middles) * gains + np.median(middles), 0, 255)
    return levelled


def _aligned(stack: Float32) -> Float32:
    """Align every frame with the median frame, if that makes them more alike."""
    if len(stack) < 3 or min(stack.shape[1:]) < 8:
        return stack
    count, height, width = stack.shape
    motions = np.repeat(np.eye(2, 3, dtype=np.float32)[None], count, axis=0)
    moved = stack
    for _ in range(_ROUNDS):
        middle = np.median(moved, axis=0).astype(np.float32)
        motions = np.array([_motion(middle, *both) for both in zip(stack, motions, strict=True)])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        moved = np.array([
            cv2.warpAffine(frame, motion, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            for frame, motion in zip(stack, motions, strict=True)
        ])  # fmt: skip
    return moved if _changes(moved).mean() < _changes(stack).mean() else stack


def _motion(middle: Float32, frame: Float32, start: NDArray[np.float32]) -> NDArray[np.float32]:
    """The affine map [2, 3] from `middle` to `frame` that correlates them best; the identity if alignment fails."""
    identity = np.eye(2, 3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _ITERATIONS, _EPSILON)
    everywhere = np.full(frame.shape, 255, np.uint8)
    try:
        _, motion = cv2.findTransformECC(middle, frame, start.copy(), cv2.MOTION_AFFINE, stop, everywhere, _BLUR)
    except cv2.error:  # no convergence, or a flat frame
        return identity
    height, width = frame.shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float32)
    moved = np.abs(corners @ (motion - identity).T).max(axis=0)
    return np.asarray(motion, np.float32) if (moved < _MOST_SHAKE * np.array([width, height])).all() else identity
