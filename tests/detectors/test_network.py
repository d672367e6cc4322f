"""What is common to network detectors: batches, masks, damaged files, and what happens when memory runs out."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from scipy.spatial import cKDTree

from imc_kit.detectors.network import Candidates, NetworkDetector, NetworkDetectorConfig
from imc_kit.errors import KitError
from random_networks import create_from

torch = pytest.importorskip("torch")

FILES = {
    "superpoint": {"superpoint_v1.pth": None},
    "disk": {"depth-save.pth": "extractor"},
    "xfeat": {"xfeat.pt": None},
    "keynet": {
        "keynet_pytorch.pth": "state_dict",
        "AffNet.pth": "state_dict",
        "OriNet.pth": "state_dict",
        "checkpoint_liberty_with_aug.pth": "state_dict",
    },
}
"""The files of each network, and the key in them under which it is."""
each = pytest.mark.parametrize("name", FILES)


def same(one, other, atol=1e-4):
    """Whether two Features are the same but for rounding, in any order."""
    assert len(one) == len(other)
    assert one.image_size == other.image_size
    apart, j = cKDTree(other.keypoints).query(one.keypoints)
    assert len(set(j.tolist())) == len(one)
    assert apart.max(initial=0) < 10 * atol
    np.testing.assert_allclose(one.scores, other.scores[j], atol=atol)
    np.testing.assert_allclose(one.descriptors, other.descriptors[j], atol=10 * atol)


@each
def test_features_are_as_all_want_them(create, texture, name):
    detector = create(name)
    (found,) = detector.detect([texture], [None])
    assert len(found) > 10
    assert found.image_size == (128, 96)
    assert found.descriptors.dtype == np.float32
    assert found.descriptors.shape[1] == detector.dimension
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    assert (np.diff(found.scores) <= 0).all()


@each
def test_the_strongest_within_the_mask_are_kept(create, texture, name):
    (everything,) = create(name, max_keypoints=100_000).detect([texture], [None])
    mask = np.zeros(texture.shape[:2], bool)
    mask[20:70, 30:100] = True
    x, y = np.rint(everything.keypoints).astype(int).T
    inside = everything.keypoints[mask[y, x]]
    assert 5 < len(inside) < len(everything) - 5
    for limit in (100_000, 5):
        (masked,) = create(name, max_keypoints=limit).detect([texture], [mask])
        np.testing.assert_allclose(masked.keypoints, inside[:limit], atol=1e-3)
    (few,) = create(name, max_keypoints=5).detect([texture], [None])
    np.testing.assert_allclose(few.keypoints, everything.keypoints[:5], atol=1e-3)
    (nothing,) = create(name).detect([texture], [np.zeros_like(mask)])
    assert len(nothing) == 0


@each
def test_images_in_one_pass_are_as_one_by_one(weight_folder, create, texture, name):
    """As on a GPU; of several sizes, and in their order."""
    detector = create_from(weight_folder, name)
    detector._batch = 2
    images = [texture, texture[:, :64].copy(), texture[::-1].copy(), np.zeros_like(texture)]
    masks = [None, None, np.tri(96, 128, dtype=bool), None]
    found = detector.detect(images, masks)
    assert len(found[-1]) == 0
    for together, image, mask in zip(found, images, masks, strict=True):
        same(together, create(name).detect([image], [mask])[0])
    assert detector.detect([], []) == []


@each
def test_tiny_and_empty_images_are_ordinary(create, name):
    detector = create(name)
    for shape in ((1, 1), (1, 60), (7, 9), (31, 33), (32, 32), (40, 75)):
        noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        images, masks = [noise, noise, noise * 0, noise * 0 + 255], [None, np.zeros(shape, bool), None, None]
        for i, features in enumerate(detector.detect(images, masks)):
            assert features.image_size == shape[::-1]
            assert features.descriptors.shape == (len(features), detector.dimension)
            assert len(features) == 0 or i == 0


@each
def test_many_threads_find_the_same(create, texture, name):
    images = [texture, texture[:, ::-1].copy(), texture]
    detector = create(name)
    expected = detector.detect(images, [None] * 3)
    with ThreadPoolExecutor(3) as pool:
        for one, other in zip(pool.map(lambda i: detector.detect([i], [None])[0], images), expected, strict=True):
            same(one, other)


DAMAGES = ["lacks", "adds", "other shape", "no tensor", "cut off", "web page", "nothing", "elsewhere"]


@pytest.mark.parametrize(
    ("name", "file", "damage"),
    [
        *(("disk", "depth-save.pth", damage) for damage in DAMAGES),
        *((name, file, damage) for name, files in FILES.items() for file in files for damage in ("lacks", "cut off")),
    ],
)
def test_damaged_files_are_refused_with_a_sentence(weight_folder, tmp_path, name, file, damage):
    key = FILES[name][file]
    for intact in FILES[name]:
        (tmp_path / intact).symlink_to(weight_folder / intact)
    (tmp_path / file).unlink()
    content = torch.load(weight_folder / file, weights_only=True)
    state = content if key is None else content[key]
    layer = next(layer for layer in state if layer.endswith("weight"))
    if damage == "lacks":
        del state[layer]
    elif damage == "adds":
        state["another.weight"] = state[layer]
    elif damage == "other shape":
        state[layer] = state[layer][:-1]
    elif damage == "no tensor":
        state[layer] = "weight"
    elif damage == "elsewhere":
        content = {"model": state}
    if damage == "web page":
        (tmp_path / file).write_text("<!DOCTYPE html><title>Not found</title>")
    elif damage == "nothing":
        (tmp_path / file).write_bytes(b"")
    else:
        torch.save(content, tmp_path / file)
        if damage == "cut off":
            (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-1000])
    with pytest.raises(KitError, match=rf"{file.replace('.', '[.]')} .*not loaded"):
        create_from(tmp_path, name)


@pytest.mark.parametrize("name", ["keynet", "dedode"])
def test_several_files_are_in_a_folder(weight_folder, name):
    with pytest.raises(KitError, match=f"weights of detector '{name}' must be a folder that holds its files, or None"):
        create_from(weight_folder, name, weights=weight_folder / "keynet_pytorch.pth")


@each
def test_gpu_that_is_not_there_is_refused(weight_folder, name):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(KitError, match=f"no GPU: set the device of detector '{name}'"):
        create_from(weight_folder, name, device="cuda")


@each
def test_gpu_gives_what_the_cpu_gives(weight_folder, create, texture, name):
    if not torch.cuda.is_available():
        pytest.skip("there is none")
    images = [texture, texture[::-1].copy()]
    found = create_from(weight_folder, name, device="cuda").detect(images, [None, None])
    for one, other in zip(found, create(name).detect(images, [None, None]), strict=True):
        apart, _ = cKDTree(other.keypoints).query(one.keypoints)
        assert (apart < 0.1).mean() > 0.95


@dataclass(frozen=True)
class BrightestConfig(NetworkDetectorConfig):
    name: ClassVar[str] = "brightest"


def out_of_memory_on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def out_of_memory_on_the_cpu():
    torch.empty(2**58, dtype=torch.float32)  # what torch itself says of it


def out_of_memory_in_numpy():
    np.empty(2**58, np.float32)


class Brightest(NetworkDetector[BrightestConfig]):
    """Finds all pixels, the score being their red, in a memory of `memory` pixels."""

    dimension = 2

    def __init__(self, memory, complain=out_of_memory_on_a_gpu, **options):
        super().__init__(BrightestConfig(device="cpu", **options))
        self.memory, self.complain, self._batch = memory, complain, 8
        self.seen = []

    def _load(self):
        return torch.nn.Identity()

    def _find(self, stack, limit):
        self.seen.append(tuple(stack.shape[:1] + stack.shape[2:]))
        if stack[:, 0].numel() > self.memory:
            self.complain()
        for image in stack[:, 0]:
            rows, columns = torch.ones_like(image).nonzero(as_tuple=True)
            points = torch.stack([columns, rows], 1).float()
            yield Candidates(points, image[rows, columns], lambda kept, points=points: {"descriptors": points[kept]})


def ramp(width, height):
    """An image that grows brighter to the right."""
    return np.repeat(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))[..., None], 3, axis=2)


complaints = pytest.mark.parametrize(
    "complain", [out_of_memory_on_a_gpu, out_of_memory_on_the_cpu, out_of_memory_in_numpy]
)


@complaints
def test_where_memory_runs_out_batches_become_smaller(caplog, complain):
    detector = Brightest(2 * 80 * 60, complain)
    images = [ramp(80, 60) // (i + 1) for i in range(5)]
    with caplog.at_level(logging.WARNING):
        found = detector.detect(images, [None] * 5)
    assert [shape[0] for shape in detector.seen] == [5, 2, 2, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "detector 'brightest': not enough memory for 5 images at once; continuing with 2"
    ]
    for features, image in zip(found, images, strict=True):
        assert features.image_size == (80, 60)
        x, y = features.keypoints[0].astype(int)
        assert np.isclose(features.scores[0], image[y, x, 0] / 255)
        assert image[y, x, 0] == image.max()
    detector.detect(images, [None] * 5)
    assert [shape[0] for shape in detector.seen[4:]] == [2, 2, 1]  # it has learned


@complaints
def test_where_memory_runs_out_for_one_image_it_is_shrunk(caplog, complain):
    detector = Brightest(160 * 120 // 3, complain, max_keypoints=10**6)
    with caplog.at_level(logging.WARNING):
        ((found,), (small,)) = (detector.detect([ramp(*size)], [None]) for size in ((160, 120), (80, 60)))
    assert [shape[1:] for shape in detector.seen] == [(120, 160), (85, 113), (60, 80), (60, 80)]
    assert [record.getMessage() for record in caplog.records] == [
        "detector 'brightest': not enough memory for an image of 160 × 120 pixels; it was shrunk to 80 × 60"
    ]
    assert found.image_size == (160, 120)
    assert small.image_size == (80, 60)
    assert sorted(set(found.keypoints[:, 0].tolist())) == [2 * x + 0.5 for x in range(80)]
    assert sorted(set(found.keypoints[:, 1].tolist())) == [2 * y + 0.5 for y in range(60)]
    assert (np.diff(found.scores) <= 0).all()


def test_in_a_shrunk_image_the_mask_holds():
    mask = np.random.default_rng(0).random((120, 160)) < 0.9
    (found,) = Brightest(160 * 120 // 3, max_keypoints=10**6).detect([ramp(160, 120)], [mask])
    allowed = {(2 * x + 0.5, 2 * y + 0.5) for x in range(80) for y in range(60) if mask[2 * y :, 2 * x :][:2, :2].all()}
    assert {tuple(point) for point in found.keypoints.tolist()} == allowed
    assert len(allowed) > 1000


@complaints
def test_where_memory_does_not_suffice_for_a_small_image_that_is_said(complain):
    with pytest.raises(KitError, match=r"'brightest' has not enough memory even for an image of \d\d × \d\d pixels"):
        Brightest(10, complain).detect([ramp(300, 200)], [None])
    with pytest.raises(KitError, match="not enough memory even for an image of 40 × 30 pixels"):
        Brightest(10, complain).detect([ramp(40, 30)], [None])


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def complain():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Brightest(10, complain).detect([ramp(80, 60)], [None])
