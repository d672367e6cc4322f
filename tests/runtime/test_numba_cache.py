"""Compiled functions: the same results, without Python's lock, with and without a cache."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numba
import numpy as np

from imc_kit.runtime import numba_cache
from imc_kit.runtime.numba_cache import _Announcement, compiled

SOURCE = """
def total(values, rounds):
    sum = 0.0
    for _ in range(rounds):
        for i in range(len(values)):
            sum += values[i]
    return sum
"""


def function():
    """A function without a file, so that there is no place for the cache."""
    names = {}
    exec(SOURCE, names)
    return names["total"]


def test_without_a_place_for_the_cache_it_is_compiled_all_the_same():
    values = np.arange(1000, dtype=np.float64)
    assert compiled(function())(values, 3) == 3 * values.sum()


def twice(value):
    return 2 * value


def test_code_is_never_taken_from_the_current_folder(tmp_path, monkeypatch):
    """Machine code is loaded by pickle, which executes anything."""
    kept = compiled(twice)._cache
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert type(compiled(twice)._cache) is type(kept)
    Path(".numba_config.yaml").write_text("cache_dir: cache")
    assert type(compiled(twice)._cache) is not type(kept)
    Path(".numba_config.yaml").unlink()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(numba_cache, "expanded", lambda _: None)
    monkeypatch.setattr(os, "access", lambda *_: False)  # of the folder of the source
    assert type(compiled(twice)._cache) is not type(kept)
    assert list(tmp_path.iterdir()) == []
    assert compiled(twice)(21) == 42


def infinite(values):
    count = 0
    for i in range(len(values)):
        count += values[i] == -np.inf
    return count


def test_infinity_is_a_number():
    values = np.array([1.0, -np.inf, 3.0])
    assert compiled(infinite)(values) == 1
    assert numba.njit(fastmath=True)(infinite)(values) == 0  # all fast-math flags get it wrong


FULL_DISK = """
import resource, signal
from tiny import twice
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
print(twice(21))
"""


def test_a_full_disk_costs_only_the_cache(tmp_path):
    (tmp_path / "tiny.py").write_text(
        "from imc_kit.runtime.numba_cache import compiled\n@compiled\ndef twice(x):\n    return 2 * x\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": path}
    for limited, code in ((True, FULL_DISK), (False, "from tiny import twice; print(twice(21))")):
        assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "42\n"
        assert any(tmp_path.rglob("*.nbi")) is not limited


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
from imc_kit.config import NearestConfig, SiftConfig, preset
for make in (preset("sift").check, SiftConfig().create, NearestConfig().create):
    try:
        make()
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_without_numba_configurations_are_refused_before_the_work_starts():
    lines = subprocess.check_output([sys.executable, "-c", WITHOUT_NUMBA], text=True).splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("KitError numba, which compiles SIFT and the matching, cannot be loaded with NumPy")


def test_compiling_is_announced_once_and_only_for_the_kit(caplog):
    caplog.set_level(logging.INFO)
    announcement = _Announcement()
    numba.core.event.register("numba:compile", announcement)
    try:
        numba.njit(lambda x: x + 1)(1)
        assert not announcement.said
        for _ in range(2):
            ours = function()
            ours.__module__ = "imc_kit.detectors.any"
            compiled(ours)(np.ones(3), 1)
    finally:
        numba.core.event.unregister("numba:compile", announcement)
    assert announcement.said
    said = [record.message for record in caplog.records if record.name == "imc_kit.runtime.numba_cache"]
    assert 1 <= len(said) <= 2  # the module's own listener may announce it too


def test_other_threads_run_meanwhile():
    total = compiled(function())
    values = np.ones(1000)
    total(values, 1)
    ended = threading.Event()

    def work():
        total(values, 1_000_000)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    ticks = 0
    while not ended.is_set():
        ticks += 1
        time.sleep(0.001)
    thread.join()
    assert ticks > 5
