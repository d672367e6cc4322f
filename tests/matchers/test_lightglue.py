"""LightGlue, with random networks in files of the published layout: against kornia's own way from file to matches."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from imc_kit import matchers
from imc_kit.data.images import load
from imc_kit.detectors.sift import SiftConfig
from imc_kit.errors import KitError
from imc_kit.matchers import lightglue
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.matchers.lightglue_forward import Forward
from imc_kit.runtime import weights
from imc_kit.types import Features

torch = pytest.importorskip("torch")
kornia = pytest.importorskip("kornia.feature")

DIMENSIONS = {
    "aliked": 128,
    "dedodeb": 256,
    "dedodeg": 256,
    "disk": 128,
    "doghardnet": 128,
    "keynet_affnet_hardnet": 128,
    "sift": 128,
    "superpoint": 256,
    "xfeat": 64,
}
FRAMED = ("doghardnet", "sift")
SHAPED = ("keynet_affnet_hardnet",)
FIRST_RELEASE = ("disk", "superpoint")
"""Their files have the layout of the first release: other names, and a number per layer that nothing uses."""


def publish(monkeypatch, name, state, folder):
    """A file of that name, which the manifest then knows."""
    path = folder / name
    torch.save(state, path)
    content = path.read_bytes()
    facts = weights.Weight(name, "https://example.org", hashlib.sha256(content).hexdigest(), "MIT", True, ())
    known = weights.manifest()
    monkeypatch.setattr(weights, "manifest", lambda: {**known, name: facts})
    return path


@pytest.fixture
def make(monkeypatch, tmp_path):
    """A matcher with a random network, and what was in its file. Networks have two layers, or the published number.

    decided: it is certain of about half of the keypoints. Otherwise it is certain of none, so it never stops early.
    """

    def make(kind, *, layers=2, seed=0, decided=False, **options):
        published = kornia.LightGlue.features[kind]
        monkeypatch.setitem(
            kornia.LightGlue.features, kind, {**published, "n_layers": layers or published.get("n_layers", 9)}
        )
        torch.manual_seed(seed)
        network = kornia.LightGlue(None, **{k: v for k, v in kornia.LightGlue.features[kind].items() if k != "weights"})
        state = network.state_dict()
        del state["confidence_thresholds"]
        if decided:
            state |= {key: 20 * value for key, value in state.items() if "token_confidence" in key}
        if kind in FIRST_RELEASE:
            state = {re.sub(r"transformers\.(\d+)\.(self|cross)_attn", r"\2_attn.\1", k): v for k, v in state.items()}
            state |= {f"log_assignment.{layer}.r": torch.ones(1) for layer in range(len(network.log_assignment))}
        if kind == "xfeat":
            state = {f"matcher.{key}": value for key, value in state.items()}
            state["extractor.model.net.norm.weight"] = torch.ones(3)
        path = publish(monkeypatch, lightglue._FILES[kind], state, tmp_path)
        # A random network is sure of nothing: any score will do.
        options = {"filter_threshold": 0.0, "weights": path, "device": "cpu", **options}
        return LightGlueConfig(**options).create(kind), state

    return make


def pair(kind, counts=(70, 60), seed=0):
    """Features of two images, of which a good part are of the same things."""
    rng = np.random.default_rng(seed)
    shared = min(counts) * 2 // 3
    images = []
    common = rng.normal(size=(shared, DIMENSIONS[kind]))
    for count, size in zip(counts, ((640, 480), (400, 700)), strict=True):
        descriptors = rng.normal(size=(count, DIMENSIONS[kind]))
        descriptors[rng.permutation(count)[:shared]] = common + 0.1 * rng.normal(size=common.shape)
        descriptors /= np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-9)
        keypoints = rng.uniform(0, np.array(size) - 1, (count, 2))  # kornia refuses what is nearer to the edge
        frames = rng.uniform(2, 30, count), rng.uniform(0, 360, count)
        shapes = rng.normal(0, 20, (count, 2, 2)).astype(np.float32) if kind in SHAPED else None
        images.append(
            Features(
                *(x.astype(np.float32) for x in (keypoints, np.ones(count), descriptors)),
                size,
                *(x.astype(np.float32) if kind in FRAMED else None for x in frames),
                shapes,
            )
        )
    return tuple(images)


def by_kornia(monkeypatch, kind, state, first, second, **options):
    """Indices and scores as kornia itself loads such a file and matches, at the centres of local affine frames."""
    monkeypatch.setattr("kornia.feature.lightglue.load_state_dict_from_url", lambda *_, **__: dict(state))
    # Its published options win over those that are asked for.
    monkeypatch.setitem(kornia.LightGlue.features, kind, {**kornia.LightGlue.features[kind], **options})

    def tensor(values):
        return torch.tensor(np.asarray(values, np.float32))

    if kind == "xfeat":  # kornia's matcher of frames lacks it
        network = kornia.LightGlue(kind).eval()
        with torch.inference_mode():
            found = network(
                {
                    f"image{i}": {
                        "keypoints": tensor(one.keypoints)[None],
                        "descriptors": tensor(one.descriptors)[None],
                        "image_size": tensor(one.image_size)[None],
                    }
                    for i, one in enumerate((first, second))
                }
            )
        return found["matches"][0].numpy(), found["scores"][0].numpy()
    lafs = []
    for one in (first, second):
        if one.shapes is not None:
            lafs.append(tensor(np.concatenate([one.shapes, one.keypoints[:, :, None]], 2))[None])
            continue
        # In kornia, the frame of a keypoint of DoG has 6 σ for SIFT and 12 σ for HardNet, and turns counter-clockwise.
        scale = np.ones(len(one)) if one.scales is None else one.scales * (6 if kind == "doghardnet" else 3)
        turn = np.zeros(len(one)) if one.orientations is None else -one.orientations
        lafs.append(
            kornia.laf_from_center_scale_ori(
                tensor(one.keypoints)[None], tensor(scale)[None, :, None, None], tensor(turn)[None, :, None]
            )
        )
    matcher = kornia.LightGlueMatcher(kind).eval()
    sizes = [one.image_size[::-1] for one in (first, second)]
    with torch.inference_mode():
        scores, indices = matcher(tensor(first.descriptors), tensor(second.descriptors), *lafs, *sizes)
    return indices.numpy(), scores.numpy()[:, 0]


def same(matches, indices, scores, atol=1e-4):
    np.testing.assert_array_equal(matches.indices, indices)
    np.testing.assert_allclose(matches.scores, scores, atol=atol, rtol=1e-3)


def test_the_kinds_are_those_of_kornia_but_one_of_the_many_aliked():
    assert set(DIMENSIONS) == set(lightglue._FILES)
    there = set(kornia.LightGlue.features) - {"raco-aliked", "dog_affnet_hardnet"}
    assert there == set(DIMENSIONS)
    for kind, dimension in DIMENSIONS.items():
        assert kornia.LightGlue.features[kind]["input_dim"] == dimension
        assert LightGlueConfig().accepts(kind)


@pytest.mark.parametrize("kind", DIMENSIONS)
def test_it_matches_as_kornia_does_with_the_same_file(monkeypatch, make, kind):
    matcher, state = make(kind)
    first, second = pair(kind)
    matches = matcher.match(first, second)
    assert len(matches) > 15
    assert (np.diff(matches.indices[:, 0]) > 0).all()
    options = {"width_confidence": 0.99} if kind == "xfeat" else {}
    same(matches, *by_kornia(monkeypatch, kind, state, first, second, filter_threshold=0.0, **options))


@pytest.mark.parametrize("kind", ["aliked", "xfeat"])
def test_a_whole_network_of_the_published_depth(monkeypatch, make, kind):
    matcher, state = make(kind, layers=None, depth_confidence=None, width_confidence=None)
    assert matcher._forward.conf.n_layers == (6 if kind == "xfeat" else 9)
    first, second = pair(kind, (30, 40))
    options = {"filter_threshold": 0.0, "depth_confidence": -1, "width_confidence": -1}
    same(matcher.match(first, second), *by_kornia(monkeypatch, kind, state, first, second, **options))


@pytest.mark.parametrize("kind", ["aliked", *FRAMED, *SHAPED])
def test_the_network_is_told_what_kornia_tells_it(monkeypatch, make, kind):
    """A random network hardly reacts to scales and orientations, so what goes into it is compared too."""
    told = []
    encoding = kornia.lightglue.LearnableFourierPositionalEncoding
    inner = encoding.forward
    monkeypatch.setattr(encoding, "forward", lambda self, x: told.append(x[0].numpy()) or inner(self, x))
    matcher, state = make(kind)
    images = pair(kind)
    by_kornia(monkeypatch, kind, state, *images)
    assert len(told) == 2
    for one, theirs in zip(images, told, strict=True):
        np.testing.assert_allclose(matcher._positions(one), theirs, atol=2e-4)


def mixed_pairs(kind="aliked"):
    """Pairs of several sizes, some of which share an image, and some without keypoints."""
    pairs = [pair(kind, counts, seed) for seed, counts in enumerate([(70, 60), (20, 90), (1, 5), (60, 60), (33, 0)])]
    return [*pairs, (pairs[0][0], pairs[3][1]), (Features.empty((10, 10), DIMENSIONS[kind]),) * 2]


@pytest.mark.parametrize("kind", ["aliked", "xfeat"])
def test_pairs_in_one_pass_are_as_one_by_one(make, kind):
    """As on a GPU: each pair drops keypoints and stops as it would alone."""
    options = {"layers": 4, "decided": True, "depth_confidence": 0.5, "width_confidence": 0.5}
    matcher, _ = make(kind, **options)
    matcher.batch = 6
    layers = record_counts(matcher)
    together = matcher.match_batch(mixed_pairs(kind))
    alone = [make(kind, **options)[0].match(*one) for one in mixed_pairs(kind)]
    for found, one in zip(together, alone, strict=True):
        same(found, one.indices, one.scores, atol=1e-5)
    assert sum(map(len, alone)) > 0
    if kind == "xfeat":  # which always runs all layers
        assert len(set(map(sum, layers))) > 1  # keypoints were dropped
    else:
        assert len(layers) < 4  # all pairs stopped early
    assert matcher.match_batch([]) == []


def record_counts(matcher):
    """The number of keypoints of each image in each layer that runs."""
    ran = []
    inner = matcher._forward._attend_across

    def attend(number, states, counts):
        ran.append(list(counts))
        return inner(number, states, counts)

    matcher._forward._attend_across = attend
    return ran


def test_an_image_goes_through_the_first_self_attention_once(make):
    matcher, _ = make("aliked")
    first, second = pair("aliked")
    seen = []
    inner = matcher._forward.encode
    matcher._forward.encode = lambda *inputs: seen.append(inputs) or inner(*inputs)
    for _ in range(2):
        matcher.match_batch([(first, second), (second, first)])
    assert len(seen) == 2
    del first, second
    assert not matcher._encoded  # forgotten with the features


@pytest.mark.parametrize(("depth", "width"), [(-1, 1e-6), (-1, 0.5), (0.5, 0.5), (0.6, 0.4)])
def test_keypoints_are_dropped_as_kornia_drops_them(monkeypatch, make, depth, width):
    """Down to none at all."""
    off = {"depth_confidence": None if depth < 0 else depth, "width_confidence": width}
    matcher, state = make("aliked", layers=3, decided=True, **off)
    options = {"filter_threshold": 0.0, "depth_confidence": depth, "width_confidence": width}
    images = pair("aliked")
    same(matcher.match(*images), *by_kornia(monkeypatch, "aliked", state, *images, **options))


def test_half_precision_gives_about_the_same(make):
    """As on a GPU, but on the CPU."""
    matcher, _ = make("aliked")
    expected = matcher.match_batch(mixed_pairs())
    network = lightglue._load(matcher.config, "aliked")
    matcher._forward, matcher.batch = Forward(network, torch.device("cpu"), half=True), 16
    for one, other in zip(expected, matcher.match_batch(mixed_pairs()), strict=True):
        both = {tuple(x) for x in one.indices.tolist()} & {tuple(x) for x in other.indices.tolist()}
        assert len(both) >= 0.8 * len(one)


def test_smaller_batches_if_memory_runs_out(make, caplog):
    matcher, _ = make("aliked")
    pairs = mixed_pairs()
    expected = matcher.match_batch(pairs)
    inner, sizes = matcher._forward.match, []

    def match(encoded):
        sizes.append(len(encoded))
        if len(encoded) > 3:
            raise RuntimeError("CUDA out of memory")
        return inner(encoded)

    matcher._forward.match, matcher.batch = match, 16
    for found, one in zip(matcher.match_batch(pairs), expected, strict=True):
        same(found, one.indices, one.scores, atol=1e-5)
    assert matcher.batch == 3
    assert sizes[0] == 5
    assert sum(sizes[1:]) == 5
    assert "not enough memory for 7 pairs at once; continuing with 3" in caplog.text
    matcher._forward.match = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        matcher.match_batch(pairs)


def test_the_same_from_many_threads(make):
    matcher, _ = make("aliked")
    pairs = [pair("aliked", (20 + seed, 30), seed) for seed in range(6)]
    expected = [matcher.match(*one) for one in pairs]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(lambda one: matcher.match(*one), pairs), expected, strict=True):
            same(found, one.indices, one.scores)


@pytest.mark.parametrize("kind", ["aliked", "sift"])
def test_the_order_of_keypoints_makes_no_difference(make, kind):
    matcher, _ = make(kind)
    first, second = pair(kind)
    rng = np.random.default_rng(1)
    orders = [rng.permutation(len(one)) for one in (first, second)]
    shuffled = [
        replace(
            one,
            **{
                name: getattr(one, name)[order]
                for name in ("keypoints", "scores", "descriptors", "scales", "orientations")
                if getattr(one, name) is not None
            },
        )
        for one, order in zip((first, second), orders, strict=True)
    ]
    expected, found = matcher.match(first, second), matcher.match(*shuffled)
    i, j = found.indices.T
    back = np.stack([orders[0][i], orders[1][j]], 1)
    by_first = np.argsort(back[:, 0])
    same(expected, back[by_first], found.scores[by_first])


def test_only_differences_of_places_count(make):
    """So the half pixel does not matter that is added to reach kornia's range."""
    matcher, _ = make("aliked")
    first, second = pair("aliked")
    moved = replace(first, keypoints=first.keypoints * np.float32(0.9) + np.float32(30))
    still = replace(first, keypoints=first.keypoints * np.float32(0.9))
    expected, found = matcher.match(still, second), matcher.match(moved, second)
    same(found, expected.indices, expected.scores)


def test_places_frames_and_sizes_count(make):
    matcher, _ = make("sift")
    first, second = pair("sift")
    before = matcher.match(first, second)
    for change in (
        {"keypoints": first.keypoints[::-1].copy()},
        {"image_size": (2000, 3000)},
        {"scales": first.scales[::-1].copy()},
        {"orientations": first.orientations[::-1].copy()},
    ):
        after = matcher.match(replace(first, **change), second)
        assert len(after) != len(before) or np.abs(after.scores - before.scores).max() > 1e-7


def test_keypoints_at_the_very_edge(make):
    matcher, _ = make("aliked")
    first, second = pair("aliked", (4, 4))
    corners = np.array([[-0.5, -0.5], [639.5, 479.5], [-0.5, 479.5], [639.5, -0.5]], np.float32)
    assert len(matcher.match(replace(first, keypoints=corners), second))


@pytest.mark.parametrize("kind", ["aliked", "sift", "xfeat"])
def test_none_and_one(make, kind):
    matcher, _ = make(kind)
    for counts in ((0, 0), (0, 1), (0, 7), (7, 0), (1, 1), (1, 7), (7, 1)):
        check_counts(matcher, kind, counts)


def check_counts(matcher, kind, counts):
    first, second = pair(kind, counts)
    matches = matcher.match(first, second)
    assert len(matches) <= min(counts)
    if min(counts) == 0:
        assert len(matches) == 0
        bare = Features.empty((10, 10), DIMENSIONS[kind])
        assert len(matcher.match(bare, second if counts[1] else bare)) == 0


def test_threshold_drops_the_lower_scores(make):
    everything = make("aliked")[0].match(*pair("aliked"))
    limit = float(np.median(everything.scores))
    some = make("aliked", filter_threshold=limit)[0].match(*pair("aliked"))
    assert 0 < len(some) < len(everything)
    np.testing.assert_array_equal(some.indices, everything.indices[everything.scores > limit])


def test_half_precision_of_descriptors(make):
    matcher, _ = make("aliked")
    first, second = pair("aliked")
    halves = [replace(one, descriptors=one.descriptors.astype(np.float16)) for one in (first, second)]
    whole = [replace(one, descriptors=one.descriptors.astype(np.float32)) for one in halves]
    expected = matcher.match(*whole)
    same(matcher.match(*halves), expected.indices, expected.scores)


def test_adaptive_options_reach_the_network_unless_it_was_not_trained_for_them(make):
    def of(kind, **options):
        conf = make(kind, **options)[0]._forward.conf
        return conf.depth_confidence, conf.width_confidence

    assert of("aliked") == (0.95, 0.99)
    assert of("aliked", depth_confidence=0.5, width_confidence=None) == (0.5, -1)
    assert of("doghardnet") == (-1, -1)
    assert of("xfeat") == (-1, 0.99)


def test_fused_attention_stays_allowed(make):
    """kornia would switch it off in the whole process, on CPUs too, where it takes half the time."""
    make("aliked")
    assert torch.backends.cuda.flash_sdp_enabled()


def test_sift_is_described_as_colmap_does(shared):
    """The network was trained with COLMAP's scales and angles."""
    pycolmap = pytest.importorskip("pycolmap")
    photo = load(next((shared / "scenes/test/fountain_P11/images").iterdir()), 512)
    (ours,) = SiftConfig().create().detect([photo.pixels], [None])
    options = pycolmap.FeatureExtractionOptions(use_gpu=False)
    grey = pycolmap.Bitmap.from_array(cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2GRAY))
    found, _ = pycolmap.FeatureExtractor.create(options).extract(grey)
    theirs = np.array([[one.x - 0.5, one.y - 0.5, one.compute_scale(), one.compute_orientation()] for one in found])
    scales, orientations = lightglue._frames(ours, "sift")
    assert orientations.min() >= -np.pi
    assert orientations.max() <= np.pi
    apart, near = cKDTree(theirs[:, :2]).query(ours.keypoints)
    same_place = apart < 0.3
    assert same_place.sum() > 300
    ratio = (scales / theirs[near, 2])[same_place]
    assert abs(np.median(ratio) - 1) < 0.03
    turn = (orientations - theirs[near, 3])[same_place]
    turn = np.abs((turn + np.pi) % (2 * np.pi) - np.pi)
    assert np.median(turn) < np.deg2rad(3)  # a place may have several orientations
    assert (np.abs(theirs[:, 3]) <= np.pi).all()


def test_files_that_do_not_fit_are_refused(monkeypatch, make, tmp_path):
    _, aliked = make("aliked")
    _, sift = make("sift")
    _, superpoint = make("superpoint")
    name = lightglue._FILES["aliked"]
    missing = {key: value for key, value in aliked.items() if key != "posenc.Wr.weight"}
    extra = {**aliked, "posenc.more": torch.ones(2)}
    for state, reason in (
        (superpoint, "input_proj"),
        (sift, "posenc.Wr.weight"),
        (missing, "posenc.Wr.weight"),
        (extra, "posenc.more"),
        ({1: torch.ones(2)}, "Missing key"),
        ({**aliked, "posenc.Wr.weight": "text"}, "posenc"),
        ({}, "Missing key"),
    ):
        path = publish(monkeypatch, name, state, tmp_path)
        with pytest.raises(KitError, match=rf"{name} does not fit the LightGlue for aliked .*{reason}"):
            LightGlueConfig(weights=path, device="cpu").create("aliked")
    path = publish(monkeypatch, name, [1, 2], tmp_path)
    with pytest.raises(KitError, match=f"{name} holds a list"):
        LightGlueConfig(weights=path, device="cpu").create("aliked")


def test_the_content_of_a_file_is_checked(make, tmp_path):
    make("aliked")
    (tmp_path / "aliked_lightglue.pth").write_bytes(b"something else")
    with pytest.raises(KitError, match=r"aliked_lightglue\.pth is not usable"):
        LightGlueConfig(weights=tmp_path, device="cpu").create("aliked")


def test_features_it_was_not_trained_for_are_refused(make):
    with pytest.raises(KitError, match=r"'lightglue' cannot match orb descriptors: nearest can"):
        matchers.check_accepts(LightGlueConfig(), "orb")
    with pytest.raises(KitError, match=r"no network for orb descriptors, only for aliked, dedodeb"):
        LightGlueConfig().create("orb")
    matcher, _ = make("aliked")
    first, second = pair("aliked")
    tiny = replace(first, descriptors=first.descriptors[:, :64])
    for wrong in ((tiny, second), (first, replace(second, descriptors=np.zeros((60, 128), np.uint8)))):
        with pytest.raises(KitError, match=r"needs 128 numbers for each aliked descriptor"):
            matcher.match(*wrong)
    matcher, _ = make("sift")
    first, second = pair("sift")
    with pytest.raises(KitError, match=r"needs the scale and the orientation of each sift keypoint"):
        matcher.match(first, replace(second, scales=None))
    matcher, _ = make("keynet_affnet_hardnet")
    first, second = pair("keynet_affnet_hardnet")
    with pytest.raises(KitError, match=r"needs the affine shape of each keynet_affnet_hardnet keypoint"):
        matcher.match(first, replace(second, shapes=None))


def test_invalid_options_are_refused():
    for option, values in {
        "filter_threshold": (-0.1, 1.0, float("nan")),
        "depth_confidence": (0.0, float("nan")),
        "width_confidence": (1.1,),
        "device": ("tpu",),
    }.items():
        for value in values:
            with pytest.raises(KitError, match=f"{option} of matcher 'lightglue' must be"):
                LightGlueConfig(**{option: value})


def test_a_kind_of_ones_own(monkeypatch, tmp_path):
    """kornia knows raco-aliked, which the manifest of weights lacks; mine is registered from outside."""
    monkeypatch.setattr(lightglue, "_REGISTERED", {})
    lightglue.register_network("mine", input_dim=24, descriptor_dim=32, n_layers=1, num_heads=2)
    small = {**kornia.LightGlue.features["raco-aliked"], "n_layers": 1}
    monkeypatch.setitem(kornia.LightGlue.features, "raco-aliked", small)
    rng = np.random.default_rng(0)
    for kind in ("raco-aliked", "mine"):
        options = {k: v for k, v in lightglue._network_options()[kind].items() if k != "weights"}
        state = kornia.LightGlue(None, **options).state_dict()
        del state["confidence_thresholds"]
        path = tmp_path / f"{kind}.pth"
        torch.save(state, path)
        config = LightGlueConfig(weights=path, device="cpu", filter_threshold=0.0)
        assert config.accepts(kind)
        assert not LightGlueConfig().accepts(kind)
        keypoints, descriptors = rng.uniform(0, 99, (9, 2)), rng.normal(size=(9, options["input_dim"]))
        one = Features(*(x.astype(np.float32) for x in (keypoints, np.ones(9), descriptors)), (100, 100))
        assert len(config.create(kind).match(one, one))
        with pytest.raises(KitError, match=f"for {kind} descriptors must be a weight file"):
            LightGlueConfig(weights=tmp_path, device="cpu").create(kind)


def test_a_gpu_gives_about_what_the_cpu_gives(make):
    options = {"depth_confidence": None, "width_confidence": None}
    if not torch.cuda.is_available():
        with pytest.raises(KitError, match="no GPU"):
            make("aliked", device="cuda")
        return
    pairs = [pair("aliked", seed=seed) for seed in range(3)]
    on_cpu = make("aliked", **options)[0].match_batch(pairs)
    for half in (False, True):
        on_gpu = make("aliked", device="cuda", half=half, **options)[0].match_batch(pairs)
        for one, other in zip(on_cpu, on_gpu, strict=True):
            both = {tuple(x) for x in one.indices.tolist()} & {tuple(x) for x in other.indices.tolist()}
            assert len(both) > (0.8 if half else 0.98) * len(one)
