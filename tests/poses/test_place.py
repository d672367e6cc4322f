"""One pose for every image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imc_kit.poses import place
from imc_kit.types import Model, Pose


def at(x: float) -> Pose:
    return Pose.from_center(np.eye(3), np.array([x, 0.0, 0.0]))


def model(**places: float) -> Model:
    return Model(Path("0"), {f"{name}.jpg": at(x) for name, x in places.items()})


BIG = model(a=0, b=1, c=2, d=30)
SMALL = model(e=100, f=101)


def test_no_model_gives_the_identity_to_all() -> None:
    placed = place(["a.jpg", "b.jpg"], [], {("a.jpg", "b.jpg"): 50})
    assert list(placed) == ["a.jpg", "b.jpg"]
    for placement in placed.values():
        assert placement.model is None
        np.testing.assert_array_equal(placement.pose.rotation, np.eye(3))
        np.testing.assert_array_equal(placement.pose.center, 0)


def test_no_images() -> None:
    assert place([], [BIG], {}) == {}
    assert place([], [], {}) == {}


def test_every_image_once_in_order_with_the_models_own_poses() -> None:
    images = ["d.jpg", "x.jpg", "a.jpg", "c.jpg", "b.jpg"]
    placed = place(images, [BIG], {})
    assert list(placed) == images
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        assert placed[name].pose is BIG.poses[name]
        assert placed[name].model == 0


def test_a_stranger_takes_the_pose_nearest_the_middle() -> None:
    placement = place(["x.jpg"], [BIG], {})["x.jpg"]
    assert placement.model is None
    assert placement.pose.center[0] in (1, 2)  # the median is 1.5; the far outlier at 30 does not pull


def test_an_unregistered_image_stands_between_those_that_it_matches_best() -> None:
    inliers = {
        ("x.jpg", "a.jpg"): 20, ("d.jpg", "x.jpg"): 90, ("c.jpg", "x.jpg"): 40, ("b.jpg", "x.jpg"): 30,
        ("x.jpg", "y.jpg"): 500, ("z.jpg", "b.jpg"): 16,
    }  # fmt: skip
    rotated = Pose.from_center(np.diag([1.0, -1, -1]), BIG.poses["d.jpg"].center)
    big = Model(Path("0"), {**BIG.poses, "d.jpg": rotated})
    placed = place(["x.jpg", "y.jpg", "z.jpg"], [big], inliers)
    np.testing.assert_allclose(placed["x.jpg"].pose.center, [(90 * 30 + 40 * 2 + 30 * 1) / 160, 0, 0])
    np.testing.assert_array_equal(placed["x.jpg"].pose.rotation, rotated.rotation)
    assert placed["x.jpg"].model is None
    assert placed["y.jpg"].pose.center[0] in (1, 2)  # its only neighbour has no pose
    assert placed["z.jpg"].pose.center[0] == 1


def test_without_matches_it_takes_the_pose_of_the_most_similar() -> None:
    like = {("x.jpg", "d.jpg"): 0.9, ("x.jpg", "a.jpg"): 0.3, ("w.jpg", "a.jpg"): 0.99}
    placed = place(
        ["x.jpg", "w.jpg", "v.jpg"], [BIG], {("w.jpg", "c.jpg"): 16}, similarity=lambda *pair: like.get(pair)
    )
    assert placed["x.jpg"].pose is BIG.poses["d.jpg"]
    assert placed["x.jpg"].model is None
    assert placed["w.jpg"].pose.center[0] == 2  # matches say more
    assert placed["v.jpg"].pose.center[0] in (1, 2)  # nothing is known of it


def test_ties_do_not_depend_on_the_order_of_the_pairs() -> None:
    inliers = {("x.jpg", "a.jpg"): 20, ("x.jpg", "d.jpg"): 20}
    forth = place(["x.jpg"], [BIG], inliers)["x.jpg"].pose
    back = place(["x.jpg"], [BIG], dict(reversed(inliers.items())))["x.jpg"].pose
    np.testing.assert_array_equal(forth.translation, back.translation)


def test_other_models_have_other_frames_and_give_no_poses() -> None:
    placed = place(["a.jpg", "e.jpg", "f.jpg"], [BIG, SMALL], {("e.jpg", "a.jpg"): 16})
    np.testing.assert_allclose(placed["e.jpg"].pose.center, BIG.poses["a.jpg"].center, atol=1e-12)
    assert placed["e.jpg"].model is None
    assert placed["f.jpg"].model is None
    assert placed["f.jpg"].pose.center[0] < 3


def test_separate_models_are_scenes_of_their_own() -> None:
    placed = place(["a.jpg", "e.jpg", "x.jpg"], [BIG, SMALL], {("e.jpg", "a.jpg"): 16}, separate=True)
    assert placed["a.jpg"].model == 0
    assert placed["e.jpg"].pose is SMALL.poses["e.jpg"]
    assert placed["e.jpg"].model == 1
    assert placed["x.jpg"].model is None


def test_an_image_in_two_models_belongs_to_the_larger() -> None:
    placed = place(["a.jpg"], [BIG, model(a=7, e=8)], {}, separate=True)
    assert placed["a.jpg"].pose is BIG.poses["a.jpg"]
    assert placed["a.jpg"].model == 0
