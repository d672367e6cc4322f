"""Figures of scenes, against planted structure and closed forms."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from imc_kit.metric import SceneScore, score_centers
from imc_kit.render import Camera, look_at
from imc_kit.types import Model, Pose
from imc_kit.viz import block_order, draw_graph, draw_matrix, draw_model
from imc_kit.viz.palette import OTHER_MODEL, REGISTERED, TRUTH, UNREGISTERED
from imc_kit.viz.scene import match_names

RNG = np.random.default_rng(0)
Counts = dict[tuple[str, str], int]


def trace(figure: go.Figure, name: str) -> Any:
    """The one trace whose name begins so."""
    (found,) = [one for one in figure.data if one.name.startswith(name)]
    return found


def shuffled(names: list[str]) -> list[str]:
    return [names[n] for n in RNG.permutation(len(names))]


def blocks(*sizes: int, inside: int = 200, between: int = 0) -> tuple[list[str], Counts]:
    names = [f"{group}-{n}" for group, size in enumerate(sizes) for n in range(size)]
    counts = {
        (a, b): inside + int(RNG.integers(50)) if a[0] == b[0] else between
        for number, a in enumerate(names)
        for b in names[number + 1 :]
    }
    return shuffled(names), {pair: count for pair, count in counts.items() if count}


def centers_model(centers: np.ndarray, names: list[str] | None = None, **more: Any) -> Model:
    names = names or [f"{n}.jpg" for n in range(len(centers))]
    poses = {name: look_at(center, np.zeros(3)) for name, center in zip(names, centers, strict=True)}
    return Model(Path(), poses, **more)


def ring(count: int, radius: float = 4.0) -> np.ndarray:
    angles = np.arange(count) * 2 * np.pi / count
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), 1 + 0.5 * (np.arange(count) % 2)], axis=1)


class TestOrder:
    @pytest.mark.parametrize("between", [0, 2])
    def test_planted_blocks_come_out_whole(self, between: int) -> None:
        names, counts = blocks(5, 9, 3, between=between)
        groups = [name[0] for name in block_order(names, counts)]
        assert sum(a != b for a, b in itertools.pairwise(groups)) == 2
        if not between:
            assert groups[:9] == ["1"] * 9  # the largest first

    def test_a_chain_of_overlapping_photographs_is_sorted(self) -> None:
        chain = [f"{n:02}" for n in range(30)]
        counts = {(chain[a], chain[b]): 1000 >> (b - a) for a in range(30) for b in range(a + 1, min(30, a + 5))}
        order = block_order(shuffled(chain), counts)
        assert order in (chain, chain[::-1])

    def test_every_image_once_whatever_there_is(self) -> None:
        assert block_order([], {}) == []
        assert block_order(["a"], {}) == ["a"]
        assert block_order(["a", "b", "c"], {}) == ["a", "b", "c"]
        assert sorted(block_order(["a", "b", "c"], {("c", "a"): 5, ("c", "unknown"): 9})) == ["a", "b", "c"]
        assert block_order(["a", "b", "c"], {("c", "a"): 5})[-1] == "b"


class TestMatrix:
    def test_matches_above_inliers_below_the_diagonal_in_one_order(self) -> None:
        names, inliers = blocks(4, 3)
        matches = {(b, a): 3 * count for (a, b), count in inliers.items()}  # either way round
        figure = draw_matrix(names, matches, inliers)
        order = block_order(names, inliers)
        for name, counts, sign in (("matches", matches, 1), ("inliers", inliers, -1)):
            one = trace(figure, name)
            assert list(one.x) == list(one.y) == order
            for i, first in enumerate(order):
                for j, second in enumerate(order):
                    expected = counts.get((first, second), counts.get((second, first), 0)) if sign * (j - i) > 0 else 0
                    assert one.customdata[i][j] == expected
                    assert np.isnan(one.z[i][j]) if expected == 0 else np.isclose(one.z[i][j], np.log10(expected))
        scale = figure.layout.coloraxis
        values = [*matches.values(), *inliers.values()]
        assert (scale.cmin, scale.cmax) == pytest.approx((np.log10(min(values)), np.log10(max(values))))
        assert figure.layout.xaxis.title.text == "7 images"
        assert scale.colorbar.title.text == "matches"

    def test_of_many_images_some_are_shown_and_it_is_said(self) -> None:
        names, counts = blocks(40, 20)
        figure = draw_matrix(names, counts, counts, most=12)
        assert len(trace(figure, "inliers").x) == 12
        assert figure.layout.xaxis.title.text == "12 of 60 images"

    @pytest.mark.parametrize("names", [[], ["a"], ["a", "b"]])
    def test_no_matches(self, names: list[str]) -> None:
        figure = draw_matrix(names, {}, {})
        assert np.asarray(trace(figure, "matches").customdata).sum() == 0
        assert figure.to_json()
        assert ("no images" in figure.to_json()) == (not names)

    def test_names_are_no_markup(self) -> None:
        figure = draw_matrix(["<b>a", "&amp;"], {}, {})
        assert set(trace(figure, "matches").x) == {"&lt;b&gt;a", "&amp;amp;"}


class TestGraph:
    def test_dots_by_state_and_lines_by_strength(self) -> None:
        names = ["a", "b", "c", "d", "e"]
        inliers = {("a", "b"): 150, ("b", "c"): 50, ("c", "a"): 20, ("d", "a"): 30, ("x", "a"): 99}
        figure = draw_graph(names, inliers, {"a": 0, "b": 0, "c": 1, "e": None})
        registered, other, out = (trace(figure, kind) for kind in ("registered", "in a smaller", "unregistered"))
        assert [len(one.x) for one in (registered, other, out)] == [2, 1, 2]
        assert [one.marker.color for one in (registered, other, out)] == [REGISTERED, OTHER_MODEL, UNREGISTERED]
        assert len({one.marker.symbol for one in (registered, other, out)}) == 3
        assert registered.name == "registered (2)"
        assert next(iter(registered.hovertext)) == "a<br>verified pairs: 3<br>inliers: 200"
        edges = {one.name: np.isnan(one.x).sum() for one in figure.data if one.mode == "lines"}
        assert edges == {
            "fewer than 30 inliers (1 pairs)": 1,
            "30 to 100 inliers (2 pairs)": 2,
            "100 and more inliers (1 pairs)": 1,
        }

    def test_a_chain_is_laid_out_as_one(self) -> None:
        names = [f"{n:02}" for n in range(12)]
        figure = draw_graph(names, dict.fromkeys(itertools.pairwise(names), 100), dict.fromkeys(names, 0))
        places = np.stack([figure.data[-1].x, figure.data[-1].y], axis=1)
        apart = np.linalg.norm(places[:, None] - places, axis=-1)
        steps = np.abs(np.subtract.outer(np.arange(12), np.arange(12)))
        assert np.corrcoef(apart.ravel(), steps.ravel())[0, 1] > 0.98

    def test_groups_without_a_match_lie_apart(self) -> None:
        names, counts = blocks(6, 5)
        figure = draw_graph(names, counts, dict.fromkeys(names, 0))
        places = dict(zip(names, zip(figure.data[-1].x, figure.data[-1].y, strict=True), strict=True))
        inside = [np.linalg.norm(np.subtract(places[a], places[b])) for a, b in counts]
        across = [np.linalg.norm(np.subtract(places[a], places[b])) for a in names for b in names if a[0] < b[0]]
        assert max(inside) < min(across)

    @pytest.mark.parametrize("names", [[], ["a"], ["a", "b", "c"]])
    def test_no_pairs(self, names: list[str]) -> None:
        figure = draw_graph(names, {}, {})
        assert [one.name for one in figure.data] == ([f"unregistered ({len(names)})"] if names else [])
        if names:
            places = np.stack([figure.data[0].x, figure.data[0].y], axis=1)
            assert np.isfinite(places).all()
            assert len(np.unique(places.round(2), axis=0)) == len(names)
        assert ("no images" in figure.to_json()) == (not names)


class TestModel:
    def test_points_in_colour_and_cameras_with_their_names(self) -> None:
        points = RNG.uniform(-1, 1, (300, 3))
        colors = RNG.integers(0, 255, (300, 3), np.uint8)
        figure = draw_model(centers_model(ring(8), points=points, colors=colors))
        cloud, cameras = trace(figure, "points"), trace(figure, "cameras")
        kept = set(cloud.marker.color)
        assert kept <= {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colors}
        assert len(cloud.x) == len(cloud.marker.color) == 300
        assert list(cameras.hovertext) == [f"{n}.jpg" for n in range(8)]
        assert cameras.marker.color == REGISTERED
        # Distances stay: the frame is only turned.
        centers = np.stack([cameras.x, cameras.y, cameras.z], axis=1)
        expected = np.linalg.norm(ring(8)[0] - ring(8)[3])
        assert np.linalg.norm(centers[0] - centers[3]) == pytest.approx(expected, rel=1e-5)
        bar = trace(figure, "scale")
        assert bar.text[1] == "2 (unit of the model)"
        ends = np.stack([bar.x, bar.y, bar.z], axis=1)
        assert np.linalg.norm(ends[2] - ends[0]) == pytest.approx(2, rel=1e-5)
        for axis, places in zip("xyz", ends.T, strict=True):
            low, high = figure.layout.scene[f"{axis}axis"].range
            assert ((low <= places) & (places <= high)).all()
        assert not any(one.name.startswith("true") for one in figure.data)

    def test_frusta_show_what_the_cameras_see(self) -> None:
        model = centers_model(ring(3), frames={"0.jpg": (1.0, 0.5), "1.jpg": (0.3, 0.3), "2.jpg": (0.5, 0.4)})
        frusta = trace(draw_model(model), "frusta")
        lines = np.stack([frusta.x, frusta.y, frusta.z], axis=1).reshape(3, 13, 3)
        for line, (across, down) in zip(lines, model.frames.values(), strict=True):
            center, corners = line[0], line[[1, 2, 3, 4]]
            sides = np.linalg.norm(corners[1] - corners[0]), np.linalg.norm(corners[2] - corners[1])
            assert sides[0] / sides[1] == pytest.approx(across / down, rel=1e-4)
            depth = np.linalg.norm(corners.mean(axis=0) - center)
            assert sides[0] / depth == pytest.approx(2 * across, rel=1e-4)
            # The cameras look at the origin, which the frame keeps.
            ahead = (corners.mean(axis=0) - center) / depth
            np.testing.assert_allclose(ahead, -center / np.linalg.norm(center), atol=1e-4)

    def test_up_is_up_whatever_the_frame_of_the_model(self) -> None:
        turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
        turn *= np.linalg.det(turn)
        model = centers_model(ring(8))
        turned = Model(
            Path(), {name: Pose(pose.rotation @ turn.T, pose.translation) for name, pose in model.poses.items()}
        )
        heights = [np.asarray(trace(draw_model(one), "cameras").z) for one in (model, turned)]
        assert np.allclose(heights[0], ring(8)[:, 2], atol=1e-5)
        np.testing.assert_allclose(heights[0], heights[1], atol=1e-5)

    def test_the_truth_stands_beside_after_alignment(self) -> None:
        # The truth is the model scaled, turned and moved, but for one camera that is 3 off.
        turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
        turn *= np.linalg.det(turn)
        centers = ring(9)
        truth = 2.5 * centers @ turn.T + [10, -5, 3]
        truth[4] += [0, 0, 3]
        names = [f"{n}.jpg" for n in range(9)]
        paths = [f"test/scene/images/{name}" for name in names]
        figure = draw_model(centers_model(centers, names), score_centers(truth, centers, [0.1, 0.2], names=paths))
        true, found = trace(figure, "true cameras (9)"), trace(figure, "cameras")
        apart = np.linalg.norm(
            np.stack([true.x, true.y, true.z]) - np.stack([found.x, found.y, found.z]).astype(float), axis=0
        )
        np.testing.assert_allclose(apart, [0, 0, 0, 0, 3, 0, 0, 0, 0], atol=1e-4)
        assert true.marker.color == TRUTH
        assert list(found.hovertext)[4] == "4.jpg<br>3 (unit of the truth) from the truth"
        assert np.isnan(trace(figure, "errors").x).sum() == 9
        assert "unit of the truth" in trace(figure, "scale").text[1]

    @pytest.mark.parametrize("stretch", [[3, 1, 1], [1, 3, 1], [1, 1, 3]])
    def test_everything_is_in_view_and_fills_it_whatever_the_shape_of_the_view(self, stretch: list[int]) -> None:
        points = RNG.uniform([-2, -2, 1], 2, (200, 3))
        figure = draw_model(centers_model(ring(8) * stretch, points=points * stretch))
        scene = figure.layout.scene
        ranges = np.array([scene.xaxis.range, scene.yaxis.range, scene.zaxis.range])
        ratio = np.array([scene.aspectratio[axis] for axis in "xyz"])
        shown = [np.stack([one.x, one.y, one.z], axis=1).astype(float) for one in figure.data]
        places = np.concatenate(shown)
        places = places[np.isfinite(places).all(axis=1)]
        # plotly's own: the box of the axes is scaled to the aspect ratio about the origin, the camera sees 45 degrees.
        places = (places - ranges.mean(axis=1)) / np.ptp(ranges, axis=1) * ratio
        center, eye = (np.array([scene.camera[part][axis] for axis in "xyz"]) for part in ("center", "eye"))
        eye -= center
        distances = dict(figure.layout.meta["distances"])
        assert np.linalg.norm(eye) == pytest.approx(distances[1.5])
        for aspect, distance in distances.items():
            camera = Camera.centred((int(1000 * aspect), 1000), 500 / np.tan(np.radians(22.5)))
            pixels = camera.project(look_at(center + distance * eye / np.linalg.norm(eye), center), places)
            off = pixels / [500 * aspect, 500] - 1
            assert (np.abs(off) < 1).all(), aspect
            assert np.abs(off).max() > 0.75, aspect
            if stretch[2] > 1 and aspect > 1:  # there is little room both above and below
                assert min(-off[:, 1].min(), off[:, 1].max()) > 0.65

    def test_a_truth_of_other_images_is_left_out(self) -> None:
        score = score_centers(ring(5), ring(5), [0.1], names=[f"x{n}" for n in range(5)])
        figure = draw_model(centers_model(ring(5)), score)
        assert not any(one.name.startswith("true") for one in figure.data)

    def test_far_points_are_left_out_and_of_many_some_are_drawn(self) -> None:
        points = np.concatenate([RNG.normal(0, 0.5, (5000, 3)), [[1e6, 0, 0], [0, -1e5, 0]]])
        figure = draw_model(centers_model(ring(5), points=points), most=1000)
        cloud = trace(figure, "points")
        assert len(cloud.x) == 1000
        assert cloud.name == "points (5,002)"
        assert max(np.abs(cloud.x).max(), np.abs(cloud.y).max(), np.abs(cloud.z).max()) < 5
        for axis in (figure.layout.scene.xaxis, figure.layout.scene.yaxis, figure.layout.scene.zaxis):
            assert np.ptp(axis.range) < 12

    @pytest.mark.parametrize("count", [0, 1, 2])
    @pytest.mark.parametrize("points", [0, 1, 40])
    def test_few_cameras_and_points(self, count: int, points: int) -> None:
        figure = draw_model(centers_model(ring(2)[:count], points=RNG.normal(size=(points, 3))))
        assert ("no model" in figure.to_json()) == (count == 0)
        assert all(np.isfinite(axis.range).all() and np.ptp(axis.range) > 0 for axis in
                   (figure.layout.scene[f"{name}axis"] for name in "xyz"))  # fmt: skip


def test_a_table_names_images_by_longer_paths() -> None:
    names = ["a.jpg", "left/a.jpg", "b c.jpg"]
    paths = ["test/s/images/left/a.jpg", "test/s/images/a.jpg", "b c.jpg", "elsewhere.jpg", "xa.jpg"]
    assert match_names(names, paths) == {"left/a.jpg": 0, "a.jpg": 1, "b c.jpg": 2}


def test_scores_of_no_images_draw_nothing_more() -> None:
    nothing = SceneScore((0.1,), (0,), np.empty((0, 3)), np.empty((0, 3)), 0, (), (0,))
    assert len(draw_model(centers_model(ring(4)), nothing).data) == len(draw_model(centers_model(ring(4))).data)
