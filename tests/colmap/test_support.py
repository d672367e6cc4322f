"""The support of a model, against what a pycolmap.Reconstruction says of the same matches."""

from __future__ import annotations

from pathlib import Path

import pycolmap
import pytest

from imc_kit.colmap.support import agreement, read_evidence, support
from imc_kit.colmap.verification import inlier_counts
from synthetic_models import part, shuffle, synthesize


@pytest.mark.parametrize("max_error", [0.25, 2.0])
def test_it_is_the_same_without_a_reconstruction(tmp_path: Path, max_error: float) -> None:
    synthetic = synthesize(tmp_path / "scene", 6, 100, num_cameras_per_rig=1)
    shuffle(synthetic, synthetic.ids[:1], synthetic.ids[1:3])
    model = part(synthetic.scene, synthetic.ids[:5], tmp_path / "model")
    pairs = list(inlier_counts(synthetic.database))
    with pycolmap.Database.open(synthetic.database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        evidence = read_evidence(opened, [(ids[a], ids[b]) for a, b in pairs])
    agreeing, total = agreement(pycolmap.Reconstruction(model.folder), evidence, evidence.matches, max_error)
    assert 0 < agreeing < total
    assert support(synthetic.database, model, pairs, max_error) == pytest.approx(agreeing / total)


def test_pairs_outside_the_model_do_not_count(tmp_path: Path) -> None:
    synthetic = synthesize(tmp_path / "scene", 4, 50)
    model = part(synthetic.scene, synthetic.ids[:2], tmp_path / "model")
    inside, outside = sorted(synthetic.names(synthetic.ids[:2])), sorted(synthetic.names(synthetic.ids[2:]))
    assert support(synthetic.database, model, [(inside[0], outside[0]), (outside[0], outside[1])]) == 0
    assert support(synthetic.database, model, [(inside[0], "absent.jpg")]) == 0
    assert support(synthetic.database, model, []) == 0
