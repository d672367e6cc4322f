"""How unlike the frames of a camera that stands still are: what orders the views of a turntable.

Frames are small, grey, at the same exposure and over each other: float32 [N, h, w], 0 to 255. What is the same in all
of them (the backdrop, a watermark, the highlights, which stay with the lamps) says nothing of how near two views are;
each pixel counts as much as it changes. A thin watermark over photographs of different exposures does mislead.

Dense optical flow (OpenCV's DIS, both ways, with the consistency of the two) was tried in place of the difference and
orders worse: of the steps through 18 rendered views it had 6 wrong, where here 2 are. It takes 30 times as long.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from imc_kit.types import Float32, Float64, Pixels

_STILL = 2.5
"""Grey levels: a pixel that differs less from its median over all frames is the same in all (noise, JPEG)."""
_FAR = 40.0
"""Grey levels: no difference from the median counts for more, or a few frames would decide what changes."""
_SCALES = (1.0, 2.0, 4.0, 8.0)
"""Pixels by which frames are blurred before they are compared: the coarse ones see farther, the fine ones better."""
_DIFFERENT = 20.0
"""Grey levels: what differs more than this is just different."""
_MOST_SHAKE = 0.1
"""Of the frame's sides: no camera that should stand still moves more."""


def comparable(images: Sequence[Pixels], long_side: int = 96) -> Float32:
    """Photographs of any sizes → frames [N, h, w] with `long_side` as their longer side.

    Differences of exposure, and small movements of the camera, are taken out.
    """
    if not images:
        return np.empty((0, long_side, long_side), np.float32)
    height, width = np.median([image.shape[:2] for image in images], axis=0)
    scale = long_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
    return _steadied(_levelled(np.array([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in small], np.float32)))


def still_share(stack: Float32) -> float:
    """The share of the pixels that are the same in all frames [N, h, w]; 0 for fewer than two frames."""
    return float(np.mean(_changes(stack) < _STILL)) if len(stack) > 1 else 0.0


def distances(stack: Float32) -> Float64:
    """How unlike each two frames are, from frames [N, h, w]: [N, N], 0 where they are the same, at most 1.

    Deterministic; 135 frames take up to 2 s on one core.
    """
    total = np.zeros((len(stack), len(stack)))
    for sigma in _SCALES if len(stack) > 1 else ():
        blurred = np.array([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in stack])
        weights = np.maximum(_changes(blurred) - _STILL / (1 + sigma), 0)  # blurred noise is weaker
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
    """By how many grey levels each pixel differs between the frames: [h, w]."""
    apart = np.minimum(np.abs(stack - np.median(stack, axis=0)), np.float32(_FAR))
    return np.asarray(np.sqrt(np.mean(apart * apart, axis=0)), np.float32)


def _levelled(stack: Float32) -> Float32:
    """The same at one exposure: median and spread of all frames are made equal, of what changes at all.

    Where most pixels are the same in all frames the exposure is, too. Otherwise what is, is a watermark.
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


def _steadied(stack: Float32) -> Float32:
    """The same with every frame moved over the median one, where that makes them more alike."""
    if len(stack) < 3 or min(stack.shape[1:]) < 8:
        return stack
    count, height, width = stack.shape
    motions = np.repeat(np.eye(2, 3, dtype=np.float32)[None], count, axis=0)
    moved = stack
    for _ in range(2):
        middle = np.median(moved, axis=0).astype(np.float32)
        motions = np.array([_motion(middle, *both) for both in zip(stack, motions, strict=True)])
        moved = np.array(
            [
                cv2.warpAffine(
                    frame,
                    motion,
                    (width, height),
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_REPLICATE,
                )
                for frame, motion in zip(stack, motions, strict=True)
            ]
        )
    return moved if _changes(moved).mean() < _changes(stack).mean() else stack


def _motion(middle: Float32, frame: Float32, start: NDArray[np.float32]) -> NDArray[np.float32]:
    """The affine map [2, 3] from `middle` to `frame` that correlates them best; the one of no motion without any."""
    nothing = np.eye(2, 3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-4)
    everywhere = np.full(frame.shape, 255, np.uint8)
    try:
        _, motion = cv2.findTransformECC(middle, frame, start.copy(), cv2.MOTION_AFFINE, stop, everywhere, 5)
    except cv2.error:  # it does not converge, or one of them is flat
        return nothing
    height, width = frame.shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float32)
    moved = np.abs(corners @ (motion - nothing).T).max(axis=0)
    return np.asarray(motion, np.float32) if (moved < _MOST_SHAKE * np.array([width, height])).all() else nothing
