"""Key.Net, AffNet, OriNet and HardNet, with random weights: against kornia's own, and on drawn blobs."""

from __future__ import annotations

import numpy as np
import pytest

from random_networks import create_from

torch = pytest.importorskip("torch")
kornia = pytest.importorskip("kornia.feature")


def state(folder, name):
    return torch.load(folder / f"{name}.pth", weights_only=True)["state_dict"]


def theirs(monkeypatch, folder, image):
    """What kornia's whole chain finds, its downloads replaced: LAFs [N, 2, 3], responses, descriptors."""
    files = {"keynet_pytorch", "AffNet", "OriNet", "checkpoint_liberty_with_aug"}
    states = {name: {"state_dict": state(folder, name)} for name in files}

    def no_download(urls, **_):
        return states[str(urls[0]).rsplit("/", 1)[1].removesuffix(".pth")]

    for module in ("keynet", "affine_shape", "orientation", "hardnet"):
        monkeypatch.setattr(f"kornia.feature.{module}.load_state_dict_from_url", no_download)
    network = kornia.KeyNetAffNetHardNet(num_features=500).eval()
    grey = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    grey = (grey * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    with torch.inference_mode():
        lafs, responses, descriptors = network(grey)
    there = kornia.laf_is_filled(lafs)
    return lafs[there], responses[there].numpy(), descriptors[there].numpy()


def test_it_finds_what_kornia_finds(monkeypatch, weight_folder, create, texture):
    lafs, responses, descriptors = theirs(monkeypatch, weight_folder, texture)
    (ours,) = create("keynet").detect([texture], [None])
    assert 10 < len(ours) == len(lafs) < 500
    np.testing.assert_allclose(ours.scores, responses, rtol=1e-4)
    np.testing.assert_allclose(ours.descriptors, descriptors, atol=1e-3)
    np.testing.assert_allclose(ours.scales, 2 * kornia.get_laf_scale(lafs[None]).flatten(), rtol=1e-3)
    np.testing.assert_allclose(ours.shapes, lafs[:, :, :2], atol=0.01)
    apart_by = (ours.orientations + kornia.get_laf_orientation(lafs[None]).flatten().numpy()) % 360
    np.testing.assert_allclose(np.minimum(apart_by, 360 - apart_by), 0, atol=0.1)
    # Half a pixel of the level less half a pixel of the image, in both directions: for levels from √2 to a quarter.
    apart = ours.keypoints - lafs[:, :, 2].numpy()
    assert apart.min() > (0.5**0.5 - 1) / 2 - 0.01
    assert apart.max() < (4.1 - 1) / 2
    np.testing.assert_allclose(apart[:, 0], apart[:, 1], atol=0.02)


def test_orientations_are_clockwise_from_the_x_axis(weight_folder, texture):
    """As is seen from where the x axis of a described square comes to lie, when AffNet leaves it a square."""
    detector = create_from(weight_folder, "keynet")
    last = detector._network["affnet"].features[19]
    last.weight.zero_()
    last.bias.zero_()
    orienter = kornia.LAFOrienter(angle_detector=detector._network["orinet"])
    stack = torch.from_numpy(texture).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        (candidates,) = detector._find(stack, None)
        rows = torch.arange(len(candidates.scores))
        fields = candidates.describe(rows)
        step = fields["scales"] / 2 / 22
        centres = candidates.points - (step[:, None] - 1) / 2
        squares = kornia.laf_from_center_scale_ori(centres[None], (22 * step)[None, :, None, None])
        grey = (stack * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        seen = orienter(squares, grey)[0, :, :, 0]  # the image of the x axis
    angles = np.rad2deg(np.arctan2(seen[:, 1].numpy(), seen[:, 0].numpy())) % 360
    apart = (fields["orientations"].numpy() - angles) % 360
    assert len(apart) > 10
    assert np.ptp(angles) > 5
    assert np.median(np.minimum(apart, 360 - apart)) < 0.1


@pytest.mark.parametrize(("sigma", "smallest_step"), [(1.5, 0.7), (4.0, 1.9)])
def test_keypoints_are_at_the_centres_of_blobs_on_every_level(weight_folder, sigma, smallest_step):
    """With a detector of blobs for Key.Net. Uncorrected, those on a level of steps of four pixels are off by 1.5."""
    detector = create_from(weight_folder, "keynet")
    detector._network["keynet"] = kornia.BlobHessian()
    rng = np.random.default_rng(0)
    off, steps = [], []
    for _ in range(2):
        y, x = np.mgrid[:301, :397]
        corners = np.stack(np.meshgrid(np.arange(80, 320, 60), np.arange(80, 230, 60)), -1).reshape(-1, 2)
        centres = corners + rng.uniform(0, 8, corners.shape)
        image = np.full((301, 397), 50.0)
        for cx, cy in centres:
            image += 150 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
        stack = torch.from_numpy(np.repeat(image[None, None], 3, axis=1)).float() / 255
        with torch.inference_mode():
            (found,) = detector._find(stack, None)
            scales = found.describe(torch.arange(len(found.scores)))["scales"]
        for centre in centres:
            close = (found.points - torch.from_numpy(centre)).norm(dim=1) < 8
            off += (found.points[close] - torch.from_numpy(centre)).tolist()
            steps += (scales[close] / 44).tolist()
    off, steps = np.array(off), np.array(steps)
    assert len(off) > 60
    for step in np.unique(steps.round(1)):
        on = np.abs(steps - step) < 0.1
        if on.sum() > 15:
            assert np.abs(off[on].mean(0)).max() < 0.16 * step, step
    assert steps.max() > smallest_step
