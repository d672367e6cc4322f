"""How unlike frames are: what must not matter, and what must."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imc_kit.poses import frames
from imc_kit.poses.turntable import cycle
from imc_kit.types import Pixels
from tours import wrong_steps


def marked(image: Pixels) -> Pixels:
    image = image.copy()
    for row in range(12, 96, 24):
        cv2.putText(image, "(c) SAMPLE", (4, row), cv2.FONT_HERSHEY_DUPLEX, 0.6, (255, 255, 255), 1)
    return image


def brighter(image: Pixels, gain: float, offset: float) -> Pixels:
    return np.clip(gain * image.astype(float) + offset, 0, 255).astype(np.uint8)


def shaken(image: Pixels, rng: np.random.Generator) -> Pixels:
    motion = cv2.getRotationMatrix2D((64, 48), rng.uniform(-2, 2), rng.uniform(0.97, 1.03))
    motion[:, 2] += rng.uniform(-3, 3, 2)
    return np.asarray(cv2.warpAffine(image, motion, (128, 96), borderMode=cv2.BORDER_REFLECT), np.uint8)


@pytest.mark.parametrize("change", ["none", "watermark", "exposure", "shake", "shake and exposure", "half the size"])
def test_order_in_spite_of(change: str, jug: list[Pixels]) -> None:
    rng = np.random.default_rng(3)
    images = jug
    if "shake" in change:
        images = [shaken(image, rng) for image in images]
    if "exposure" in change:
        images = [brighter(image, rng.uniform(0.6, 1.3), rng.uniform(-10, 10)) for image in images]
    if change == "watermark":
        images = [marked(image) for image in images]
    if change == "half the size":
        images = [np.ascontiguousarray(image[::2, ::2]) if k % 3 else image for k, image in enumerate(images)]
    stack = frames.comparable(images)
    assert stack.shape == (36, 72, 96)
    assert stack.dtype == np.float32
    order, confidence = cycle(frames.distances(stack))
    assert wrong_steps(order) <= 4  # at most two swaps of neighbours: each makes two steps wrong
    assert confidence > 0.5


def test_half_of_the_views_are_ordered_too(jug: list[Pixels]) -> None:
    order, _ = cycle(frames.distances(frames.comparable(jug[::2])))
    assert wrong_steps(order) <= 4


def test_what_stays_is_still(jug: list[Pixels]) -> None:
    assert 0.6 < frames.still_share(frames.comparable(jug)) < 0.9
    assert frames.still_share(frames.comparable(jug[:1] * 5)) == 1
    rng = np.random.default_rng(0)
    unlike = [cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (160, 120)) for _ in range(12)]
    assert frames.still_share(frames.comparable(unlike)) < 0.05


def test_distances_by_their_definition() -> None:
    """One bright square on a static picture: by hand, with the weights of the pixels that change."""
    rng = np.random.default_rng(1)
    stack = np.repeat(rng.uniform(50, 150, (1, 24, 32)).astype(np.float32), 4, axis=0)
    for number in range(4):
        stack[number, 8:16, 6 * number : 6 * number + 8] = 250
    expected = np.zeros((4, 4))
    for sigma in (1, 2, 4, 8):
        blurred = np.array([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in stack], np.float64)
        deviation = np.minimum(abs(blurred - np.median(blurred, axis=0)), 40)
        weight = np.maximum(np.sqrt((deviation**2).mean(axis=0)) - 2.5 / (1 + sigma), 0)
        for i in range(4):
            for j in range(4):
                apart = np.minimum(abs(blurred[i] - blurred[j]), 20) / 20
                expected[i, j] += (apart * weight).sum() / weight.sum() / 4
    found = frames.distances(stack)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0 < found[0, 1] < found[0, 2] < found[0, 3] <= 1


def test_the_static_picture_behind_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    walls = [np.full((24, 32), 100, np.float32), rng.uniform(60, 140, (24, 32)).astype(np.float32)]
    found = []
    for wall in walls:
        stack = np.repeat(wall[None], 5, axis=0)
        for number in range(5):
            stack[number, 8:16, 5 * number : 5 * number + 8] += 100
        found.append(frames.distances(stack))
    np.testing.assert_allclose(*found, atol=0.05)


def test_none_one_and_equal_frames(jug: list[Pixels]) -> None:
    assert frames.distances(frames.comparable([])).shape == (0, 0)
    assert frames.still_share(frames.comparable([])) == 0
    assert frames.distances(frames.comparable(jug[:1])).tolist() == [[0]]
    assert not frames.distances(frames.comparable(jug[:1] * 4)).any()


def test_flat_black_and_mixed_images() -> None:
    rng = np.random.default_rng(0)
    images = [
        np.zeros((40, 60, 3), np.uint8),
        np.full((60, 40, 3), 255, np.uint8),
        rng.integers(0, 256, (500, 20, 3), np.uint8),
        np.zeros((16, 16, 3), np.uint8),
    ]
    found = frames.distances(frames.comparable(images))
    assert np.isfinite(found).all()
    assert (found == found.T).all()
    assert found[0, 3] < found[0, 2]
