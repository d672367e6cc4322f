"""Networks with random weights, laid out as the published ones are."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from imc_kit.detectors import DETECTORS
from imc_kit.runtime import weights

_BLOCK = 65_537
"""A prime number: the repetition falls on other rows of each matrix."""
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


@contextmanager
def quick_random():
    """Fill large tensors by repeating one block of random numbers, which takes a tenth of the time."""
    import torch

    def repeated(fill):
        def filled(tensor, *arguments, **options):
            if tensor.numel() <= _BLOCK or not tensor.is_contiguous():
                return fill(tensor, *arguments, **options)
            with torch.no_grad():
                flat = tensor.view(-1)
                block = fill(flat[:_BLOCK], *arguments, **options)
                whole = flat.numel() // _BLOCK
                flat[_BLOCK : whole * _BLOCK].view(-1, _BLOCK).copy_(block)
                flat[whole * _BLOCK :].copy_(block[: flat.numel() % _BLOCK])
            return tensor

        return filled

    with pytest.MonkeyPatch.context() as patch:
        for name in ("uniform_", "normal_"):
            patch.setattr(torch.Tensor, name, repeated(getattr(torch.Tensor, name)))
        yield


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
