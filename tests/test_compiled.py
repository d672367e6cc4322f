"""Compiled loops: the same results, outside of the interpreter's lock, with a place to keep them or without."""

from __future__ import annotations

import threading
import time

import numpy as np

from imc_kit.compiled import compiled

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


def test_infinity_is_a_number():
    assert compiled(function())(np.array([1.0, np.inf]), 1) == np.inf


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
