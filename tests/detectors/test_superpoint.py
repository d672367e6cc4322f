"""SuperPoint: Magic Leap's layout against transformers' network, the re-training's against one written plainly here."""

from __future__ import annotations

import numpy as np
import pytest

from imc_kit.detectors.superpoint import SuperPointConfig
from imc_kit.errors import KitError
from random_networks import SUPERPOINT, create_from, superpoint_state

torch = pytest.importorskip("torch")

THEIR_NAMES = {
    **{f"conv{i + 1}{half}": f"encoder.conv_blocks.{i}.conv_{half}" for i in range(4) for half in "ab"},
    **{f"convP{half}": f"keypoint_decoder.conv_score_{half}" for half in "ab"},
    **{f"convD{half}": f"descriptor_decoder.conv_descriptor_{half}" for half in "ab"},
}


def theirs(state, grey, **options):
    """What transformers finds in grey uint8 [h, w]: points [N, 2], scores, descriptors."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SuperPointConfig(border_removal_distance=0, **options)
    network = transformers.SuperPointForKeypointDetection(config).eval()
    network.load_state_dict({f"{THEIR_NAMES[key[:6]]}{key[6:]}": value for key, value in state.items()})
    image = torch.from_numpy(grey).float()[None, None].expand(1, 3, -1, -1) / 255
    with torch.inference_mode():
        found = network(image)
    size = torch.tensor(grey.shape[::-1])
    return (found.keypoints[0] * size).round().numpy(), found.scores[0].numpy(), found.descriptors[0].numpy()


def by_place(points, *rest):
    order = np.lexsort(points.T)
    return points[order], *(values[order] for values in rest)


@pytest.fixture(scope="module")
def grey(texture):
    return texture[..., 1].copy()


@pytest.fixture(scope="module")
def grey_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize(("shape", "radius"), [((96, 128), 4), ((93, 101), 1)])
def test_it_finds_what_transformers_finds(weight_folder, create, grey, grey_rgb, shape, radius):
    """Which drops nothing at the right and lower edges, whatever it is told, so the margin is left to the next test."""
    state = torch.load(weight_folder / "superpoint_v1.pth", weights_only=True)
    part = np.s_[: shape[0], : shape[1]]
    points, scores, descriptors = by_place(*theirs(state, grey[part], nms_radius=radius))
    detector = create("superpoint", margin=0, nms_radius=radius, max_keypoints=100_000)
    (ours,) = detector.detect([grey_rgb[part].copy()], [None])
    assert len(points) > 100
    found = by_place(ours.keypoints, ours.scores, ours.descriptors)
    np.testing.assert_array_equal(found[0], points)
    np.testing.assert_allclose(found[1], scores, rtol=1e-4)
    np.testing.assert_allclose(found[2], descriptors, atol=1e-4)


def test_options_are_those_of_transformers(weight_folder, create, grey, grey_rgb):
    state = torch.load(weight_folder / "superpoint_v1.pth", weights_only=True)
    points, scores, _ = theirs(state, grey)
    for margin, threshold, limit in ((7, 0.005, 10_000), (0, float(np.median(scores)), 10_000), (4, 0.005, 30)):
        detector = create("superpoint", margin=margin, threshold=threshold, max_keypoints=limit)
        (ours,) = detector.detect([grey_rgb], [None])
        inside = ((points >= margin) & (points < np.array([128, 96]) - margin)).all(1) & (scores > threshold)
        expected = np.sort(scores[inside])[::-1][:limit]
        assert 0 < len(expected) < len(scores)
        np.testing.assert_allclose(ours.scores, expected, rtol=1e-4)
    (nothing,) = create("superpoint", margin=60).detect([grey_rgb], [None])
    assert len(nothing) == 0


def test_colours_are_weighted_as_the_eye_does(create):
    grey = np.random.default_rng(0).integers(0, 200, (40, 48), np.uint8)
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        colour = np.zeros((40, 48, 3), np.uint8)
        colour[..., channel] = grey
        stack = torch.from_numpy(colour)[None].permute(0, 3, 1, 2).float() / 255
        (one,) = create("superpoint")._find(stack, None)
        (other,) = create("superpoint")._find(stack.sum(1, keepdim=True).expand(-1, 3, -1, -1) * weight, None)
        np.testing.assert_array_equal(one.points, other.points)
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4)


def test_keypoints_move_with_the_image(create, texture):
    """By whole cells, and away from the edges, exactly."""
    detector = create("superpoint", max_keypoints=100_000)
    (first,), (moved,) = (detector.detect([texture[:, x : x + 112].copy()], [None]) for x in (0, 16))
    places = {tuple(point) for point in first.keypoints.tolist() if 62 <= point[0] < 66}
    assert places
    assert places == {(x + 16, y) for x, y in moved.keypoints.tolist() if 62 <= x + 16 < 66}


def test_half_precision_on_a_gpu_finds_nearly_the_same(weight_folder, create, texture):
    if not torch.cuda.is_available():
        pytest.skip("there is none")
    (half,) = create_from(weight_folder, "superpoint", device="cuda", half=True).detect([texture], [None])
    (full,) = create("superpoint").detect([texture], [None])
    found = {tuple(point) for point in full.keypoints.tolist()}
    assert np.mean([tuple(point) in found for point in half.keypoints.tolist()]) > 0.9


def v6_state(v1):
    """The layers of the re-training's file: those of `v1`, and normalisations."""
    places = {f"conv{i}{half}": f"backbone.{i - 1}.{j}" for i in range(1, 5) for j, half in enumerate("ab")}
    places |= {f"conv{head}{half}": f"{long}.{j}" for head, long in (("P", "detector"), ("D", "descriptor"))
               for j, half in enumerate("ab")}  # fmt: skip
    state = {}
    for name in SUPERPOINT:
        place, width = places[name], len(v1[f"{name}.bias"])
        for part in ("weight", "bias"):
            state[f"{place}.conv.{part}"] = v1[f"{name}.{part}"]
        state[f"{place}.bn.weight"], state[f"{place}.bn.bias"] = torch.rand(width) + 0.5, 0.1 * torch.randn(width)
        state[f"{place}.bn.running_mean"] = 0.1 * torch.randn(width)
        state[f"{place}.bn.running_var"] = torch.rand(width) + 0.5
    return state


def plain_v6(state, grey):
    """Dense scores [h, w] and descriptors [256, h / 8, w / 8] as published, operation by operation."""

    def block(values, place, activated=True):
        weight, bias = state[f"{place}.conv.weight"], state[f"{place}.conv.bias"]
        values = torch.nn.functional.conv2d(values, weight, bias, padding=weight.shape[-1] // 2)
        values = values.clamp(min=0) if activated else values
        mean, var, scale, offset = (
            state[f"{place}.bn.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (values - mean) / (var + 1e-3).sqrt() * scale + offset

    values = torch.from_numpy(grey).float()[None, None] / 255
    for i in range(4):
        values = block(block(values, f"backbone.{i}.0"), f"backbone.{i}.1")
        if i < 3:
            h, w = values.shape[2] // 2, values.shape[3] // 2
            values = values[..., : 2 * h, : 2 * w].reshape(1, -1, h, 2, w, 2).amax((3, 5))
    logits = block(block(values, "detector.0"), "detector.1", activated=False)[0]
    shares = logits.exp() / logits.exp().sum(0)
    height, width = shares.shape[1:]
    scores = torch.zeros(8 * height, 8 * width)
    for y in range(8):
        for x in range(8):
            scores[y::8, x::8] = shares[8 * y + x]
    return scores.numpy(), block(block(values, "descriptor.0"), "descriptor.1", activated=False)[0].numpy()


@pytest.fixture(scope="module")
def v6(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v6")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        torch.save(v6_state(superpoint_state(torch)), folder / "superpoint_v6_from_tf.pth")
    return folder


def test_the_retraining_is_as_published(v6, grey, grey_rgb):
    detector = create_from(v6, "superpoint", model="v6", max_keypoints=100_000, margin=0, nms_radius=0)
    (ours,) = detector.detect([grey_rgb], [None])
    scores, dense = plain_v6(torch.load(v6 / "superpoint_v6_from_tf.pth", weights_only=True), grey)
    assert len(ours) == (scores > 0.005).sum() > 100
    x, y = ours.keypoints.astype(int).T
    np.testing.assert_allclose(ours.scores, scores[y, x], rtol=1e-3)
    # Between the centres of four cells, each as long as 1, a descriptor is their mean, made as long as 1.
    dense /= np.linalg.norm(dense, axis=0)
    checked = 0
    for (px, py), descriptor in zip(ours.keypoints, ours.descriptors, strict=True):
        u, v = (px - 3.5) / 8, (py - 3.5) / 8
        j, i = int(np.floor(u)), int(np.floor(v))
        if 0 <= i < dense.shape[1] - 1 and 0 <= j < dense.shape[2] - 1:
            a, b = u - j, v - i
            mean = (1 - b) * ((1 - a) * dense[:, i, j] + a * dense[:, i, j + 1])
            mean += b * ((1 - a) * dense[:, i + 1, j] + a * dense[:, i + 1, j + 1])
            np.testing.assert_allclose(descriptor, mean / np.linalg.norm(mean), atol=1e-4)
            checked += 1
    assert checked > 100


def test_files_of_the_other_training_are_refused(v6, weight_folder, tmp_path):
    (tmp_path / "superpoint_v1.pth").symlink_to(v6 / "superpoint_v6_from_tf.pth")
    (tmp_path / "superpoint_v6_from_tf.pth").symlink_to(weight_folder / "superpoint_v1.pth")
    for model in ("v1", "v6"):
        with pytest.raises(KitError, match=f"does not fit SuperPoint {model}, so it is not loaded"):
            create_from(tmp_path, "superpoint", model=model)


def test_the_two_trainings_are_of_different_kinds():
    assert SuperPointConfig().kind == "superpoint"
    assert SuperPointConfig(model="v6").kind == "superpoint-v6"
