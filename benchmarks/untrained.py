"""Random weight files in the format of the published ones, to time networks whose files are missing.

The time of a network hardly depends on its weights, but its result does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from imc_kit.errors import KitError
from imc_kit.runtime import weights

State = dict[str, Any]

_SUPERPOINT = {
    "1a": (1, 64, 3),
    "1b": (64, 64, 3),
    "2a": (64, 64, 3),
    "2b": (64, 64, 3),
    "3a": (64, 128, 3),
    "3b": (128, 128, 3),
    "4a": (128, 128, 3),
    "4b": (128, 128, 3),
    "Pa": (128, 256, 3),
    "Pb": (256, 65, 1),
    "Da": (128, 256, 3),
    "Db": (256, 256, 1),
}
"""Input channels, output channels and kernel size of the convolutions in Magic Leap's file."""
_TIMM = {
    "dinov2_vits14_pretrain.pth": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_vits14_reg4_pretrain.pth": "vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitb14_pretrain.pth": "vit_base_patch14_dinov2.lvd142m",
    "vit_base_patch16_clip_224.openai.safetensors": "vit_base_patch16_clip_quickgelu_224.openai",
    "resnet50.a1_in1k.safetensors": "resnet50.a1_in1k",
}


@contextmanager
def random_where_missing(folder: Path) -> Iterator[set[str]]:
    """Within this context, missing weight files are written to `folder` and used. Yields the names of those used."""
    find, taken = weights.find, set()

    def find_or_make(name: str, explicit: Path | None = None) -> Path:
        try:
            return find(name, explicit)
        except KitError:
            makers, path = _makers(), folder / name
            if name not in makers:  # its format is not known here
                raise
            if not path.exists():
                _write(makers[name], path)
            taken.add(name)
            return path

    with patch.object(weights, "find", find_or_make):
        yield taken


def _write(make: Callable[[], State], path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    unfinished = path.with_suffix(f".unfinished{path.suffix}")
    (save_file if path.suffix == ".safetensors" else torch.save)(make(), unfinished)
    unfinished.rename(path)


def _makers() -> dict[str, Callable[[], State]]:
    """The function that makes the content of each file, by name."""
    import timm
    from kornia import feature
    from kornia.feature.dedode.transformer import vit_large
    from torch import nn

    from imc_kit.detectors import dedode, superpoint
    from imc_kit.matchers import lightglue

    def within(key: str, network: Callable[[], Any]) -> State:
        return {key: network().state_dict()}

    def aliked(model: str) -> State:
        return feature.ALIKED(f"aliked-{model}").state_dict()

    def superpoint_v1() -> State:
        return nn.ModuleDict({f"conv{part}": nn.Conv2d(*sizes) for part, sizes in _SUPERPOINT.items()}).state_dict()

    def xfeat() -> State:
        network = feature.XFeat().net
        network.keypoint_head[-1].weight.data *= 30  # otherwise no pixel stands out and there are no keypoints
        return network.state_dict()

    def dedode_g() -> State:
        b = feature.DeDoDe("L", "B").descriptor
        return dedode._descriptor_g(b, weights.find("dinov2_vitl14_pretrain.pth")).state_dict()

    def light_glue(kind: str) -> State:
        options = {name: value for name, value in feature.LightGlue.features[kind].items() if name != "weights"}
        return feature.LightGlue(None, **options).state_dict()

    def from_timm(name: str) -> State:
        return timm.create_model(name, num_classes=0).state_dict()

    return {
        **{f"aliked-{model}.pth": partial(aliked, model) for model in ("t16", "n16", "n16rot", "n32")},
        "superpoint_v1.pth": superpoint_v1,
        "superpoint_v6_from_tf.pth": lambda: superpoint._network(normalised=True).state_dict(),
        "depth-save.pth": partial(within, "extractor", feature.DISK),
        "xfeat.pt": xfeat,
        "dedode_detector_L.pth": lambda: feature.DeDoDe("L", "B").detector.state_dict(),
        "dedode_descriptor_B.pth": lambda: feature.DeDoDe("L", "B").descriptor.state_dict(),
        "dedode_descriptor_G.pth": dedode_g,
        "dinov2_vitl14_pretrain.pth": lambda: vit_large(
            img_size=518, patch_size=14, init_values=1.0, ffn_layer="mlp", block_chunks=0
        ).state_dict(),
        "keynet_pytorch.pth": partial(within, "state_dict", partial(feature.KeyNet, pretrained=False)),
        "AffNet.pth": partial(within, "state_dict", partial(feature.LAFAffNetShapeEstimator, pretrained=False)),
        "OriNet.pth": partial(within, "state_dict", partial(feature.OriNet, pretrained=False)),
        "checkpoint_liberty_with_aug.pth": partial(within, "state_dict", partial(feature.HardNet, pretrained=False)),
        **{file: partial(light_glue, kind) for kind, file in lightglue._FILES.items()},
        "loftr_outdoor.ckpt": partial(within, "state_dict", partial(feature.LoFTR, None)),
        **{file: partial(from_timm, name) for file, name in _TIMM.items()},
    }
