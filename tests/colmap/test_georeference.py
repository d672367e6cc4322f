"""Models are aligned to noisy positions with outliers, and stay as they are where positions do not determine that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from imc_kit.colmap.child import Workplace
from imc_kit.colmap.model_files import ALIGNMENT, read_model
from imc_kit.colmap.steps import PositionsConfig, georeference
from imc_kit.errors import KitError
from imc_kit.types import Float64, Model
from synthetic_models import Synthetic, part, synthesize

IMAGES = 12
ORIGIN = 47.0, 8.0, 400.0
UNIT = 20.0
"""Metres per unit of the synthetic scene: its cameras are on a ball of 5 units."""


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthesize(tmp_path_factory.mktemp("positions"), IMAGES, points=200)


@pytest.fixture(scope="module")
def model(synthetic: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """In a frame and a scale of its own."""
    return part(synthetic.scene, synthetic.ids, tmp_path_factory.mktemp("model") / "0")


def truth(synthetic: Synthetic) -> dict[str, Float64]:
    return {name: UNIT * pose.center for name, pose in synthetic.poses.items()}


def aligned(
    folder: Path, models: list[Model], positions: dict[str, Float64], **options: Any
) -> tuple[list[Model], list[str]]:
    at = Workplace(folder / "aligned", folder / "log", threads=1)
    places = {name: place.tolist() for name, place in positions.items()}
    return georeference(models, places, ORIGIN, PositionsConfig(**options), at)


def error(model: Model, true: dict[str, Float64]) -> float:
    return float(max(np.linalg.norm(pose.center - true[name]) for name, pose in model.poses.items()))


def test_noise_and_outliers(tmp_path: Path, synthetic: Synthetic, model: Model) -> None:
    true = truth(synthetic)
    random = np.random.default_rng(0)
    noisy = {name: place + random.normal(0, 0.5, 3) for name, place in true.items()}
    names = list(noisy)
    noisy[names[0]] = noisy[names[0]] + 3000.0
    noisy[names[5]] = -noisy[names[5]]
    (found,), notes = aligned(tmp_path, [model], {**noisy, "unknown.jpg": np.zeros(3)}, stddev=0.5)
    assert notes == []
    assert error(found, true) < 1.0
    said = found.alignment
    assert said is not None
    assert (said.origin, said.positions, said.adjusted) == (ORIGIN, IMAGES, False)
    assert IMAGES - 3 <= said.fitting <= IMAGES - 2
    assert 0.3 < said.residual < 1.5
    one, other = (np.linalg.norm(m.poses[names[1]].center - m.poses[names[2]].center) for m in (model, found))
    assert said.scale == pytest.approx(other / one, rel=1e-9)
    assert re.search(r"47\.0000000°, 8\.0000000°, 400\.0 m; centres are .* from 12 positions", str(said))
    # The points and the errors in the images move with the cameras.
    assert found.reprojection_error == pytest.approx(model.reprojection_error, abs=1e-6)
    assert read_model(found.folder).alignment == said
    (found.folder / ALIGNMENT).write_text("{}")
    with pytest.raises(KitError, match="is damaged"):
        read_model(found.folder)


def test_exact_positions_of_some_images_suffice(tmp_path: Path, synthetic: Synthetic, model: Model) -> None:
    true = truth(synthetic)
    some = dict(list(true.items())[:6])
    (found,), notes = aligned(tmp_path, [model], some, stddev=0.5)
    assert notes == []
    assert error(found, true) < 0.05 * UNIT


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("equal", "too near to a point or a line"),
        ("line", "too near to a point or a line"),
        ("random", r"only \d of 12 positions fit it within 15 m \(3 · --positions.stddev\)"),
        ("two", "2 of its 12 images have a position with an altitude, and 3 are needed"),
        ("none", "0 of its 12 images have a position"),
    ],
)
def test_positions_that_do_not_determine_the_frame_are_refused(
    tmp_path: Path, synthetic: Synthetic, model: Model, case: str, reason: str
) -> None:
    names, true = list(synthetic.poses), truth(synthetic)
    places = {
        "equal": {name: np.array([3.0, 4.0, 5.0]) for name in names},
        "line": {name: np.array([10.0, 20.0, 5.0]) * number for number, name in enumerate(names)},
        "random": {name: np.random.default_rng(n).uniform(-500, 500, 3) for n, name in enumerate(names)},
        "two": dict(list(true.items())[:2]),
        "none": {},
    }[case]
    if case == "line":  # the cameras are on a line as well
        model = on_a_line(synthetic, tmp_path / "line")
    (found,), (note,) = aligned(tmp_path, [model], places)
    assert found is model
    assert note.startswith("model 1 is not aligned to positions: ")
    assert re.search(reason, note)


def on_a_line(synthetic: Synthetic, folder: Path) -> Model:
    """The same images, moved to one line at equal distances."""
    moved = pycolmap.Reconstruction(synthetic.scene)
    for number, name in enumerate(synthetic.poses):
        image = moved.find_image_with_name(name)
        rotation = image.cam_from_world().rotation
        place = np.array([1.0, 2.0, 0.5]) * number
        moved.frame(image.frame_id).set_cam_from_world(
            image.camera_id, pycolmap.Rigid3d(rotation, -rotation.matrix() @ place)
        )
    folder.mkdir()
    moved.write(folder)
    return read_model(folder)


def test_each_model_is_aligned_by_itself(tmp_path: Path, synthetic: Synthetic, model: Model) -> None:
    true = truth(synthetic)
    second = part(synthetic.scene, synthetic.ids[:6], tmp_path / "1", seed=5)
    small = part(synthetic.scene, synthetic.ids[6:8], tmp_path / "2", seed=6)  # says nothing
    found, notes = aligned(tmp_path, [model, second, small], true, stddev=0.5)
    assert notes == []
    assert [one.alignment is not None for one in found] == [True, True, False]
    assert found[2] is small
    assert max(error(one, true) for one in found[:2]) < 0.05 * UNIT


def test_bundle_adjustment_with_positions(tmp_path: Path, synthetic: Synthetic, model: Model) -> None:
    """A bent model becomes straight; an outlier among the positions does not bend it."""
    true = truth(synthetic)
    bent = pycolmap.Reconstruction(model.folder)
    random = np.random.default_rng(1)
    for image in bent.images.values():
        pose = image.cam_from_world()
        shifted = pycolmap.Rigid3d(pose.rotation, pose.translation + random.normal(0, 0.02, 3))
        bent.frame(image.frame_id).set_cam_from_world(image.camera_id, shifted)
    (tmp_path / "bent").mkdir()
    bent.write(tmp_path / "bent")
    name = next(iter(true))
    positions = true | {name: true[name] + [0, 0, 900.0]}
    errors = {}
    for adjust in (False, True):
        (found,), notes = aligned(tmp_path, [read_model(tmp_path / "bent")], positions, stddev=0.5, adjust=adjust)
        assert notes == []
        assert found.alignment is not None
        assert found.alignment.adjusted == adjust
        errors[adjust] = error(found, true)
    assert errors[True] < 0.2 < errors[False]
