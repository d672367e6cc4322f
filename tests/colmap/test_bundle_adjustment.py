"""Adjustment keeps a good model good, whatever the matches are."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap import bundle_adjustment
from imc_kit.colmap.bundle_adjustment import TOLERANCE, adjust, correspondence_graph, observed
from imc_kit.colmap.database import id_pair_counts
from imc_kit.colmap.model_files import read_model
from imc_kit.colmap.support import Evidence, read_evidence
from synthetic_models import Synthetic, errors, part, synthesize


@pytest.fixture
def synthetic(tmp_path: Path) -> Synthetic:
    return synthesize(tmp_path / "scene", 8, points=200, num_points2D_without_point3D=400)


def evidence(synthetic: Synthetic) -> Evidence:
    with pycolmap.Database.open(synthetic.database) as database:
        return read_evidence(database, id_pair_counts(database, verified=True))


def mismatch(synthetic: Synthetic, first: int, second: int) -> None:
    """Give two images verified matches only between keypoints that show nothing, the n-th of one with the other's."""
    with pycolmap.Database.open(synthetic.database) as database:
        geometry = database.read_two_view_geometry(first, second)
        nothing = [np.flatnonzero(observed(synthetic.scene.images[image]) < 0) for image in (first, second)]
        geometry.inlier_matches = np.stack(nothing, 1).astype(np.uint32)
        database.delete_two_view_geometry(first, second)
        database.write_two_view_geometry(first, second, geometry)


@pytest.mark.parametrize("wrong", [[], [1, 2, 3, 4]], ids=["right matches", "some pairs wrong"])
def test_a_good_model_stays_as_good(synthetic: Synthetic, tmp_path: Path, wrong: list[int]) -> None:
    """COLMAP's retriangulation takes wrong matches for points, with errors of up to 5 degrees; they must not stay."""
    for pair in combinations(wrong, 2):
        mismatch(synthetic, *pair)
    before = part(synthetic.scene, synthetic.ids, tmp_path / "before")
    model = pycolmap.Reconstruction(before.folder)
    adjust(model, correspondence_graph(model, evidence(synthetic).matches), per_image=False, threads=1, seed=0)
    (tmp_path / "after").mkdir()
    model.write(tmp_path / "after")
    after = read_model(tmp_path / "after")
    assert after.reprojection_error < 1.25 * before.reprojection_error  # some wrong points fit well enough
    assert after.observations == pytest.approx(before.observations, rel=0.1)
    old, new = (errors(found.poses, synthetic.poses) for found in (before, after))
    assert new[0] < 2 * old[0]
    assert new[1] < 2 * old[1]


def test_fixed_images_stay_and_the_others_are_corrected(synthetic: Synthetic, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction(part(synthetic.scene, synthetic.ids, tmp_path / "model").folder)
    moved, *fixed = synthetic.ids
    before = {i: model.images[i].cam_from_world().matrix() for i in synthetic.ids}
    frame = model.images[moved].frame
    frame.rig_from_world = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0, 2e-3, 0])), np.zeros(3)) * (
        frame.rig_from_world
    )
    adjust(model, correspondence_graph(model, {}), per_image=False, threads=1, seed=0, fixed=fixed)
    for image in fixed:
        np.testing.assert_array_equal(model.images[image].cam_from_world().matrix(), before[image])
    np.testing.assert_allclose(model.images[moved].cam_from_world().matrix()[:, :3], before[moved][:, :3], atol=3e-4)


def test_observed_and_counts_of_pairs(synthetic: Synthetic) -> None:
    image = synthetic.scene.images[1]
    expected = [point.point3D_id if point.has_point3D() else -1 for point in image.points2D]
    assert observed(image).tolist() == expected
    with pycolmap.Database.open(synthetic.database) as database:
        database.delete_two_view_geometry(1, 2)
        assert (1, 2) not in id_pair_counts(database, verified=True)
        assert (1, 2) in id_pair_counts(database, verified=False)
        assert len(id_pair_counts(database, verified=True)) == 8 * 7 // 2 - 1


@pytest.mark.parametrize(("direct", "expected"), [(300, 0.0), (5, TOLERANCE)])
def test_large_models_are_adjusted_to_a_tolerance(
    synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch, direct: int, expected: float
) -> None:
    """COLMAP's own of 0 would not end in time."""
    used = []
    monkeypatch.setattr(bundle_adjustment, "_DIRECT", direct)
    monkeypatch.setattr(
        bundle_adjustment, "solve", lambda _, how, *__: used.append(how.ceres.solver_options.function_tolerance)
    )
    graph = correspondence_graph(synthetic.scene, evidence(synthetic).matches)
    adjust(synthetic.scene, graph, per_image=False, threads=1, seed=0)
    assert set(used) == {expected}
