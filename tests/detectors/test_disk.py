"""DISK, with random weights, against kornia's own."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
kornia = pytest.importorskip("kornia.feature")


@pytest.mark.parametrize("shape", [(96, 128), (70, 99)])
def test_it_finds_what_kornia_finds(weight_folder, create, texture, shape):
    """Whole pixels, in order of their scores."""
    part = texture[: shape[0], : shape[1]].copy()
    network = kornia.DISK().eval()
    network.load_state_dict(torch.load(weight_folder / "depth-save.pth", weights_only=True)["extractor"])
    with torch.inference_mode():
        (theirs,) = network(torch.from_numpy(part).permute(2, 0, 1)[None] / 255, pad_if_not_divisible=True)
    (ours,) = create("disk", max_keypoints=100_000).detect([part], [None])
    order = np.argsort(-theirs.detection_scores.numpy(), kind="stable")
    assert len(ours) == len(order) > 10
    np.testing.assert_array_equal(ours.keypoints, theirs.keypoints.numpy()[order])
    np.testing.assert_allclose(ours.scores, theirs.detection_scores.numpy()[order], rtol=1e-4)
    np.testing.assert_allclose(ours.descriptors, theirs.descriptors.numpy()[order], atol=1e-4)
