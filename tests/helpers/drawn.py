"""Drawn images, of which it is known what a detector should find."""

from __future__ import annotations

import cv2
import numpy as np


def coloured(grey):
    return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def blobs(seed, sigma, width=611, height=487):
    """An image of Gaussian blobs, and their centres [N, 2], where none is near another or the edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width), 100.0)
    corners = np.stack(np.meshgrid(np.arange(90, width - 100, 75), np.arange(90, height - 100, 75)), -1).reshape(-1, 2)
    centres = corners + rng.uniform(0, 20, corners.shape)
    for cx, cy in centres:
        image += 100 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return coloured(image), centres


def texture(seed, size=400):
    """An image with detail of many sizes."""
    rng = np.random.default_rng(seed)
    image = sum(
        cv2.resize(rng.normal(size=(n, n)), (size, size), interpolation=cv2.INTER_CUBIC) for n in (10, 25, 60, 120)
    )
    return coloured(128 + 35 * image)


def errors(found, centres, near):
    """From each centre to the strongest keypoint that is near it, [K, 2]."""
    errors = []
    for centre in centres:
        close = np.flatnonzero(np.linalg.norm(found.keypoints - centre, axis=1) < near)
        if len(close):
            errors.append(found.keypoints[close[found.scores[close].argmax()]] - centre)
    return np.array(errors)
