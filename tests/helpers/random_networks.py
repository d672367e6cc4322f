"""Networks with random weights, laid out as the published ones are."""

from __future__ import annotations

import pytest

from imc_kit.detectors import DETECTORS
from imc_kit.runtime import weights

SUPERPOINT = [f"conv{part}{half}" for part in "1234PD" for half in "ab"]
"""The layers of Magic Leap's file."""


def superpoint_state(torch):
    """The content of Magic Leap's file."""
    sizes = [(1, 64), (64, 64), (64, 64), (64, 64), (64, 128), (128, 128), (128, 128), (128, 128)]
    sizes += [(128, 256), (256, 65), (128, 256), (256, 256)]
    state = {}
    for name, (before, width) in zip(SUPERPOINT, sizes, strict=True):
        side = 1 if name in ("convPb", "convDb") else 3
        state[f"{name}.weight"] = torch.randn(width, before, side, side) * (2 / (before * side**2)) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(width)
    return state


def with_statistics(network):
    """As if it had been trained: where batches are normalised, by other numbers than at first."""
    for module in network.modules():
        if getattr(module, "running_var", None) is not None:
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_(0, 0.1)
    return network


def create_from(folder, name, **options):
    """The detector `name` on the CPU, its files taken from `folder` whatever their content."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "find", lambda file, explicit=None: folder / file)
        return DETECTORS[name](**{"device": "cpu", **options}).create()
