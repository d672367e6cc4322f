"""Files of networks with random weights, detectors made from them, and an image for these."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest

from random_networks import create_from, superpoint_state, with_statistics


@pytest.fixture(scope="session")
def weight_folder(tmp_path_factory):
    """Files of all networks but DeDoDe, under their published names."""
    torch = pytest.importorskip("torch")
    kornia = pytest.importorskip("kornia.feature")
    torch.set_num_threads(1)  # the images are tiny
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.save(superpoint_state(torch), folder / "superpoint_v1.pth")
        torch.save({"extractor": kornia.DISK().state_dict(), "epoch": 7}, folder / "depth-save.pth")
        xfeat = with_statistics(kornia.XFeat().net)
        xfeat.keypoint_head[-1].weight.data *= 30  # else no pixel stands out
        torch.save(xfeat.state_dict(), folder / "xfeat.pt")
        for name, network in (
            ("keynet_pytorch", kornia.KeyNet(pretrained=False)),
            ("AffNet", kornia.LAFAffNetShapeEstimator(pretrained=False)),
            ("OriNet", kornia.OriNet(pretrained=False)),
            ("checkpoint_liberty_with_aug", kornia.HardNet(pretrained=False)),
        ):
            state = with_statistics(network).state_dict()
            if name != "keynet_pytorch":  # torch did not count batches yet when they were published
                state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
            torch.save({"epoch": 7, "state_dict": state}, folder / f"{name}.pth")
    return folder


@pytest.fixture(scope="session")
def create(weight_folder):
    """A detector by its name and options, made once."""
    return cache(lambda name, **options: create_from(weight_folder, name, **options))


@pytest.fixture(scope="session")
def texture():
    """An image with detail of many sizes, 128 × 96."""
    rng = np.random.default_rng(4)
    grey = sum(cv2.resize(rng.normal(size=(n, n)), (128, 96), interpolation=cv2.INTER_CUBIC) for n in (8, 20, 45, 80))
    colour = rng.normal(size=3) * cv2.resize(rng.normal(size=(9, 9)), (128, 96))[..., None]
    return np.clip(np.rint(128 + 30 * grey[..., None] + 15 * colour), 0, 255).astype(np.uint8)
