"""Repeatability, against closed forms, brute force and what chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
import pytest

from imc_kit.compare import repeatability as r
from imc_kit.config import FeaturePipeline
from imc_kit.data.images import Photo
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.detectors.opencv import OrbConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.matchers import PhotoMatcherConfig, View
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.synthetic.plaza import noise
from imc_kit.types import Correspondences, Features, Matches

SIZE = (200, 120)
STILL = r.RepeatabilityConfig(rotation=0, scale=1, perspective=0, light=0, views=1)


def points(seed: int, count: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, np.array(size) - 0.5, (count, 2)).astype(np.float32)


def features(keypoints: np.ndarray) -> Features:
    n = len(keypoints)
    return Features(keypoints.astype(np.float32), np.ones(n, np.float32), np.zeros((n, 4), np.float32), SIZE)


def textured(size: tuple[int, int] = (240, 180), seed: int = 0) -> np.ndarray:
    grey = noise(np.random.default_rng(seed), size[::-1], 60.0)
    return np.repeat(np.clip(128 + 50 * grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@dataclass(frozen=True)
class SamePlaceConfig(PhotoMatcherConfig):
    """Matches every place of one image to the same place of the other."""

    name: ClassVar[str] = "same place"

    def create(self) -> SamePlaceConfig:  # type: ignore[override]
        return self

    def match_batch(self, pairs: Sequence[tuple[View, View]]) -> list[Correspondences]:
        some = [points(0, 500, first.photo.size) for first, _ in pairs]
        return [Correspondences(one, one, np.ones(len(one), np.float32)) for one in some]


def brute_force(first: np.ndarray, second: np.ndarray, matrix: np.ndarray, epsilon: float) -> float:
    """DeTone et al., appendix: point by point."""

    def go(point, by):  # type: ignore[no-untyped-def]
        x, y, z = by @ [*point, 1.0]
        return np.array([x / z, y / z])

    def inside(point):  # type: ignore[no-untyped-def]
        return -0.5 <= point[0] <= SIZE[0] - 0.5 and -0.5 <= point[1] <= SIZE[1] - 0.5

    a = [go(p, matrix) for p in first if inside(go(p, matrix))]
    b = [p for p in second if inside(go(p, np.linalg.inv(matrix)))]
    again = sum(any(np.hypot(*(p - q)) <= epsilon for q in b) for p in a)
    again += sum(any(np.hypot(*(p - q)) <= epsilon for p in a) for q in b)
    return again / (len(a) + len(b))


class TestHomography:
    def test_no_change_is_the_identity(self) -> None:
        np.testing.assert_allclose(r.homography(SIZE), np.eye(3), atol=1e-12)

    @pytest.mark.parametrize("tilt", [0.0, 30.0, -70.0])
    def test_the_centre_stays_and_its_area_shrinks_with_the_cosine(self, tilt: float) -> None:
        matrix = r.homography(SIZE, rotation=25, scale=1.7, tilt=tilt, direction=40)
        centre = (np.array(SIZE) - 1) / 2
        around = centre + np.array([[0, 0], [1e-3, 0], [0, 1e-3]])
        moved = r.project(around, matrix)
        np.testing.assert_allclose(moved[0], centre, atol=1e-9)
        area = np.linalg.det((moved[1:] - moved[0]) / 1e-3)
        assert area == pytest.approx(1.7**2 * np.cos(np.radians(tilt)), rel=1e-3)

    def test_a_rotation_is_clockwise(self) -> None:
        moved = r.project(np.array([[0, 0], [99, 0]], np.float32), r.homography((100, 100), rotation=90))
        np.testing.assert_allclose(moved, [[99, 0], [99, 99]], atol=1e-9)

    def test_the_far_side_of_a_tilted_picture_is_smaller(self) -> None:
        corners = np.array([[0, 0], [99, 0], [0, 99], [99, 99]], np.float32)
        moved = r.project(corners, r.homography((100, 100), tilt=40, direction=0))
        top, bottom = moved[1, 0] - moved[0, 0], moved[3, 0] - moved[2, 0]
        half = 49.5 * np.sin(np.radians(40))
        assert bottom / top == pytest.approx((100 - half) / (100 + half))


class TestWarps:
    def test_a_photo_always_has_the_same_ones_and_other_photos_have_others(self) -> None:
        config = r.RepeatabilityConfig()
        for one, again, other in zip(*(r.warps(SIZE, config, number) for number in (1, 1, 2)), strict=True):
            np.testing.assert_array_equal(one.homography, again.homography)
            assert (one.gamma, one.noise, one.seed) == (again.gamma, again.noise, again.seed)
            assert one.gamma != other.gamma or np.abs(one.homography - other.homography).max() > 1e-3

    def test_each_kind_goes_from_slight_to_strong_within_its_range(self) -> None:
        config = r.RepeatabilityConfig(views=5, rotation=40, scale=3, light=0.8)
        of = {change: [w for w in r.warps(SIZE, config) if w.change == change] for change in r.CHANGES}
        assert {change: len(some) for change, some in of.items()} == dict.fromkeys(r.CHANGES, 5)
        angles = [abs(np.degrees(np.arctan2(w.homography[1, 0], w.homography[0, 0]))) for w in of["rotation"]]
        scales = [w.homography[0, 0] for w in of["scale"]]
        lights = [abs(np.log2(w.gamma)) for w in of["light"]]
        for values, low, high in ((angles, 0, 40), (np.log(scales), 0, np.log(3)), (lights, 0, 0.8)):
            np.testing.assert_array_equal(np.floor(5 * (np.array(values) - low) / (high - low)), range(5))
        assert all((w.homography == np.eye(3)).all() for w in of["light"])
        assert all(w.gamma == 1 and w.noise == 0 for change in r.CHANGES[:3] for w in of[change])

    def test_a_blob_is_where_the_homography_takes_it(self) -> None:
        place = np.array([[81.0, 47.0]])  # in the plain image; the photo has twice as many pixels
        y, x = np.mgrid[:240, :400]
        blob = np.exp(-((x - 2 * 81 - 0.5) ** 2 + (y - 2 * 47 - 0.5) ** 2) / (2 * 6.0**2))
        photo = np.repeat((255 * blob).astype(np.uint8)[..., None], 3, axis=2)
        for warp in (None, *r.warps(SIZE, r.RepeatabilityConfig(scale=1.5))[:6]):
            seen = r.warped(photo, SIZE, warp)[..., 0].astype(float)
            assert seen.shape == SIZE[::-1]
            seen[seen < 40] = 0
            rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
            middle = [(seen * columns).sum() / seen.sum(), (seen * rows).sum() / seen.sum()]
            expected = r.project(place, np.eye(3) if warp is None else warp.homography)[0]
            np.testing.assert_allclose(middle, expected, atol=0.15)

    def test_light_is_a_power_and_noise(self) -> None:
        flat = np.full((120, 200, 3), 64, np.uint8)
        darker = r.warped(flat, SIZE, r.Warp("light", np.eye(3), gamma=2.0))
        assert (darker == round(255 * (64 / 255) ** 2)).all()
        noisy = r.warped(flat, SIZE, r.Warp("light", np.eye(3), noise=8.0, seed=1)).astype(float)
        assert (noisy.mean(), noisy.std()) == (pytest.approx(64, abs=0.2), pytest.approx(8, abs=0.2))

    def test_pixels_outside_the_photo_are_known(self) -> None:
        warp = r.Warp("rotation", r.homography(SIZE, rotation=30))
        mask = r.visible(SIZE, warp)
        white = cv2.warpPerspective(np.full((120, 200), 255, np.uint8), warp.homography, SIZE, flags=cv2.INTER_NEAREST)
        assert mask.shape == (120, 200)
        assert 0.5 < mask.mean() < 0.95
        assert (mask != (white > 0)).mean() < 0.005  # rounding at the border
        assert r.visible(SIZE, r.Warp("light", np.eye(3))).all()

    def test_a_small_photo_is_not_enlarged(self) -> None:
        sizes = ((200, 100), (2000, 1000), (5000, 2))
        assert [r.plain_size(size, 640) for size in sizes] == [(200, 100), (640, 320), (640, 1)]


class TestRepeatability:
    @pytest.mark.parametrize("seed", range(3))
    def test_is_what_brute_force_says(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        matrix = r.homography(
            SIZE, rotation=rng.uniform(-60, 60), scale=rng.uniform(1, 2), tilt=rng.uniform(-50, 50), direction=20
        )
        first, second = points(seed, 150), points(seed + 100, 90)
        expected = brute_force(first, second, matrix, 3.0)
        assert 0 < expected < 1
        assert r.repeatability(first, second, matrix, SIZE) == pytest.approx(expected)
        assert r.repeatability(first, second, -5 * matrix, SIZE) == pytest.approx(expected)  # the same homography

    def test_the_same_points_are_all_found_again(self) -> None:
        matrix = r.homography(SIZE, rotation=40, scale=1.5, tilt=30)
        first = points(0, 300)
        moved = r.project(first, matrix)
        inside = ((moved >= -0.5) & (moved <= np.array(SIZE) - 0.5)).all(1)
        assert 0 < inside.sum() < 300
        assert r.repeatability(first, moved[inside].astype(np.float32), matrix, SIZE, 0.01) == 1
        assert r.repeatability(first, first, np.eye(3), SIZE, 1e-3) == 1

    def test_random_points_are_found_again_by_chance(self) -> None:
        size, count = (640, 480), 1000
        chance = 1 - np.exp(-count * np.pi * 3**2 / (640 * 480))
        pairs = [(points(seed, count, size), points(seed + 50, count, size)) for seed in range(5)]
        assert np.mean([r.repeatability(*pair, np.eye(3), size) for pair in pairs]) == pytest.approx(chance, abs=0.01)

    def test_a_distance_of_epsilon_counts(self) -> None:
        first, second = np.array([[50, 50]], np.float32), np.array([[53, 50]], np.float32)
        assert [r.repeatability(first, second, np.eye(3), SIZE, epsilon) for epsilon in (3.0, 2.99)] == [1, 0]

    def test_points_that_only_one_image_shows_do_not_count(self) -> None:
        first = np.array([[99.5, 59.5], [5, 5]], np.float32)  # the second leaves the image
        assert r.repeatability(first, first[:1], r.homography(SIZE, scale=2), SIZE) == 1
        matrix = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
        moved = r.project(np.array([[50, 0], [150, 0]], np.float32), matrix)
        np.testing.assert_allclose(moved[0], [100, 0])
        assert np.isnan(moved[1]).all()  # behind the camera

    @pytest.mark.parametrize("counts", [(0, 0), (0, 5), (5, 0)])
    def test_without_points_it_is_zero(self, counts: tuple[int, int]) -> None:
        assert r.repeatability(points(0, counts[0]), points(1, counts[1]), np.eye(3), SIZE) == 0


class TestMatches:
    def test_right_and_wrong_ones_are_counted(self) -> None:
        matrix = r.homography(SIZE, rotation=10)
        first = points(3, 40)
        second = r.project(first, matrix)
        second[::4] += [5, 0]  # ten of forty are wrong
        assert r.matching_accuracy(first, second.astype(np.float32), matrix, 3.0) == 0.75
        assert r.matching_accuracy(first, second.astype(np.float32), matrix, 6.0) == 1
        assert r.matching_accuracy(first[:0], first[:0], matrix) == 0

    def test_the_score_counts_keypoints_that_both_images_show(self) -> None:
        # Three of four keypoints stay in view, and both of the second image's; one match is right, one is wrong.
        matrix = r.homography(SIZE, scale=2)
        first = features(np.array([[100, 60], [80, 50], [120, 70], [2, 2]]))
        second = features(np.vstack([r.project(first.keypoints[:1], matrix), [[10, 10]]]))
        matches = Matches(np.array([[0, 0], [1, 1]], np.int32), np.ones(2, np.float32))
        assert r.matching_score(first, second, matches, matrix) == pytest.approx((1 / 3 + 1 / 2) / 2)

    def test_no_keypoints_have_no_score(self) -> None:
        none = features(np.empty((0, 2)))
        assert r.matching_score(none, none, Matches.empty(), np.eye(3)) == 0


class TestMeasure:
    @pytest.mark.parametrize("detector", [SiftConfig(), OrbConfig()])
    def test_an_image_that_does_not_change_is_perfect(self, detector: SiftConfig | OrbConfig) -> None:
        pixels = textured()
        found = r.measure(FeaturePipeline(detector, NearestConfig()), Photo(pixels, (240, 180), 0, False), 0, STILL)
        assert [change for change, _ in found] == list(r.CHANGES)
        for _, one in found:
            assert one == r.Repeated(1.0, 1.0, 1.0)

    def test_real_changes_cost_something_and_strong_ones_more(self) -> None:
        photo = Photo(textured(), (240, 180), 0, False)
        feature_pipeline = FeaturePipeline(SiftConfig(), NearestConfig(ratio=0.8))
        config = r.RepeatabilityConfig(views=1)
        slight, strong = (
            r.average(
                [
                    one
                    for _, one in r.measure(feature_pipeline, photo, 0, replace(config, perspective=limit, light=light))
                ]
            )
            for limit, light in ((15.0, 0.3), (70.0, 3.0))
        )
        assert slight is not None
        assert strong is not None
        assert 0 < strong.repeatability < slight.repeatability < 1  # type: ignore[operator]
        assert 0.9 < slight.matching_accuracy <= 1  # type: ignore[operator]
        assert 0 < slight.matching_score < 1  # type: ignore[operator]

    def test_both_the_config_and_the_detector_limit_the_keypoints(self) -> None:
        photo = Photo(textured(), (240, 180), 0, False)
        one = FeaturePipeline(SiftConfig(max_keypoints=1), NearestConfig())
        other = FeaturePipeline(SiftConfig(max_keypoints=5000), NearestConfig())
        config = replace(STILL, max_keypoints=1)
        assert r.measure(one, photo, 0, STILL) == r.measure(other, photo, 0, config)

    def test_a_matcher_that_takes_photos_has_no_keypoints_to_repeat(self) -> None:
        feature_pipeline = FeaturePipeline(NoDetectorConfig(), SamePlaceConfig())
        photo = Photo(textured(), (240, 180), 0, False)
        assert [one for _, one in r.measure(feature_pipeline, photo, 0, STILL)] == [r.Repeated(None, 1.0, None)] * 4
        rotating = replace(STILL, rotation=60.0)
        (_, rotated), *others = r.measure(feature_pipeline, photo, 0, rotating)
        assert rotated.matching_accuracy < 0.1  # type: ignore[operator]  # only about the centre nothing moves far
        assert all(one.matching_accuracy == 1 for _, one in others)

    def test_a_flat_photo_has_nothing_to_repeat(self) -> None:
        flat = Photo(np.full((60, 80, 3), 90, np.uint8), (80, 60), 0, False)
        for _, one in r.measure(FeaturePipeline(SiftConfig(), NearestConfig()), flat, 0, replace(STILL, light=0)):
            assert one == r.Repeated(0.0, 0.0, 0.0)


def test_the_average_leaves_out_unknown_values() -> None:
    assert r.average([]) is None
    mean = r.average([r.Repeated(None, 0.5, None), r.Repeated(0.4, 1.0, None)])
    assert mean == r.Repeated(0.4, 0.75, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [("long_side", 2), ("max_keypoints", 0), ("epsilon", 0.0), ("views", 0), ("photos", 0), ("rotation", 181.0),
     ("scale", 0.5), ("perspective", 90.0), ("light", -1.0), ("epsilon", float("nan"))],
)  # fmt: skip
def test_a_bad_option_is_named(option: str, value: float) -> None:
    with pytest.raises(KitError, match=f"{option} of repeatability must be"):
        r.RepeatabilityConfig(**{option: value})
