"""SIFT against OpenCV's and COLMAP's, and its compiled loops against OpenCV's filters."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from drawn import blobs, errors, texture
from imc_kit.data.images import load
from imc_kit.detectors import sift_numba
from imc_kit.detectors.sift import SiftConfig


def detect(image, mask=None, **options):
    return SiftConfig(**options).create().detect([image], [mask])[0]


def by_opencv(image, **options):
    """All that OpenCV finds: places [N, 2], scales, orientations, contrasts [N], and descriptors [N, 128]."""
    sift = cv2.SIFT.create(**options, enable_precise_upscale=True)
    found, descriptors = sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    columns = (np.array([getattr(one, name) for one in found]) for name in ("pt", "size", "angle", "response"))
    return *columns, descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def photo(shared):
    return load(next((shared / "scenes/test/fountain_P11/images").iterdir()), 640)


@pytest.mark.parametrize(("contrast", "edge"), [(0.0133, 30.0), (0.02, 10.0), (0.06, 5.0)])
def test_keypoints_are_opencvs(photo, contrast, edge):
    options = {"contrast_threshold": contrast, "edge_threshold": edge, "max_keypoints": 100_000, "min_keypoints": 0}
    ours = detect(photo.pixels, **options, root=False)
    places, scales, angles, responses, descriptors = by_opencv(
        photo.pixels, contrastThreshold=contrast, edgeThreshold=edge
    )
    apart, nearest = cKDTree(np.c_[places, scales]).query(np.c_[ours.keypoints, ours.scales])
    assert len(ours) > 100
    assert (apart < 0.02).mean() > 0.995
    assert (cKDTree(ours.keypoints).query(places)[0] < 0.02).mean() > 0.995
    np.testing.assert_allclose(ours.scores[apart < 0.02], responses[nearest[apart < 0.02]], atol=1e-4)

    rotated, alike = [], []
    for row in np.flatnonzero(apart < 0.02):
        # OpenCV has an entry for each orientation of a place.
        same = np.flatnonzero(np.linalg.norm(places - places[nearest[row]], axis=1) < 1e-3)
        off = np.abs((angles[same] - ours.orientations[row] + 180) % 360 - 180)
        rotated.append(off.min())
        alike.append(ours.descriptors[row] @ descriptors[same[off.argmin()]])
    assert np.percentile(rotated, 98) < 0.5
    assert np.percentile(np.array(alike)[np.array(rotated) < 0.5], 1) > 0.98


def test_it_is_where_colmap_is(shared):
    """COLMAP puts the centre of the top-left pixel at (0.5, 0.5)."""
    pycolmap = pytest.importorskip("pycolmap")
    photo = load(next((shared / "scenes/test/fountain_P11/images").iterdir()), 1000)
    ours = detect(photo.pixels)
    options = pycolmap.FeatureExtractionOptions(use_gpu=False)
    found, _ = pycolmap.FeatureExtractor.create(options).extract(
        pycolmap.Bitmap.from_array(cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2GRAY))
    )
    theirs = np.array([[one.x, one.y] for one in found]) - 0.5
    apart, nearest = cKDTree(theirs).query(ours.keypoints)
    same = apart < 0.5
    assert same.mean() > 0.7
    shift = (ours.keypoints - theirs[nearest])[same]
    assert np.abs(np.median(shift, axis=0)).max() < 0.02


def test_the_limit_and_a_mask_that_allows_all_change_nothing_else():
    image = texture(3)
    whole = detect(image, np.ones(image.shape[:2], bool), max_keypoints=100_000)
    for most in (1, 50, len(whole) + 1):
        some = detect(image, max_keypoints=most)
        assert len(some) == min(most, len(whole))
        for name, column in some.columns().items():
            np.testing.assert_array_equal(column, whole.columns()[name][:most])


def test_hardly_any_texture_gets_the_strongest_of_the_weak_keypoints():
    strong = texture(3)
    weak = (128 + 0.02 * (strong - 128.0)).round().astype(np.uint8)  # some five grey values
    assert len(detect(weak, min_keypoints=0)) < 20
    for fewest, most in ((300, 8192), (8192, 300)):
        found = detect(weak, min_keypoints=fewest, max_keypoints=most)
        assert len(found) == 300
        places, _, _, responses, _ = by_opencv(weak, contrastThreshold=0.001, edgeThreshold=10.0)
        apart, nearest = cKDTree(places).query(found.keypoints)
        assert (apart < 0.02).mean() > 0.97
        kept = np.sort(np.unique(responses))[::-1][: len(found)]
        assert np.isin(responses[nearest], kept).mean() > 0.9
    half = np.zeros(weak.shape[:2], bool)
    half[:, :200] = True
    masked = detect(weak, half, min_keypoints=300)
    assert len(masked) == 300
    assert masked.keypoints[:, 0].max() < 200
    as_before = detect(strong, max_keypoints=300, min_keypoints=0).columns()
    for name, column in detect(strong, max_keypoints=300, min_keypoints=300).columns().items():
        np.testing.assert_array_equal(column, as_before[name])


def test_descriptors_are_root_sift_unless_told_otherwise():
    image = texture(4)
    root, plain = detect(image), detect(image, root=False)
    np.testing.assert_array_equal(root.keypoints, plain.keypoints)
    for features in (root, plain):
        assert features.descriptors.dtype == np.float32
        assert features.descriptors.shape == (len(features), 128)
        np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(
        root.descriptors**2, plain.descriptors / plain.descriptors.sum(1, keepdims=True), atol=1e-6
    )


def test_not_doubled_it_finds_the_larger_ones_at_the_same_places():
    image = texture(5)
    doubled, single = (detect(image, double_up_to=most, max_keypoints=100_000) for most in (400, 399))
    assert 100 < len(single) < len(doubled)
    assert single.scales.min() > doubled.scales.min()
    large = single.scales > 2 * single.scales.min()
    apart, nearest = cKDTree(doubled.keypoints).query(single.keypoints[large])
    assert (apart < 0.3).mean() > 0.8
    same = apart < 0.3
    assert abs(np.median(np.log(single.scales[large][same] / doubled.scales[nearest[same]]))) < 0.02
    found = np.concatenate(
        [errors(detect(image, double_up_to=0), at, 2) for image, at in (blobs(s, 3.5) for s in (0, 1))]
    )
    assert len(found) > 30
    assert np.abs(found.mean(0)).max() < 0.05


def test_images_of_any_size_one_after_the_other_are_as_alone():
    images = [texture(1), texture(2), texture(3, 150), texture(4), texture(5, 151), np.zeros((7, 7, 3), np.uint8)]
    detector = SiftConfig().create()
    for together, image in zip(detector.detect(images, [None] * len(images)), images, strict=True):
        (alone,) = detector.detect([image], [None])
        for name, column in alone.columns().items():
            np.testing.assert_array_equal(column, together.columns()[name])


@pytest.mark.parametrize("most", [None, 0])
@pytest.mark.parametrize("contrast", [0.0, 0.02])
def test_hostile_images_are_ordinary(contrast, most):
    rows = np.arange(120)[:, None] * np.ones(130)
    rng = np.random.default_rng(0)
    for grey in (
        np.zeros((120, 130)),
        np.full((120, 130), 255),
        rows,
        255 * (rows % 2),
        255 * ((rows // 8 + np.arange(130) // 8) % 2),
        255 * rng.integers(0, 2, (120, 130)),
    ):
        image = np.repeat(grey.astype(np.uint8)[:, :, None], 3, 2)
        found = detect(image, contrast_threshold=contrast, double_up_to=most)  # Features checks that all is finite
        if not len(found):
            continue
        assert (found.keypoints >= 0).all()
        assert (found.keypoints <= (129, 119)).all()
        assert ((found.orientations >= 0) & (found.orientations < 360)).all()
        lengths = np.linalg.norm(found.descriptors, axis=1)
        assert (np.isclose(lengths, 1, atol=1e-5) | (lengths == 0)).all()


def test_a_flat_image_has_no_keypoints():
    assert len(detect(np.full((100, 100, 3), 77, np.uint8), contrast_threshold=0.0)) == 0


@pytest.mark.parametrize(("shape", "sigma"), [((11, 13), 1.2), ((12, 11), 3.1), ((133, 97), 1.55)])
def test_blurring_is_opencvs(shape, sigma):
    image = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    size = round(8 * sigma + 1) | 1
    kernel = cv2.getGaussianKernel(size, sigma, cv2.CV_32F).ravel()[size // 2 :].copy()
    blurred = np.empty_like(image)
    sift_numba.blur(image, kernel, blurred)
    np.testing.assert_allclose(blurred, cv2.GaussianBlur(image, (0, 0), sigma), atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (8, 1), (30, 41)])
def test_doubling_keeps_pixels_at_twice_their_place(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    large = sift_numba.doubled(image)
    assert large.shape == (2 * shape[0], 2 * shape[1])
    np.testing.assert_array_equal(large[::2, ::2], image)
    move = np.array([[0.5, 0, 0], [0, 0.5, 0]])
    expected = cv2.warpAffine(
        image.astype(np.float32), move, large.shape[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    np.testing.assert_allclose(large, expected, atol=1e-3)


def test_directions_are_those_of_the_arc_tangent():
    angles = np.radians(np.arange(0, 360, 0.25))
    for length in (1e-6, 1.0, 1e4):
        dx, dy = (length * np.cos(angles)).astype(np.float32), (length * np.sin(angles)).astype(np.float32)
        fractions = np.array([sift_numba._direction(*pair) for pair in zip(dy, dx, strict=True)])
        off = (fractions - angles / (2 * np.pi) + 0.5) % 1 - 0.5
        assert np.abs(off).max() < 1e-5
    assert sift_numba._direction(np.float32(0), np.float32(0)) == 0


@pytest.mark.parametrize("period", [4, 7, 16, 31])
def test_descriptors_of_patterns_are_finite(period):
    """Where whole parts of a keypoint's surroundings are without a gradient, rounding must not make votes negative."""
    rows, columns = np.mgrid[:300, :400]
    for pattern in (
        rows // period + columns // period,
        columns // period,
        (rows % period < 2) & (columns % period < 2),
    ):
        grey = np.where(np.asarray(pattern) % 2 == 1, 255, 0).astype(np.uint8)
        for root in (True, False):
            found = detect(np.dstack([grey] * 3), contrast_threshold=0.0, edge_threshold=1000.0, root=root)
            assert np.isfinite(found.descriptors).all()
            assert (found.descriptors >= 0).all()
