"""Seconds and memory of stages."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from imc_kit.runtime import meter
from imc_kit.runtime.meter import Meter


def test_seconds_add_up_and_survive_an_error() -> None:
    cost = Meter()
    with cost("a"):
        time.sleep(0.02)
    with pytest.raises(ValueError, match="sleep length"), cost("a"):
        time.sleep(0.02) or time.sleep(-1)
    with cost("b"):
        pass
    assert list(cost.seconds) == ["a", "b"]
    assert cost.seconds["a"] >= 0.04 > cost.seconds["b"]


@pytest.mark.skipif(meter.peak_memory() is None, reason="the system does not tell the peak memory of a process")
def test_each_stage_has_its_own_peak() -> None:
    cost = Meter()
    with cost("small"):
        pass
    with cost("large"):
        np.ones(200_000_000, np.uint8)
    with cost("small again"):
        pass
    small, large, again = cost.memory.values()
    assert large - small > 150_000_000
    assert large - again > 150_000_000


@pytest.mark.skipif(meter.peak_memory() is None, reason="the system does not tell the peak memory of a process")
def test_a_stage_in_another_thread_does_not_hide_a_peak() -> None:
    one, other = Meter(), Meter()
    with one("large"):
        np.ones(200_000_000, np.uint8)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: other("small").__enter__()).result()
    with one("after"):
        pass
    assert one.memory["large"] - one.memory["after"] > 150_000_000


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meter, "_PROCESS", tmp_path / "none")
    cost = Meter()
    with cost("a"):
        pass
    assert cost.memory == {}
    assert list(cost.seconds) == ["a"]
