"""LightGlue (Lindenberger et al. 2023) through kornia: a network that matches the features of two images jointly.

There is one network for each kind of descriptors. `register_network` adds one. The network uses only relative
positions, scales and orientations, so half a pixel makes no difference.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from imc_kit.errors import KitError
from imc_kit.matchers import MatcherConfig, register
from imc_kit.matchers.lightglue_forward import Encoded, Forward
from imc_kit.runtime import weights
from imc_kit.runtime.torch_utils import Device, Tensor, device, fill, on_device, read_state, unless_out_of_memory
from imc_kit.types import Features, Float32, Matches

logger = logging.getLogger(__name__)

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


class LightGlueMatcher:
    """See `Matcher`. A `Features` object goes to the GPU, and through the first self-attention, only once."""

    gpu_batch: ClassVar[int] = 16
    """Pairs per pass on a GPU, where one pair leaves most of the GPU idle. A pair of 2 × 2048 keypoints takes about
    100 MB. On a CPU, one at a time is as fast."""

    def __init__(self, config: LightGlueConfig, kind: str) -> None:
        """Raises `KitError` when there is no network for the kind, or when torch, kornia, the weight file or the
        requested GPU is missing."""
        if not config.accepts(kind):
            raise KitError(f"matcher 'lightglue' has no network for {kind} descriptors, only for {', '.join(_FILES)}")
        self.config = config
        self.kind = kind
        self._device = device(config.device, "matcher 'lightglue'")
        on_gpu = self._device.type == "cuda"
        self._forward = Forward(_load(config, kind), self._device, half=config.half and on_gpu)
        self._encoded: WeakKeyDictionary[Features, Encoded] = WeakKeyDictionary()
        self.batch = self.gpu_batch if on_gpu else 1

    def match(self, first: Features, second: Features) -> Matches:
        """See `Matcher.match`. Raises `KitError` for features that the network was not made for."""
        return self.match_batch([(first, second)])[0]

    def match_batch(self, pairs: Sequence[tuple[Features, Features]]) -> list[Matches]:
        """See `Matcher.match_batch`. On a GPU, several pairs go through the network together.

        If memory runs out, tries smaller batches, with a warning in the log.
        """
        found: list[Matches] = []
        while len(found) < len(pairs):
            chunk = pairs[len(found) : len(found) + self.batch]
            if len(chunk) == 1:
                found += self._match(chunk)
            elif (matched := unless_out_of_memory(partial(self._match, chunk), self._device)) is not None:
                found += matched
            else:
                self.batch = len(chunk) // 2
                logger.warning(
                    "matcher 'lightglue': not enough memory for %d pairs at once; continuing with %d",
                    len(chunk), self.batch,
                )  # fmt: skip
        return found

    def _match(self, pairs: Sequence[tuple[Features, Features]]) -> list[Matches]:
        """Match pairs in one pass."""
        import torch

        # cuDNN plans attention anew for every number of keypoints, which takes several times as long as all else.
        torch.backends.cuda.enable_cudnn_sdp(False)  # until the run ends: see `executors.one_thread`
        some = [pair for pair in pairs if all(map(len, pair))]
        with torch.inference_mode():
            encoded = [(self._encode(first), self._encode(second)) for first, second in some]
            found = iter(self._forward.match(encoded) if encoded else [])
        return [_as_matches(*next(found)) if all(map(len, pair)) else Matches.empty() for pair in pairs]

    def _encode(self, features: Features) -> Encoded:
        """The network's first steps, for one image."""
        known = self._encoded.get(features)
        if known is None:
            self._check(features)
            # A copy, because torch warns of read-only arrays.
            inputs = self._positions(features), features.descriptors.astype(np.float32)
            known = self._forward.encode(*(on_device(values, self._device) for values in inputs))
            self._encoded[features] = known
        return known

    def _positions(self, features: Features) -> Float32:
        """What the network is told of each keypoint's place [N, 2], scale and orientation [N, 4], or shape [N, 6]."""
        conf, size = self._forward.conf, features.image_size
        middle = np.array(size) / 2

        def place(points: Float32) -> Float32:
            return ((points - middle) / (max(size) / 2)).astype(np.float32)

        parts = [place(features.keypoints)]
        if conf.add_scale_ori:
            scales, orientations = _frames(features, self.kind)
            parts += [np.stack([scales * conf.scale_coef, orientations], 1)]
        if conf.add_laf and features.shapes is not None:
            parts += [place(features.keypoints + features.shapes[..., axis]) for axis in (0, 1)]
        return np.concatenate(parts, 1).astype(np.float32, copy=False)

    def _check(self, features: Features) -> None:
        conf, descriptors, needs = self._forward.conf, features.descriptors, "matcher 'lightglue' needs"
        if descriptors.dtype == np.uint8 or descriptors.shape[1] != conf.input_dim:
            raise KitError(
                f"{needs} {conf.input_dim} numbers for each {self.kind} descriptor,"
                f" not {descriptors.dtype} [N, {descriptors.shape[1]}]: choose a detector model that produces them"
            )
        if conf.add_scale_ori and len(features) and (features.scales is None or features.orientations is None):
            raise KitError(f"{needs} the scale and the orientation of each {self.kind} keypoint")
        if conf.add_laf and len(features) and features.shapes is None:
            raise KitError(f"{needs} the affine shape of each {self.kind} keypoint")


def _as_matches(indices: Tensor, scores: Tensor) -> Matches:
    return Matches(indices.int().cpu().numpy(), scores.cpu().numpy())


def _frames(features: Features, kind: str) -> Float32:
    """Scales and orientations (radians) in the convention of the network's training data, [2, N]."""
    if not len(features) or features.scales is None or features.orientations is None:
        return np.empty((2, 0), np.float32)
    orientations = np.deg2rad(features.orientations)
    if kind == "sift":  # as in COLMAP: σ, half of OpenCV's diameter, and angles in (−π, π]
        return np.stack([features.scales / 2, np.pi - (np.pi - orientations) % (2 * np.pi)]).astype(np.float32)
    # doghardnet: six times OpenCV's diameter, as kornia computes it, and counter-clockwise angles in [0, 2π)
    return np.stack([6 * features.scales, -orientations % (2 * np.pi)]).astype(np.float32)


def _load(config: LightGlueConfig, kind: str) -> Any:
    """kornia's module with the published weights."""
    from kornia import feature

    path = _path(config, kind)
    options = {option: value for option, value in _network_options()[kind].items() if option != "weights"}
    for option in ("depth_confidence", "width_confidence"):
        wanted = getattr(config, option)
        options[option] = (
            -1 if wanted is None or options.get(option) == -1 else wanted
        )  # −1: off, or not trained for it
    light_glue: Any = feature.LightGlue
    # Without flash, kornia would forbid torch's fused attention in the whole process, even on a CPU.
    network = light_glue(None, **options | {"filter_threshold": config.filter_threshold, "flash": True})
    # The published files lack this constant and nothing else.
    state = {"confidence_thresholds": network.confidence_thresholds, **_renamed(read_state(path))}
    fill(network, state, path, f"the LightGlue for {kind} of the installed kornia")
    return network


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
