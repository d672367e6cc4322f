"""DeDoDe, with random weights, against kornia's own. Slow: kornia fills a whole VGG19 with random numbers first."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from imc_kit.detectors.dedode import DedodeConfig
from imc_kit.errors import KitError
from random_networks import create_from, quick_random, with_statistics

torch = pytest.importorskip("torch")
kornia = pytest.importorskip("kornia.feature")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def quick():
    with quick_random():
        yield


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_num_threads(1)
        return with_statistics(kornia.DeDoDe("L", "B")).eval()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dedode")
    torch.save(network.detector.state_dict(), folder / "dedode_detector_L.pth")
    torch.save(network.descriptor.state_dict(), folder / "dedode_descriptor_B.pth")
    return folder


@pytest.fixture(scope="module")
def detector(folder):
    return create_from(folder, "dedode", max_keypoints=300)


@pytest.fixture(scope="module")
def image(texture):
    return texture[:61, :75].copy()  # neither side a multiple of 14


def test_it_finds_what_kornia_finds(network, detector, image):
    with torch.inference_mode():
        points, scores, descriptors = network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255, n=300)
    (ours,) = detector.detect([image], [None])
    # kornia says i + 0.5 of the pixel i here, whose centre this project has at i.
    np.testing.assert_allclose(ours.keypoints, points[0].numpy() - 0.5, atol=1e-4)
    np.testing.assert_array_equal(ours.keypoints, ours.keypoints.round())
    np.testing.assert_allclose(ours.scores, scores[0].numpy(), rtol=1e-4)
    np.testing.assert_allclose(ours.descriptors, descriptors[0].numpy(), rtol=1e-3, atol=1e-4)


def test_the_budget_is_spent_within_the_mask(network, detector, image):
    mask = np.zeros((61, 75), bool)
    mask[10:20, 30:70] = True
    (ours,) = detector.detect([image], [mask])
    with torch.inference_mode():
        points, scores, _ = network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255, n=None)
    x, y = (points[0].numpy() - 0.5).round().astype(int).T
    inside = scores[0].numpy()[mask[y, x]]
    assert len(inside) == mask.sum() == 400
    np.testing.assert_allclose(ours.scores, inside[:300], rtol=1e-4)
    assert mask[tuple(ours.keypoints.astype(int).T[::-1])].all()


def test_empty_and_tiny_images_are_ordinary(detector):
    for shape in ((1, 1), (31, 60), (32, 33)):
        noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        found = detector.detect([noise, noise * 0, noise], [None, None, np.zeros(shape, bool)])
        assert [len(features) for features in found] == [300 if min(shape) >= 32 else 0, 0, 0]
        assert all(features.image_size == shape[::-1] for features in found)


def test_the_larger_descriptor_needs_dinov2_too(monkeypatch, folder, network, tmp_path, image):
    """Here with one of its 24 layers."""
    from kornia.feature.dedode import transformer
    from kornia.feature.dedode.dedode_models import get_descriptor
    from kornia.feature.dedode.transformer.dinov2 import DinoVisionTransformer

    shallow = functools.partial(DinoVisionTransformer, embed_dim=1024, depth=1, num_heads=16)
    monkeypatch.setattr(transformer, "vit_large", shallow)
    dinov2 = shallow(img_size=518, patch_size=14, init_values=1.0, ffn_layer="mlp", block_chunks=0).state_dict()
    torch.save(dinov2, tmp_path / "dinov2_vitl14_pretrain.pth")
    (tmp_path / "dedode_detector_L.pth").symlink_to(folder / "dedode_detector_L.pth")

    # kornia's own descriptor G, its download replaced
    monkeypatch.setattr("kornia.feature.dedode.encoder.load_state_dict_from_url", lambda *_, **__: dinov2)
    reference = kornia.DeDoDe.__new__(kornia.DeDoDe)
    torch.nn.Module.__init__(reference)
    reference.detector, reference.normalizer = network.detector, network.normalizer
    reference.descriptor = with_statistics(get_descriptor("G")).eval()
    torch.save(reference.descriptor.state_dict(), tmp_path / "dedode_descriptor_G.pth")
    monkeypatch.setattr("kornia.feature.dedode.encoder.load_state_dict_from_url", None)

    (ours,) = create_from(tmp_path, "dedode", descriptor="G", max_keypoints=50).detect([image], [None])
    with torch.inference_mode():
        _, _, descriptors = reference(torch.from_numpy(image).permute(2, 0, 1)[None] / 255, n=50)
    np.testing.assert_allclose(ours.descriptors, descriptors[0].numpy(), rtol=1e-3, atol=1e-4)

    torch.save({"cls_token": dinov2["cls_token"]}, tmp_path / "dinov2_vitl14_pretrain.pth")
    with pytest.raises(KitError, match=r"dinov2_vitl14_pretrain\.pth does not fit the DINOv2 ViT-L"):
        create_from(tmp_path, "dedode", descriptor="G")


def test_files_that_do_not_fit_are_refused(folder, tmp_path):
    (tmp_path / "dedode_detector_L.pth").symlink_to(folder / "dedode_descriptor_B.pth")
    with pytest.raises(KitError, match=r"dedode_detector_L\.pth does not fit the DeDoDe detector L .*not loaded"):
        create_from(tmp_path, "dedode")


def test_its_kind_is_that_of_its_descriptor():
    assert DedodeConfig().kind == "dedodeb"
    assert DedodeConfig(descriptor="G").kind == "dedodeg"
