"""Compiled loops: the same results, outside of the interpreter's lock, with a place to keep them or without."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest

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
    """One that has no file, so that there is no place to keep what is compiled."""
    names = {}
    exec(SOURCE, names)
    return names["total"]


def test_without_a_place_to_keep_it_it_is_compiled_all_the_same():
    values = np.arange(1000, dtype=np.float64)
    assert compiled(function())(values, 3) == 3 * values.sum()


def infinite(values):
    count = 0
    for i in range(len(values)):
        count += values[i] == -np.inf
    return count


def test_infinity_is_a_number():
    values = np.array([1.0, -np.inf, 3.0])
    assert compiled(infinite)(values) == 1
    assert numba.njit(fastmath=True)(infinite)(values) == 0  # what compiled must not say


FULL_DISK = """
import resource, signal
import numpy as np
from imc_kit.matchers.nearest_numba import note
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
nearness = np.array([[1, 3, 2]], np.float32)
rows, columns = ((np.full(n, -1, np.int32), *np.full((2, n), -np.inf, np.float32)) for n in (1, 3))
note(nearness, np.arange(3), 0, *rows, *columns)
print(rows[0])
"""


def test_a_full_disk_costs_nothing_but_the_cache(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert subprocess.check_output([sys.executable, "-c", FULL_DISK], env=environment, text=True) == "[1]\n"
    assert not list(tmp_path.rglob("*.nbi"))


@pytest.mark.parametrize("made", ["preset('sift').check()", "SiftConfig().create()", "NearestConfig().create()"])
def test_without_numba_the_configuration_says_so(made):
    """And not after the detection."""
    code = f"""
import sys
sys.modules["numba"] = None
from imc_kit.config import NearestConfig, SiftConfig, preset
try:
    {made}
except Exception as error:
    print(type(error).__name__, error)
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said.startswith("KitError numba, which compiles SIFT and the matching, cannot be loaded with NumPy")


def test_it_is_announced_once_and_for_our_loops_only(caplog):
    caplog.set_level(logging.INFO)
    announcement = _Announcement()
    numba.core.event.register("numba:compile", announcement)
    try:
        numba.njit(lambda x: x + 1)(1)
        assert not announcement.said
        for _ in range(2):
            ours = function()
            ours.__module__ = "imc_kit.detectors.loops"
            compiled(ours)(np.ones(3), 1)
    finally:
        numba.core.event.unregister("numba:compile", announcement)
    assert announcement.said
    said = [record.message for record in caplog.records if record.name == "imc_kit.runtime.numba_cache"]
    assert 1 <= len(said) <= 2  # the module's own, if it is its first, too


def test_python_goes_on_meanwhile():
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
