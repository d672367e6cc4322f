"""XFeat, with random weights: against kornia's own, and where keypoints are in images that kornia resizes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

torch = pytest.importorskip("torch")
kornia = pytest.importorskip("kornia.feature")


def test_it_finds_what_kornia_finds(weight_folder, create, texture):
    """In an image whose sides are multiples of 32, which kornia leaves as it is: whole pixels, by their scores."""
    network = kornia.XFeat().eval()
    network.net.load_state_dict(torch.load(weight_folder / "xfeat.pt", weights_only=True))
    (theirs,) = network.detectAndCompute(
        torch.from_numpy(texture).permute(2, 0, 1)[None] / 255, top_k=10_000, detection_threshold=0.1
    )
    (ours,) = create("xfeat", max_keypoints=10_000, threshold=0.1).detect([texture], [None])
    assert len(ours) == len(theirs["keypoints"]) > 10
    assert (ours.keypoints == ours.keypoints.round()).all()
    np.testing.assert_array_equal(ours.keypoints, theirs["keypoints"].numpy())
    np.testing.assert_allclose(ours.scores, theirs["scores"].numpy(), rtol=1e-4)
    np.testing.assert_allclose(ours.descriptors, theirs["descriptors"].numpy(), atol=1e-4)


@pytest.mark.parametrize("shape", [(127, 159), (66, 95)])
def test_in_a_resized_image_keypoints_are_where_they_were(create, texture, shape):
    """The same image at multiples of 32, as kornia makes it of one of other sizes, has the same keypoints there."""
    height, width = shape
    image = cv2.resize(texture, (width, height), interpolation=cv2.INTER_LINEAR)
    small = height // 32 * 32, width // 32 * 32
    stack = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(stack, small, mode="bilinear").round().byte()[0].permute(1, 2, 0).numpy()
    detector = create("xfeat", max_keypoints=10_000)
    (ours,), (there,) = detector.detect([image], [None]), detector.detect([np.ascontiguousarray(resized)], [None])
    assert ours.image_size == (width, height)
    # Resizing keeps the outer edges in place: −0.5 stays −0.5.
    expected = (there.keypoints + 0.5) * (np.array([width, height]) / small[::-1]) - 0.5
    apart, _ = cKDTree(ours.keypoints).query(expected)
    assert len(expected) > 10
    assert (apart < 1e-3).mean() > 0.9  # but for what rounding to bytes changed
