"""The rendered plaza: its shapes, its pictures, its cameras and its files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import pytest

from imc_kit.data import images, scenes
from imc_kit.errors import KitError
from imc_kit.metric import score
from imc_kit.synthetic import plaza as p
from imc_kit.synthetic.plaza import Block, Camera, Cylinder, Ground, Solid, Sphere, Texture, look_at
from imc_kit.types import Pose

CAMERA = Camera.centred((120, 90), 100.0)
SIZE = (240, 180)
SOLIDS = [
    Block((0.2, -0.1, 0.3), (1.0, 1.6, 0.8), 0.4),
    Block((0, 0, 0), (1.2, 0.8, 1.5), -0.7, taper=(0.4, 0.6)),
    Block((0, 0, 0), (1.6, 1.2, 0.6), 0.2, taper=(1.0, 0.0)),
    Cylinder((0, 0, 0), (1.4, 0.8, 0.5), 0.9),
    Sphere((0, 0.1, 0), (1.0, 1.4, 0.8), 1.1),
]
GROUND = Ground((0, 0, -1), (5, 5, 1))


def rays(camera: Camera, pose: Pose) -> np.ndarray:
    """Directions [h, w, 3] of unit depth through the centres of the pixels."""
    x, y = np.meshgrid(
        (np.arange(camera.width) - camera.cx) / camera.focal, (np.arange(camera.height) - camera.cy) / camera.focal
    )
    return np.stack([x, y, np.ones_like(x)], axis=2) @ pose.rotation


def inside(solid: Solid, points: np.ndarray) -> np.ndarray:
    """Which points [N, 3] are inside, for each kind of solid by its definition."""
    x, y, z = (points - solid.foot).T
    cosine, sine = np.cos(solid.yaw), np.sin(solid.yaw)
    x, y = cosine * x + sine * y, cosine * y - sine * x
    width, depth, height = solid.size
    within = (z > 0) & (z < height)
    if isinstance(solid, Block):
        a, b = (1 - (1 - part) * z / height for part in solid.taper)
        return within & (abs(x) < a * width / 2) & (abs(y) < b * depth / 2)
    radius = (2 * x / width) ** 2 + (2 * y / depth) ** 2
    if isinstance(solid, Sphere):
        radius += (2 * z / height - 1) ** 2
    return within & (radius < 1)


# ---- shapes ----


def depth_of(solids: Sequence[Solid], camera: Camera, pose: Pose) -> Any:
    """The depth at the centre of every pixel; infinity in the sky."""
    columns, rows = (np.arange(side, dtype=np.float32) for side in (camera.width, camera.height))
    return p.cast(solids, camera, pose, columns, rows)[1]


def test_depth_of_the_ground_is_the_closed_form() -> None:
    pose = look_at(np.array([1.0, -4.0, 2.0]), np.array([0.5, 0.0, 0.3]), 0.2)
    down = rays(CAMERA, pose)[..., 2]
    with np.errstate(divide="ignore"):
        expected = np.where(down < 0, -2.0 / down, np.inf)
    depth = depth_of([GROUND], CAMERA, pose)
    np.testing.assert_allclose(depth, expected, rtol=1e-4)
    assert np.isinf(depth).any()


@pytest.mark.parametrize("solid", SOLIDS)
def test_rays_enter_a_solid_where_small_steps_do(solid: Solid) -> None:
    rng = np.random.default_rng(0)
    origin = np.array([2.2, -1.5, 1.3])
    along = np.array([0, 0, 0.4]) + rng.uniform(-0.9, 0.9, (300, 3)) - origin
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    found = solid.distance(origin.astype(np.float32)[:, None], along.T.astype(np.float32))
    steps = np.linspace(0, 6, 6001)
    within = np.stack([inside(solid, origin + steps[:, None] * ray) for ray in along])
    hit, clear = within.sum(axis=1) >= 20, ~within.any(axis=1)
    assert min(hit.sum(), clear.sum()) > 30
    np.testing.assert_allclose(found[hit], steps[within[hit].argmax(axis=1)], atol=1.2e-3)
    assert np.isinf(found[clear]).mean() > 0.98  # small steps may miss an edge


@pytest.mark.parametrize("solid", SOLIDS)
def test_normals_point_out_and_places_are_on_the_sheet(solid: Solid) -> None:
    rng = np.random.default_rng(1)
    origin = rng.standard_normal((3, 400)).astype(np.float32)
    origin *= 3 / np.linalg.norm(origin, axis=0)
    along = solid.bound[0][:, None] + rng.uniform(-0.4, 0.4, (3, 400)).astype(np.float32) - origin
    distance = solid.distance(origin, along)
    hit = np.isfinite(distance)
    assert hit.sum() > 100
    points = origin[:, hit] + distance[hit] * along[:, hit]
    normals, at = solid.surface(points)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-5)
    assert not inside(solid, (points + 1e-3 * normals).T).any()
    assert inside(solid, (points - 1e-3 * normals).T).mean() > 0.97  # but for points within 1 mm of an edge
    assert (at >= -1e-4).all()
    assert (at <= np.array(solid.sheet)[:, None] + 1e-4).all()
    assert (np.linalg.norm(solid.bound[0][:, None] - points, axis=0) <= solid.bound[1] + 1e-4).all()


# ---- pictures ----


def test_a_painted_spot_shows_where_its_place_on_the_wall_projects_to() -> None:
    image = np.full((200, 300, 3), 128, np.uint8)  # 3 × 2 cells of 1 m for a cube of 1 m; 1 cm per pixel
    image[20:30, 10:20] = (255, 0, 0)  # the first cell is the side +x: 15 cm from its left, 25 cm from its top
    cube = Block((0, 0, 0), (1, 1, 1), texture=Texture.of(image, 0.01))
    pose = look_at(np.array([3.0, 0.4, 0.9]), np.array([0.0, 0.0, 0.5]))
    photo = p.render([cube], CAMERA, pose).astype(int)
    red = photo[..., 0] - photo[..., 1]
    rows, columns = np.nonzero(red > red.max() / 2)
    spot = np.array([[0.5, -0.5 + 0.15, 1 - 0.25]])  # seen from +x, right is +y
    np.testing.assert_allclose([columns.mean(), rows.mean()], CAMERA.project(pose, spot)[0], atol=0.5)


def test_the_sun_throws_a_shadow() -> None:
    pose = look_at(np.array([0.0, -1.0, 12.0]), np.zeros(3))
    ball = Sphere((0, 0, 2), (1, 1, 1))
    ground = Ground((0, 0, -1), (5, 5, 1), texture=Texture.of(np.full((50, 50, 3), 150, np.uint8), 0.1))
    alone, with_ball = (p.render(solids, CAMERA, pose).mean(axis=2) for solids in ([ground], [ground, ball]))
    darker = np.argwhere(alone - with_ball > 15)[:, ::-1]
    shadow = (ball.bound[0] - p._SUN * ball.bound[0][2] / p._SUN[2])[None]
    assert np.linalg.norm(shadow[0, :2]) > 1
    np.testing.assert_allclose(darker.mean(axis=0), CAMERA.project(pose, shadow.astype(float))[0], atol=1.5)


def test_fine_texture_far_away_is_even() -> None:
    checks = np.where(np.indices((1000, 1000)).sum(axis=0) % 2, 255, 0).astype(np.uint8)
    ground = Ground((0, 0, -1), (20, 20, 1), texture=Texture.of(np.repeat(checks[..., None], 3, axis=2), 0.02))
    pose = look_at(np.array([0.0, 0.0, 8.0]), np.array([0.1, 0.0, 0.0]))
    assert p.render([ground], CAMERA, pose)[20:70, 20:100].std(axis=(0, 1)).max() < 2


def test_a_pixel_is_the_mean_of_its_rays_in_linear_light() -> None:
    grey = Texture.of(np.full((8, 8, 3), 150, np.uint8), 1.0)
    solids = [Block((0, 0, 0), (1, 1, 1), 0.4, texture=grey), Ground((0, 0, -1), (5, 5, 1), texture=grey)]
    pose = look_at(np.array([3.0, 2.0, 2.0]), np.zeros(3))
    coarse = p.render(solids, Camera.centred((61, 47), 50.0), pose, samples=3)
    fine = p.render(solids, Camera.centred((183, 141), 150.0), pose, samples=1)
    mean = np.sqrt(cv2.resize((fine / 255.0) ** 2, (61, 47), interpolation=cv2.INTER_AREA)) * 255
    np.testing.assert_allclose(coarse, mean, atol=1.5)


def test_what_no_ray_hits_is_sky() -> None:
    pose = look_at(np.array([0.0, 0.0, 1.0]), np.array([3.0, 0.0, 9.0]))
    for solids in ([], [GROUND], [Block((-9, 0, 0), (1, 1, 1))], [Sphere((0, 0, 0), (2, 2, 2))]):
        photo = p.render(solids, CAMERA, pose)  # from inside the ball, one sees through it
        assert photo.shape == (90, 120, 3)
        assert (photo[..., 2] > photo[..., 0]).all()


# ---- cameras ----


def test_project_is_the_inverse_of_the_rays() -> None:
    pose = look_at(np.array([4.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.2]), 0.3)
    points = pose.center + 2.5 * rays(CAMERA, pose)[[0, 10, 89], [0, 57, 119]]
    np.testing.assert_allclose(CAMERA.project(pose, points), [[0, 0], [57, 10], [119, 89]], atol=1e-4)
    assert np.isnan(CAMERA.project(pose, 2 * pose.center - points)).all()
    assert CAMERA.project(pose, np.empty((0, 3))).shape == (0, 2)


def test_look_at_is_upright_and_a_clockwise_roll_moves_the_world_anticlockwise() -> None:
    center, target, up = np.array([4.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.2]), np.array([0, 0, 0.1])
    pose = look_at(center, target)
    np.testing.assert_allclose(pose.center, center, atol=1e-12)
    middle, above = CAMERA.project(pose, np.stack([target, target + up]))
    np.testing.assert_allclose(middle, [CAMERA.cx, CAMERA.cy], atol=1e-9)
    assert above[1] < middle[1] - 1
    assert abs(above[0] - middle[0]) < 1e-9
    assert CAMERA.project(look_at(center, target, 0.2), (target + up)[None])[0, 0] < middle[0] - 0.3


def test_an_orbit_is_uneven() -> None:
    centers = np.array([pose.center for pose in p.orbit(24)])
    assert min(np.ptp(np.hypot(*centers[:, :2].T)), np.ptp(centers[:, 2])) > 1.5
    angles = np.sort(np.arctan2(centers[:, 1], centers[:, 0]))
    gaps = np.diff([*angles, angles[0] + 2 * np.pi])
    assert np.radians(3) < np.ptp(gaps) < gaps.max() < np.radians(25)
    assert p.orbit(0) == []


# ---- the kit's own scene ----


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Pose]]:
    root = tmp_path_factory.mktemp("scene")
    return root, p.write_scene(root, views=4, size=SIZE, name="a plaza")


def test_the_layout_is_the_competitions(written: tuple[Path, dict[str, Pose]]) -> None:
    root, poses = written
    task = scenes.load(root)
    (scene,) = task.scenes
    assert (task.layout, task.notes, scene.name, scene.categories) == ("2024", (), "a plaza", ("synthetic",))
    assert [row.key["image_path"] for row in task.rows] == list(poses)
    assert next(iter(poses)) == "test/a plaza/images/view_000.jpg"
    assert all(images.load(scene.path(row.image)).pixels.std() > 25 for row in task.rows)
    thresholds = json.loads((root / "thresholds.json").read_text())
    assert thresholds == {"a plaza": [0.025, 0.05, 0.1, 0.2, 0.5, 1.0]}
    assert score(root / "truth.csv", root / "truth.csv", thresholds).mean == 1
    with (root / "truth.csv").open(newline="") as file:
        for row, (path, pose) in zip(csv.DictReader(file), poses.items(), strict=True):
            assert row["image_path"] == path
            translation = np.array(row["translation_vector"].split(";"), float)
            np.testing.assert_allclose(translation, pose.translation)


def test_the_photos_show_landmarks_where_the_truth_projects_them(written: tuple[Path, dict[str, Pose]]) -> None:
    root, poses = written
    camera = Camera.centred(SIZE)
    red = Texture.of(np.full((8, 8, 3), (255, 0, 0), np.uint8), 0.1)
    landmarks = np.array([[2.0, -0.4, 2.6], [-1.8, 0.5, 2.9], [0.3, 1.9, 2.7], [-0.7, -2.0, 2.5]])
    balls = [Sphere((x, y, z - 0.1), (0.2, 0.2, 0.2), texture=red) for x, y, z in landmarks]
    found = 0
    for path, pose in poses.items():
        photo = images.load(root / path).pixels.astype(int)
        marked = p.render([*p.plaza(), *balls], camera, pose).astype(int)
        painted = (abs(marked - photo).sum(axis=2) > 90) & (marked[..., 0] > 2 * (1 + marked[..., 1:].max(axis=2)))
        assert abs(photo - marked).mean() < 6  # but for the landmarks, only what JPEG does to it
        places = camera.project(pose, landmarks)
        for (x, y), landmark in zip(places, landmarks, strict=True):
            alone = (np.hypot(*(places - [x, y]).T) < 16).sum() == 1
            if not (7 < x < SIZE[0] - 8 and 7 < y < SIZE[1] - 8 and alone):
                continue
            left, top = round(x) - 7, round(y) - 7
            rows, columns = np.nonzero(painted[top : top + 15, left : left + 15])
            if len(rows) >= 0.8 * np.pi * (0.1 * camera.focal / np.linalg.norm(landmark - pose.center)) ** 2:
                assert np.hypot(left + columns.mean() - x, top + rows.mean() - y) < 0.5
                found += 1  # nothing hides any of it
    assert found >= 6


def test_one_seed_is_one_scene(written: tuple[Path, dict[str, Pose]], tmp_path: Path) -> None:
    root, poses = written
    p.write_scene(tmp_path, views=4, size=SIZE, name="a plaza")
    for path in [*poses, "truth.csv"]:
        assert (root / path).read_bytes() == (tmp_path / path).read_bytes()
    first, again, other = (p.paint(np.random.default_rng(seed), (1, 1), ("d8c9a6", "a88f68")) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).mean() > 0.5


def test_sift_matches_are_where_the_cameras_say() -> None:
    camera = Camera.centred((480, 360))
    first, second = p.orbit(30)[3:5]
    sift = cv2.SIFT_create(2000)
    (keys, described), (others, others_described) = (
        sift.detectAndCompute(p.render(p.plaza(), camera, pose, samples=1), None) for pose in (first, second)
    )
    assert min(len(keys), len(others)) > 1000
    best = cv2.BFMatcher().knnMatch(described, others_described, k=2)
    matches = np.array([(one.queryIdx, one.trainIdx) for one, two in best if one.distance < 0.8 * two.distance])
    assert len(matches) > 100
    here, there = (np.array([key.pt for key in kept])[i] for kept, i in zip((keys, others), matches.T, strict=True))
    column, row = np.round(here).astype(int).T
    depth = np.minimum(depth_of(p.plaza(), camera, first)[row, column], 1e6)  # the sky is far
    x, y = ((here - [camera.cx, camera.cy]) / camera.focal).T
    points = first.center + depth[:, None] * (np.stack([x, y, np.ones_like(x)], axis=1) @ first.rotation)
    assert (np.linalg.norm(camera.project(second, points) - there, axis=1) < 2).mean() > 0.7


@pytest.mark.parametrize("arguments", [{"views": 0}, {"views": -3}, {"size": (15, 480)}])
def test_no_views_and_tiny_images_are_refused(tmp_path: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(KitError, match="at least"):
        p.write_scene(tmp_path / "scene", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "scene").exists()


def test_a_folder_that_cannot_be_written_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(p, "plaza", lambda seed: pytest.fail("painted first"))
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match=r"cannot write the scene to .*file"):
        p.write_scene(tmp_path / "file", views=1, size=(16, 16))


def test_a_fisheye_lens_is_colmaps() -> None:
    lens = Camera(480, 360, 229.0, 239.5, 179.5, fisheye=True)
    colmap = pycolmap.Camera.create_from_model_name(0, "SIMPLE_FISHEYE", 229.0, 480, 360)
    points = np.random.default_rng(0).normal(size=(100, 3)) * (3, 3, 1) + (0, 0, 2)
    points = np.vstack([points[points[:, 2] > 0.5], [[0, 0, 1]]])
    seen = colmap.img_from_cam(points) - 0.5
    np.testing.assert_allclose(lens.project(Pose.identity(), points), seen, atol=1e-9)
    x, y = lens.tangents(*np.float32([[0, 479], [0, 359]]))
    rays = colmap.cam_ray_from_img(np.array([[0.5, 0.5], [479.5, 0.5], [0.5, 359.5], [479.5, 359.5]]))
    np.testing.assert_allclose(np.stack([x.ravel(), y.ravel()], 1), rays[:, :2] / rays[:, 2:], rtol=1e-4)
