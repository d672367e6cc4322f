"""DeDoDe (Edstedt et al. 2024) through kornia: one network detects, another describes.

Keypoints have integer coordinates; (0, 0) is the centre of the top-left pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from imc_kit.detectors import Candidates, register
from imc_kit.detectors.network import NetworkDetector, NetworkDetectorConfig, filled
from imc_kit.errors import KitError
from imc_kit.runtime.torch_utils import Tensor, read_state


@register
@dataclass(frozen=True)
class DedodeConfig(NetworkDetectorConfig):
    """DeDoDe, a learned detector and descriptor. The score is a pixel's probability among all pixels of the image,
    raised where few other keypoints are near. There is no threshold: every image has `max_keypoints`."""

    name: ClassVar[str] = "dedode"

    long_side: int | None = 784
    """Shrink images to at most this many pixels on their longer side before detecting; None keeps their size."""
    descriptor: Literal["B", "G"] = "B"
    """The descriptor network. G is larger and also needs DINOv2's file dinov2_vitl14_pretrain.pth."""
    half: bool = True
    """On a GPU, compute in half precision, as the authors do."""

    @property
    def kind(self) -> str:
        return f"dedode{self.descriptor.lower()}"

    @property
    def files(self) -> tuple[str, ...]:
        dinov2 = ("dinov2_vitl14_pretrain.pth",) if self.descriptor == "G" else ()
        return "dedode_detector_L.pth", f"dedode_descriptor_{self.descriptor}.pth", *dinov2

    def create(self) -> "DedodeDetector":
        return DedodeDetector(self)


class DedodeDetector(NetworkDetector[DedodeConfig]):
    """See `Detector`. Descriptors are float32 and not normalised, as kornia's LightGlue expects."""

    dimension = 256
    smallest = 32
    gpu_batch = 1  # its networks keep hundreds of channels at full resolution

    def _load(self) -> Any:
        from kornia.feature import DeDoDe

        detector, descriptor, *dinov2 = self.config.paths()
        network: Any = DeDoDe("L", "B")
        for path in dinov2:  # one, for G
            network.descriptor = _descriptor_g(network.descriptor, path)
        for part, path in (("detector L", detector), (f"descriptor {self.config.descriptor}", descriptor)):
            filled(getattr(network, part.split()[0]), path, f"the DeDoDe {part} of the installed kornia")
        for module in network.modules():
            if hasattr(module, "amp"):
                module.amp = self.config.half
        return network

    def _find(self, stack: Tensor, limit: int | None) -> Iterator[Candidates]:
        size = stack.new_tensor([stack.shape[3], stack.shape[2]])
        positions, scores = self._network.detect(stack, n=limit)
        for image, at, score in zip(stack[:, None], positions, scores, strict=True):

            def describe(rows: Tensor, image: Tensor = image, at: Tensor = at) -> dict[str, Tensor]:
                return {"descriptors": self._network.describe(image, at[rows][None])[0]}

            # kornia's coordinates run from −1 at the left and top edges to 1 at the right and bottom edges.
            yield Candidates(((at + 1) * size / 2 - 0.5).round(), score, describe)


def _descriptor_g(b: Any, dinov2: Path) -> Any:
    """kornia's descriptor G, which kornia builds only with a download. It shares its finer layers with B."""
    from kornia.feature.dedode.decoder import ConvRefiner, Decoder
    from kornia.feature.dedode.descriptor import DeDoDeDescriptor
    from kornia.feature.dedode.encoder import VGG_DINOv2
    from torch import nn

    make_refiner: Any = ConvRefiner  # kornia does not declare their types
    make_encoder: Any = VGG_DINOv2

    def refiner(before: int, hidden: int, context: int) -> Any:
        return make_refiner(before, hidden, context + DedodeDetector.dimension, hidden_blocks=5, residual=True)

    finer = {scale: b.decoder.layers[scale] for scale in ("4", "2", "1")}
    layers = nn.ModuleDict({"14": refiner(1024, 768, 512), "8": refiner(1024, 512, 256), **finer})
    state = read_state(dinov2)
    try:
        encoder = make_encoder({"amp": True}, {"amp": True, "dinov2_weights": state})
    except (RuntimeError, TypeError, AttributeError) as error:
        first = " ".join(str(error).split())[:300]
        raise KitError(f"{dinov2} does not fit the DINOv2 ViT-L of the installed kornia: {first}") from error
    return DeDoDeDescriptor(encoder, Decoder(layers, num_prototypes=DedodeDetector.dimension))
