"""Descriptors of networks: files in the published layouts, written here, against timm's own loading and against other
implementations of the same networks, all of them small and of random weights."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from PIL import Image

from imc_kit.errors import KitError
from imc_kit.retrieval.networks import ClipConfig, DinoConfig, ResNetConfig
from imc_kit.runtime import weights

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

SMALL = {
    "vit_small_patch14_dinov2.lvd142m": {"embed_dim": 24, "depth": 2, "num_heads": 2},
    "vit_base_patch14_dinov2.lvd142m": {"embed_dim": 36, "depth": 2, "num_heads": 3},
    "vit_small_patch14_reg4_dinov2.lvd142m": {"embed_dim": 24, "depth": 2, "num_heads": 2},
    "vit_base_patch16_clip_quickgelu_224.openai": {"embed_dim": 24, "depth": 2, "num_heads": 2},
    "resnet50.a1_in1k": {"layers": (1, 1, 1, 1), "channels": (4, 8, 12, 16)},
}
CASES = [
    (DinoConfig, {"model": "vits14", "side": 56}),
    (DinoConfig, {"model": "vitb14", "side": 56}),
    (DinoConfig, {"model": "vits14_reg4", "side": 56}),
    (ClipConfig, {"side": 64}),
    (ResNetConfig, {"side": 64}),
]


@pytest.fixture(scope="module")
def timm():
    """timm, imported here because it takes seconds in each worker of pytest-xdist."""
    return pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def offline_and_small(monkeypatch, tmp_path, timm):
    """No network, and timm makes small variants of all networks. Files are found in `tmp_path` by their names."""
    large = timm.create_model

    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(timm, "create_model", lambda name, **options: large(name, **SMALL[name], **options))
    monkeypatch.setattr(weights, "find", lambda name, explicit=None: (explicit or tmp_path) / name)


def file_of(config) -> tuple[str, str]:
    """The file's name, and timm's of the architecture."""
    if isinstance(config, ResNetConfig):
        return "resnet50.a1_in1k.safetensors", "resnet50.a1_in1k"
    if isinstance(config, ClipConfig):
        return "vit_base_patch16_clip_224.openai.safetensors", "vit_base_patch16_clip_quickgelu_224.openai"
    size, *registers = config.model[3:].split("14_")
    name = f"vit_{'small' if size[0] == 's' else 'base'}_patch14_{'reg4_' if registers else ''}dinov2.lvd142m"
    return f"dinov2_{config.model}_pretrain.pth", name


def published(config) -> dict:
    """Random weights in the layout of the published file, classifier and all."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model(file_of(config)[1])  # of its published size of images and number of classes
    state = {name: torch.randn_like(value.float()) * 0.2 for name, value in network.state_dict().items()}
    for name in state:
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
    if isinstance(config, DinoConfig):
        state["mask_token"] = torch.randn(1, network.embed_dim)
        if "reg_token" in state:  # Meta's files have a position for the class token too
            state["register_tokens"] = state.pop("reg_token")
            state["pos_embed"] = torch.cat([torch.randn(1, 1, network.embed_dim), state["pos_embed"]], 1)
    return state


def save(state: dict, path) -> None:
    if path.suffix == ".safetensors":
        safetensors.save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)


def photos() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    small = [random.integers(0, 256, (6, 5, 3), np.uint8) for _ in range(3)]
    sizes = [(90, 120), (120, 40), (64, 64)]
    return [np.asarray(Image.fromarray(a).resize(size)) for a, size in zip(small, sizes, strict=True)]


def inputs(network, images, side):
    """As timm's own preprocessing makes them, told not to crop."""
    import timm

    transform = timm.data.create_transform(
        (3, side, side),
        interpolation="bicubic",
        crop_pct=1.0,
        crop_mode="squash",
        mean=network.pretrained_cfg["mean"],
        std=network.pretrained_cfg["std"],
    )
    return torch.stack([transform(Image.fromarray(image)) for image in images])


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_published_file_gives_what_timm_gives(timm, tmp_path, kind, options):
    config = kind(**options)
    file, name = file_of(config)
    save(published(config), tmp_path / file)
    size = {} if kind is ResNetConfig else {"img_size": config.side}
    theirs = timm.create_model(
        name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": str(tmp_path / file)}, **size
    ).eval()
    with torch.inference_mode():
        places = theirs.forward_features(inputs(theirs, photos(), config.side))
    prefix = 5 if "reg4" in name else 1
    patches = (places.flatten(2).mT if kind is ResNetConfig else places[:, prefix:]).numpy()
    assert patches.shape[1] == (config.side // kind.multiple) ** 2
    expected = {
        "mean": patches.mean(1),
        "max": patches.max(1),
        "gem": np.cbrt((np.maximum(patches, 1e-6) ** 3).mean(1)),
    }
    if kind is not ResNetConfig:
        expected["cls"] = places[:, 0].numpy()
    for pooling in expected if kind is not ResNetConfig else ("mean", "gem"):
        found = kind(**options, pooling=pooling).create().describe(photos())
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, unit(expected[pooling]), atol=1e-4, err_msg=pooling)


def as_saved(theirs, folder) -> dict:
    """The weights of a network of transformers, by the names of its files, which change less than its own."""
    theirs.save_pretrained(folder / "theirs")
    return safetensors.load_file(folder / "theirs/model.safetensors")


def like_meta(there: dict, registers: bool) -> dict:
    """The weights of transformers' DINOv2 in Meta's layout."""
    state = {
        "cls_token": there["embeddings.cls_token"],
        "mask_token": there["embeddings.mask_token"],
        "pos_embed": there["embeddings.position_embeddings"],
        "norm.weight": there["layernorm.weight"],
        "norm.bias": there["layernorm.bias"],
    }
    if registers:
        state["register_tokens"] = there["embeddings.register_tokens"]
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = there[f"embeddings.patch_embeddings.projection.{kind}"]
        for i in range(2):
            layer, block = f"encoder.layer.{i}.", f"blocks.{i}."
            parts = [there[f"{layer}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{block}attn.qkv.{kind}"] = torch.cat(parts)
            state[f"{block}attn.proj.{kind}"] = there[f"{layer}attention.output.dense.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{block}{name}.{kind}"] = there[f"{layer}{name}.{kind}"]
    for i in range(2):
        for name in ("1", "2"):
            state[f"blocks.{i}.ls{name}.gamma"] = there[f"encoder.layer.{i}.layer_scale{name}.lambda1"]
    return state


def stir(network) -> None:
    """Weights that leave no part of a network without effect."""
    torch.manual_seed(0)
    for value in network.parameters():
        value.data = torch.randn_like(value) * 0.3
    network.eval()


@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_is_what_transformers_gives(tmp_path, registers):
    transformers = pytest.importorskip("transformers")
    options = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 518, "patch_size": 14}
    if registers:
        other = transformers.Dinov2WithRegistersConfig(**options, num_register_tokens=4)
        theirs = transformers.Dinov2WithRegistersModel(other)
    else:
        theirs = transformers.Dinov2Model(transformers.Dinov2Config(**options))
    stir(theirs)
    config = DinoConfig(model="vits14_reg4" if registers else "vits14")
    torch.save(like_meta(as_saved(theirs, tmp_path), registers), tmp_path / file_of(config)[0])
    network = config.create()
    with torch.inference_mode():
        expected = theirs(inputs(network._network, photos()[:2], 518)).pooler_output.numpy()
    np.testing.assert_allclose(network.describe(photos()[:2]), unit(expected), atol=1e-4)


def test_clip_is_what_transformers_gives(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=24, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, patch_size=16
        )
    )  # with OpenAI's activation, which is the default there
    stir(theirs)
    there = {name.removeprefix("vision_model."): value for name, value in as_saved(theirs, tmp_path).items()}
    state = {
        "cls_token": there["embeddings.class_embedding"][None, None],
        "pos_embed": there["embeddings.position_embedding.weight"][None],
        "patch_embed.proj.weight": there["embeddings.patch_embedding.weight"],
        "head.weight": torch.randn(512, 24),
    }
    for kind in ("weight", "bias"):
        state[f"norm_pre.{kind}"] = there[f"pre_layrnorm.{kind}"]
        state[f"norm.{kind}"] = there[f"post_layernorm.{kind}"]
        for i in range(2):
            layer, block = f"encoder.layers.{i}.", f"blocks.{i}."
            parts = [there[f"{layer}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{block}attn.qkv.{kind}"] = torch.cat(parts)
            state[f"{block}attn.proj.{kind}"] = there[f"{layer}self_attn.out_proj.{kind}"]
            for ours, name in (("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("mlp.fc1",) * 2, ("mlp.fc2",) * 2):
                state[f"{block}{ours}.{kind}"] = there[f"{layer}{name}.{kind}"]
    save(state, tmp_path / "vit_base_patch16_clip_224.openai.safetensors")
    network = ClipConfig().create()
    with torch.inference_mode():
        expected = theirs(inputs(network._network, photos(), 224)).pooler_output.numpy()
    np.testing.assert_allclose(network.describe(photos()), unit(expected), atol=1e-4)


def test_resnet_is_what_torchvision_gives(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setitem(SMALL, "resnet50.a1_in1k", {"layers": (1, 1, 1, 1)})  # torchvision has no narrower one
    torch.manual_seed(0)
    theirs = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1]).eval()
    for name, value in theirs.named_buffers():
        if "running_var" in name:
            value.copy_(torch.rand_like(value) + 0.5)
    save(theirs.state_dict(), tmp_path / "resnet50.a1_in1k.safetensors")
    network = ResNetConfig(pooling="mean").create()
    theirs.fc = torch.nn.Identity()
    with torch.inference_mode():
        expected = theirs(inputs(network._network, photos(), 224)).numpy()
    np.testing.assert_allclose(network.describe(photos()), unit(expected), atol=1e-4)


@pytest.mark.parametrize(("kind", "options"), [CASES[2], CASES[4]])
def test_many_images_are_as_one_by_one(tmp_path, kind, options):
    config = kind(**options)
    save(published(config), tmp_path / file_of(config)[0])
    network = config.create()
    images = photos() * 6  # more than one batch
    together = network.describe(images)
    np.testing.assert_array_equal(together, network.describe(images))
    np.testing.assert_allclose(together, np.concatenate([network.describe([image]) for image in images]), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert network.describe([]).shape == (0, together.shape[1])
    tiny = network.describe([np.zeros((1, 1, 3), np.uint8), np.full((1, 900, 3), 255, np.uint8)])
    assert np.isfinite(tiny).all()


@pytest.mark.parametrize(("kind", "options"), [CASES[2], CASES[4]])
@pytest.mark.parametrize("change", ["lacks", "adds", "other shape", "patches", "nested", "a list"])
def test_files_that_do_not_fit_are_refused(tmp_path, kind, options, change):
    """Where a file has a classifier too, timm would leave what is missing as it is: random."""
    config = kind(**options)
    state: dict | list = published(config)
    name = "layer4.0.conv2.weight" if kind is ResNetConfig else "blocks.1.attn.proj.weight"
    first = "conv1.weight" if kind is ResNetConfig else "patch_embed.proj.weight"
    if change == "lacks":
        del state[name]
    elif change == "adds":
        state["another.weight"] = torch.ones(3)
    elif change == "other shape":
        state[name] = state[name][:1]
    elif change == "patches":
        state[first] = torch.zeros(*state[first].shape[:2], 32, 32)
    elif change == "nested":
        state = {"model": torch.ones(2), first: state[first]}
    else:
        state = [torch.ones(2)]
    path = tmp_path / file_of(config)[0]
    torch.save(state, path) if path.suffix == ".pth" or change == "a list" else save(state, path)
    with pytest.raises(KitError, match=rf"{path.name}.* not loaded|{path.name} cannot be loaded"):
        config.create()


@pytest.mark.parametrize(("kind", "options"), [CASES[0], CASES[4]])
@pytest.mark.parametrize("damage", ["cut off", "a web page", "empty"])
def test_damaged_files_are_refused(tmp_path, kind, options, damage):
    config = kind(**options)
    path = tmp_path / file_of(config)[0]
    save(published(config), path)
    whole = path.read_bytes()
    path.write_bytes({"cut off": whole[:-1000], "a web page": b"<!doctype html><p>Not found", "empty": b""}[damage])
    with pytest.raises(KitError, match=rf"{path.name} (is not a whole file|cannot be loaded)"):
        config.create()


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.undo()  # the manifest's own refusal
    with pytest.raises(KitError, match=r"dinov2_vits14_pretrain\.pth"):
        DinoConfig(weights=tmp_path).create()


def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    config = ResNetConfig(device="cuda")
    save(published(config), tmp_path / file_of(config)[0])
    with pytest.raises(KitError, match="no GPU: set the device of descriptor 'resnet50'"):
        config.create()


@pytest.mark.parametrize("half", [False, True])
def test_a_gpu_gives_what_the_cpu_gives(tmp_path, half):
    if not torch.cuda.is_available():
        pytest.skip("there is none")
    for kind, options in CASES:
        config = kind(**options, device="cpu")
        save(published(config), tmp_path / file_of(config)[0])
        expected = config.create().describe(photos())
        found = kind(**options, device="cuda", half=half).create().describe(photos())
        np.testing.assert_allclose(found, expected, atol=2e-2 if half else 1e-4)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (DinoConfig, {"model": "vitl14"}),
        (DinoConfig, {"side": 224 + 1}),
        (DinoConfig, {"side": 0}),
        (DinoConfig, {"pooling": "median"}),
        (ClipConfig, {"side": 518}),
        (ResNetConfig, {"pooling": "cls"}),
        (ResNetConfig, {"device": "tpu"}),
    ],
)
def test_options_that_make_no_sense_are_refused(config, options):
    (option,) = options
    with pytest.raises(KitError, match=f"{option} of descriptor '{config.name}' must be"):
        config(**options)
