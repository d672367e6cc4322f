"""SIFT, ORB and AKAZE: where keypoints are, against drawn centres; which are kept; what they describe."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from drawn import blobs, errors, texture
from imc_kit.data.images import Photo
from imc_kit.detectors import extract, opencv
from imc_kit.detectors.opencv import AkazeConfig, OrbConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.matchers.nearest import NearestConfig

CONFIGS = {"sift": SiftConfig, "orb": OrbConfig, "akaze": AkazeConfig}
HAS_AKAZE = hasattr(cv2, "AKAZE")
each = pytest.mark.parametrize(
    "name",
    ["sift", "orb", pytest.param("akaze", marks=pytest.mark.skipif(not HAS_AKAZE, reason="this OpenCV has no AKAZE"))],
)


def create(name, **options):
    return CONFIGS[name](**options).create()


def detect(name, image, mask=None, **options):
    return create(name, **options).detect([image], [mask])[0]


@pytest.mark.parametrize("sigma", [1.7, 7.0, 13.0])
@pytest.mark.parametrize("name", ["sift", pytest.param("akaze", marks=each.args[1][2].marks)])
def test_keypoints_are_at_the_centres_of_blobs(name, sigma):
    """With the centre of the top-left pixel at (0, 0); half or a quarter of a pixel off would fail."""
    found = np.concatenate([errors(detect(name, image), at, 2) for image, at in (blobs(s, sigma) for s in range(3))])
    assert len(found) > 40
    assert np.abs(found.mean(0)).max() < 0.05
    assert found.std(0).max() < 0.2


def test_orb_is_at_the_centres_of_blobs_on_every_level_of_its_pyramid():
    """Uncorrected, the smallest levels are off by 0.6 to 1.3 pixels."""
    off = {}
    for seed in range(10):
        image, centres = blobs(seed, 2.2)
        found = detect("orb", image, max_keypoints=20_000, fast_threshold=5)
        levels = np.rint(np.log(found.scales / 31) / np.log(1.2)).astype(int)
        for level in range(8):
            on = levels == level
            one = type(found)(found.keypoints[on], found.scores[on], found.descriptors[on], found.image_size)
            off.setdefault(level, []).append(errors(one, centres, 2.5 * 1.2**level).reshape(-1, 2))
    for level, found in off.items():
        found = np.concatenate(found)
        assert len(found) > 100
        assert np.abs(found.mean(0)).max() < 0.02 + 4 * found.std(0).max() / len(found) ** 0.5, level
        assert np.abs(found.mean(0)).max() < 0.3, level


@each
def test_orientations_rotate_with_the_image(name):
    image = texture(1)
    rotated = np.ascontiguousarray(np.rot90(image, -1))  # clockwise
    first, second = detect(name, image), detect(name, rotated)
    expected = np.stack([len(image) - 1 - first.keypoints[:, 1], first.keypoints[:, 0]], 1)
    apart, nearest = cKDTree(second.keypoints).query(expected)
    same = (apart < 0.1) & (np.abs(np.log(first.scales / second.scales[nearest])) < 0.05)
    assert same.sum() > 50
    change = (second.orientations[nearest] - first.orientations)[same] % 360
    assert np.abs(np.median(change) - 90) < 1


@each
def test_matches_between_an_image_and_its_rotated_smaller_copy(name):
    image = texture(2)
    move = np.vstack([cv2.getRotationMatrix2D((200, 200), 25, 0.8), [0, 0, 1]])
    copy = cv2.warpPerspective(image, move, (400, 400), flags=cv2.INTER_AREA)
    first, second = detect(name, image), detect(name, copy)
    matches = NearestConfig().create().match(first, second)
    i, j = matches.indices.T
    expected = first.keypoints[i] @ move[:2, :2].T + move[:2, 2]
    right = np.linalg.norm(expected - second.keypoints[j], axis=1) < 2
    assert right.sum() > 100
    assert right.mean() > 0.5
    scales = second.scales[j][right] / first.scales[i][right]
    assert np.abs(np.exp(np.log(scales).mean()) - 0.8) < 0.1


@each
def test_the_strongest_within_the_mask_are_kept_and_no_place_twice(name):
    image = texture(3)
    options = {"min_keypoints": 0} if name == "sift" else {}  # otherwise weaker ones follow within the mask
    everything = detect(name, image, max_keypoints=100_000, **options)
    places = {tuple(point) for point in everything.keypoints.tolist()}
    assert len(places) == len(everything) > 300
    assert (np.diff(everything.scores) <= 0).all()
    mask = np.zeros((400, 400), bool)
    mask[100:300, 150:350] = True
    x, y = np.rint(everything.keypoints).astype(int).T
    inside = {tuple(point) for point in everything.keypoints[mask[y, x]].tolist()}
    masked = detect(name, image, mask, max_keypoints=100_000, **options)
    assert {tuple(point) for point in masked.keypoints.tolist()} <= inside
    assert len(masked) > 0.9 * len(inside)  # ORB's pyramid makes the mask a little smaller
    few = detect(name, image, mask, max_keypoints=40, **options)
    assert len(few) == 40
    if name != "orb":  # which gives each level of its pyramid a share
        np.testing.assert_array_equal(few.keypoints, masked.keypoints[:40])
        np.testing.assert_array_equal(few.descriptors, masked.descriptors[:40])


@each
def test_thresholds_decide_how_many(name):
    image = texture(5)
    option, low, high = {
        "sift": ("contrast_threshold", 0.02, 0.08),
        "orb": ("fast_threshold", 5, 60),
        "akaze": ("threshold", 1e-5, 1e-2),
    }[name]
    many, few = (detect(name, image, max_keypoints=100_000, **{option: value}) for value in (low, high))
    assert len(few) < len(many)


@each
def test_tiny_and_empty_images_are_ordinary(name):
    detector = create(name)
    for shape in ((1, 1), (1, 300), (2, 2), (15, 15), (16, 16), (17, 400), (64, 64)):
        noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        found = detector.detect([noise, noise * 0, noise], [None, None, np.zeros(shape, bool)])
        for features in found:
            assert features.image_size == shape[::-1]
            assert features.descriptors.shape == (len(features), detector.dimension)
            assert features.descriptors.dtype == (np.float32 if name == "sift" else np.uint8)
        assert len(found[1]) == len(found[2]) == 0


@each
def test_many_threads_find_the_same(name):
    images = [texture(seed, 200) for seed in range(6)]
    detector = create(name)
    expected = detector.detect(images, [None] * 6)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: detector.detect([image], [None])[0], images))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
        np.testing.assert_array_equal(one.descriptors, other.descriptors)


@each
def test_shrunk_photos_give_keypoints_in_the_original(name):
    image = texture(6)
    detector = create(name)
    small = Photo(cv2.resize(image, (200, 200), interpolation=cv2.INTER_AREA), (400, 400), 0, False)
    large, shrunk = (extract(detector, [photo])[0] for photo in (Photo(image, (400, 400), 0, False), small))
    apart, nearest = cKDTree(large.keypoints).query(shrunk.keypoints)
    assert (apart < 1.5).sum() > 40
    shift = np.median((shrunk.keypoints - large.keypoints[nearest])[apart < 1.5], axis=0)
    assert np.abs(shift).max() < 0.2


def test_akaze_missing_from_opencv_says_what_to_install(monkeypatch):
    monkeypatch.delattr(opencv.cv2, "AKAZE", raising=False)
    with pytest.raises(KitError, match=r'no AKAZE: .*pip install "opencv-python-headless<5"'):
        AkazeConfig().create()
