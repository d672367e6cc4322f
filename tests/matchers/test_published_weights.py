"""Every published weight file that is at hand, whole, on two photos whose true geometry is known.

Nothing in a file is left unread but what is named here, kornia's own way from file to features and matches gives the
same, and most matches lie on the true epipolar lines.
"""

from __future__ import annotations

import csv
import re
from functools import cache

import numpy as np
import pytest
from scipy.spatial import cKDTree

from imc_kit.data.images import load
from imc_kit.detectors import DETECTORS, extract
from imc_kit.matchers import lightglue as lightglue_module
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.matchers.nearest import NearestConfig
from random_networks import quick_random

torch = pytest.importorskip("torch")
kornia = pytest.importorskip("kornia.feature")

DETECTOR_FILES = {
    "aliked-t16.pth": ("aliked", {"model": "t16"}),
    "aliked-n16.pth": ("aliked", {"model": "n16"}),
    "aliked-n16rot.pth": ("aliked", {"model": "n16rot"}),
    "aliked-n32.pth": ("aliked", {"model": "n32"}),
    "depth-save.pth": ("disk", {}),
    "xfeat.pt": ("xfeat", {}),
}
LIGHTGLUE_FILES = {
    "aliked_lightglue.pth": ("aliked-n16.pth", "aliked"),
    "disk_lightglue.pth": ("depth-save.pth", "disk"),
    "xfeat-lighterglue.pt": ("xfeat.pt", "xfeat"),
}
"""Each file with that of a detector, and the kind of its descriptors."""
SIDE, KEYPOINTS = 384, 384
PAIR = "0003", "0005"
CAMERA = np.array([[2759.48, 0, 1520.69], [0, 2764.16, 1006.81], [0, 0, 3]]) / 3
"""As published for fountain-P11, for the photos of a third of the size (pixel centres at whole numbers)."""


@pytest.fixture(scope="module", autouse=True)
def quick():
    with quick_random():
        yield


@pytest.fixture(scope="module")
def state(shared):
    return cache(lambda name: torch.load(shared / "weights" / name, map_location="cpu", weights_only=True))


@pytest.fixture(scope="module")
def photos(shared):
    return [load(shared / f"scenes/test/fountain_P11/images/{name}.jpg", SIDE) for name in PAIR]


@pytest.fixture(scope="module")
def detector(shared):
    @cache
    def create(file):
        name, options = DETECTOR_FILES[file]
        options = {"max_keypoints": KEYPOINTS, "weights": shared / "weights", "device": "cpu", **options}
        return DETECTORS[name](**options).create()

    return create


@pytest.fixture(scope="module")
def features(detector, photos):
    """The features of both photos, by the detector's file."""
    return cache(lambda file: extract(detector(file), photos))


@pytest.fixture(scope="module")
def lightglue(shared):
    return cache(lambda kind: LightGlueConfig(weights=shared / "weights", device="cpu").create(kind))


@pytest.fixture(scope="module")
def matched(detector, features, lightglue):
    """The matches of the pair, by the detector's file and the matcher's name."""

    @cache
    def match(file, matcher):
        kind = detector(file).config.kind
        return (lightglue(kind) if matcher == "lightglue" else NearestConfig(ratio=0.8).create()).match(*features(file))

    return match


@pytest.fixture(scope="module")
def on_epipolar_lines(shared):
    """Whether points [K, 2] in the photos of the pair are within 4 pixels of the true epipolar geometry, which are
    1.5 pixels of the shrunk photos, [K]."""
    with (shared / "scenes/truth.csv").open() as table:
        rows = {row["image_path"]: row for row in csv.DictReader(table)}
    truth = [rows[f"test/fountain_P11/images/{name}.jpg"] for name in PAIR]
    (r0, t0), (r1, t1) = (
        (
            np.fromstring(row["rotation_matrix"], sep=";").reshape(3, 3),
            np.fromstring(row["translation_vector"], sep=";"),
        )
        for row in truth
    )
    rotation = r1 @ r0.T
    across = np.cross(np.eye(3), -(t1 - rotation @ t0))  # the matrix of the cross product with the translation
    to_ray = np.linalg.inv(CAMERA)
    fundamental = to_ray.T @ across @ rotation @ to_ray

    def check(first, second):
        first, second = (np.column_stack([points, np.ones(len(points))]) for points in (first, second))
        lines, others = first @ fundamental.T, second @ fundamental
        slope = np.sqrt((lines[:, :2] ** 2).sum(1) + (others[:, :2] ** 2).sum(1))
        return np.abs((second * lines).sum(1)) / slope < 4

    return check


def test_every_file_at_hand_is_tested_here(shared):
    there = {path.name for path in (shared / "weights").iterdir() if path.suffix in (".pth", ".pt")}
    assert there == {*DETECTOR_FILES, *LIGHTGLUE_FILES}


@pytest.mark.parametrize("file", DETECTOR_FILES)
def test_a_detector_uses_every_tensor_of_its_file(state, detector, file):
    published, network = state(file), detector(file)._network
    if file == "depth-save.pth":
        assert list(published) == ["extractor"]
        published = published["extractor"]
    loaded = (network.net if file == "xfeat.pt" else network).state_dict()
    for key, value in published.items():
        assert torch.equal(loaded.pop(key), value), key
    assert list(loaded) == (["dkd.hw_grid"] if file.startswith("aliked") else [])  # a constant


@pytest.mark.parametrize("file", LIGHTGLUE_FILES)
def test_lightglue_uses_every_tensor_of_its_file(shared, state, file):
    published = dict(state(file))
    config = LightGlueConfig(weights=shared / "weights", device="cpu")
    loaded = lightglue_module._load(config, LIGHTGLUE_FILES[file][1]).state_dict()
    if file == "disk_lightglue.pth":
        for layer in range(9):
            assert published.pop(f"log_assignment.{layer}.r") == 1
    if file == "xfeat-lighterglue.pt":  # it also holds XFeat, whose statistics went on while LighterGlue learned
        for key, value in state("xfeat.pt").items():
            held = published.pop(f"extractor.model.net.{key}")
            assert held.shape == value.shape
            assert torch.equal(held, value) or "running" in key or "num_batches" in key
    for key, value in published.items():
        kornias = re.sub(r"^(self|cross)_attn\.(\d+)\.", r"transformers.\2.\1_attn.", key.removeprefix("matcher."))
        assert torch.equal(loaded.pop(kornias), value), key
    assert list(loaded) == ["confidence_thresholds"]  # a constant


@pytest.mark.parametrize("file", ["depth-save.pth", "xfeat.pt"])
def test_kornia_finds_the_same_keypoints(state, features, photos, file):
    """All keypoints but for maxima that rounding decides. For ALIKED, its own tests compare them."""
    pixels = torch.from_numpy(photos[0].pixels).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        if file == "xfeat.pt":
            network = kornia.XFeat(top_k=KEYPOINTS)
            network.net.load_state_dict(state(file))
            (found,) = network.eval().detectAndCompute(pixels)
            theirs = found["keypoints"], found["scores"], found["descriptors"]
        else:
            network = kornia.DISK()
            network.load_state_dict(state(file)["extractor"])
            (found,) = network.eval()(pixels, n=KEYPOINTS, pad_if_not_divisible=True)
            theirs = found.keypoints, found.detection_scores, found.descriptors
    keypoints, scores, descriptors = (part.numpy() for part in theirs)
    ours = features(file)[0]
    assert len(ours) == len(keypoints)
    apart, nearest = cKDTree(photos[0].to_original(keypoints)).query(ours.keypoints)
    same = apart < 0.02
    assert same.mean() > 0.99
    np.testing.assert_allclose(ours.scores[same], scores[nearest[same]], atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(ours.descriptors[same], descriptors[nearest[same]], atol=2e-3)


@pytest.mark.parametrize("file", LIGHTGLUE_FILES)
def test_kornia_matches_the_same(monkeypatch, state, matched, features, file):
    detector, kind = LIGHTGLUE_FILES[file]
    monkeypatch.setattr("kornia.feature.lightglue.load_state_dict_from_url", lambda *_, **__: dict(state(file)))
    # Its published options win over those that are asked for.
    monkeypatch.setitem(kornia.LightGlue.features, kind, {**kornia.LightGlue.features[kind], "width_confidence": 0.99})
    names = "keypoints", "descriptors", "image_size"
    inputs = {
        f"image{i}": {name: torch.tensor(np.array(getattr(one, name), np.float32))[None] for name in names}
        for i, one in enumerate(features(detector))
    }
    with torch.inference_mode():
        theirs = kornia.LightGlue(kind).eval()(inputs)
    ours = matched(detector, "lightglue")
    assert len(ours) > 60
    np.testing.assert_array_equal(ours.indices, theirs["matches"][0].numpy())
    np.testing.assert_allclose(ours.scores, theirs["scores"][0].numpy(), atol=1e-4)


@pytest.mark.parametrize("file", LIGHTGLUE_FILES)
def test_pairs_in_one_pass_are_as_one_by_one(monkeypatch, lightglue, features, file):
    """As on a GPU. An image matched with itself stops earlier than the pair does."""
    detector, kind = LIGHTGLUE_FILES[file]
    matcher, (first, second) = lightglue(kind), features(detector)
    pairs = [(first, second), (first, first), (second, first)]
    alone = matcher.match_batch(pairs)
    monkeypatch.setattr(matcher, "batch", 3)
    for found, one in zip(matcher.match_batch(pairs), alone, strict=True):
        np.testing.assert_array_equal(found.indices, one.indices)
        np.testing.assert_allclose(found.scores, one.scores, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "by_nearest", "by_lightglue"),
    [
        ("aliked-t16.pth", (120, 0.9), None),
        ("aliked-n16.pth", (120, 0.9), (180, 0.9)),
        ("aliked-n16rot.pth", (120, 0.9), (180, 0.9)),
        ("aliked-n32.pth", (60, 0.9), (80, 0.9)),
        ("depth-save.pth", (120, 0.95), (180, 0.9)),
        ("xfeat.pt", (20, 0.8), (80, 0.75)),
    ],
)
def test_most_matches_are_right(matched, features, on_epipolar_lines, file, by_nearest, by_lightglue):
    """At least so many matches are on their epipolar lines, and this share of all. A random match is, once in fifty."""
    counts = []
    for matcher, expected in (("nearest", by_nearest), ("lightglue", by_lightglue)):
        if expected is None:
            continue
        i, j = matched(file, matcher).indices.T
        first, second = features(file)
        good = on_epipolar_lines(first.keypoints[i], second.keypoints[j])
        assert good.sum() >= expected[0], matcher
        assert good.mean() >= expected[1], matcher
        counts.append(good.sum())
    assert counts == sorted(counts)  # LightGlue finds more: it does not merely compare descriptors
