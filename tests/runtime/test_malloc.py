"""glibc's settings, observed from outside: each case runs in its own process, because they cannot be undone.

Nothing changes them but `tune`, which commands, workers and notebooks on Kaggle call.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from typing import Any

import pytest

from imc_kit.cli.main import COMMANDS, main
from imc_kit.runtime import malloc

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")

ARENAS = """
import ctypes, sys, threading
from imc_kit.runtime import malloc
from imc_kit.runtime.executors import workers
if "tuned" in sys.argv:
    malloc.tune()
together = threading.Barrier(3)
def use():
    together.wait(10)
    libc.free(libc.malloc(1000))
    together.wait(10)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
with workers(None, 3) as pool:
    for future in [pool.submit(use) for _ in range(3)]:
        future.result()
    libc.malloc_stats()
"""
BLOCKS = """
import ctypes, sys
from imc_kit.runtime import malloc
def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def take(megabytes):
    block = libc.malloc(megabytes << 20)
    ctypes.memset(block, 1, megabytes << 20)
    return block
if "tuned" in sys.argv:
    malloc.tune()
libc.free(take(30))  # by default, glibc now keeps blocks of this size
before = held()
large, small = [], []
for _ in range(20):
    large.append(take(20))
    small.append(take(1))
for block in large:
    libc.free(block)
print(held() - before)
"""


def said(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)


@glibc
def test_workers_take_memory_from_one_place_if_tuned() -> None:
    assert said(ARENAS).stderr.count("Arena ") > 2
    assert said(ARENAS, "tuned").stderr.count("Arena ") <= 2  # an import may have made one


@glibc
def test_large_blocks_between_small_ones_are_given_back() -> None:
    assert int(said(BLOCKS).stdout) > 200
    assert int(said(BLOCKS, "tuned").stdout) < 50


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_commands_set_torchs_variable_unless_the_user_has(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str
) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", before or "")
    if before is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    monkeypatch.setattr(malloc, "_set", lambda *_: None)
    monkeypatch.setattr(COMMANDS["score"], "run", lambda _: 0)
    assert main(["score", "a.csv", "b.csv"]) == 0
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == after


@pytest.mark.parametrize("error", [OSError("no C library"), TypeError("bad argument type"), AttributeError("mallopt")])
def test_another_c_library_is_no_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", os.environ.get("THP_MEM_ALLOC_ENABLE", "1"))
    malloc.tune()
