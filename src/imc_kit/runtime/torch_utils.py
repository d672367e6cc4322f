"""What all networks have in common: torch when it is needed, the device, and loading a file whole or not at all.

Where there are several GPUs, threads take turns: each has one of its own, and what it creates is there.
"""

from __future__ import annotations

import pickle
import threading
import zipfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imc_kit.errors import KitError
from imc_kit.runtime import malloc

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Device = Literal["auto", "cpu", "cuda"]
"""Where a network runs: auto is a GPU if there is one."""
_turns = count()
_thread = threading.local()


def device(wanted: Device, who: str) -> torch.device:
    """The device meant. Raises `KitError`, in the name of `who`, when torch, kornia or the GPU asked for is missing."""
    malloc.give_back_large_blocks()
    try:
        import kornia  # noqa: F401
        import torch
    except ImportError as error:
        raise KitError(f'{who} needs torch and kornia (pip install "imc-kit[learned]"): {error}') from error
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise KitError(f"torch finds no GPU: set the device of {who} to auto or cpu")
    return torch.device("cuda", gpu_of_thread(wanted)) if available and wanted != "cpu" else torch.device("cpu")


def gpu_of_thread(wanted: Device) -> int:
    """The number of the GPU that this thread uses where `wanted` says so; 0 where there is one, or none."""
    if wanted == "cpu":
        return 0
    try:
        import torch
    except ImportError:
        return 0
    gpus = torch.cuda.device_count()
    if gpus < 2:
        return 0
    if not hasattr(_thread, "turn"):
        _thread.turn = next(_turns)
    return int(_thread.turn % gpus)


def on_device(values: NDArray[Any], where: torch.device) -> torch.Tensor:
    """An array as a tensor there; to a GPU it goes from pinned memory, while the CPU goes on."""
    import torch

    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(where, non_blocking=True) if where.type == "cuda" else tensor


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint (.pth, .pt, .ckpt, .safetensors), by their keys; nested dictionaries stay nested.

    Only tensors and plain containers are unpickled. Raises `KitError` for a file that is anything else or is cut off.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise KitError(f"{path} is not a whole file of tensors, so it is not loaded: {error}") from error
    except Exception as error:  # safetensors has an exception of its own, in a package that may be missing
        raise KitError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(state, Mapping):
        raise KitError(f"{path} holds a {type(state).__name__}, not tensors by name, so it is not loaded")
    return dict(state)


def fill(network: torch.nn.Module, state: Mapping[str, Any], path: Path, what: str) -> None:
    """Load `state` into `network`, which `what` names, strictly, and make it ready to run.

    Raises `KitError`, naming the file and the keys, unless they are exactly those of the network, with its shapes.
    """
    try:
        network.load_state_dict(dict(state))
    except (RuntimeError, TypeError, AttributeError) as error:
        first = " ".join(str(error).split())[:300]
        raise KitError(f"{path} does not fit {what}, so it is not loaded: {first}") from error
    network.eval().requires_grad_(False)
