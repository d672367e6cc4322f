"""Run work in chunks through an executor: threads on this machine, or the caller's executor."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar
from uuid import uuid4

from imc_kit.runtime import deadline, malloc, progress

T = TypeVar("T")
Done = tuple[int, list[str]]
"""Units of work done by a chunk, and its notes."""

_STARTED = uuid4().hex


def fan_out(
    pool: Executor, function: Callable[..., Done], chunks: Sequence[tuple[Any, ...]], label: str, unit: str, total: int
) -> list[str]:
    """Call `function` on every chunk, show progress, and return the notes of all chunks.

    total: units in all chunks. If fewer are done, another note says so.

    An error in one chunk cancels the others and is raised.
    """
    here = _process()
    futures: list[Future[Done]] = [pool.submit(_with_one_thread, here, function, *chunk) for chunk in chunks]
    # `as_completed` would wait forever for futures that are cancelled when another thread shuts the pool down.
    ended: SimpleQueue[Future[Done]] = SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    notes: list[str] = []
    done = 0
    try:
        with progress.bar(label, total, unit) as bar:
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
    """Process a chunk with one thread per library call. In the process `home`, `workers` already ensures this."""
    if _process() != home:
        _prepare_worker()
    return function(*chunk)


def _process() -> tuple[str, int]:
    """Identify this process among all machines: a forked process has another id, a new process another `_STARTED`."""
    return _STARTED, os.getpid()


@contextmanager
def workers(executor: Executor | None, threads: int | None) -> Iterator[Executor]:
    """The given executor, or a pool with `threads` threads (default: one per core).

    Inside the block, OpenCV, BLAS and torch use one thread per call in this process.
    """
    with one_thread() as ending:
        if executor is None:
            executor = ThreadPoolExecutor(threads or cores())
            ending.callback(executor.shutdown, cancel_futures=True)
        yield executor


def cores() -> int:
    """The number of processor cores that this process may use: possibly fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def width(executor: Executor) -> int:
    """How many chunks the executor processes at once: its attribute `width`, or the number of cores."""
    return getattr(executor, "width", None) or cores()


def one_thread() -> ExitStack:
    """Limit OpenCV, BLAS and torch to one thread per call, because there are many workers.

    Its exit undoes this, and gives torch's attention the settings that it has now: LightGlue changes them.
    """
    import cv2
    from threadpoolctl import threadpool_limits

    undo = ExitStack()
    cudnn = "torch" not in sys.modules or sys.modules["torch"].backends.cuda.cudnn_sdp_enabled()
    undo.callback(lambda: "torch" in sys.modules and sys.modules["torch"].backends.cuda.enable_cudnn_sdp(cudnn))
    undo.callback(set_torch_threads, set_torch_threads(1) or cores())
    undo.callback(cv2.setNumThreads, cv2.getNumThreads())
    cv2.setNumThreads(1)
    undo.callback(threadpool_limits(1).restore_original_limits)
    return undo


@cache
def _prepare_worker() -> None:
    """In a worker process, limit threads: otherwise it starts one per core, and matrix products round differently."""
    malloc.tune()
    one_thread()


def set_torch_threads(count: int) -> int | None:
    """Set torch's threads per operation and return the old number; None if torch is not loaded."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    before: int = torch.get_num_threads()
    torch.set_num_threads(count)
    return before
