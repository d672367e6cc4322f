"""Figures of photographs: what is drawn, where, and how much of it."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from imc_kit.data.images import Photo
from imc_kit.types import Correspondences, Features
from imc_kit.viz import draw_keypoints, draw_mask, draw_matches, draw_neighbours
from imc_kit.viz.images import shortened, spread
from imc_kit.viz.palette import INLIER, MASKED, OUTLIER

RNG = np.random.default_rng(0)


def photo(width: int = 80, height: int = 60, reduced: int = 1) -> Photo:
    pixels = RNG.integers(0, 255, (height // reduced, width // reduced, 3), np.uint8)
    return Photo(pixels, (width, height), 0, False)


def features(count: int, size: tuple[int, int] = (80, 60), scales: bool = True) -> Features:
    points = RNG.uniform(0, np.array(size) - 1, (count, 2)).astype(np.float32)
    scores = RNG.permutation(count).astype(np.float32)
    found = RNG.uniform(3, 9, count).astype(np.float32) if scales else None
    return Features(points, scores, np.zeros((count, 1), np.uint8), size, found)


def matches(count: int, first: tuple[int, int] = (80, 60), second: tuple[int, int] = (80, 60)) -> Correspondences:
    points = [RNG.uniform(0, np.array(size) - 1, (count, 2)).astype(np.float32) for size in (first, second)]
    return Correspondences(points[0], points[1], RNG.permutation(count).astype(np.float32))


def part(figure: Any, name: str) -> Any:
    """The one artist of that name."""
    (found,) = figure.findobj(lambda artist: artist.get_gid() == name)
    return found


def said(figure: Any) -> str:
    texts = figure.findobj(Text)
    return " | ".join(text.get_text() for text in texts if text.get_text())


def pixels(figure: Any) -> Any:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.fixture(autouse=True)
def nothing_is_shown() -> Any:
    """No figure is left with pyplot, which would show it at the end of a cell."""
    yield
    assert plt.get_fignums() == []


class TestKeypoints:
    def test_circles_of_the_keypoints_scale_lie_on_them_and_have_the_scores_colours(self) -> None:
        one = features(50)
        figure = draw_keypoints(photo(), one)
        circles = part(figure, "keypoints")
        order = np.argsort(one.scores)
        np.testing.assert_allclose(circles.get_offsets(), one.keypoints[order])
        np.testing.assert_allclose(circles.get_widths(), one.scales[order], rtol=1e-6)
        np.testing.assert_allclose(circles.get_array(), one.scores[order])
        assert "50 keypoints, circles show the scale" in said(figure)
        assert "score" in said(figure)

    def test_of_many_the_best_are_drawn(self) -> None:
        one = features(50, scales=False)
        figure = draw_keypoints(photo(), one, most=7)
        assert sorted(part(figure, "keypoints").get_array()) == list(range(43, 50))
        assert "7 keypoints of 50" in said(figure)

    def test_a_reduced_photograph_fills_the_axes_of_the_original(self) -> None:
        axes = draw_keypoints(photo(reduced=4), features(3)).axes[0]
        assert axes.get_xlim() == (-0.5, 79.5)
        assert axes.get_ylim() == (59.5, -0.5)
        assert axes.images[0].get_extent() == [-0.5, 79.5, 59.5, -0.5]

    @pytest.mark.parametrize("count", [0, 1])
    def test_none_and_one(self, count: int) -> None:
        figure = draw_keypoints(photo(), features(count))
        assert f"{count} keypoint" in said(figure)
        assert pixels(figure).std() > 0

    def test_features_of_another_image_are_refused(self) -> None:
        with pytest.raises(ValueError, match="80"):
            draw_keypoints(photo(), features(3, (60, 80)))


class TestMatches:
    def test_lines_join_the_points_in_photographs_of_any_two_sizes(self) -> None:
        sizes = (80, 60), (45, 120)
        some = matches(20, *sizes)
        figure = draw_matches(photo(*sizes[0]), photo(*sizes[1], reduced=3), some, np.ones(20, np.bool_))
        lines = np.array(part(figure, "inliers").get_segments())
        # Both are 120 high: the first is twice its size, the second its own, after a gap.
        start = figure.axes[0].images[1].get_extent()[0]
        assert start > 160
        np.testing.assert_allclose(lines[:, 0], 2 * (some.first + 0.5), rtol=1e-5)
        np.testing.assert_allclose(lines[:, 1], some.second + 0.5 + [start, 0], rtol=1e-5)
        assert figure.axes[0].get_ylim() == (120, 0)
        assert figure.axes[0].get_xlim() == (0, start + 45)

    def test_inliers_and_outliers_are_apart_and_better_scores_are_more_opaque(self) -> None:
        some, good = matches(30), np.arange(30) % 3 > 0
        figure = draw_matches(photo(), photo(), some, good)
        for name, colour, members in (("inliers", INLIER, good), ("outliers", OUTLIER, ~good)):
            lines = part(figure, name)
            assert len(lines.get_segments()) == members.sum()
            np.testing.assert_allclose(lines.get_colors()[:, :3], [to_rgba(colour)[:3]] * members.sum())
            assert (np.argsort(lines.get_alpha() or lines.get_colors()[:, 3]) == np.argsort(some.scores[members])).all()
        assert "20 inliers" in said(figure)
        assert "10 outliers" in said(figure)
        assert "drawn" not in said(figure)

    @pytest.mark.parametrize(
        ("inliers", "outliers", "drawn"), [(900, 100, (18, 2)), (999, 1, (19, 1)), (1, 999, (1, 19))]
    )
    def test_of_many_some_of_both_kinds_are_drawn(self, inliers: int, outliers: int, drawn: tuple[int, int]) -> None:
        good = np.arange(inliers + outliers) < inliers
        figure = draw_matches(photo(), photo(), matches(len(good)), good, most=20)
        assert tuple(len(part(figure, name).get_segments()) for name in ("inliers", "outliers")) == drawn
        assert "20 drawn" in said(figure)

    def test_those_drawn_come_from_everywhere(self) -> None:
        # 10,000 in one corner, better than the 15 elsewhere: all of the 15 are drawn.
        corner = RNG.uniform(0, 5, (10000, 2))
        others = np.stack(np.meshgrid([5, 25, 45, 65], [15, 25, 35, 55]), axis=-1).reshape(-1, 2)[1:]
        points = np.concatenate([corner, others]).astype(np.float32)
        scores = np.concatenate([np.full(10000, 9), np.ones(len(others))]).astype(np.float32)
        figure = draw_matches(photo(), photo(), Correspondences(points, points, scores), most=40)
        starts = np.array(part(figure, "inliers").get_segments())[:, 0] - 0.5
        assert len(starts) == 40
        assert all((np.abs(starts - place).max(axis=1) < 1e-3).any() for place in others)

    def test_the_best_of_each_cell_come_first(self) -> None:
        points = RNG.uniform(0, 79, (500, 2)).astype(np.float32)
        scores = RNG.permutation(500).astype(np.float32)
        cells = [tuple(cell) for cell in ((points + 0.5) // 10).astype(int)]
        best = {cell: max(s for s, own in zip(scores, cells, strict=True) if own == cell) for cell in cells}
        chosen = spread(points, scores, len(best), (80, 80))
        assert sorted(scores[chosen]) == sorted(best.values())

    @pytest.mark.parametrize("count", [0, 1])
    def test_none_and_one_and_no_verification(self, count: int) -> None:
        figure = draw_matches(photo(), photo(30, 90), matches(count, second=(30, 90)))
        assert ("0 matches" if count == 0 else "1 match") in said(figure)
        assert "outlier" not in said(figure)
        assert pixels(figure).std() > 0

    def test_inliers_of_another_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\[3\]"):
            draw_matches(photo(), photo(), matches(3), np.ones(4, np.bool_))


class TestMask:
    def test_what_is_masked_is_tinted_at_its_place(self) -> None:
        mask = np.ones((6, 8), np.bool_)
        mask[:3, :2] = False
        figure = draw_mask(photo(), mask)
        shade = part(figure, "mask")
        assert shade.get_extent() == [-0.5, 79.5, 59.5, -0.5]
        values = shade.get_array()
        assert ((values[..., 3] > 0) == ~mask).all()
        np.testing.assert_allclose(values[0, 0, :3], to_rgba(MASKED)[:3])
        assert "12% masked" in said(figure)
        assert "88% left" in said(figure)

    @pytest.mark.parametrize("mask", [np.ones((4, 4)), np.zeros((4, 4)), np.ones((1, 1)), np.zeros((0, 0))])
    def test_everything_nothing_and_no_mask_at_all(self, mask: Any) -> None:
        assert pixels(draw_mask(photo(), mask.astype(np.bool_))).std() > 0

    def test_a_mask_with_channels_is_refused(self) -> None:
        with pytest.raises(ValueError, match="H, W"):
            draw_mask(photo(), np.ones((4, 4, 3), np.bool_))


class TestNeighbours:
    def test_the_query_is_framed_and_each_neighbour_says_how_near_it_is(self) -> None:
        near = [("b.jpg", photo(), 0.9), ("a/very/long/folder/of/photographs/c.jpg", photo(40, 90), 0.25)] * 3
        figure = draw_neighbours(("a.jpg", photo()), near)
        titles = [axes.get_title() for axes in figure.axes if axes.images]
        assert titles[0] == "a.jpg\nquery"
        assert titles[1] == "b.jpg\nsimilarity 0.900"
        assert titles[2].endswith("photographs/c.jpg\nsimilarity 0.250")
        assert len(titles) == 7
        assert part(figure, "query").get_width() == 80

    def test_no_neighbours(self) -> None:
        assert "no neighbours" in said(draw_neighbours(("a.jpg", photo()), []))


def test_names_are_shortened_at_their_beginning() -> None:
    assert shortened("folder/image_001.jpg", 10) == "…e_001.jpg"
    assert shortened("1.jpg", 10) == "1.jpg"
