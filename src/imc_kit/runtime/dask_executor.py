"""Detection, matching and partitions of large scenes on several machines: a Dask cluster as `solve(executor=…)`.

A chunk of work names its input and writes its results to a shared folder. So all machines need a shared disk, and if a
worker dies, another repeats its chunk. Calls with arrays as arguments stay on this machine, and so do all other jobs of
COLMAP.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from imc_kit.errors import KitError, said
from imc_kit.runtime import versions
from imc_kit.runtime.executors import one_thread, workers

T = TypeVar("T")
_VERSION = " ".join(versions.KIT) or "of no version"  # a checkout that is not installed has none

CONNECT = 10.0
"""Seconds to wait for the scheduler, and for a first worker. Shorter than Dask's 30, so that a typo shows soon."""
PATIENCE = 60.0
"""Seconds without any worker before a scene is given up: enough to start a new worker."""


@contextmanager
def connected(address: str, out: Path, inputs: Iterable[Path] = (), threads: int | None = None) -> Iterator[Executor]:
    """The executor of the Dask cluster at `address`, such as tcp://host:8786 or the path of its scheduler file.

    out: the run's folder, which every worker must be able to write to.
    inputs: files and folders that every worker must be able to read.
    threads: for the work that stays on this machine (default: one per core).

    Raises `KitError` when Dask is not installed, when there is no scheduler or worker, or when a worker is unfit; the
    message names that worker. A worker that joins later is checked before its first chunk.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise KitError(f'a cluster needs Dask (pip install "imc-kit[cluster]"): {error}') from error
    place = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    try:
        client = Client(**place, timeout=CONNECT, set_as_default=False)
    except Exception as error:  # many kinds, for example AssertionError if a file is not a scheduler file
        raise KitError(f"no Dask scheduler answers at {address}: start one (dask scheduler), or correct it") from error
    with client, workers(None, threads) as here, _requirements(out, inputs) as required:
        try:
            client.wait_for_workers(1, CONNECT)
        except TimeoutError as error:
            start = f"start one (dask worker {client.scheduler_info()['address']})"
            raise KitError(f"the cluster at {address} has no worker: {start}") from error
        for worker, fault in client.run(_fault, *required, on_error="return").items():
            if fault:
                raise _unfit(worker, said(fault) if isinstance(fault, Exception) else fault)
        with ClusterExecutor(client, required, here) as executor:
            yield executor


@cache
def _fault(version: str, paths: tuple[Path, ...]) -> str:
    """Why this process is unfit, or an empty string. The first call also prepares it for work.

    version: of imc_kit on the machine that asks. paths: a new file in the run's folder, and the inputs.
    """
    one_thread()
    if version != _VERSION:
        return f"it has imc_kit {_VERSION}, and this machine {version}"
    for path in paths:
        try:
            if not path.is_dir():
                path.open("rb").close()
        except OSError as error:
            return f"it cannot see {path} ({error.strerror})"
    return "" if os.access(paths[0].parent, os.W_OK) else f"it cannot write to {paths[0].parent}"


@contextmanager
def _requirements(out: Path, inputs: Iterable[Path]) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """The arguments of `_fault`. The inputs that this machine cannot read are left out."""
    probe = out.absolute() / f".cluster-{uuid4().hex}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise KitError(f"cannot write to the folder {out}: {error.strerror}; choose another one") from error
    try:
        yield _VERSION, (probe, *(path.absolute() for path in inputs if os.access(path, os.R_OK)))
    finally:
        probe.unlink(missing_ok=True)


def _unfit(worker: str, fault: str) -> KitError:
    need = "all machines need the same imc_kit and a shared folder"
    return KitError(f"the worker {worker} cannot take part: {fault}; {need}")


def _run_chunk(required: tuple[str, tuple[Path, ...]], call: Callable[[], T]) -> T:
    """Check the worker, then process a chunk in it."""
    if fault := _fault(*required):
        from distributed import get_worker

        raise _unfit(get_worker().address, fault)
    return call()


class ClusterExecutor(Executor):
    """`submit` runs a call on the cluster. `map` runs calls here: it serves many small calls with array arguments."""

    def __init__(self, client: Any, required: tuple[str, tuple[Path, ...]], here: Executor) -> None:
        self._client, self._required, self._here = client, required, here
        self._waiting: set[Any] = set()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ended.set()

    @property
    def width(self) -> int:
        """How many chunks the cluster can currently process at once; 0 when the scheduler is gone."""
        try:
            return sum(self._client.nthreads().values())
        except Exception:  # many kinds, when the scheduler is gone
            return 0

    def submit(self, function: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        future: Future[T] = Future()
        call = partial(function, *arguments, **named)  # Dask does not look for its own futures in a partial
        remote = self._client.submit(_run_chunk, self._required, call, key=f"imc_kit-{uuid4().hex}", pure=False)
        self._waiting.add(remote)
        future.add_done_callback(lambda done: remote.cancel() if done.cancelled() else None)
        remote.add_done_callback(partial(self._hand_over, future))
        return future

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], **options: Any) -> Iterator[T]:
        return self._here.map(fn, *iterables, **options)

    def _hand_over(self, future: Future[T], remote: Any) -> None:
        """Copy the result or the error of a Dask future to `future`."""
        self._waiting.discard(remote)
        if not future.set_running_or_notify_cancel():
            return
        from distributed import KilledWorker

        try:
            future.set_result(remote.result())
        except BaseException as error:  # Dask's CancelledError is not an Exception in every version
            shown = error
            if isinstance(error, KilledWorker):
                died = f"a task killed {error.allowed_failures + 1} workers in a row, the last at"
                shown = KitError(f"{died} {error.last_worker.address}: see its log; it may need more memory")
            elif remote.cancelled():
                shown = KitError("the cluster is gone: no scheduler, or no worker; run the same command to resume")
            future.set_exception(shown)
        finally:
            remote.release()  # otherwise Dask repeats it if its worker dies later

    def _watch(self) -> None:
        """Cancel all waiting work after `PATIENCE` seconds without a worker. Dask would wait forever."""
        seen = time.monotonic()
        while not self._ended.wait(PATIENCE / 20):
            if self.width:
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE:
                for remote in list(self._waiting):
                    remote.cancel()
