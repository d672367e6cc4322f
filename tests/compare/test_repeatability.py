"""Repeatability: against closed forms, brute force, and what chance gives."""

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
from imc_kit.matchers import DetectorFreeConfig
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


def textured(size: tuple[int, int] = (320, 240), seed: int = 0) -> np.ndarray:
    grey = noise(np.random.default_rng(seed), size[::-1], 60.0)
    return np.repeat(np.clip(128 + 50 * grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@dataclass(frozen=True)
class SamePlaceConfig(DetectorFreeConfig):
    """Says that what is at a place of one photograph is at the same place of the other."""

    name: ClassVar[str] = "same place"

    def create(self) -> SamePlaceConfig:  # type: ignore[override]
        return self

    def match_batch(self, pairs: Sequence[tuple[Photo, Photo]]) -> list[Correspondences]:
        some = [points(0, 500, first.size) for first, _ in pairs]
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
    def test_none_is_the_identity(self) -> None:
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

    def test_a_quarter_turn_is_clockwise(self) -> None:
        moved = r.project(np.array([[0, 0], [99, 0]], np.float32), r.homography((100, 100), rotation=90))
        np.testing.assert_allclose(moved, [[99, 0], [99, 99]], atol=1e-9)

    def test_what_leans_back_is_smaller_beyond_the_axis(self) -> None:
        corners = np.array([[0, 0], [99, 0], [0, 99], [99, 99]], np.float32)
        moved = r.project(corners, r.homography((100, 100), tilt=40, direction=0))
        top, bottom = moved[1, 0] - moved[0, 0], moved[3, 0] - moved[2, 0]
        half = 49.5 * np.sin(np.radians(40))
        assert bottom / top == pytest.approx((100 - half) / (100 + half))


class TestViews:
    def test_they_are_the_same_whoever_asks_and_differ_between_photographs(self) -> None:
        config = r.RepeatabilityConfig()
        for one, again, other in zip(
            r.views(SIZE, config, 1), r.views(SIZE, config, 1), r.views(SIZE, config, 2), strict=True
        ):
            np.testing.assert_array_equal(one.homography, again.homography)
            assert (one.gamma, one.noise, one.seed) == (again.gamma, again.noise, again.seed)
            if one.change == "light":
                assert one.gamma != other.gamma
            else:
                assert np.abs(one.homography - other.homography).max() > 1e-3

    def test_each_kind_goes_from_slight_to_strong_within_its_range(self) -> None:
        config = r.RepeatabilityConfig(views=5, rotation=40, scale=3, light=0.8)
        of = {change: [v for v in r.views(SIZE, config) if v.change == change] for change in r.CHANGES}
        assert {change: len(some) for change, some in of.items()} == dict.fromkeys(r.CHANGES, 5)
        angles = [abs(np.degrees(np.arctan2(v.homography[1, 0], v.homography[0, 0]))) for v in of["rotation"]]
        scales = [v.homography[0, 0] for v in of["scale"]]
        lights = [abs(np.log2(v.gamma)) for v in of["light"]]
        for values, low, high in ((angles, 0, 40), (np.log(scales), 0, np.log(3)), (lights, 0, 0.8)):
            np.testing.assert_array_equal(np.floor(5 * (np.array(values) - low) / (high - low)), range(5))
        assert all((v.homography == np.eye(3)).all() for v in of["light"])
        assert all(v.gamma == 1 and v.noise == 0 for change in r.CHANGES[:3] for v in of[change])

    def test_a_blob_is_seen_where_the_homography_says(self) -> None:
        place = np.array([[81.0, 47.0]])  # in the plain view; the photograph has twice as many pixels
        y, x = np.mgrid[:240, :400]
        blob = np.exp(-((x - 2 * 81 - 0.5) ** 2 + (y - 2 * 47 - 0.5) ** 2) / (2 * 6.0**2))
        photograph = np.repeat((255 * blob).astype(np.uint8)[..., None], 3, axis=2)
        for view in (None, *r.views(SIZE, r.RepeatabilityConfig(scale=1.5))[:6]):
            seen = r.see(photograph, SIZE, view)[..., 0].astype(float)
            assert seen.shape == SIZE[::-1]
            seen[seen < 40] = 0
            rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
            middle = [(seen * columns).sum() / seen.sum(), (seen * rows).sum() / seen.sum()]
            expected = r.project(place, np.eye(3) if view is None else view.homography)[0]
            np.testing.assert_allclose(middle, expected, atol=0.15)

    def test_light_is_a_power_and_noise(self) -> None:
        flat = np.full((120, 200, 3), 64, np.uint8)
        darker = r.see(flat, SIZE, r.View("light", np.eye(3), gamma=2.0))
        assert (darker == round(255 * (64 / 255) ** 2)).all()
        noisy = r.see(flat, SIZE, r.View("light", np.eye(3), noise=8.0, seed=1)).astype(float)
        assert noisy.mean() == pytest.approx(64, abs=0.2)
        assert noisy.std() == pytest.approx(8, abs=0.2)

    def test_what_is_outside_of_the_photograph_is_known(self) -> None:
        view = r.View("rotation", r.homography(SIZE, rotation=30))
        mask = r.shown(SIZE, view)
        white = np.full((120, 200), 255, np.uint8)
        warped = cv2.warpPerspective(white, view.homography, SIZE, flags=cv2.INTER_NEAREST)
        assert mask.shape == (120, 200)
        assert 0.5 < mask.mean() < 0.95
        assert (mask != (warped > 0)).mean() < 0.005  # rounding at the border
        assert r.shown(SIZE, r.View("light", np.eye(3))).all()

    def test_a_small_photograph_is_not_enlarged(self) -> None:
        assert r.plain_size((200, 100), 640) == (200, 100)
        assert r.plain_size((2000, 1000), 640) == (640, 320)
        assert r.plain_size((5000, 2), 640) == (640, 1)


class TestRepeatability:
    @pytest.mark.parametrize("seed", range(6))
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

    def test_the_same_points_in_the_same_view_are_all_there(self) -> None:
        same = points(0, 300)
        assert r.repeatability(same, same, np.eye(3), SIZE, 1e-3) == 1

    def test_the_same_points_in_another_view_are_all_there(self) -> None:
        matrix = r.homography(SIZE, rotation=40, scale=1.5, tilt=30)
        first = points(0, 300)
        moved = r.project(first, matrix)
        inside = ((moved >= -0.5) & (moved <= np.array(SIZE) - 0.5)).all(1)
        assert 0 < inside.sum() < 300
        assert r.repeatability(first, moved[inside].astype(np.float32), matrix, SIZE, 0.01) == 1

    def test_random_points_are_found_again_by_chance(self) -> None:
        size, count = (640, 480), 1000
        chance = 1 - np.exp(-count * np.pi * 3**2 / (640 * 480))
        values = [
            r.repeatability(points(seed, count, size), points(seed + 50, count, size), np.eye(3), size)
            for seed in range(5)
        ]
        assert np.mean(values) == pytest.approx(chance, abs=0.01)

    def test_the_distance_counts_to_epsilon(self) -> None:
        first, second = np.array([[50, 50]], np.float32), np.array([[53, 50]], np.float32)
        assert r.repeatability(first, second, np.eye(3), SIZE, 3.0) == 1
        assert r.repeatability(first, second, np.eye(3), SIZE, 2.99) == 0

    def test_points_that_only_one_view_shows_do_not_count(self) -> None:
        matrix = r.homography(SIZE, scale=2)
        first = np.array([[99.5, 59.5], [5, 5]], np.float32)  # the second leaves the view
        second = np.array([[99.5, 59.5]], np.float32)
        assert r.repeatability(first, second, matrix, SIZE) == 1

    @pytest.mark.parametrize("counts", [(0, 0), (0, 5), (5, 0)])
    def test_nothing_is_not_found_again(self, counts: tuple[int, int]) -> None:
        assert r.repeatability(points(0, counts[0]), points(1, counts[1]), np.eye(3), SIZE) == 0

    def test_points_behind_the_camera_go_nowhere(self) -> None:
        matrix = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
        moved = r.project(np.array([[50, 0], [150, 0]], np.float32), matrix)
        np.testing.assert_allclose(moved[0], [100, 0])
        assert np.isnan(moved[1]).all()
        assert r.repeatability(points(0, 50), points(1, 50), matrix, SIZE) >= 0


class TestMatches:
    def test_right_and_wrong_ones_are_counted(self) -> None:
        matrix = r.homography(SIZE, rotation=10)
        first = points(3, 40)
        second = r.project(first, matrix)
        second[::4] += [5, 0]  # ten of forty are wrong
        assert r.matching_accuracy(first, second.astype(np.float32), matrix, 3.0) == 0.75
        assert r.matching_accuracy(first, second.astype(np.float32), matrix, 6.0) == 1
        assert r.matching_accuracy(first[:0], first[:0], matrix) == 0

    def test_the_score_is_of_the_keypoints_that_both_views_show(self) -> None:
        # Of four keypoints three stay in view, of the second view's two both were; one match is right, one wrong.
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
    def test_a_view_that_does_not_change_is_perfect(self, detector: SiftConfig | OrbConfig) -> None:
        pixels = textured()
        found = r.measure(FeaturePipeline(detector, NearestConfig()), Photo(pixels, (320, 240), 0, False), 0, STILL)
        assert [change for change, _ in found] == list(r.CHANGES)
        for _, one in found:
            assert one == r.Repeated(1.0, 1.0, 1.0)

    def test_real_changes_cost_something_and_strong_ones_more(self) -> None:
        photo = Photo(textured(), (320, 240), 0, False)
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

    def test_the_number_of_keypoints_is_the_tests_and_never_more_than_the_detectors(self) -> None:
        photo = Photo(textured(), (320, 240), 0, False)
        one = FeaturePipeline(SiftConfig(max_keypoints=1), NearestConfig())
        other = FeaturePipeline(SiftConfig(max_keypoints=5000), NearestConfig())
        config = replace(STILL, max_keypoints=1)
        assert r.measure(one, photo, 0, STILL) == r.measure(other, photo, 0, config)

    def test_a_detector_free_matcher_has_no_keypoints_to_repeat(self) -> None:
        feature_pipeline = FeaturePipeline(NoDetectorConfig(), SamePlaceConfig())
        photo = Photo(textured(), (320, 240), 0, False)
        assert [one for _, one in r.measure(feature_pipeline, photo, 0, STILL)] == [r.Repeated(None, 1.0, None)] * 4
        turned = replace(STILL, rotation=60.0)
        (_, rotated), *others = r.measure(feature_pipeline, photo, 0, turned)
        assert rotated.matching_accuracy < 0.1  # type: ignore[operator]  # only about the centre nothing moves far
        assert all(one.matching_accuracy == 1 for _, one in others)

    def test_nothing_is_found_in_a_flat_photograph(self) -> None:
        flat = Photo(np.full((60, 80, 3), 90, np.uint8), (80, 60), 0, False)
        for _, one in r.measure(FeaturePipeline(SiftConfig(), NearestConfig()), flat, 0, replace(STILL, light=0)):
            assert one == r.Repeated(0.0, 0.0, 0.0)


def test_the_average_leaves_out_what_is_not_known() -> None:
    assert r.average([]) is None
    mean = r.average([r.Repeated(None, 0.5, None), r.Repeated(0.4, 1.0, None)])
    assert mean == r.Repeated(0.4, 0.75, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [("long_side", 2), ("max_keypoints", 0), ("epsilon", 0.0), ("views", 0), ("photographs", 0), ("rotation", 181.0),
     ("scale", 0.5), ("perspective", 90.0), ("light", -1.0), ("epsilon", float("nan"))],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_named(option: str, value: float) -> None:
    with pytest.raises(KitError, match=f"{option} of repeatability must be"):
        r.RepeatabilityConfig(**{option: value})
