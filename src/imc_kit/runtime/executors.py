"""Work in chunks through an executor: threads of this machine, or whatever executor one brings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar
from uuid import uuid4

from imc_kit.runtime import deadline, malloc, progress

T = TypeVar("T")

_STARTED = uuid4().hex


def fan_out(
    executor: Executor,
    function: Callable[..., tuple[int, list[str]]],
    chunks: Sequence[tuple[Any, ...]],
    label: str,
    unit: str,
    total: int,
) -> list[str]:
    """Call `function` on every chunk, showing progress; returns all their notes. An error ends the rest.

    The function gives how many units it has done, and its notes. That it did not come to all is a note too.
    """
    here = _process()
    futures: list[Future[tuple[int, list[str]]]] = [
        executor.submit(_with_one_thread, here, function, *chunk) for chunk in chunks
    ]
    # Not `as_completed`, which waits for ever for what the end of a pool in another thread has cancelled.
    ended: SimpleQueue[Future[tuple[int, list[str]]]] = SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    notes = []
    done = 0
    try:
        with progress.bar(total=total, desc=label, unit=unit, delay=2, leave=False) as bar:
            for _ in futures:
                count, some = ended.get().result()
                bar.update(count)
                done += count
                notes += some
    finally:
        for future in futures:
            future.cancel()
    if done < total:
        notes.append(f"{label}: {deadline.RAN_OUT}, {done} of {total} {unit}s were done")
    return notes


def _with_one_thread(home: tuple[str, int], function: Callable[..., T], *chunk: Any) -> T:
    """Do a chunk; `home` is the process in which `workers` sees to it that no library starts threads."""
    if _process() != home:
        _one_thread_for_good()
    return function(*chunk)


def _process() -> tuple[str, int]:
    """Which one this is, of all machines: what is forked has another number, and what is not another name."""
    return _STARTED, os.getpid()


@contextmanager
def workers(executor: Executor | None, threads: int | None) -> Iterator[Executor]:
    """The executor given, or a pool with one thread a core. Meanwhile no library starts threads of its own here."""
    back = one_thread()
    try:
        if executor is not None:
            yield executor
            return
        malloc.one_arena()
        pool = ThreadPoolExecutor(threads or cores())
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
    finally:
        back()


def cores() -> int:
    """The processor's cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def width(executor: Executor) -> int:
    """How many chunks the executor works on at once, as it says or as there are cores."""
    return getattr(executor, "width", None) or cores()


def one_thread() -> Callable[[], None]:
    """Let OpenCV, BLAS and torch use one thread each, as the workers are many; returns what undoes it."""
    import cv2
    from threadpoolctl import threadpool_limits

    opencv_threads = cv2.getNumThreads()
    torch_threads = set_torch_threads(1)
    cv2.setNumThreads(1)
    limits = threadpool_limits(1)

    def back() -> None:
        limits.restore_original_limits()
        cv2.setNumThreads(opencv_threads)
        set_torch_threads(torch_threads or cores())

    return back


@cache
def _one_thread_for_good() -> None:
    """In a process that is there for our work: without it each of several would start a thread a core, and products of
    matrices be rounded otherwise than by one."""
    one_thread()


def set_torch_threads(count: int) -> int | None:
    """Set torch's threads for one operation if torch is loaded at all; returns what it was."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    before: int = torch.get_num_threads()
    torch.set_num_threads(count)
    return before
