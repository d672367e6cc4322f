"""Clusters of matched keypoints against DBSCAN, the crop around them, and where in the image its keypoints are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.cluster import DBSCAN

from imc_kit.data.images import Photo
from imc_kit.data.masks import MaskConfig
from imc_kit.data.store import Store
from imc_kit.detectors import extract
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.pipeline import tasks
from imc_kit.pipeline.crops import CropConfig, clusters, crop_of, cut, in_whole
from imc_kit.types import Features, Float64, Pixels, Scene

SIZE = (1024, 768)
SEEN = 512
"""The longer side of what the detector is given."""
CONFIG = CropConfig(on=True)


def blob(center: tuple[float, float], count: int, spread: float = 25.0, seed: int = 0) -> Float64:
    """Points in a square."""
    return center + np.random.default_rng(seed).uniform(-spread, spread, (count, 2))


def test_clusters_are_those_of_dbscan_where_they_lie_apart() -> None:
    x, y = np.mgrid[20:1000:140, 20:760:140]
    scattered = np.stack([x.ravel(), y.ravel()], 1) + np.random.default_rng(1).uniform(-9, 9, (x.size, 2))
    blobs = [blob((330, 200), 200, seed=2), blob((700, 220), 80, seed=3), blob((500, 600), 400, 60, seed=4)]
    points = np.concatenate([*blobs, scattered])
    found = clusters(points, 32, 10)
    true = DBSCAN(eps=32, min_samples=10).fit_predict(points)
    assert true.max() == found.max() == 2
    assert (found >= 0)[:680].mean() > 0.99
    assert (true >= 0)[:680].mean() > 0.99
    both = (found >= 0) & (true >= 0)
    assert len(set(zip(found[both].tolist(), true[both].tolist(), strict=True))) == 3  # one for one
    assert (found >= 0)[680:].sum() < 6 < len(scattered)  # beside a blob


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (np.empty((0, 2)), []),
        (np.array([[5.0, 5.0]]), [-1]),
        (np.full((9, 2), 7.0), [-1] * 9),
        (np.full((10, 2), 7.0), [0] * 10),
        (np.array([[0.0, 0.0]] * 5 + [[63.9, 0.0]] * 5), [0] * 10),  # in cells that touch
        (np.array([[0.0, 0.0]] * 5 + [[64.1, 0.0]] * 5), [-1] * 10),  # in cells with one between them
        (np.array([[0.0, 0.0]] * 10 + [[500.0, 9.0]] * 12 + [[90.0, 90.0]]), [0] * 10 + [1] * 12 + [-1]),
    ],
)
def test_clusters_by_hand(points: Float64, expected: list[int]) -> None:
    assert clusters(points, 32, 10).tolist() == expected
    assert clusters(points.astype(np.float32) - 300, 32, 10).tolist() == expected


def test_the_crop_is_around_the_large_clusters_and_no_scattered_match_moves_it() -> None:
    points = np.concatenate([blob((300, 300), 300, 100), blob((520, 380), 100, 60, seed=1)])
    low, high = points.min(0), points.max(0)
    expected = (*np.floor(low - 32).astype(int).tolist(), *(np.ceil(high + 32) + 1).astype(int).tolist())
    assert crop_of(points, SIZE, SEEN, CONFIG) == expected
    wrong = np.array([[20, 20], [1000, 30], [990, 700], [40, 740], [800, 500]] * 3, float)
    few = blob((900, 100), 20, 15, seed=2)  # dense, but few beside the others
    assert crop_of(np.concatenate([points, wrong, few]), SIZE, SEEN, CONFIG) == expected
    left, top, right, bottom = (
        crop_of(np.concatenate([points, few]), SIZE, SEEN, replace(CONFIG, min_share=0)) or expected
    )
    assert (left, bottom) == (expected[0], expected[3])
    assert (right, top) == (int(np.ceil(few[:, 0].max() + 32)) + 1, int(np.floor(few[:, 1].min() - 32)))


@pytest.mark.parametrize("corner", [(-0.5, -0.5), (1023.5, -0.5), (-0.5, 767.5), (1023.5, 767.5)])
def test_the_crop_ends_at_the_edge(corner: tuple[float, float]) -> None:
    points = np.clip(blob(corner, 400, 150), -0.5, [1023.5, 767.5])
    box = crop_of(points, SIZE, SEEN, CONFIG)
    assert box is not None
    left, top, right, bottom = box
    assert 0 <= left < right <= 1024
    assert 0 <= top < bottom <= 768
    assert (left == 0) == (corner[0] < 0)
    assert (right == 1024) == (corner[0] > 0)
    assert (top == 0) == (corner[1] < 0)
    assert (bottom == 768) == (corner[1] > 0)


@pytest.mark.parametrize(
    ("points", "size", "long_side"),
    [
        (np.empty((0, 2)), SIZE, SEEN),  # no match
        (np.array([[500.0, 300.0]]), SIZE, SEEN),  # one
        (np.random.default_rng(0).uniform(0, [1023, 767], (60, 2)), SIZE, SEEN),  # scattered
        (np.random.default_rng(0).uniform(0, [1023, 767], (2000, 2)), SIZE, SEEN),  # everywhere
        (np.random.default_rng(0).uniform([0, 300], [1023, 400], (2000, 2)), SIZE, SEEN),  # in all of the width
        (np.full((500, 2), 8.0), (64, 64), 8),  # in a part too small to see anything
        (np.random.default_rng(0).uniform([100, 100], [900, 600], (2000, 2)), SIZE, 1024),  # in a large part
    ],
)
def test_no_crop(points: Float64, size: tuple[int, int], long_side: int | None) -> None:
    assert crop_of(points, size, long_side, CONFIG) is None


def test_matches_all_at_one_place_make_a_small_crop() -> None:
    assert crop_of(np.full((500, 2), 300.0), SIZE, SEEN, CONFIG) == (268, 268, 333, 333)


def test_a_crop_is_enlarged_where_the_detector_has_seen_all_there_is() -> None:
    points = blob((300, 300), 300, 100)
    box = crop_of(points, SIZE, SEEN, CONFIG)
    assert box is not None
    assert crop_of(points, SIZE, 1024, CONFIG) == box
    assert crop_of(points, SIZE, 1024, replace(CONFIG, min_zoom=2.1)) is None
    assert crop_of(points, SIZE, 2048, CONFIG) is None  # the whole can be seen as large
    assert crop_of(points, SIZE, None, CONFIG) is None


def test_the_crop_grows_with_the_image() -> None:
    points = blob((300, 300), 300, 100)
    small, large = crop_of(points, SIZE, SEEN, CONFIG), crop_of(4 * points, (4096, 3072), SEEN, CONFIG)
    np.testing.assert_allclose(np.array(large) / 4, small, atol=1.5)


@pytest.mark.parametrize(
    "options", [{"radius": 0.5}, {"min_points": 0}, {"min_share": 1.5}, {"margin": -1}, {"min_zoom": 0}]
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(KitError, match=f"{option} of the crops must be"):
        CropConfig(**options)


def spots(size: tuple[int, int], seed: int = 0) -> tuple[Pixels, Float64]:
    """A grey image with soft spots, and where they are."""
    rng = np.random.default_rng(seed)
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(40, size[0] - 30, 60), np.arange(40, size[1] - 30, 60)))
    places = np.stack([x, y], 1) + rng.uniform(-8, 8, (len(x), 2))
    image = np.full(size[::-1], 90.0)
    rows, columns = np.mgrid[: size[1], : size[0]]
    for (x, y), sigma in zip(places, rng.uniform(4, 6, len(places)), strict=True):
        image += 130 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(image).astype(np.uint8)[..., None], 3, 2), places


def are_at(points: Float64, places: Float64) -> bool:
    """Whether most places have a point; SIFT misses some, but it finds none beside its place."""
    off = np.linalg.norm(points[:, None] - places, axis=2).min(0)
    return bool((off < 0.2).mean() > 0.6 and not ((off > 0.2) & (off < 5)).any())


@pytest.mark.parametrize("long_side", [150, 247, 480, None])
def test_keypoints_of_a_crop_are_where_those_of_the_whole_image_are(long_side: int | None) -> None:
    pixels, places = spots((640, 480))
    box = (101, 87, 382, 301)
    detector = SiftConfig(long_side=None).create()
    (whole,) = extract(detector, [Photo(pixels, (640, 480), 0, False)])
    part, _ = cut(Photo(pixels, (640, 480), 0, False), None, box, long_side)
    assert max(part.pixels.shape) == min(long_side or 562, 562)
    assert part.size == (281, 214)
    found = in_whole(extract(detector, [part])[0], box, (640, 480))
    assert found.image_size == (640, 480)
    inside = places[((places > np.array(box[:2]) + 15) & (places < np.array(box[2:]) - 15)).all(1)]
    assert len(inside) >= 10
    assert are_at(whole.keypoints, inside)
    assert are_at(found.keypoints, inside)
    assert (found.keypoints >= np.array(box[:2]) - 0.5).all()
    assert (found.keypoints <= np.array(box[2:]) - 0.5).all()


def test_the_mask_is_cut_as_the_photograph_is() -> None:
    photo = Photo(spots((640, 480))[0], (640, 480), 0, False)
    half = np.zeros((48, 64), np.bool_)
    half[:, :20] = True  # up to x = 200
    part, allowed = cut(photo, half, (100, 50, 300, 250), 100)
    (found,) = extract(SiftConfig().create(), [part], [allowed])
    xs = in_whole(found, (100, 50, 300, 250), photo.size).keypoints[:, 0]
    assert 150 < xs.max() <= 201
    assert len(in_whole(Features.empty((9, 9), 128), (1, 1, 10, 10), photo.size)) == 0


def test_a_turned_image_is_cut_upright_and_its_features_are_kept_under_their_own_key(tmp_path: Path) -> None:
    pixels, places = spots((640, 480))
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.png"), np.rot90(pixels))  # anticlockwise: one quarter makes it upright
    scene = Scene("a", tmp_path / "photos", ("a.png",))
    table = Store(tmp_path / "store").features("sift")
    with ThreadPoolExecutor(1) as pool:
        records, _ = tasks.inspect(scene, MaskConfig(), pool)
        (record,) = records.values()
        record = replace(record, info=record.info.rotated(1))
        parts = {"a.png": replace(record, crop=(320, 0, 640, 240))}
        for some in ({"a.png": record}, parts, parts):
            assert tasks.detect(some, table, SiftConfig(long_side=300), MaskConfig(), pool, "a") == []
    assert len(table) == 2
    assert len(list(table.folder.glob("*.h5"))) == 2
    found = table[parts["a.png"].key]
    assert found.image_size == (640, 480)
    inside = places[(places[:, 0] > 340) & (places[:, 1] < 220)]
    assert are_at(found.keypoints, inside)
    assert found.keypoints[:, 0].min() > 319
    assert found.keypoints[:, 1].max() < 240
