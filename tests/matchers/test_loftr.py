"""LoFTR, with a random network in a file of the published layout: against kornia's own way from file to points."""

from __future__ import annotations

import copy
import hashlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from imc_kit import matchers
from imc_kit.data.images import Photo
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.errors import KitError
from imc_kit.matchers import View
from imc_kit.matchers.loftr import LoftrConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.runtime import weights
from imc_kit.types import Features

torch = pytest.importorskip("torch")
kornia = pytest.importorskip("kornia.feature")


def publish(patch, state, folder):
    """A file of the published name, which the manifest then knows."""
    path = folder / "loftr_outdoor.ckpt"
    torch.save(state, path)
    content = path.read_bytes()
    facts = weights.Weight(path.name, "https://example.org", hashlib.sha256(content).hexdigest(), "MIT", True, ())
    patch.setattr(weights, "manifest", lambda: {path.name: facts})
    return path


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    network = kornia.LoFTR(None)
    for name, values in network.named_buffers():  # as after training, and so that it tells places apart
        if name.endswith("running_mean"):
            values.uniform_(-0.5, 0.5)
        if name.endswith("running_var"):
            values.uniform_(0.5, 1.5)
    return {f"matcher.{key}": value for key, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield publish(patch, {"state_dict": state}, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def matcher(file):
    """A random network is sure of nothing: any score will do."""
    return LoftrConfig(threshold=0.0, weights=file, device="cpu").create()


def view(seed, width=96, height=72, zoom=1):
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    size = zoom * width, zoom * height
    return View(Photo(pixels, size, 0, False), Features.empty(size, 0))


def same(found, expected, atol=5e-3):
    for name in ("first", "second", "scores"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=atol)


@pytest.mark.parametrize("sizes", [((96, 72), (96, 72)), ((96, 72), (75, 99))])
def test_it_finds_what_kornia_finds(monkeypatch, state, matcher, sizes):
    monkeypatch.setattr(
        "kornia.feature.loftr.loftr.load_state_dict_from_url", lambda *_, **__: {"state_dict": dict(state)}
    )
    config = copy.deepcopy(kornia.loftr.loftr.default_cfg)
    config["match_coarse"]["thr"] = 0.0
    network = kornia.LoFTR("outdoor", config)
    views = [view(seed, *size) for seed, size in enumerate(sizes)]
    with torch.inference_mode():
        images = [
            torch.from_numpy(cv2.cvtColor(one.photo.pixels, cv2.COLOR_RGB2GRAY))[None, None] / 255 for one in views
        ]
        found = network(dict(zip(("image0", "image1"), images, strict=True)))
    matches = matcher.match(*views)
    assert len(matches) > 5
    assert np.abs(matches.second % 8 - 7.5).max() > 1  # not all are on the grid
    np.testing.assert_allclose(matches.first, found["keypoints0"] - 0.5, atol=1e-3)
    np.testing.assert_allclose(matches.second, found["keypoints1"] - 0.5, atol=1e-3)
    np.testing.assert_allclose(matches.scores, found["confidence"], rtol=1e-3)


def test_points_are_in_pixels_of_the_originals(matcher):
    small = matcher.match(view(0), view(1))
    large = matcher.match(view(0, zoom=3), view(1, zoom=5))
    np.testing.assert_allclose(large.first, 3 * (small.first + 0.5) - 0.5, atol=1e-3)
    np.testing.assert_allclose(large.second, 5 * (small.second + 0.5) - 0.5, atol=1e-3)
    assert (small.first % 8 == 7.5).all()
    assert (large.first < (288, 216)).all()


def test_a_batch_is_as_one_by_one_and_sees_each_image_once(monkeypatch, matcher):
    views = [view(0), view(1, 72, 96), view(2)]
    pairs = [(views[i], views[j]) for i, j in ((0, 1), (0, 2), (1, 2), (2, 0), (1, 1))]
    expected = [matcher.match(*pair) for pair in pairs]
    seen = []
    inner = matcher._network.extract_features
    monkeypatch.setattr(matcher._network, "extract_features", lambda image: seen.append(image) or inner(image))
    for found, one in zip(matcher.match_batch(pairs), expected, strict=True):
        assert len(found) > 5
        same(found, one)
    assert len(seen) == 3
    assert matcher.match_batch([]) == []


def test_the_same_from_many_threads(matcher):
    pairs = [(view(seed), view(seed + 1, 72, 88)) for seed in range(4)]
    expected = [matcher.match(*pair) for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(lambda pair: matcher.match(*pair), pairs), expected, strict=True):
            same(found, one)


def test_threshold_drops_the_lower_scores(file, matcher):
    everything = matcher.match(view(0), view(1))
    limit = float(np.median(everything.scores))
    some = LoftrConfig(threshold=limit, weights=file, device="cpu").create().match(view(0), view(1))
    kept = everything.scores > limit
    assert 0 < len(some) < len(everything)
    np.testing.assert_allclose(some.first, everything.first[kept])
    np.testing.assert_allclose(some.second, everything.second[kept], atol=1e-3)


def test_tiny_images_have_no_points(matcher):
    for size in ((16, 16), (1, 300), (17, 33), (1, 1)):
        tiny = view(0, *size)
        for pair in ((tiny, view(1)), (view(1), tiny), (tiny, tiny)):
            assert len(matcher.match(*pair)) == 0


def test_files_that_do_not_fit_are_refused(monkeypatch, state, tmp_path):
    missing = {key: value for key, value in state.items() if "backbone.conv1" not in key}
    for content, reason in (
        ({"state_dict": missing}, "backbone.conv1"),
        ({"state_dict": {**state, "matcher.more": torch.ones(2)}}, "more"),
        ({"epoch": 3}, "Missing key"),
        ({"state_dict": torch.ones(2)}, "Missing key"),
        ({"state_dict": {1: torch.ones(2)}}, "int"),
    ):
        path = publish(monkeypatch, content, tmp_path)
        with pytest.raises(KitError, match=rf"loftr_outdoor\.ckpt does not fit the LoFTR .*{reason}"):
            LoftrConfig(weights=path, device="cpu").create()
    path.write_bytes(b"something else")
    with pytest.raises(KitError, match=r"loftr_outdoor\.ckpt is not usable"):
        LoftrConfig(weights=path, device="cpu").create()


def test_registry():
    assert matchers.MATCHERS["loftr"] is LoftrConfig
    matchers.check_accepts(LoftrConfig(), NoDetectorConfig().kind)
    matchers.check_accepts(LoftrConfig(), "sift")
    with pytest.raises(KitError, match=r"'nearest' cannot match images .*: loftr, roma can"):
        matchers.check_accepts(NearestConfig(), NoDetectorConfig().kind)


def test_a_gpu_gives_what_the_cpu_gives(file, matcher, monkeypatch):
    if not torch.cuda.is_available():
        with pytest.raises(KitError, match="no GPU"):
            LoftrConfig(weights=file, device="cuda").create()
        return
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # else products there have ten bits
    on_gpu = LoftrConfig(threshold=0.0, weights=file, device="cuda").create().match(view(0), view(1))
    same(on_gpu, matcher.match(view(0), view(1)), atol=0.5)


def test_invalid_options_are_refused():
    for option, value in (
        ("long_side", 7),
        ("long_side", 2049),
        ("threshold", -0.1),
        ("threshold", float("nan")),
        ("device", "tpu"),
    ):
        with pytest.raises(KitError, match=f"{option} of matcher 'loftr' must be"):
            LoftrConfig(**{option: value})
