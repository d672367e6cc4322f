"""What all networks share: importing torch when needed, choosing a device, and loading a file completely or not at all.

With several GPUs, threads are assigned to them in rotation, and a thread's networks and tensors are on its GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from imc_kit.errors import KitError, said

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor as Tensor
else:
    Tensor = Any  # in annotations of modules that load torch only when needed

Device = Literal["auto", "cpu", "cuda"]
"""Where a network runs; auto uses a GPU if there is one."""
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
"""Words in torch's out-of-memory errors: on a GPU, on Windows, on Linux, and from cuDNN and cuBLAS."""
T = TypeVar("T")
_thread_numbers = count()
_thread = threading.local()


def device(wanted: Device, who: str) -> torch.device:
    """The torch device for this thread.

    who: what needs it, named in messages. Raises `KitError` when torch, kornia or the requested GPU is missing.
    """
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
    """The index of this thread's GPU; 0 if there is at most one, or if `wanted` is the CPU."""
    gpus = 0
    if wanted != "cpu":
        with suppress(ImportError):
            import torch

            gpus = torch.cuda.device_count()
    if gpus < 2:
        return 0
    if not hasattr(_thread, "number"):
        _thread.number = next(_thread_numbers)
    return int(_thread.number % gpus)


def on_device(values: NDArray[Any], where: torch.device) -> torch.Tensor:
    """Copy an array to a tensor on a device. The copy to a GPU is asynchronous, from pinned memory."""
    import torch

    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(where, non_blocking=True) if where.type == "cuda" else tensor


def unless_out_of_memory(call: Callable[[], T], where: torch.device) -> T | None:
    """The result of `call()`, or None if memory runs out. In that case the memory that it used is freed."""
    import torch

    try:
        return call()
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
    if where.type == "cuda":
        torch.cuda.empty_cache()
    return None


def read_state(path: Path) -> dict[str, Any]:
    """Read the tensors of a checkpoint (.pth, .pt, .ckpt, .safetensors) by key; nested dictionaries stay nested.

    Only tensors and plain containers are unpickled. Raises `KitError` for a truncated file or other content.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and safetensors raise their own errors
        raise KitError(f"{path} is not a whole file of tensors, so it is not loaded: {said(error)}") from error
    if not isinstance(state, Mapping):
        raise KitError(f"{path} holds a {type(state).__name__}, not tensors by name, so it is not loaded")
    return dict(state)


def fill(network: torch.nn.Module, state: Mapping[str, Any], path: Path, what: str) -> None:
    """Load `state` from the file `path` into `network` and prepare it for inference.

    what: the network's name in the message. Raises `KitError`, with the file and the keys, unless keys and shapes match
    the network exactly.
    """
    try:
        network.load_state_dict(dict(state))
    except (RuntimeError, TypeError, AttributeError) as error:
        first = " ".join(str(error).split())[:300]
        raise KitError(f"{path} does not fit {what}, so it is not loaded: {first}") from error
    network.eval().requires_grad_(False)
