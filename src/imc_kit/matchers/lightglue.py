"""LightGlue (Lindenberger et al. 2023) through kornia: a network that matches the features of two images jointly.

There is one network for each kind of descriptors. `register_network` adds one.

The network uses only relative positions, scales and orientations. So adding half a pixel to positions, to bring them
into its range, does not change the result.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from imc_kit.errors import KitError
from imc_kit.matchers import MatcherConfig, OneByOne, register
from imc_kit.runtime import weights
from imc_kit.runtime.torch_utils import Device, Tensor, device, fill, on_device, read_state
from imc_kit.types import Features, Float32, Matches

_KINDS = ("aliked", "dedodeb", "dedodeg", "disk", "doghardnet", "sift", "superpoint")
_OTHER_FILES = {"keynet_affnet_hardnet": "keynet_affnet_hardnet_lightlue.pth", "xfeat": "xfeat-lighterglue.pt"}
_FILES = {kind: f"{kind}_lightglue.pth" for kind in _KINDS} | _OTHER_FILES
"""The published weight file for each kind of descriptors."""
_UNUSED = re.compile(r"log_assignment\.\d+\.r|extractor\.model\.net\..+")
"""Keys of published files that belong to no LightGlue: a number per layer (always 1) in the files of the first release,
and XFeat itself in LighterGlue's file."""
_REGISTERED: dict[str, dict[str, Any]] = {}
"""The options of kornia's LightGlue for each kind that `register_network` added."""


def register_network(kind: str, **options: Any) -> None:
    """Let LightGlue match another kind of descriptors, with `LightGlueConfig(weights=FILE)`.

    kind: as in `DetectorConfig.kind`. options: those of `kornia.feature.LightGlue`, for example `input_dim=256`. Kinds
    that kornia knows need no call.
    """
    _REGISTERED[kind] = options


def _network_options() -> dict[str, dict[str, Any]]:
    """The options of the network for each kind: those in kornia and the registered ones."""
    try:
        from kornia.feature import LightGlue
    except ImportError:
        return _REGISTERED
    return {**LightGlue.features, **_REGISTERED}


@register
@dataclass(frozen=True)
class LightGlueConfig(MatcherConfig):
    """LightGlue, for the descriptors that it was trained with (RootSIFT for SIFT). The score is in 0 … 1."""

    name: ClassVar[str] = "lightglue"

    filter_threshold: float = 0.1
    """Drop matches with a lower score. The default is the authors'."""
    depth_confidence: float | None = 0.95
    """Stop after the layer where this fraction of the keypoints is certain; None runs all layers. Stopping early saves
    most of the time of an easy pair. The networks for doghardnet, keynet and xfeat always run all layers."""
    width_confidence: float | None = 0.99
    """Drop keypoints early that are unmatchable with this confidence; None keeps all. Dropping saves time if the images
    overlap little. The networks for doghardnet and keynet always keep all."""
    half: bool = True
    """On a GPU, compute in half precision, as the authors do: it is faster. No effect on a CPU."""
    weights: Path | None = None
    """The network's weight file, or a folder that holds it; None searches the usual places. With a file, all kinds of
    descriptors that kornia or `register_network` knows are accepted."""
    device: Device = "auto"
    """Where it runs; auto uses a GPU if there is one."""

    def __post_init__(self) -> None:
        depth, width = self.depth_confidence, self.width_confidence
        super().__post_init__()
        self._require(0 <= self.filter_threshold < 1, "filter_threshold", "at least 0 and less than 1")
        wanted = "larger than 0 and at most 1, or None"
        self._require(depth is None or 0 < depth <= 1, "depth_confidence", wanted)
        self._require(width is None or 0 < width <= 1, "width_confidence", wanted)

    def accepts(self, kind: str) -> bool:
        """Whether there is a trained network for this kind."""
        return kind in _FILES or (self.weights is not None and kind in _network_options())

    def weight_files(self, kind: str) -> tuple[str, ...]:
        return () if self.weights else (_FILES[kind],)

    def looser(self) -> "LightGlueConfig":
        """The same matcher with half the threshold."""
        return replace(self, filter_threshold=self.filter_threshold / 2)

    def create(self, kind: str) -> "LightGlueMatcher":
        return LightGlueMatcher(self, kind)


class LightGlueMatcher(OneByOne):
    """See `Matcher`."""

    def __init__(self, config: LightGlueConfig, kind: str) -> None:
        """Raises `KitError` when there is no network for the kind, or when torch, kornia, the weight file or the
        requested GPU is missing."""
        if not config.accepts(kind):
            raise KitError(f"matcher 'lightglue' has no network for {kind} descriptors, only for {', '.join(_FILES)}")
        self.config = config
        self.kind = kind
        self._device = device(config.device, "matcher 'lightglue'")
        self._network = _load(config, kind, self._device)

    def match(self, first: Features, second: Features) -> Matches:
        """See `Matcher.match`. Raises `KitError` for features that the network was not made for."""
        import torch

        images = {f"image{side}": self._inputs(features) for side, features in enumerate((first, second))}
        # cuDNN plans attention anew for every number of keypoints, which takes several times as long as all else.
        torch.backends.cuda.enable_cudnn_sdp(False)  # until the run ends: see `executors.one_thread`
        with torch.inference_mode():
            found = self._network(images)
        indices, scores = found["matches"][0], found["scores"][0]
        return Matches(indices.cpu().numpy().astype(np.int32), scores.float().cpu().numpy())

    def _inputs(self, features: Features) -> dict[str, Tensor]:
        """The network's inputs for one image, [1, N, …]."""
        self._check(features)
        inputs = {
            "keypoints": features.keypoints + np.float32(0.5),
            "descriptors": features.descriptors.astype(np.float32),  # a copy, because torch warns of read-only arrays
            "image_size": np.array(features.image_size, np.float32),
        }
        if self._network.conf.add_scale_ori:
            inputs["scales"], inputs["oris"] = _frames(features, self.kind)
        if self._network.conf.add_laf:
            shapes = np.empty((0, 2, 2), np.float32) if features.shapes is None else features.shapes
            inputs["lafs"] = np.concatenate([shapes, inputs["keypoints"][..., None]], 2)
        return {name: on_device(values[None], self._device) for name, values in inputs.items()}

    def _check(self, features: Features) -> None:
        conf, descriptors, needs = self._network.conf, features.descriptors, "matcher 'lightglue' needs"
        if descriptors.dtype == np.uint8 or descriptors.shape[1] != conf.input_dim:
            raise KitError(
                f"{needs} {conf.input_dim} numbers for each {self.kind} descriptor,"
                f" not {descriptors.dtype} [N, {descriptors.shape[1]}]: choose a detector model that produces them"
            )
        if conf.add_scale_ori and len(features) and (features.scales is None or features.orientations is None):
            raise KitError(f"{needs} the scale and the orientation of each {self.kind} keypoint")
        if conf.add_laf and len(features) and features.shapes is None:
            raise KitError(f"{needs} the affine shape of each {self.kind} keypoint")


def _frames(features: Features, kind: str) -> Float32:
    """Scales and orientations (radians) in the convention of the network's training data, [2, N]."""
    if not len(features) or features.scales is None or features.orientations is None:
        return np.empty((2, 0), np.float32)
    orientations = np.deg2rad(features.orientations)
    if kind == "sift":  # as in COLMAP: σ, half of OpenCV's diameter, and angles in (−π, π]
        return np.stack([features.scales / 2, np.pi - (np.pi - orientations) % (2 * np.pi)]).astype(np.float32)
    # doghardnet: six times OpenCV's diameter, as kornia computes it, and counter-clockwise angles in [0, 2π)
    return np.stack([6 * features.scales, -orientations % (2 * np.pi)]).astype(np.float32)


def _load(config: LightGlueConfig, kind: str, where: Any) -> Any:
    from kornia import feature

    path = _path(config, kind)
    options = {option: value for option, value in _network_options()[kind].items() if option != "weights"}
    half = config.half and where.type == "cuda"
    for option in ("depth_confidence", "width_confidence"):
        wanted = getattr(config, option)
        options[option] = (
            -1 if wanted is None or options.get(option) == -1 else wanted
        )  # −1: off, or not trained for it
    light_glue: Any = feature.LightGlue
    network = light_glue(None, **options | {"filter_threshold": config.filter_threshold, "mp": half, "flash": half})
    # The published files lack this constant and nothing else.
    state = {"confidence_thresholds": network.confidence_thresholds, **_renamed(read_state(path))}
    fill(network, state, path, f"the LightGlue for {kind} of the installed kornia")
    return network.to(where)


def _path(config: LightGlueConfig, kind: str) -> Path:
    """The weight file. Raises `KitError` when it is missing."""
    if kind in _FILES:
        return weights.find(_FILES[kind], config.weights)
    path = config.weights
    if path is None or not path.is_file():
        raise KitError(f"weights of matcher 'lightglue' for {kind} descriptors must be a weight file, not {path}")
    return path


def _renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a published file under kornia's names, without those that the authors' loader ignores."""
    return {
        re.sub(r"^(self|cross)_attn\.(\d+)\.", r"transformers.\2.\1_attn.", str(key).removeprefix("matcher.")): tensor
        for key, tensor in state.items()
        if not _UNUSED.fullmatch(str(key))
    }
