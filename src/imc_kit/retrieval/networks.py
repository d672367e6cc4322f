"""DINOv2, CLIP and ResNet50 through timm, from their published files, on the CPU or a GPU.

The whole image is squeezed into the square that the network takes: cropping would lose parts that other images show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from PIL import Image

from imc_kit.errors import KitError, require
from imc_kit.retrieval.base import NetworkDescriptorConfig, register
from imc_kit.runtime import weights
from imc_kit.runtime.torch_utils import device, fill, on_device, read_state
from imc_kit.types import Float32, Pixels

if TYPE_CHECKING:
    import torch

_BATCH = 16
"""Images in one pass: it bounds memory and changes nothing else."""
_GEM_POWER = 3
"""The usual exponent of GeM pooling (Radenović et al. 2019)."""
_GEM_MIN = 1e-6
"""Smaller values count as this, as in the published code."""

Pooling = Literal["cls", "mean", "max", "gem"]
"""cls: the token of the whole image; mean, max: of the patches; gem: their generalised mean (Radenović et al. 2019),
(mean of x³)^⅓, where negative x count as 0."""


@register
@dataclass(frozen=True)
class DinoConfig(NetworkDescriptorConfig):
    """DINOv2 (Oquab et al. 2024), self-supervised vision transformers."""

    name: ClassVar[str] = "dinov2"
    poolings: ClassVar[tuple[str, ...]] = ("cls", "mean", "max", "gem")
    multiple: ClassVar[int] = 14

    model: Literal["vits14", "vitb14", "vits14_reg4"] = "vits14"
    """Which network: small, base (four times the time), or small with register tokens (Darcet et al. 2024)."""
    side: int = 518
    """Images are resized to squares with sides of this many pixels, a multiple of 14. It was trained with 518."""
    pooling: Pooling = "cls"
    """How the vectors of all places in the image become one: cls, mean, max or gem."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.model in _DINO, "model of descriptor 'dinov2'", f"one of {', '.join(_DINO)}", self.model)

    @property
    def file(self) -> str:
        return f"dinov2_{self.model}_pretrain.pth"

    def create(self) -> TimmNetwork:
        return TimmNetwork(self, _transformer(_DINO[self.model], self))


_DINO = {
    "vits14": "vit_small_patch14_dinov2.lvd142m",
    "vitb14": "vit_base_patch14_dinov2.lvd142m",
    "vits14_reg4": "vit_small_patch14_reg4_dinov2.lvd142m",
}


@register
@dataclass(frozen=True)
class ClipConfig(NetworkDescriptorConfig):
    """OpenAI's CLIP (Radford et al. 2021), the image side of ViT-B/16, before the projection to text space."""

    name: ClassVar[str] = "clip"
    file: ClassVar[str] = "vit_base_patch16_clip_224.openai.safetensors"
    poolings: ClassVar[tuple[str, ...]] = ("cls", "mean", "max", "gem")
    multiple: ClassVar[int] = 16

    side: int = 224
    """Images are resized to squares with sides of this many pixels, a multiple of 16. It was trained with 224."""
    pooling: Pooling = "cls"
    """How the vectors of all places in the image become one: cls, mean, max or gem."""

    def create(self) -> TimmNetwork:
        # The architecture with the file's name has another activation than the one that the network was trained with.
        return TimmNetwork(self, _transformer("vit_base_patch16_clip_quickgelu_224.openai", self))


@register
@dataclass(frozen=True)
class ResNetConfig(NetworkDescriptorConfig):
    """ResNet50 (He et al. 2016), trained on ImageNet by Wightman et al. (2021)."""

    name: ClassVar[str] = "resnet50"
    file: ClassVar[str] = "resnet50.a1_in1k.safetensors"
    poolings: ClassVar[tuple[str, ...]] = ("mean", "gem")
    multiple: ClassVar[int] = 32

    side: int = 224
    """Images are resized to squares with sides of this many pixels, a multiple of 32. It was trained with 224."""
    pooling: Literal["mean", "gem"] = "gem"
    """How the vectors of all places in the image become one: mean or gem."""

    def create(self) -> TimmNetwork:
        _device(self)  # before anything is loaded
        import timm

        path = weights.find(self.file, self.weights)
        network = timm.create_model("resnet50.a1_in1k", num_classes=0)
        _fill(network, read_state(path), path)
        return TimmNetwork(self, network)


class TimmNetwork:
    """As `Network` says."""

    def __init__(self, config: NetworkDescriptorConfig, network: Any) -> None:
        """network: from timm, ready to run, without a classifier."""
        import torch

        self.config = config
        self._device = _device(config)
        self._network = network.to(self._device)
        mean, std = (torch.tensor(network.pretrained_cfg[name], device=self._device) for name in ("mean", "std"))
        self._mean, self._std = mean[:, None, None], std[:, None, None]

    def describe(self, images: Sequence[Pixels]) -> Float32:
        """As `Network.describe` says."""
        rows = [self._describe(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        return np.concatenate([np.empty((0, self._network.num_features), np.float32), *rows])

    def _describe(self, images: Sequence[Pixels]) -> Float32:
        import torch

        half = self.config.half and self._device.type == "cuda"
        stack = np.stack([_squeezed(image, self.config.side) for image in images])
        with torch.inference_mode(), torch.autocast(self._device.type, torch.float16, enabled=half):
            pixels = on_device(stack, self._device).permute(0, 3, 1, 2).float() / 255
            places = self._network.forward_features((pixels - self._mean) / self._std).float()
            rows = torch.nn.functional.normalize(self._pooled(places))
        vectors: Float32 = rows.cpu().numpy()
        return vectors

    def _pooled(self, places: Any) -> Any:
        """[B, D], from tokens [B, T, D], the ones of no patch first, or from a feature map [B, D, h, w]."""
        if places.ndim == 4:
            places = places.flatten(2).mT
        elif self.config.pooling == "cls":
            return places[:, 0]
        else:
            places = places[:, self._network.num_prefix_tokens :]
        if self.config.pooling == "max":
            return places.amax(1)
        if self.config.pooling == "gem":
            return places.clamp(min=_GEM_MIN).pow(_GEM_POWER).mean(1).pow(1 / _GEM_POWER)
        return places.mean(1)


def _squeezed(image: Pixels, side: int) -> Pixels:
    """The whole image as a square, by Pillow's bicubic interpolation, as in training."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def _transformer(architecture: str, config: DinoConfig | ClipConfig) -> Any:
    """timm's vision transformer for images of `config.side`, from the published file."""
    _device(config)  # before anything is loaded
    import timm
    from timm.models import vision_transformer

    path = weights.find(config.file, config.weights)
    state = read_state(path)
    network: Any = timm.create_model(architecture, num_classes=0, img_size=config.side)
    # timm would silently resize the patch filters of another network.
    patches, wanted = state.get("patch_embed.proj.weight"), network.patch_embed.proj.weight
    if getattr(patches, "shape", None) != wanted.shape:
        raise KitError(f"{path} does not fit timm's {architecture}, so it is not loaded: its patches differ")
    try:
        # Gives the tensors timm's names, and resizes the positions to this size of images.
        state = vision_transformer.checkpoint_filter_fn(state, network)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise KitError(f"{path} does not fit timm's {architecture}, so it is not loaded: {error}") from error
    _fill(network, state, path)
    return network


def _fill(network: Any, state: dict[str, Any], path: Path) -> None:
    """Load `state` without its classifier, strictly. (timm itself ignores missing keys of files with a classifier.)"""
    cfg = network.pretrained_cfg
    kept = {name: value for name, value in state.items() if not name.startswith(f"{cfg['classifier']}.")}
    fill(network, kept, path, f"timm's {cfg['architecture']}")


def _device(config: NetworkDescriptorConfig) -> torch.device:
    """Where it runs. Raises `KitError` when timm, torch or the GPU asked for is missing."""
    who = f"descriptor {config.name!r}"
    try:
        import timm  # noqa: F401
    except ImportError as error:
        raise KitError(f'{who} needs timm and torch (pip install "imc-kit[learned]"): {error}') from error
    return device(config.device, who)
