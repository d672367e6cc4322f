"""What is common to all detectors: border, mask, budget, uniqueness and the way back to the original."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from imc_kit.data.images import Photo
from imc_kit.detectors import DETECTORS, DetectorConfig, extract, strongest
from imc_kit.errors import KitError
from imc_kit.types import Features


@dataclass(frozen=True)
class FakeConfig(DetectorConfig):
    name: ClassVar[str] = "fake"


class Everywhere:
    """Finds a keypoint in the centre of every pixel, the score growing along the rows."""

    def __init__(self, **options):
        self.config = FakeConfig(**options)
        self.dimension = 2

    def detect(self, images, masks):
        return [self._detect(*one) for one in zip(images, masks, strict=True)]

    def _detect(self, image, mask):
        height, width = image.shape[:2]
        y, x = np.mgrid[:height, :width].astype(np.float32)
        points, scores = np.stack([x.ravel(), y.ravel()], 1), np.arange(x.size, dtype=np.float32)
        kept = strongest(points, scores, mask, self.config.max_keypoints)
        length = np.full(len(kept), 3, np.float32)
        shapes = np.full((len(kept), 2, 2), 3, np.float32)
        return Features(points[kept], scores[kept], points[kept], (width, height), length, length, shapes)


def photo(width, height, shrunk_to=None):
    w, h = shrunk_to or (width, height)
    return Photo(np.zeros((h, w, 3), np.uint8), (width, height), 0, False)


def places(features):
    return {tuple(point) for point in features.keypoints.tolist()}


def test_everything_by_default():
    (features,) = extract(Everywhere(), [photo(7, 5)])
    assert places(features) == {(x, y) for x in range(7) for y in range(5)}
    assert features.image_size == (7, 5)
    assert (np.diff(features.scores) < 0).all()  # strongest first
    np.testing.assert_array_equal(features.descriptors, features.keypoints)  # they stay together
    np.testing.assert_array_equal(features.scales, 3)


def test_border_is_measured_from_the_edges_of_the_original():
    (features,) = extract(Everywhere(border=2), [photo(9, 6)])
    assert places(features) == {(x, y) for x in range(2, 7) for y in range(2, 4)}
    (features,) = extract(Everywhere(border=10), [photo(90, 60, shrunk_to=(30, 20))])  # one pixel holds three
    x, y = features.keypoints.T
    assert x.min() + 0.5 >= 10
    assert x.max() + 0.5 <= 80
    assert y.min() + 0.5 >= 10
    assert y.max() + 0.5 <= 50
    assert len(features) == (30 - 8) * (20 - 8)
    (features,) = extract(Everywhere(border=50), [photo(90, 60)])
    assert len(features) == 0
    assert features.image_size == (90, 60)


@pytest.mark.parametrize("factor", [1, 3])
def test_mask_of_any_size_is_stretched_over_the_photograph(factor):
    mask = np.zeros((4, 8), bool)
    mask[1, 2] = mask[3, 7] = True
    mask = np.kron(mask, np.ones((factor, factor), bool))
    (features,) = extract(Everywhere(), [photo(80, 40)], [mask])
    assert places(features) == {(x, y) for x in range(20, 30) for y in range(10, 20)} | {
        (x, y) for x in range(70, 80) for y in range(30, 40)
    }


def test_finer_mask_than_the_photograph_is_read_at_the_centres_of_pixels():
    mask = np.zeros((30, 60), bool)
    mask[4, 7] = True  # the centre of pixel (2, 1) of three by three each
    (features,) = extract(Everywhere(), [photo(20, 10)], [mask])
    assert places(features) == {(2, 1)}


def test_budget_is_spent_within_mask_and_border():
    mask = np.zeros((10, 10), bool)
    mask[:4] = True  # the weakest rows
    (features,) = extract(Everywhere(max_keypoints=5, border=1), [photo(10, 10)], [mask])
    assert [tuple(point) for point in features.keypoints.tolist()] == [(x, 3) for x in (8, 7, 6, 5, 4)]


def test_keypoints_and_scales_are_in_pixels_of_the_original():
    (features,) = extract(Everywhere(), [photo(40, 20, shrunk_to=(20, 10))])
    assert {x for x, _ in places(features)} == {2 * x + 0.5 for x in range(20)}
    assert {y for _, y in places(features)} == {2 * y + 0.5 for y in range(10)}
    np.testing.assert_allclose(features.scales, 6)
    np.testing.assert_allclose(features.shapes, 6)
    np.testing.assert_array_equal(features.orientations, 3)
    assert features.keypoints.dtype == np.float32


def test_photographs_of_different_sizes_keep_their_order():
    found = extract(Everywhere(), [photo(3, 2), photo(4, 9), photo(3, 2)], [None, np.zeros((1, 1), bool), None])
    assert [len(features) for features in found] == [6, 0, 6]
    assert [features.image_size for features in found] == [(3, 2), (4, 9), (3, 2)]
    assert extract(Everywhere(), []) == []


def test_places_that_become_one_in_the_original_are_one():
    """float32 is coarser at 20,000 than at 2,000, and two keypoints may land on one number."""

    class Close(Everywhere):
        def _detect(self, image, mask):
            x = np.nextafter(np.float32(1999), np.float32(0), dtype=np.float32)
            points = np.array([[1999, 3], [x, 3], [5, 3]], np.float32)
            return Features(points, np.array([3, 2, 1], np.float32), points, (2001, 10))

    (features,) = extract(Close(), [photo(20_007, 100, shrunk_to=(2001, 10))])
    assert len(places(features)) == len(features)
    np.testing.assert_array_equal(features.scores[[0, -1]], [3, 1])


def test_of_keypoints_at_one_place_the_strongest_stays():
    points = np.array([[1, 2], [3, 4], [1, 2], [-0.0, 1], [0.0, 1], [2, 1]], np.float32)
    scores = np.array([1, 5, 9, 2, 2, 7], np.float32)
    assert strongest(points, scores, None, 10).tolist() == [2, 5, 1, 3]
    assert strongest(points, scores, None, 2).tolist() == [2, 5]


def test_strongest_of_nothing():
    none = np.empty((0, 2), np.float32), np.empty(0, np.float32)
    assert len(strongest(*none, None, 5)) == 0
    assert len(strongest(*none, np.ones((3, 3), bool), 5)) == 0


@pytest.mark.parametrize("mask", [np.ones((4, 4), np.uint8), np.ones((4, 4, 1), bool), np.ones((0, 4), bool)])
def test_masks_that_are_none_are_refused(mask):
    with pytest.raises(ValueError, match="mask must be bool"):
        extract(Everywhere(), [photo(4, 4)], [mask])


NAN = float("nan")
INVALID = {
    "sift": {"contrast_threshold": -0.1, "edge_threshold": NAN, "double_up_to": -1},
    "orb": {"fast_threshold": 256},
    "akaze": {"threshold": 0.0},
    "aliked": {"model": "n64", "threshold": 1.5, "device": "tpu"},
    "superpoint": {"model": "v2", "threshold": NAN, "nms_radius": -1, "margin": -1, "device": "tpu"},
    "disk": {"device": "tpu"},
    "xfeat": {"threshold": 1.5, "device": "tpu"},
    "dedode": {"descriptor": "L", "device": "tpu"},
    "keynet": {"device": "tpu"},
    "none": {},
}
"""Values that each detector refuses, apart from those that all refuse."""


@pytest.mark.parametrize("name", DETECTORS)
def test_values_that_make_no_sense_are_refused(name):
    for_all = [("max_keypoints", 0), ("max_keypoints", NAN), ("long_side", 0), ("border", -1)]
    for option, value in [*for_all, *INVALID[name].items()]:
        with pytest.raises(KitError, match=f"{option} of detector '{name}' must be .*, not {value!r}"):
            DETECTORS[name](**{option: value})


def test_configurations_are_values_with_a_kind_of_descriptors():
    kinds = {"dedode": "dedodeb", "keynet": "keynet_affnet_hardnet", "none": "photographs"}
    for name, config_class in DETECTORS.items():
        config = config_class()
        assert config == dataclasses.replace(config)
        assert hash(config) == hash(config_class())
        assert (config.name, config.kind) == (name, kinds.get(name, name))
        assert config.binary == (name in ("orb", "akaze"))


def test_unknown_detector_names_the_nearest():
    with pytest.raises(KitError, match="unknown detector 'akase': did you mean 'akaze'"):
        DETECTORS["akase"]


def test_mask_border_and_budget_hold():
    mask = np.zeros((30, 40), bool)
    mask[12:22, 15:36] = True
    options = {"long_side": None, "border": 6}
    (everything,) = extract(Everywhere(max_keypoints=10**6, **options), [photo(40, 30)], [mask])
    assert places(everything) == {(x, y) for x in range(15, 34) for y in range(12, 22)}
    (few,) = extract(Everywhere(max_keypoints=7, **options), [photo(40, 30)], [mask])
    np.testing.assert_array_equal(few.scores, everything.scores[:7])
    (nothing,) = extract(Everywhere(**options), [photo(40, 30)], [np.zeros((1, 1), bool)])
    assert len(nothing) == 0
    assert nothing.image_size == (40, 30)
