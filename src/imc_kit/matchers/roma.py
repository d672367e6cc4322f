"""RoMa (Edstedt et al. 2024) through its authors' package romatch: a network that maps a photo's pixels to another.

romatch requires a build of OpenCV that would replace the kit's, and much that only training needs. So install it
without its requirements: `pip install --no-deps romatch einops loguru`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from imc_kit.errors import KitError, said
from imc_kit.matchers import OneByOne, PhotoMatcherConfig, View, register, scaled_radius
from imc_kit.matchers.photo_points import nearest_within
from imc_kit.runtime import weights
from imc_kit.runtime.torch_utils import Device, Tensor, device, read_state
from imc_kit.types import Correspondences, Float32

_FILES = "roma_outdoor.pth", "dinov2_vitl14_pretrain.pth"


@register
@dataclass(frozen=True)
class RomaConfig(PhotoMatcherConfig):
    """RoMa, trained on outdoor images. The score is the network's certainty, in 0 … 1.

    Two keypoints match if each is the one nearest to where the network maps the other. Besides, it maps a grid of
    further points.
    """

    name: ClassVar[str] = "roma"

    long_side: int = 864
    """The network stretches photos to squares of this side, in pixels, for its last refinement. The default is the
    authors'; before that it works on `coarse` pixels."""
    coarse: int = 560
    """Side of the squares on which it matches first, in pixels: a multiple of 14. The default is the authors'."""
    radius: float = 2.5
    """Keypoints match if the network maps each at most this far from the other, in pixels of an image whose longer side
    has 1024 pixels. The default is the authors' (0.0025 of the width)."""
    step: int = 16
    """Further points are every so many pixels of the first photo, at `long_side`. 0: none, keypoints only. The default
    is twice LoFTR's."""
    threshold: float = 0.05
    """Drop points of which the network is less certain. The default is the authors'."""
    weights: Path | None = None
    """A folder with both weight files of the network; None searches the usual places."""
    device: Device = "auto"
    """Where it runs; auto uses a GPU if there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.coarse >= 14 and self.coarse % 14 == 0, "coarse", "a multiple of 14 pixels")
        self._require(self.long_side >= self.coarse, "long_side", "at least `coarse` pixels")
        self._require(0 < self.radius < float("inf"), "radius", "larger than 0 pixels")
        self._require(self.step >= 0, "step", "at least 0 pixels")
        self._require(0 <= self.threshold < 1, "threshold", "at least 0 and less than 1")
        self._require(self.weights is None or not self.weights.is_file(), "weights", "a folder that holds its files")

    def weight_files(self, kind: str) -> tuple[str, ...]:
        return () if self.weights else _FILES

    def create(self) -> "RomaMatcher":
        return RomaMatcher(self)


class RomaMatcher(OneByOne):
    """See `PhotoMatcher`."""

    def __init__(self, config: RomaConfig) -> None:
        """Raises `KitError` when torch, romatch, a weight file or the requested GPU is missing."""
        self.config = config
        self._device = device(config.device, "matcher 'roma'")
        self._network = _load(config, self._device)

    def match(self, first: View, second: View) -> Correspondences:
        """See `PhotoMatcher.match`. Keypoints come first, then the further points."""
        import torch

        config, views, sizes = self.config, (first, second), (first.photo.size, second.photo.size)
        with torch.inference_mode():
            photos = [Image.fromarray(view.photo.pixels) for view in views]
            warp, certainty = (found[0].float() for found in self._network.match(*photos, device=self._device))
        # Side by side: where each pixel of the first photo lies in the second, and of the second in the first.
        (forth, back), (sure, surely) = warp.chunk(2, 1), certainty.chunk(2, 1)
        forth = torch.cat([forth[..., 2:], sure[..., None]], -1)
        back = torch.cat([back[..., :2], surely[..., None]], -1)
        one, other = (view.features.keypoints for view in views)
        there, certain = _mapped(one, forth, *sizes)
        here, certainly = _mapped(other, back, *sizes[::-1])
        partner = nearest_within(there, other, scaled_radius(config.radius, sizes[1]))
        partner_of_partner = nearest_within(here, one, scaled_radius(config.radius, sizes[0]))
        rows = np.flatnonzero(partner >= 0)
        rows = rows[partner_of_partner[partner[rows]] == rows]
        partner = partner[rows]
        grid = _grid(sizes[0], config.step * max(sizes[0]) / config.long_side) if config.step else one[:0]
        ends, of_grid = _mapped(grid, forth, *sizes)
        points = np.concatenate([one[rows], grid]), np.concatenate([other[partner], ends])
        scores = np.concatenate([np.minimum(certain[rows], certainly[partner]), of_grid])
        kept = scores >= config.threshold
        return Correspondences(points[0][kept], points[1][kept], scores[kept])


def _mapped(points: Float32, field: Tensor, size: tuple[int, int], target: tuple[int, int]) -> tuple[Float32, Float32]:
    """Where points [N, 2] of an image lie in another one, in pixels of the originals, and how certain that is [N].

    field: [h, w, 3], for each pixel (x, y) in the other image from −1 (its left or upper edge) to 1, and the certainty.
    size, target: (width, height) of both images.
    """
    import torch

    at = torch.from_numpy((2 * (points + 0.5) / size - 1).astype(np.float32)).to(field.device)
    found = torch.nn.functional.grid_sample(
        field.permute(2, 0, 1)[None], at[None, None], padding_mode="border", align_corners=False
    )
    x, y, certainty = found[0, :, 0].cpu().numpy()
    places = (np.stack([x, y], 1) + 1) / 2 * target - 0.5
    return places.astype(np.float32), certainty


def _grid(size: tuple[int, int], step: float) -> Float32:
    """Points [N, 2] in the middle of squares with this side, in an image of `size` (w, h)."""
    axes = (np.arange(step / 2 - 0.5, side - 0.5, step) for side in size)
    return np.stack(np.meshgrid(*axes), -1).reshape(-1, 2).astype(np.float32)


def _load(config: RomaConfig, where: Any) -> Any:
    import torch

    paths = [weights.find(name, config.weights) for name in _FILES]
    own, backbone = (read_state(path) for path in paths)
    try:
        from romatch.models.model_zoo.roma_models import roma_model
    except ImportError as error:
        install = "pip install --no-deps romatch einops loguru"
        raise KitError(f"matcher 'roma' needs romatch ({install}): {error}") from error
    try:
        network = roma_model(
            config.coarse,
            upsample_preds=True,
            upsample_res=config.long_side,
            device=where,
            weights=own,
            dinov2_weights=backbone,
            amp_dtype=torch.float16 if where.type == "cuda" else torch.float32,
            use_custom_corr=False,  # it needs a CUDA kernel from a further package
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        names = " or ".join(map(str, paths))
        raise KitError(
            f"{names} does not fit the RoMa of the installed romatch, so it is not loaded: {said(error)}"
        ) from error
    return network.eval().requires_grad_(False)
