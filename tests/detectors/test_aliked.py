"""ALIKED, with the official files: against kornia's own whole network, and on images of known content."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from imc_kit.data.images import Photo, load
from imc_kit.detectors import extract
from imc_kit.detectors.aliked import AlikedConfig, _dense_maps
from imc_kit.errors import KitError
from imc_kit.runtime import weights
from imc_kit.types import Features

torch = pytest.importorskip("torch")
kornia = pytest.importorskip("kornia.feature")

DIMENSIONS = {"t16": 64, "n16": 128, "n16rot": 128, "n32": 128}


@pytest.fixture(scope="module")
def create(shared):
    """A detector on the CPU, by its options."""

    @cache
    def create(**options):
        return AlikedConfig(**{"weights": shared / "weights", "device": "cpu", **options}).create()

    return create


@pytest.fixture(scope="module")
def photo(shared):
    """A part of a photo, 224 × 160."""
    pixels = load(shared / "scenes/test/fountain_P11/images/0003.jpg").pixels
    return np.ascontiguousarray(pixels[220:380, 300:524])


def same(one, other, atol=1e-4):
    """Whether two Features are the same but for rounding, in any order."""
    assert len(one) == len(other)
    apart, j = cKDTree(other.keypoints).query(one.keypoints)
    assert len(set(j.tolist())) == len(one)
    assert apart.max(initial=0) < 10 * atol
    np.testing.assert_allclose(one.scores, other.scores[j], atol=atol)
    np.testing.assert_allclose(one.descriptors, other.descriptors[j], atol=10 * atol)


@pytest.mark.parametrize("model", DIMENSIONS)
def test_it_finds_what_kornia_finds(shared, create, photo, model):
    network = kornia.ALIKED(f"aliked-{model}", max_num_keypoints=-1, detection_threshold=0.2)
    state = torch.load(shared / f"weights/aliked-{model}.pth", weights_only=True)
    network.load_state_dict(state, strict=False)
    with torch.inference_mode():
        (theirs,) = network.eval()(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255)
    detector = create(model=model, max_keypoints=100_000)
    (ours,) = detector.detect([photo], [None])
    assert len(ours) > 50
    assert detector.dimension == DIMENSIONS[model] == ours.descriptors.shape[1]
    assert ours.descriptors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(ours.descriptors, axis=1), 1, atol=1e-5)
    assert (np.diff(ours.scores) <= 0).all()
    size = photo.shape[1], photo.shape[0]
    same(ours, Features(theirs.keypoints.numpy(), theirs.keypoint_scores.numpy(), theirs.descriptors.numpy(), size))


@pytest.mark.parametrize(("model", "size"), [("t16", (64, 96)), ("t16", (31, 5)), ("n16", (33, 40))])
def test_half_the_memory_gives_the_same_maps(create, model, size):
    network = create(model=model)._network
    stack = torch.from_numpy(np.random.default_rng(0).random((2, 3, *size), np.float32))
    stack = stack.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for ours, theirs in zip(_dense_maps(network, stack), network.extract_dense_map(stack), strict=True):
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_the_strongest_within_the_mask_are_kept(create, photo):
    (everything,) = create(model="t16", max_keypoints=100_000).detect([photo], [None])
    mask = np.zeros(photo.shape[:2], bool)
    mask[50:150, 100:200] = True
    x, y = np.rint(everything.keypoints).astype(int).T
    inside = everything.keypoints[mask[y, x]]
    assert 30 < len(inside) < len(everything) - 30
    for limit in (100_000, 20):
        (masked,) = create(model="t16", max_keypoints=limit).detect([photo], [mask])
        np.testing.assert_allclose(masked.keypoints, inside[:limit], atol=1e-3)
    (nothing,) = create(model="t16").detect([photo], [np.zeros_like(mask)])
    assert len(nothing) == 0


def test_images_of_several_sizes_keep_their_order(create, photo):
    detector = create(model="t16")
    images = [photo[:80], photo[:, :90], photo[80:160], np.zeros((90, 70, 3), np.uint8), photo[:80] // 2]
    found = detector.detect(images, [None] * 5)
    for image, features in zip(images, found, strict=True):
        assert features.image_size == (image.shape[1], image.shape[0])
        same(features, detector.detect([image], [None])[0])
    assert detector.detect([], []) == []


def test_images_in_one_pass_are_as_one_by_one(create, photo):
    """As on a GPU."""
    detector = create(model="t16")
    images, masks = [photo, photo[::-1].copy(), photo // 2], [None, np.tri(160, 224, dtype=bool), None]
    for together, image, mask in zip(detector._detect(images, masks), images, masks, strict=True):
        same(together, detector.detect([image], [mask])[0])


def test_keypoints_move_with_the_image(create, photo):
    detector = create(model="n16")
    (first,), (moved,) = (detector.detect([photo[:, x : x + 192].copy()], [None]) for x in (0, 32))
    apart, nearest = cKDTree(first.keypoints).query(moved.keypoints + np.float32([32, 0]))
    assert (apart < 0.5).mean() > 0.6
    shift = (moved.keypoints + np.float32([32, 0]) - first.keypoints[nearest])[apart < 0.5]
    assert np.abs(np.median(shift, axis=0)).max() < 0.05


def test_the_centre_of_the_first_pixel_is_the_origin(create, photo):
    """Found in an enlarged image, keypoints come back where they are: half a pixel off would fail."""
    enlarged = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    detector = create(model="n16")
    (first,) = extract(detector, [Photo(enlarged, (448, 320), 0, False)])
    (second,) = extract(detector, [Photo(photo, (448, 320), 0, False)])
    apart, nearest = cKDTree(first.keypoints).query(second.keypoints)
    assert (apart < 2).sum() > 50
    shift = np.median((second.keypoints - first.keypoints[nearest])[apart < 2], axis=0)
    assert np.abs(shift).max() < 0.25


def test_tiny_and_empty_images_are_ordinary(create):
    detector = create(model="t16")
    for shape in ((1, 1), (2, 3), (1, 40), (5, 5), (31, 33), (64, 64)):
        noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        found = detector.detect([noise, noise * 0, noise * 0 + 255], [None] * 3)
        for features in found:
            assert features.image_size == shape[::-1]
            assert features.descriptors.shape == (len(features), 64)
        assert len(found[1]) == len(found[2]) == 0


def test_threshold_decides_how_many(create, photo):
    few, many = (create(model="t16", threshold=value).detect([photo], [None])[0] for value in (0.6, 0.1))
    assert 0 < len(few) < len(many)


def test_missing_and_damaged_files_are_refused(shared, tmp_path):
    with pytest.raises(KitError, match=r"aliked-n32\.pth is missing"):
        AlikedConfig(model="n32", weights=tmp_path).create()
    damaged = tmp_path / "aliked-n32.pth"
    damaged.write_bytes((shared / "weights/aliked-n32.pth").read_bytes()[:-10])
    with pytest.raises(KitError, match=r"aliked-n32\.pth has 3,946,657 of 3,946,667 bytes: it is cut off"):
        AlikedConfig(model="n32", weights=damaged).create()
    with pytest.raises(KitError, match="is not the published file"):
        AlikedConfig(model="n16", weights=shared / "weights/aliked-n32.pth").create()


@pytest.mark.parametrize("change", ["lacks", "adds", "other shape"])
def test_files_that_do_not_fit_the_network_are_refused(shared, tmp_path, monkeypatch, change):
    """As a later kornia might name its layers otherwise."""
    state = torch.load(shared / "weights/aliked-t16.pth", weights_only=True)
    name = next(name for name in state if name.endswith("weight"))
    if change == "adds":
        state["another.weight"] = state[name]
    elif change == "lacks":
        del state[name]
    else:
        state[name] = state[name][:1]
    torch.save(state, tmp_path / "other.pth")
    monkeypatch.setattr(weights, "find", lambda *_: tmp_path / "other.pth")
    with pytest.raises(KitError, match=r"other\.pth does not fit the aliked-t16"):
        AlikedConfig(model="t16", device="cpu").create()


def test_gpu_that_is_not_there_is_refused(create):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(KitError, match="no GPU"):
        create(device="cuda")
    create(device="auto")


def test_gpu_gives_what_the_cpu_gives(create, photo):
    if not torch.cuda.is_available():
        pytest.skip("there is none")
    images = [photo, photo[::-1].copy()]
    for one, other in zip(
        create(device="cuda").detect(images, [None, None]), create().detect(images, [None, None]), strict=True
    ):
        apart, _ = cKDTree(other.keypoints).query(one.keypoints)
        assert (apart < 0.1).mean() > 0.95
