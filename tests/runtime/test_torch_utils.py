"""Threads and GPUs. (Loading files is tested with each network.)"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import numpy as np
import pytest

from imc_kit.pipeline import tasks
from imc_kit.runtime import torch_utils

torch = pytest.importorskip("torch")
pytest.importorskip("kornia")
T = TypeVar("T")


def in_threads(number: int, function: Callable[[], T]) -> list[T]:
    """The results of a function in several threads at once."""
    together = threading.Barrier(number)

    def call() -> T:
        together.wait(10)
        return function()

    with ThreadPoolExecutor(number) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(number)]]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pretend that there are some GPUs."""
    monkeypatch.setattr(torch_utils, "_thread_numbers", count())
    monkeypatch.setattr(torch_utils, "_thread", threading.local())

    def there_are(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return there_are


@pytest.mark.parametrize(("number", "threads", "expected"), [(2, 4, {0: 2, 1: 2}), (3, 3, {0: 1, 1: 1, 2: 1})])
def test_threads_are_assigned_gpus_in_rotation(
    gpus: Callable[[int], None], number: int, threads: int, expected: dict[int, int]
) -> None:
    gpus(number)
    found = in_threads(threads, lambda: [torch_utils.device("auto", "a network") for _ in range(3)])
    assert all(first == second == third for first, second, third in found)
    assert Counter(first.index for first, *_ in found) == expected
    assert {first.type for first, *_ in found} == {"cuda"}


@pytest.mark.parametrize("number", [0, 1])
def test_with_one_gpu_or_none_all_threads_share(gpus: Callable[[int], None], number: int) -> None:
    gpus(number)
    expected = torch.device("cuda", 0) if number else torch.device("cpu")
    assert in_threads(3, lambda: torch_utils.device("auto", "a network")) == [expected] * 3
    assert torch_utils.device("cpu", "a network") == torch.device("cpu")


made: list[Any] = []


@dataclass(frozen=True)
class WithDevice:
    """Creates a value that holds its device."""

    device: torch_utils.Device = "auto"

    def create(self, *kind: str) -> Any:
        created = (torch_utils.device(self.device, "a network"), *kind)
        made.append(created)
        return created


@pytest.mark.parametrize(("number", "wanted", "copies"), [(0, "auto", 1), (2, "auto", 2), (2, "cpu", 1)])
def test_each_gpu_has_one_copy(
    gpus: Callable[[int], None], number: int, wanted: torch_utils.Device, copies: int
) -> None:
    gpus(number)
    made.clear()
    tasks._created.cache_clear()
    found = in_threads(6, lambda: tasks.loaded(WithDevice(wanted), "sift"))
    assert len(made) == len({id(one) for one in found}) == copies
    assert Counter(one[0].index for one in found).keys() == ({0, 1} if copies == 2 else {None})
    assert {one[1] for one in found} == {"sift"}


def test_arrays_are_tensors_on_the_device() -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    tensor = torch_utils.on_device(values, torch.device("cpu"))
    assert (tensor.dtype, tensor.device.type) == (torch.uint8, "cpu")
    np.testing.assert_array_equal(tensor.numpy(), values)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_arrays_reach_the_gpu() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 300)).astype(np.float32)
    tensor = torch_utils.on_device(values, torch.device("cuda", 0))
    assert tensor.device == torch.device("cuda", 0)
    np.testing.assert_array_equal(tensor.cpu().numpy(), values)


def test_without_torch_no_thread_needs_a_gpu() -> None:
    code = "import sys; sys.modules['torch'] = None; from imc_kit.runtime.torch_utils import gpu_of_thread as number"
    code += "; print(number('auto'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
