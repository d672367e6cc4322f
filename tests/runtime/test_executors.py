"""Work in chunks through an executor."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from imc_kit.runtime import deadline
from imc_kit.runtime.executors import fan_out, width, workers


def chunk(number: int) -> tuple[int, list[str]]:
    return number, [f"note {number}"] if number % 2 else []


def test_chunks_are_counted_and_their_notes_kept() -> None:
    with ThreadPoolExecutor(3) as pool:
        notes = fan_out(pool, chunk, [(number,) for number in range(6)], "a", "thing", 15)
        assert sorted(notes) == ["note 1", "note 3", "note 5"]
        assert fan_out(pool, chunk, [(2,)], "a", "thing", 5) == [f"a: {deadline.RAN_OUT}, 2 of 5 things were done"]
        assert fan_out(pool, chunk, [], "a", "thing", 0) == []


def test_an_error_ends_the_rest() -> None:
    begun: list[int] = []

    def failing(number: int) -> tuple[int, list[str]]:
        begun.append(number)
        time.sleep(0.05)
        raise ValueError("not this one")

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="not this one"):
        fan_out(pool, failing, [(number,) for number in range(100)], "a", "thing", 100)
    assert len(begun) <= 2


def test_the_end_of_the_pool_ends_the_wait() -> None:
    began = threading.Event()
    ended: list[BaseException] = []

    def slow() -> tuple[int, list[str]]:
        began.set()
        time.sleep(0.1)
        return 1, []

    def wait() -> None:
        try:
            fan_out(pool, slow, [()] * 1000, "a", "thing", 1000)
        except (CancelledError, RuntimeError) as error:
            ended.append(error)

    pool = ThreadPoolExecutor(1)
    waiting = threading.Thread(target=wait)
    waiting.start()
    assert began.wait(10)
    pool.shutdown(cancel_futures=True)
    waiting.join(10)
    assert not waiting.is_alive()
    assert len(ended) == 1


def test_libraries_use_one_thread_each_while_there_are_workers() -> None:
    before = cv2.getNumThreads()
    with workers(None, 3) as pool:
        assert cv2.getNumThreads() == 1
        assert pool.submit(cv2.getNumThreads).result() == 1
        assert len({pool.submit(threading.get_ident).result() for _ in range(9)}) <= 3
    assert cv2.getNumThreads() == before


def test_a_given_executor_is_left_open() -> None:
    before = cv2.getNumThreads()
    with ThreadPoolExecutor(2) as mine:
        with workers(mine, None) as pool:
            assert pool is mine
            assert pool.submit(cv2.getNumThreads).result() == 1
        assert mine.submit(chunk, 4).result() == (4, [])
    assert cv2.getNumThreads() == before


def threads() -> list[int]:
    """The threads that OpenCV and each loaded BLAS use for one operation."""
    assert np.ones((2, 2)).dot(np.ones((2, 2))).all()
    blas = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    assert blas
    return [cv2.getNumThreads(), *blas]


def told_threads() -> tuple[int, list[str]]:
    return 1, [str(count) for count in threads()]


def start_threads() -> None:
    cv2.setNumThreads(3)
    threadpool_limits(3)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_libraries_use_one_thread_each_in_processes_too(method: str) -> None:
    with ProcessPoolExecutor(1, get_context(method), initializer=start_threads) as mine:
        assert set(mine.submit(threads).result()) == {3}
        with workers(mine, None) as pool:
            assert set(fan_out(pool, told_threads, [()], "a", "thing", 1)) == {"1"}


def test_the_thread_limits_of_this_process_are_restored() -> None:
    with threadpool_limits(2):  # the tests themselves use one
        before = threads()
        assert set(before[1:]) == {2}
        with ThreadPoolExecutor(2) as mine, workers(mine, None) as pool:
            assert set(fan_out(pool, told_threads, [()], "a", "thing", 1)) == {"1"}
        assert threads() == before


def test_torchs_attention_is_as_it_was_before_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for torch, which is slow to import."""
    settings = [True]
    cuda = SimpleNamespace(cudnn_sdp_enabled=lambda: settings[-1], enable_cudnn_sdp=settings.append)
    torch = SimpleNamespace(
        backends=SimpleNamespace(cuda=cuda), get_num_threads=lambda: 1, set_num_threads=lambda count: None
    )
    for before in (True, False):
        monkeypatch.setitem(sys.modules, "torch", torch)
        settings[:] = [before]
        with workers(None, 1):
            cuda.enable_cudnn_sdp(not before)
        assert settings == [before, not before, before]


def test_an_executor_may_have_a_width() -> None:
    class Wide(ThreadPoolExecutor):
        width = 70

    with Wide(1) as wide, ThreadPoolExecutor(1) as plain:
        assert width(wide) == 70
        assert width(plain) >= 1
