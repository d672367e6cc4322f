"""Nearest neighbours on a GPU."""

from types import ModuleType
from typing import Any

import numpy as np

from imc_kit.errors import KitError
from imc_kit.runtime.torch_utils import Device

_GPU_BLOCK = 2**26
"""Distances per block on a GPU: 256 MB, enough to keep it fully busy."""


def torch_with_gpu(wanted: Device) -> ModuleType | None:
    """The torch module if there is a GPU, else None. Raises `KitError` if cuda is wanted and torch or the GPU is
    missing."""
    try:
        import torch
    except ImportError as error:
        if wanted == "cuda":
            raise KitError(f'matching on a GPU needs torch (pip install "imc-kit[learned]"): {error}') from error
        return None
    if wanted == "cuda" and not torch.cuda.is_available():
        raise KitError("torch finds no GPU: set the device of matcher 'nearest' to auto or cpu")
    return torch if torch.cuda.is_available() else None


def neighbours(torch: ModuleType, left: Any, right: Any) -> tuple[list[Any], list[Any]]:
    """The nearest neighbour, its nearness and the second nearness, of each row and each column of left @ right.T."""
    of_rows = []
    column_nearest = torch.full((len(right),), -1, device=right.device)
    column_top = right.new_full((2, len(right)), -np.inf)
    height = max(1, _GPU_BLOCK // len(right))
    for start in range(0, len(left), height):
        # Two rows above the block hold the columns' best two so far; an extra column ensures two values per row.
        block = torch.nn.functional.pad(left[start : start + height] @ right.T, (0, 1, 2, 0), value=-np.inf)
        values, at = block[2:].topk(2, 1)
        of_rows.append((at[:, 0], values[:, 0], values[:, 1]))
        block[:2, :-1] = column_top
        column_top, at = block[:, :-1].topk(2, 0)
        column_nearest = torch.where(at[0] < 2, column_nearest, start + at[0] - 2)
    by_row = [torch.cat(parts).cpu().numpy() for parts in zip(*of_rows, strict=True)]
    return by_row, [values.cpu().numpy() for values in (column_nearest, *column_top)]
