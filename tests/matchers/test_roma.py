"""RoMa: its coordinates, with a stand-in for the network that knows the answer, and loading, with random weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imc_kit.data.images import Photo
from imc_kit.errors import KitError
from imc_kit.matchers import View, roma
from imc_kit.matchers.roma import RomaConfig
from imc_kit.runtime import weights
from imc_kit.types import Features, Float32

torch = pytest.importorskip("torch")
pytest.importorskip("kornia")

SIZES = (400, 300), (600, 800)
"""Of the originals."""


def to_second(points: Any) -> Any:
    """The true map of this test, in pixels of the originals: a rotation by 90° with a zoom."""
    return np.stack([580 - 1.5 * points[:, 1], 40 + 1.5 * points[:, 0]], 1)


def to_first(points: Any) -> Any:
    return np.stack([(points[:, 1] - 40) / 1.5, (580 - points[:, 0]) / 1.5], 1)


class Knowing:
    """Returns what romatch documents: [1, h, 2 w, 4] in −1 … 1, and the certainty; the right third is uncertain."""

    side = 64

    def match(self, first: Any, second: Any, device: Any) -> Any:
        assert (first.size, second.size) == ((200, 150), (300, 400))
        centres = (np.arange(self.side) + 0.5) / self.side * 2 - 1
        normal = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
        parts = []
        for (size, other), function in zip((SIZES, SIZES[::-1]), (to_second, to_first), strict=True):
            places = function((normal + 1) / 2 * size - 0.5)
            target = ((places + 0.5) / other * 2 - 1).clip(-1, 1)
            ends = [normal, target] if function is to_second else [target, normal]
            parts.append(np.concatenate(ends, 1).reshape(self.side, self.side, 4))
        sure = np.tile(np.where(centres > 1 / 3, 0.01, 0.8), (self.side, 1))
        warp = torch.from_numpy(np.concatenate(parts, 1).astype(np.float32))[None]
        return warp, torch.from_numpy(np.concatenate([sure, np.full_like(sure, 0.6)], 1).astype(np.float32))[None]


def view(number: int, keypoints: Float32) -> View:
    size = SIZES[number]
    pixels = np.zeros((size[1] // 2, size[0] // 2, 3), np.uint8)
    features = Features(keypoints, np.ones(len(keypoints), np.float32), np.empty((len(keypoints), 0), np.uint8), size)
    return View(Photo(pixels, size, 0, False), features)


@pytest.fixture
def create(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(roma, "_load", lambda config, where: Knowing())
    return lambda **options: RomaConfig(device="cpu", **options).create()


NONE = np.empty((0, 2), np.float32)


def test_keypoints_match_where_the_network_maps_each_to_the_other(create: Any) -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform((20, 20), (250, 280), (60, 2)).astype(np.float32)
    second = to_second(first).astype(np.float32)
    second[:20] += rng.uniform(-0.8, 0.8, (20, 2)).astype(np.float32)
    second[20:30] += 9  # too far
    lonely = np.array([[390, 150]], np.float32)  # where it is uncertain
    order = rng.permutation(60)
    views = view(0, np.concatenate([first, lonely])), view(1, np.concatenate([second[order], to_second(lonely)]))
    found = create(step=0).match(*views)
    at = {tuple(point): row for row, point in enumerate(first.tolist())}
    rows = [at[tuple(point)] for point in found.first.tolist()]
    assert sorted(rows) == [*range(20), *range(30, 60)]
    np.testing.assert_array_equal(found.second, second[rows])
    np.testing.assert_allclose(found.scores, 0.6, atol=0.01)
    assert len(create(step=0, threshold=0.7).match(*views)) == 0


def test_the_grid_is_mapped_to_pixels_of_the_other_photo(create: Any) -> None:
    found = create(long_side=560, step=28, threshold=0.5).match(
        view(0, NONE), view(1, NONE)
    )  # 20 pixels of the original
    assert (found.first % 20 == 9.5).all()
    assert len(found) == 13 * 15  # of 20 × 15: two thirds
    np.testing.assert_allclose(found.second, to_second(found.first), atol=0.05)
    np.testing.assert_allclose(found.scores, 0.8, atol=0.01)
    assert len(create(step=0).match(view(0, NONE), view(1, NONE))) == 0


def test_both(create: Any) -> None:
    keypoints = np.array([[100, 100], [50, 60]], np.float32)
    matcher = create(long_side=560, step=28, threshold=0.5)
    (found,) = matcher.match_batch([(view(0, keypoints), view(1, to_second(keypoints).astype(np.float32)))])
    np.testing.assert_array_equal(found.first[:2], keypoints)
    assert len(found) == 2 + 13 * 15


def test_the_points_of_the_grid_are_inside() -> None:
    assert roma._grid((7, 30), 20.0).shape == (0, 2)
    np.testing.assert_array_equal(roma._grid((20, 45), 20.0), [[9.5, 9.5], [9.5, 29.5]])


@pytest.mark.parametrize(
    ("option", "value"),
    [("coarse", 100), ("coarse", 0), ("long_side", 280), ("radius", 0.0), ("radius", float("nan")), ("step", -1),
     ("threshold", 1.0), ("weights", Path(__file__))],
)  # fmt: skip
def test_invalid_options_are_refused(option: str, value: Any) -> None:
    with pytest.raises(KitError, match=f"{option} of matcher 'roma' must be"):
        RomaConfig(**{option: value})


def test_without_romatch_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "find", lambda name, explicit=None: tmp_path / name)
    monkeypatch.setattr(roma, "read_state", lambda path: {})
    monkeypatch.setitem(__import__("sys").modules, "romatch.models.model_zoo.roma_models", None)
    with pytest.raises(KitError, match=r"matcher 'roma' needs romatch \(pip install --no-deps romatch einops loguru\)"):
        RomaConfig(device="cpu").create()


@pytest.mark.slow
def test_files_of_the_layout_that_romatch_saves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Random weights; where romatch is installed. Any other keys are refused."""
    models = pytest.importorskip("romatch.models.model_zoo.roma_models")
    from romatch.models.transformer import vit_large

    backbone = vit_large(img_size=518, patch_size=14, init_values=1.0, ffn_layer="mlp", block_chunks=0).state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(models.RegressionMatcher, "load_state_dict", lambda network, state: None)
        own = models.roma_model(
            (56, 56), True, torch.device("cpu"), None, backbone, torch.float32, False, upsample_res=(56, 56)
        ).state_dict()
    facts = {}
    for name, state in (("roma_outdoor.pth", own), ("dinov2_vitl14_pretrain.pth", backbone)):
        torch.save(state, tmp_path / name)
        with (tmp_path / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        facts[name] = weights.Weight(name, "https://example.org", digest, "MIT", True, ())
    monkeypatch.setattr(weights, "manifest", lambda: facts)
    config = RomaConfig(weights=tmp_path, device="cpu", coarse=56, long_side=112, threshold=0.0, step=8)
    matcher = config.create()
    assert not matcher._network.training
    pixels = np.random.default_rng(0).integers(0, 256, (84, 112, 3), np.uint8)
    photo = View(Photo(pixels, (224, 168), 0, False), Features.empty((224, 168), 0))
    found = matcher.match(photo, photo)
    assert len(found) == 14 * 10
    assert ((found.second >= -0.5) & (found.second <= (223.5, 167.5))).all()
    monkeypatch.setattr(roma, "read_state", lambda path: {"wrong": torch.ones(1)} if "roma" in path.name else backbone)
    with pytest.raises(KitError, match=r"roma_outdoor\.pth or .* does not fit the RoMa .*"):
        config.create()
