"""The figure of a model, against closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from figures import trace
from imc_kit.metric import SceneScore, score_centers
from imc_kit.synthetic.plaza import Camera, look_at
from imc_kit.types import Model, Pose
from imc_kit.viz import draw_model
from imc_kit.viz.palette import REGISTERED, TRUTH

RNG = np.random.default_rng(0)


def centers_model(centers: np.ndarray, names: list[str] | None = None, **more: Any) -> Model:
    names = names or [f"{n}.jpg" for n in range(len(centers))]
    poses = {name: look_at(center, np.zeros(3)) for name, center in zip(names, centers, strict=True)}
    return Model(Path(), poses, **more)


def ring(count: int, radius: float = 4.0) -> np.ndarray:
    angles = np.arange(count) * 2 * np.pi / count
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), 1 + 0.5 * (np.arange(count) % 2)], axis=1)


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


def test_scores_of_no_images_draw_nothing_more() -> None:
    nothing = SceneScore((0.1,), (0,), np.empty((0, 3)), np.empty((0, 3)), 0, (), (0,))
    assert len(draw_model(centers_model(ring(4)), nothing).data) == len(draw_model(centers_model(ring(4))).data)
