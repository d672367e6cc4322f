"""The support of a model, against what its reconstruction says of the same matches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap.support import Judgement, agreement, epipolar_errors, judge, read_evidence
from imc_kit.colmap.verification import inlier_counts
from synthetic_models import part, shuffle, synthesize


def test_it_is_the_share_of_matches_near_their_epipolar_lines(tmp_path: Path) -> None:
    synthetic = synthesize(tmp_path / "scene", 6, 100, num_cameras_per_rig=1)
    shuffle(synthetic, synthetic.ids[:1], synthetic.ids[1:3])
    model = part(synthetic.scene, synthetic.ids[:5], tmp_path / "model")
    found = pycolmap.Reconstruction(model.folder)
    pairs = list(inlier_counts(synthetic.database))
    with pycolmap.Database.open(synthetic.database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        evidence = read_evidence(opened, [(ids[a], ids[b]) for a, b in pairs])
    inside = [pair for pair in evidence.matches if set(pair) <= set(synthetic.ids[:5])]
    errors = np.concatenate([epipolar_errors(found, evidence, pair) for pair in inside])
    assert 0 < (errors <= 0.25).sum() < (errors <= 2).sum() < len(errors)
    assert agreement(found, evidence, evidence.matches) == ((errors <= 2).sum(), len(errors))
    found = judge(synthetic.database, model, pairs)
    assert (found.precision, found.support) == pytest.approx((np.mean(errors <= 0.25), np.mean(errors <= 2)))


def test_pairs_outside_the_model_do_not_count(tmp_path: Path) -> None:
    synthetic = synthesize(tmp_path / "scene", 4, 50)
    model = part(synthetic.scene, synthetic.ids[:2], tmp_path / "model")
    inside, outside = sorted(synthetic.names(synthetic.ids[:2])), sorted(synthetic.names(synthetic.ids[2:]))
    for pairs in ([(inside[0], outside[0]), (outside[0], outside[1])], [(inside[0], "absent.jpg")], []):
        assert judge(synthetic.database, model, pairs) == Judgement()


def test_poses_that_their_own_matches_contradict_are_named(tmp_path: Path) -> None:
    synthetic = synthesize(tmp_path / "scene", 8, 100)
    model = part(synthetic.scene, synthetic.ids, tmp_path / "model")
    pairs = list(inlier_counts(synthetic.database))
    assert judge(synthetic.database, model, pairs).contradicted == frozenset()
    moved = pycolmap.Reconstruction(model.folder)
    for number in synthetic.ids[:2]:
        frame = moved.images[number].frame
        frame.rig_from_world = pycolmap.Rigid3d(pycolmap.Rotation3d([0, 0, 1, 0]), [1, 2, 3])
    moved.write(model.folder)
    found = judge(synthetic.database, model, pairs)
    assert found.contradicted == synthetic.names(synthetic.ids[:2])
    assert 0.4 < found.support < 0.7  # 15 of 28 pairs
