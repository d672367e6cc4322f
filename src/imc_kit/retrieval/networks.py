"""DINOv2, CLIP and ResNet50 through timm, from their published files, on the CPU or a GPU.

The whole image is squeezed into a square: cropping would lose parts that other images show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from imc_kit.errors import KitError
from imc_kit.retrieval import NetworkDescriptorConfig, register
from imc_kit.runtime import weights
from imc_kit.runtime.torch_utils import device, fill, on_device, read_state
from imc_kit.types import Float32, Pixels

_BATCH = 16
"""Images per pass. It limits memory and does not affect the result."""
_GEM_POWER = 3
"""The usual exponent of GeM pooling (Radenović et al. 2019)."""
_GEM_MIN = 1e-6
"""GeM clips smaller values to this, as in the published code."""

Pooling = Literal["cls", "mean", "max", "gem"]
"""cls: the class token; mean, max: over the patches; gem: their generalised mean (Radenović et al. 2019), (mean of
x³)^⅓, with negative x clipped to 0."""


@register
@dataclass(frozen=True)
class DinoConfig(NetworkDescriptorConfig):
    """DINOv2 (Oquab et al. 2024), self-supervised vision transformers."""

    name: ClassVar[str] = "dinov2"
    multiple: ClassVar[int] = 14

    model: Literal["vits14", "vitb14", "vits14_reg4"] = "vits14"
    """The network: small, base (four times as slow), or small with register tokens (Darcet et al. 2024)."""
    side: int = 518
    """Resize images to squares with sides of this many pixels, a multiple of 14. It was trained at 518."""
    pooling: Pooling = "cls"
    """How the vectors of all positions in the image become one: cls, mean, max or gem."""

    @property
    def file(self) -> str:
        return f"dinov2_{self.model}_pretrain.pth"

    def create(self) -> "TimmNetwork":
        size, _, registers = self.model.partition("14")
        names = {"vits": "vit_small", "vitb": "vit_base"}
        return TimmNetwork(self, f"{names[size]}_patch14{registers}_dinov2.lvd142m", img_size=self.side)


@register
@dataclass(frozen=True)
class ClipConfig(NetworkDescriptorConfig):
    """OpenAI's CLIP (Radford et al. 2021): the image encoder ViT-B/16, before the projection to text space."""

    name: ClassVar[str] = "clip"
    file: ClassVar[str] = "vit_base_patch16_clip_224.openai.safetensors"
    multiple: ClassVar[int] = 16

    side: int = 224
    """Resize images to squares with sides of this many pixels, a multiple of 16. It was trained at 224."""
    pooling: Pooling = "cls"
    """How the vectors of all positions in the image become one: cls, mean, max or gem."""

    def create(self) -> "TimmNetwork":
        # The architecture with the file's name lacks the activation that the network was trained with, QuickGELU.
        return TimmNetwork(self, "vit_base_patch16_clip_quickgelu_224.openai", img_size=self.side)


@register
@dataclass(frozen=True)
class ResNetConfig(NetworkDescriptorConfig):
    """ResNet50 (He et al. 2016), trained on ImageNet by Wightman et al. (2021)."""

    name: ClassVar[str] = "resnet50"
    file: ClassVar[str] = "resnet50.a1_in1k.safetensors"
    multiple: ClassVar[int] = 32

    side: int = 224
    """Resize images to squares with sides of this many pixels, a multiple of 32. It was trained at 224."""
    pooling: Literal["mean", "gem"] = "gem"
    """How the vectors of all positions in the image become one: mean or gem."""

    def create(self) -> "TimmNetwork":
        return TimmNetwork(self, "resnet50.a1_in1k")


class TimmNetwork:
    """See `Network`."""

    def __init__(self, config: NetworkDescriptorConfig, architecture: str, **options: Any) -> None:
        """architecture, options: as for `timm.create_model`.

        Raises `KitError` when timm, torch, the weight file or the requested GPU is missing.
        """
        self.config = config
        try:
            import timm
            import torch
        except ImportError as error:
            who = f"descriptor {config.name!r}"
            raise KitError(f'{who} needs timm and torch (pip install "imc-kit[learned]"): {error}') from error
        self._device = device(config.device, f"descriptor {config.name!r}")
        path = weights.find(config.file, config.weights)
        network: Any = timm.create_model(architecture, num_classes=0, **options)
        _fill(network, path, f"timm's {architecture}")
        self._network = network.to(self._device)
        mean, std = (torch.tensor(network.pretrained_cfg[name], device=self._device) for name in ("mean", "std"))
        self._mean, self._std = mean[:, None, None], std[:, None, None]

    def describe(self, images: Sequence[Pixels]) -> Float32:
        """See `Network.describe`."""
        rows = [self._describe(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        return np.concatenate([np.empty((0, self._network.num_features), np.float32), *rows])

    def _describe(self, images: Sequence[Pixels]) -> Float32:
        import torch

        half = self.config.half and self._device.type == "cuda"
        stack = np.stack([_squeezed(image, self.config.side) for image in images])
        with torch.inference_mode(), torch.autocast(self._device.type, torch.float16, enabled=half):
            pixels = on_device(stack, self._device).permute(0, 3, 1, 2).float() / 255
            maps = self._network.forward_features((pixels - self._mean) / self._std).float()
            rows = torch.nn.functional.normalize(self._pooled(maps))
        vectors: Float32 = rows.cpu().numpy()
        return vectors

    def _pooled(self, maps: Any) -> Any:
        """Pool tokens [B, T, D], the class and register tokens first, or feature maps [B, D, h, w], to [B, D]."""
        if maps.ndim == 4:
            maps = maps.flatten(2).mT
        elif self.config.pooling == "cls":
            return maps[:, 0]
        else:
            maps = maps[:, self._network.num_prefix_tokens :]
        if self.config.pooling == "max":
            return maps.amax(1)
        if self.config.pooling == "gem":
            return maps.clamp(min=_GEM_MIN).pow(_GEM_POWER).mean(1).pow(1 / _GEM_POWER)
        return maps.mean(1)


def _squeezed(image: Pixels, side: int) -> Pixels:
    """Resize the whole image to a square by Pillow's bicubic interpolation, as in training."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def _fill(network: Any, path: Path, what: str) -> None:
    """Load a published file strictly into timm's network, without its classifier. timm itself ignores missing keys of
    files with a classifier, and silently resizes the patch filters of another network."""
    state = read_state(path)
    if hasattr(network, "patch_embed"):
        from timm.models import vision_transformer

        patches = state.get("patch_embed.proj.weight")
        if getattr(patches, "shape", None) != network.patch_embed.proj.weight.shape:
            raise KitError(f"{path} does not fit {what}, so it is not loaded: its patches differ")
        try:
            # Renames the tensors as in timm, and resizes the position embeddings to this image size.
            state = vision_transformer.checkpoint_filter_fn(state, network)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise KitError(f"{path} does not fit {what}, so it is not loaded: {error}") from error
    classifier = f"{network.pretrained_cfg['classifier']}."
    fill(network, {name: value for name, value in state.items() if not name.startswith(classifier)}, path, what)
