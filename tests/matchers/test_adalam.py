"""AdaLAM: against kornia's own function on local affine frames, on made-up motions, and on photos."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from imc_kit import matchers
from imc_kit.data.images import load
from imc_kit.detectors import extract
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.matchers.adalam import AdalamConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.types import Features

torch = pytest.importorskip("torch")
kornia = pytest.importorskip("kornia.feature")


def create(**options):
    return AdalamConfig(device="cpu", **options).create("sift")


def moved_pair(seed=0, count=300, outliers=100, frames=True):
    """Features of two images of 800 × 600, the second rotated by 20° and smaller; some are outliers."""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform([50, 50], [750, 550], (count, 2))
    turn, zoom = np.deg2rad(20), 0.8
    affinity = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    there = (keypoints - [400, 300]) @ affinity.T + [400, 300] + rng.normal(scale=0.3, size=(count, 2))
    there[:outliers] = rng.uniform([50, 50], [750, 550], (outliers, 2))
    descriptors = rng.normal(size=(count, 32))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    others = descriptors + 0.05 * rng.normal(size=descriptors.shape)
    scales, orientations = rng.uniform(3, 20, count), rng.uniform(0, 360, count)

    def features(*columns):
        points, descriptors, *frame = (column.astype(np.float32) for column in columns)
        return Features(points, np.ones(count, np.float32), descriptors, (800, 600), *(frame if frames else ()))

    return features(keypoints, descriptors, scales, orientations), features(
        there, others, zoom * scales, (orientations + 20) % 360
    )


def by_kornia(first, second):
    """Its matches and their quality, of which the lowest is best, and of those of a keypoint only the best."""
    lafs = [
        kornia.laf_from_center_scale_ori(
            torch.tensor(one.keypoints)[None],
            torch.tensor(one.scales)[None, :, None, None],
            -torch.tensor(one.orientations)[None, :, None],
        )
        for one in (first, second)
    ]
    sizes = [one.image_size[::-1] for one in (first, second)]
    descriptors = (torch.tensor(one.descriptors) for one in (first, second))
    quality, indices = kornia.match_adalam(*descriptors, *lafs, {}, *sizes)
    best = {}
    for row in np.argsort(quality.numpy().ravel(), kind="stable"):
        i, j = indices[row].tolist()
        if i not in {a for a, _ in best} and j not in {b for _, b in best}:
            best[i, j] = float(quality[row])
    return best


def test_it_matches_as_kornia_does():
    first, second = moved_pair()
    expected = by_kornia(first, second)
    matches = create().match(first, second)
    assert len(matches) > 100
    assert [tuple(pair) for pair in matches.indices.tolist()] == sorted(expected)
    np.testing.assert_allclose(1 - matches.scores, [expected[pair] for pair in sorted(expected)], atol=1e-5)


@pytest.mark.parametrize("frames", [True, False])
def test_chance_matches_are_dropped_and_the_motion_is_kept(frames):
    first, second = moved_pair(frames=frames)
    nearest = NearestConfig().create().match(first, second)
    matches = create().match(first, second)
    assert (nearest.indices[:, 0] == nearest.indices[:, 1]).sum() > 290
    right = matches.indices[:, 0] >= 100
    assert right.sum() > 180
    assert right.mean() > 0.95


def test_frames_that_contradict_the_motion_drop_a_match():
    first, second = moved_pair(outliers=0)
    some = np.arange(0, 300, 15)
    everything = create().match(first, second)
    assert np.isin(some, everything.indices[:, 0]).mean() > 0.9
    orientations = second.orientations.copy()  # all alike, they would agree with each other
    orientations[some] = (orientations[some] + np.random.default_rng(1).uniform(60, 300, 20)) % 360
    left = create().match(first, replace(second, orientations=orientations))
    assert np.isin(some, left.indices[:, 0]).mean() < 0.1


def test_frames_of_one_image_only_are_no_use():
    first, second = moved_pair()
    bare = replace(second, scales=None, orientations=None)
    expected = create().match(replace(first, scales=None, orientations=None), bare)
    np.testing.assert_array_equal(create().match(first, bare).indices, expected.indices)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (1, 1), (1, 9), (9, 1), (0, 9), (2, 2), (9, 9)])
def test_none_and_few(counts):
    matcher = create()
    one, two = (
        replace(
            features,
            **{
                name: getattr(features, name)[:count]
                for name in ("keypoints", "scores", "descriptors", "scales", "orientations")
            },
        )
        for features, count in zip(moved_pair(outliers=0), counts, strict=True)
    )
    matches = matcher.match(one, two)
    assert len(matches) <= min(counts)
    assert len(matches) == 0 or min(counts) > 1
    ((batched),) = matcher.match_batch([(one, two)])
    np.testing.assert_array_equal(batched.indices, matches.indices)


def test_photos(shared):
    """The share of matches that fit the known cameras, compared with mutual nearest neighbours."""
    folder = shared / "scenes/test/fountain_P11/images"
    names = ["0000.jpg", "0003.jpg"]
    photos = [load(folder / name, 768) for name in names]
    first, second = extract(SiftConfig(max_keypoints=1500).create(), photos)
    poses = {}
    with (shared / "scenes/truth.csv").open() as file:
        for row in csv.DictReader(file):
            if row["scene"] == "fountain_P11":
                poses[row["image_path"].rpartition("/")[2]] = [
                    np.array(row[key].split(";"), float) for key in ("rotation_matrix", "translation_vector")
                ]
    (r1, t1), (r2, t2) = (poses[name] for name in names)
    width, height = first.image_size
    focal = 2759.48 / 3072 * width  # of the published calibration; the centre is that of the image within two pixels
    camera = np.array([[focal, 0, width * 1520.69 / 3072], [0, focal, height * 1006.81 / 2048], [0, 0, 1]])
    turn = r2.reshape(3, 3) @ r1.reshape(3, 3).T
    x, y, z = t2 - turn @ t1
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ turn
    fundamental = np.linalg.inv(camera).T @ essential @ np.linalg.inv(camera)

    def right(matches):
        i, j = matches.indices.T
        a, b = (np.c_[one + 0.5, np.ones(len(one))] for one in (first.keypoints[i], second.keypoints[j]))
        lines = a @ fundamental.T
        return np.abs((b * lines).sum(1)) / np.hypot(*lines.T[:2]) < 3

    plain, filtered = (
        right(config.create("sift").match(first, second)) for config in (NearestConfig(), AdalamConfig(device="cpu"))
    )
    assert filtered.sum() > 150
    assert filtered.mean() > 0.9
    assert filtered.sum() > 0.85 * plain.sum()
    assert plain.mean() < 0.75


def test_what_it_cannot_match_is_refused():
    for kind in ("sift", "something new"):
        matchers.check_accepts(AdalamConfig(), kind)
    for kind in ("orb", "akaze"):
        with pytest.raises(KitError, match=f"'adalam' cannot match {kind} descriptors: nearest can"):
            AdalamConfig().create(kind)
    with pytest.raises(KitError, match="'adalam' cannot match images without keypoints"):
        matchers.check_accepts(AdalamConfig(), NoDetectorConfig.kind)
    first, second = moved_pair()
    with pytest.raises(KitError, match=r"\[N, 32\] cannot be matched with .* \[N, 16\]"):
        create().match(first, replace(second, descriptors=second.descriptors[:, :16]))


def test_invalid_options_are_refused():
    with pytest.raises(KitError, match="device of matcher 'adalam' must be"):
        AdalamConfig(device="tpu")
