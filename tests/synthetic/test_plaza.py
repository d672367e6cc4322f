from __future__ import annotations

import csv
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from imc_kit.data import images, scenes
from imc_kit.errors import KitError
from imc_kit.synthetic import plaza as render
from imc_kit.synthetic.plaza import Block, Camera, Cylinder, Ground, Sphere, Texture, look_at
from imc_kit.types import Pose

CAMERA = Camera.centred((120, 90), 100.0)
UP = np.array([0, 0, 0.1])


def rays(camera: Camera, pose: Pose) -> np.ndarray:
    """Directions [h, w, 3] of unit depth through the centres of the pixels."""
    x, y = np.meshgrid(
        (np.arange(camera.width) - camera.cx) / camera.focal, (np.arange(camera.height) - camera.cy) / camera.focal
    )
    return np.stack([x, y, np.ones_like(x)], axis=2) @ pose.rotation


# ---- shapes, against closed forms and against marching along the rays ----


def test_depth_of_the_ground():
    pose = look_at(np.array([1.0, -4.0, 2.0]), np.array([0.5, 0.0, 0.3]), 0.2)
    down = rays(CAMERA, pose)[..., 2]
    with np.errstate(divide="ignore"):
        expected = np.where(down < 0, -2.0 / down, np.inf)
    depth = render.render_depth([Ground((0, 0, -1), (5, 5, 1))], CAMERA, pose)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, expected, rtol=1e-4)
    assert np.isinf(depth).any()


def test_silhouette_and_depth_of_a_ball():
    center, radius = np.array([0.3, -0.2, 1.0]), 0.7
    pose = look_at(np.array([4.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.2]))
    depth = render.render_depth([Sphere((0.3, -0.2, 0.3), (1.4, 1.4, 1.4))], CAMERA, pose)
    directions = rays(CAMERA, pose)
    towards = center - pose.center
    cosine = directions @ towards / np.linalg.norm(directions, axis=2) / np.linalg.norm(towards)
    rim = radius / np.linalg.norm(towards)
    sine = np.sqrt(1 - cosine**2)
    np.testing.assert_array_equal(np.isfinite(depth)[abs(sine - rim) > 1e-4], (sine < rim)[abs(sine - rim) > 1e-4])
    seen = np.isfinite(depth)
    assert seen.sum() > 900
    points = pose.center + depth[seen][:, None] * directions[seen]
    np.testing.assert_allclose(np.linalg.norm(points - center, axis=1), radius, atol=1e-4)
    assert ((points - center) @ towards < 0).all()  # the near side


def box_inside(solid, points):
    """Points [N, 3] → whether inside, for each kind of solid by its definition."""
    x, y, z = (points - solid.foot).T
    cosine, sine = np.cos(solid.turn), np.sin(solid.turn)
    x, y = cosine * x + sine * y, cosine * y - sine * x
    width, depth, height = solid.size
    within = (z > 0) & (z < height)
    if isinstance(solid, Block):
        a, b = (1 - (1 - part) * z / height for part in solid.taper)
        return within & (abs(x) < a * width / 2) & (abs(y) < b * depth / 2)
    round_ = (2 * x / width) ** 2 + (2 * y / depth) ** 2
    if isinstance(solid, Sphere):
        round_ += (2 * z / height - 1) ** 2
    return within & (round_ < 1)


SOLIDS = [
    Block((0.2, -0.1, 0.3), (1.0, 1.6, 0.8), 0.4),
    Block((0, 0, 0), (1.2, 0.8, 1.5), -0.7, taper=(0.4, 0.6)),
    Block((0, 0, 0), (1.6, 1.2, 0.6), 0.2, taper=(1.0, 0.0)),
    Cylinder((0.1, 0.2, -0.2), (1.0, 1.0, 1.4)),
    Cylinder((0, 0, 0), (1.4, 0.8, 0.5), 0.9),
    Sphere((0, 0.1, 0), (1.0, 1.4, 0.8), 1.1),
]


@pytest.mark.parametrize("solid", SOLIDS)
def test_rays_enter_where_marching_enters(solid):
    rng = np.random.default_rng(0)
    origin = np.array([2.2, -1.5, 1.3])
    directions = np.array([0, 0, 0.4]) + rng.uniform(-0.9, 0.9, (300, 3)) - origin
    found = solid.distance(origin.astype(np.float32)[:, None], directions.T.astype(np.float32))
    steps = np.linspace(0, 2.5, 5001)
    inside = np.stack([box_inside(solid, origin + steps[:, None] * direction) for direction in directions])
    expected = np.where(inside.any(axis=1), steps[inside.argmax(axis=1)], np.inf)
    grazing = inside.sum(axis=1) < 20
    assert (~grazing).sum() > 30
    assert (grazing & ~inside.any(axis=1)).sum() > 30
    np.testing.assert_allclose(found[~grazing], expected[~grazing], atol=6e-4)
    assert np.isinf(found[~inside.any(axis=1)]).mean() > 0.98  # marching may step over an edge


@pytest.mark.parametrize("solid", SOLIDS)
def test_normals_point_out_and_places_are_on_the_sheet(solid):
    rng = np.random.default_rng(1)
    origin = rng.standard_normal((3, 400)).astype(np.float32)
    origin *= 3 / np.linalg.norm(origin, axis=0)
    direction = solid.bound[0][:, None] + rng.uniform(-0.4, 0.4, (3, 400)).astype(np.float32) - origin
    distance = solid.distance(origin, direction)
    hit = np.isfinite(distance)
    assert hit.sum() > 100
    points = (origin + distance * direction)[:, hit]
    normals, at = solid.surface(points)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-5)
    assert not box_inside(solid, (points + 1e-3 * normals).T).any()
    assert box_inside(solid, (points - 1e-3 * normals).T).mean() > 0.97  # but for points within 1 mm of an edge
    width, height = solid.sheet
    assert (at.min(axis=1) >= -1e-4).all()
    assert (at.max(axis=1) <= np.array([width, height]) + 1e-4).all()
    assert (np.linalg.norm(solid.bound[0][:, None] - points, axis=0) <= solid.bound[1] + 1e-4).all()


def test_a_camera_inside_sees_through():
    solids = [Sphere((0, 0, 0), (2, 2, 2))]
    assert np.isinf(render.render_depth(solids, CAMERA, look_at(np.array([0.1, 0, 1]), np.array([1.0, 0, 1])))).all()


# ---- pictures ----


def test_what_is_painted_where():
    """A sheet's pixel shows up where its place on the wall projects to, the right way round."""
    image = np.full((200, 300, 3), 128, np.uint8)  # 3 × 2 cells of 1 m for a cube of 1 m; 1 cm per pixel
    image[20:30, 10:20] = (255, 0, 0)  # the first cell is the side +x: 15 cm from its left, 25 cm from its top
    cube = Block((0, 0, 0), (1, 1, 1), texture=Texture.of(image, 0.01))
    pose = look_at(np.array([3.0, 0.4, 0.9]), np.array([0.0, 0.0, 0.5]))
    photograph = render.render([cube], CAMERA, pose).astype(int)
    red = photograph[..., 0] - photograph[..., 1]
    rows, columns = np.nonzero(red > red.max() / 2)
    spot = np.array([[0.5, -0.5 + 0.15, 1 - 0.25]])  # seen from +x, right is +y
    np.testing.assert_allclose([columns.mean(), rows.mean()], CAMERA.project(pose, spot)[0], atol=0.5)


@pytest.fixture(scope="module")
def plaza():
    return render.plaza(3)


def test_the_same_place_has_the_same_colour_in_two_views(plaza):
    camera = Camera.centred((320, 240))
    first, second = render.orbit(24)[:2]
    views = [render.render(plaza, camera, pose).astype(np.float32) for pose in (first, second)]
    depths = [render.render_depth(plaza, camera, pose) for pose in (first, second)]
    near = depths[0] < 20
    points = first.center + depths[0][near][:, None] * rays(camera, first)[near]
    pixels = camera.project(second, points).astype(np.float32)
    depth = points @ second.rotation[2] + second.translation[2]
    x, y = np.pad(pixels.T, ((0, 0), (0, -len(pixels) % 1000))).reshape(2, -1, 1000)  # OpenCV's limit
    there = cv2.remap(depths[1], x, y, cv2.INTER_NEAREST, borderValue=-1).ravel()[: len(pixels)]
    seen = abs(there - depth) < 0.03
    assert seen.sum() > 15000
    colours = cv2.remap(views[1], x, y, cv2.INTER_LINEAR).reshape(-1, 3)[: len(pixels)][seen]
    difference = abs(colours - views[0][near][seen]).mean(axis=1)
    shuffled = abs(np.roll(colours, 5000, axis=0) - views[0][near][seen]).mean(axis=1)
    assert np.median(difference) < 5
    assert np.median(shuffled) > 30


def test_the_sun_throws_a_shadow_and_the_far_side_is_darker():
    pose = look_at(np.array([0.0, -1.0, 12.0]), np.zeros(3))
    ball = Sphere((0, 0, 2), (1, 1, 1))
    ground = Ground((0, 0, -1), (5, 5, 1), texture=Texture.of(np.full((50, 50, 3), 150, np.uint8), 0.1))
    alone, with_ball = (render.render(solids, CAMERA, pose).mean(axis=2) for solids in ([ground], [ground, ball]))
    darker = np.argwhere(alone - with_ball > 15)[:, ::-1]
    shadow = ball.bound[0] - render._SUN * ball.bound[0][2] / render._SUN[2]
    assert np.linalg.norm(shadow[:2]) > 1
    np.testing.assert_allclose(darker.mean(axis=0), CAMERA.project(pose, shadow[None].astype(float))[0], atol=1.5)


def test_fine_texture_far_away_is_even():
    checks = np.where(np.indices((1000, 1000)).sum(axis=0) % 2, 255, 0).astype(np.uint8)
    ground = Ground((0, 0, -1), (20, 20, 1), texture=Texture.of(np.repeat(checks[..., None], 3, axis=2), 0.02))
    pose = look_at(np.array([0.0, 0.0, 8.0]), np.array([0.1, 0.0, 0.0]))
    assert render.render([ground], CAMERA, pose)[20:70, 20:100].std(axis=(0, 1)).max() < 2


def test_edges_are_smooth():
    """The mean of the rays: an edge that moves by a tenth of a pixel changes the pixels on it, and only by a part."""

    def bright(y):
        pose = look_at(np.array([5.0, y, 0.0]), np.array([0.0, y, 0.0]))
        return render.render([Block((0, 0, -1), (0.5, 0.5, 2))], CAMERA, pose, samples=8)[45].astype(float).mean(axis=1)

    sums = [bright(y)[:60].sum() for y in np.linspace(0, 0.05, 6)]  # the left edge wanders over about a pixel
    steps = np.diff(sums)
    assert (steps < 0).all() or (steps > 0).all()


def test_empty_world_and_looking_up_are_sky():
    pose = look_at(np.array([0.0, 0.0, 1.0]), np.array([3.0, 0.0, 9.0]))
    for solids in ([], [Ground((0, 0, -1), (5, 5, 1))], [Block((-9, 0, 0), (1, 1, 1))]):
        photograph = render.render(solids, CAMERA, pose)
        assert photograph.shape == (90, 120, 3)
        assert (photograph[..., 2] > photograph[..., 0]).all()
        assert np.isinf(render.render_depth(solids, CAMERA, pose)).all()


def test_all_sizes_and_sample_counts_show_the_same():
    grey = Texture.of(np.full((8, 8, 3), 150, np.uint8), 1.0)
    solids = [replace(solid, texture=grey) for solid in (Ground((0, 0, -1), (5, 5, 1)), *SOLIDS[:2])]
    pose = look_at(np.array([3.0, 2.0, 2.0]), np.zeros(3))
    coarse = render.render(solids, Camera.centred((61, 47), 50.0), pose, samples=3)
    fine = render.render(solids, Camera.centred((183, 141), 150.0), pose, samples=1)
    mean = np.sqrt(cv2.resize((fine / 255.0) ** 2, (61, 47), interpolation=cv2.INTER_AREA)) * 255
    np.testing.assert_allclose(coarse, mean, atol=1.5)


# ---- cameras ----


def test_project_is_the_inverse_of_the_rays():
    pose = look_at(np.array([4.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.2]), 0.3)
    points = pose.center + 2.5 * rays(CAMERA, pose)[[0, 10, 89], [0, 57, 119]]
    np.testing.assert_allclose(CAMERA.project(pose, points), [[0, 0], [57, 10], [119, 89]], atol=1e-9)
    assert np.isnan(CAMERA.project(pose, 2 * pose.center - points)).all()
    assert CAMERA.project(pose, np.empty((0, 3))).shape == (0, 2)


def test_look_at_is_upright_and_roll_turns_clockwise():
    center, target = np.array([4.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.2])
    pose = look_at(center, target)
    np.testing.assert_allclose(pose.center, center, atol=1e-12)
    middle, above = CAMERA.project(pose, np.stack([target, target + UP]))
    np.testing.assert_allclose(middle, [CAMERA.cx, CAMERA.cy], atol=1e-9)
    assert above[1] < middle[1] - 1
    assert abs(above[0] - middle[0]) < 1e-9
    # A camera turned clockwise sees the world turned anticlockwise: what is above the middle moves to the left.
    assert CAMERA.project(look_at(center, target, 0.2), (target + UP)[None])[0, 0] < middle[0] - 0.3


def test_orbit_goes_round_unevenly():
    centers = np.array([pose.center for pose in render.orbit(24)])
    distance, height = np.hypot(*centers[:, :2].T), centers[:, 2]
    assert distance.min() > 6
    assert np.ptp(distance) > 1.5
    assert np.ptp(height) > 1.5
    angles = np.sort(np.arctan2(centers[:, 1], centers[:, 0]))
    gaps = np.diff([*angles, angles[0] + 2 * np.pi])
    assert gaps.max() < np.radians(25)
    assert np.ptp(gaps) > np.radians(3)
    assert render.orbit(0) == []


# ---- the kit's own scene ----


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("scene")
    return root, render.write_scene(root, views=6, size=(320, 240), seed=3)


def read_poses(path) -> dict[str, Pose]:
    with path.open(newline="") as file:
        return {
            row["image_path"]: Pose(
                np.array(row["rotation_matrix"].split(";"), float).reshape(3, 3),
                np.array(row["translation_vector"].split(";"), float),
            )
            for row in csv.DictReader(file)
        }


def test_layout_is_the_competitions(written):
    root, poses = written
    task = scenes.load(root)
    assert task.layout == "2024"
    assert task.notes == ()
    assert [scene.name for scene in task.scenes] == ["plaza"]
    assert task.scenes[0].categories == ("synthetic",)
    assert [row.key["image_path"] for row in task.rows] == list(poses)
    for row in task.rows:
        photo = images.load(task.scenes[0].path(row.image))
        assert photo.size == (320, 240)
        assert photo.pixels.std() > 25
    header = "image_path,dataset,scene,rotation_matrix,translation_vector"
    asked = (root / "sample_submission.csv").read_text().splitlines()
    assert asked[0] == (root / "truth.csv").read_text().splitlines()[0] == header
    assert asked[1].endswith(",plaza,plaza,1.0;0.0;0.0;0.0;1.0;0.0;0.0;0.0;1.0,0.0;0.0;0.0")
    assert json.loads((root / "thresholds.json").read_text()) == {"plaza": [0.025, 0.05, 0.1, 0.2, 0.5, 1.0]}


def test_truth_projects_landmarks_to_their_pixels(written, plaza):
    root, poses = written
    camera = Camera.centred((320, 240))
    truth = read_poses(root / "truth.csv")
    assert list(truth) == list(poses)
    red = Texture.of(np.full((8, 8, 3), (255, 0, 0), np.uint8), 0.1)
    landmarks = np.array([[2.0, -0.4, 2.6], [-1.8, 0.5, 2.9], [0.3, 1.9, 2.7], [-0.7, -2.0, 2.5]])
    balls = [Sphere((x, y, z - 0.1), (0.2, 0.2, 0.2), texture=red) for x, y, z in landmarks]
    found = 0
    for path, pose in truth.items():
        stored = images.load(root / path).pixels.astype(int)
        plain = render.render(plaza, camera, pose).astype(int)
        assert abs(stored - plain).mean() < 4  # what JPEG does to it
        marked = render.render([*plaza, *balls], camera, pose).astype(int)
        ratio = marked[..., 0] / (1 + marked[..., 1:].max(axis=2))
        painted = (abs(marked - plain).sum(axis=2) > 60) & (ratio > 2)
        places = camera.project(pose, landmarks)
        for (x, y), landmark in zip(places, landmarks, strict=True):
            alone = (np.hypot(*(places - [x, y]).T) < 20).sum() == 1
            if not (8 < x < 311 and 8 < y < 231 and alone):
                continue
            left, top = round(x) - 8, round(y) - 8
            rows, columns = np.nonzero(painted[top : top + 17, left : left + 17])
            if len(rows) < 0.8 * np.pi * (0.1 * camera.focal / np.linalg.norm(landmark - pose.center)) ** 2:
                continue  # something hides it, or a part of it
            assert np.hypot(left + columns.mean() - x, top + rows.mean() - y) < 0.4
            found += 1
    assert found >= 12


def test_same_seed_same_scene(written, plaza, tmp_path):
    root, poses = written
    again = render.write_scene(tmp_path, views=6, size=(320, 240), seed=3)
    for path in [*poses, "truth.csv"]:
        assert (root / path).read_bytes() == (tmp_path / path).read_bytes()
    np.testing.assert_array_equal([pose.center for pose in again.values()], [pose.center for pose in poses.values()])
    first, other = plaza[0].texture.levels[0], render.plaza(4)[0].texture.levels[0]
    assert (first != other).mean() > 0.5


def test_keypoints_are_many_and_match_where_the_cameras_say(plaza):
    camera = Camera.centred((480, 360))
    first, second = render.orbit(24)[3:5]
    sift = cv2.SIFT_create(2000)
    (keys, described), (others, others_described) = (
        sift.detectAndCompute(render.render(plaza, camera, pose), None) for pose in (first, second)
    )
    assert min(len(keys), len(others)) > 1000
    best = cv2.BFMatcher().knnMatch(described, others_described, k=2)
    matches = np.array([(one.queryIdx, one.trainIdx) for one, two in best if one.distance < 0.8 * two.distance])
    assert len(matches) > 100
    here, there = (np.array([key.pt for key in kept])[i] for kept, i in zip((keys, others), matches.T, strict=True))
    column, row = np.round(here).astype(int).T
    depth = np.minimum(render.render_depth(plaza, camera, first)[row, column], 1e6)  # the sky is far
    x, y = ((here - [camera.cx, camera.cy]) / camera.focal).T
    points = first.center + depth[:, None] * (np.stack([x, y, np.ones_like(x)], axis=1) @ first.rotation)
    assert (np.linalg.norm(camera.project(second, points) - there, axis=1) < 2).mean() > 0.7


@pytest.mark.parametrize("arguments", [{"views": 0}, {"views": -3}, {"size": (15, 480)}])
def test_no_scene(tmp_path, arguments):
    with pytest.raises(KitError, match="at least"):
        render.write_scene(tmp_path / "scene", **arguments)
    assert not (tmp_path / "scene").exists()


def test_where_it_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "plaza", lambda seed: pytest.fail("said only after all the work"))
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match=r"cannot write the scene to .*file"):
        render.write_scene(tmp_path / "file", views=1, size=(16, 16))


def test_one_small_view_with_another_name(tmp_path, plaza, monkeypatch):
    monkeypatch.setattr(render, "plaza", lambda seed: plaza)
    poses = render.write_scene(tmp_path, views=1, size=(16, 16), name="tiny scene")
    assert [path.name for path in (tmp_path / "test" / "tiny scene" / "images").iterdir()] == ["view_000.jpg"]
    assert list(poses) == ["test/tiny scene/images/view_000.jpg"]
