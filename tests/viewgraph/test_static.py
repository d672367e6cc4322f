"""What stands still while the scene moves, in keypoints and matches with a known answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest

from imc_kit.types import Features, Float64, Mask, Matches, Pair
from imc_kit.viewgraph.static import Evidence, examine, static_keypoints

SIZE = (1000, 750)
Points = dict[str, Float64]
"""The keypoints of an image by what they show. Those with the same name match."""
Image = tuple[tuple[int, int], Points]
Overlay = Callable[[int, tuple[int, int]], Points]
"""What is drawn into an image, from its number and size."""


def seen(place: str, at: Sequence[float], angle: float = 0.0, size: tuple[int, int] = SIZE) -> Points:
    """200 points of a place as a camera sees them that is at `at` and looks `angle` to the left, with noise."""
    random = np.random.default_rng(sum(map(ord, place)))
    points = random.uniform((-2, -1.5, 4), (2, 1.5, 8), (200, 3)) - at
    sine, cosine = np.sin(angle), np.cos(angle)
    x, y, z = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]) @ points.T
    noise = np.random.default_rng(int(1e4 * (angle + 9)) + int(1e3 * sum(at))).normal(0, 0.3, (2, 200))
    pixels = (np.array([x, y]) / z * max(size) + noise).T + np.array(size) / 2
    inside = ((pixels > 0) & (pixels < np.array(size) - 1)).all(axis=1)
    return {f"{place} {row}": pixels[row] for row in np.flatnonzero(inside)}


def drawn(text: str, corner: tuple[float, float], scale: float = 1.0, count: int = 60) -> Points:
    """Points of a line of text of 400 × 20 pixels, from this corner on."""
    points = np.random.default_rng(7).uniform((0, 0), (400, 20), (count, 2))
    return {f"{text} {row}": point * scale + corner for row, point in enumerate(points)}


def found(images: dict[str, Image]) -> tuple[dict[str, list[str]], dict[str, Mask]]:
    """What the keypoints of each image show, and which of them are static."""
    features = {
        name: Features(
            np.array(list(points.values()), np.float32).reshape(-1, 2), np.ones(len(points), np.float32),
            np.empty((len(points), 0), np.uint8), size,
        )
        for name, (size, points) in images.items()
    }  # fmt: skip
    labels = {name: list(points) for name, (_, points) in images.items()}

    def matches(first: str, second: str) -> Matches:
        rows = {label: row for row, label in enumerate(labels[second])}
        both = [(row, rows[label]) for row, label in enumerate(labels[first]) if label in rows]
        return Matches(np.array(both, np.int32).reshape(-1, 2), np.ones(len(both), np.float32))

    def examined(pairs: Sequence[Pair]) -> dict[Pair, Evidence]:
        every = {pair: examine(features[pair[0]], features[pair[1]], matches(*pair)) for pair in pairs}
        return {pair: one for pair, one in every.items() if one is not None}

    return labels, static_keypoints(features, matches, list(combinations(images, 2)), examined)


def two_places(overlay: Overlay, sizes: Sequence[tuple[int, int]]) -> dict[str, Image]:
    """Four photos of each of two places and one of a third, all with an overlay."""
    images: dict[str, Image] = {}
    for number, place in enumerate("aaaabbbbc"):
        size = sizes[number % len(sizes)]
        step = number % 4
        scene = seen(place, (0.4 * step, 0.15 * step, 0), 0.06 * step, size)
        images[f"{number}.jpg"] = size, scene | overlay(number, size)
    return images


@pytest.mark.parametrize(
    ("overlay", "sizes"),
    [
        (lambda _, size: drawn("text", (20, 700)), [SIZE]),
        (lambda _, size: drawn("text", (size[0] - 420, size[1] - 30)), [SIZE, (750, 1000), (900, 600)]),
        (lambda _, size: drawn("text", (0.1 * size[0], 0.9 * size[1]), size[0] / 1000), [SIZE, (800, 600), (900, 675)]),
        (lambda _, size: drawn("text", (size[0] / 2 - 200, size[1] / 2)), [SIZE]),
    ],
    ids=["corner", "sizes", "scaled", "centre"],
)
def test_an_overlay_is_static_in_every_image(
    overlay: Callable[[int, tuple[int, int]], Points], sizes: list[tuple[int, int]]
) -> None:
    labels, static = found(two_places(overlay, sizes))
    for name, mask in static.items():
        text = np.array([label.startswith("text") for label in labels[name]])
        assert mask[text].mean() > 0.9, name
        assert mask[~text].mean() < 0.15, name  # those under the text
    assert len(static) == 9  # with the stranger, which has no geometry with any other image


def test_letters_that_change_are_masked_with_those_around_them() -> None:
    """A digit matches the same digit at another place of the stamp."""

    def stamp(number: int, size: tuple[int, int]) -> Points:
        digits = {f"digit {row}": np.array([120.0 + 15 * ((row + number) % 8), 710.0]) for row in range(8)}
        return drawn("text", (20, 700)) | digits

    labels, static = found(two_places(stamp, [SIZE]))
    digits = [mask[row] for name, mask in static.items() for row, label in enumerate(labels[name]) if "digit" in label]
    assert np.mean(digits) > 0.95


def test_the_background_of_a_turntable_is_static_even_in_cropped_photos() -> None:
    offsets = np.random.default_rng(2).uniform(-60, 60, (8, 2))
    background = np.random.default_rng(3).uniform((100, 100), (900, 250), (150, 2))
    images: dict[str, Image] = {}
    for number, offset in enumerate(offsets):
        thing = seen("thing", (0.9 * number, 0.3, 0.02 * number**2), 0.15 * number)
        thing = {name: xy for name, xy in thing.items() if xy[1] > 300}
        still = {f"wall {row}": xy + offset for row, xy in enumerate(background)}
        images[f"{number}.jpg"] = SIZE, thing | still
    labels, static = found(images)
    for name, mask in static.items():
        wall = np.array([label.startswith("wall") for label in labels[name]])
        assert mask[wall].mean() > 0.95
        assert mask[~wall].mean() < 0.1


def test_nothing_is_static_in_rigid_scenes() -> None:
    forward: dict[str, Image] = {f"{n}.jpg": (SIZE, seen("place", (0, 0, 0.2 * n))) for n in range(6)}
    around: dict[str, Image] = {f"{n}.jpg": (SIZE, seen("place", (0.3 * n, 0, 0), 0.05 * n)) for n in range(6)}
    tripod: dict[str, Image] = {f"{n}.jpg": (SIZE, seen("place", (n // 4, 0, 0), 0.2 * (n // 4))) for n in range(8)}
    far: dict[str, Image] = {
        f"{n}.jpg": (SIZE, seen("near", (0.2 * n, 0, 0)) | drawn("mountains", (300, 100))) for n in range(6)
    }  # sideways without rotation: what is far stands still
    for images in (forward, around, tripod, far):
        assert found(images)[1] == {}


def test_a_few_pairs_that_disagree_are_not_enough() -> None:
    """Duplicate structures: two neighbours match a copy, the others do not."""
    images: dict[str, Image] = {}
    for number in range(8):
        points = seen("place", (0.4 * number, 0.1, 0), 0.06 * number)
        images[f"{number}.jpg"] = SIZE, points | (drawn("copy", (200, 300)) if number < 2 else {})
    assert found(images)[1] == {}


def test_no_matches_are_no_evidence() -> None:
    assert found({}) == ({}, {})
    assert found({"a": (SIZE, {}), "b": (SIZE, seen("b", (0, 0, 0)))})[1] == {}
