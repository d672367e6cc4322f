"""Detection and matching on several machines: the executor of a Dask cluster, for `solve(executor=…)`.

A chunk of work names its input and writes its results to the store, so all machines must see the same disk, and a chunk
whose worker dies is done again by another. What carries its arrays with it stays on this machine, as COLMAP does.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from imc_kit.errors import KitError, said
from imc_kit.runtime.executors import one_thread, workers

if TYPE_CHECKING:
    import distributed

T = TypeVar("T")

CONNECT = 10.0
"""Seconds in which a scheduler must answer and a worker be there."""
PATIENCE = 60.0
"""Seconds that work waits for a worker when all are gone."""


@contextmanager
def connected(
    address: str, out: Path, inputs: Iterable[Path] = (), threads: int | None = None
) -> Iterator[ClusterExecutor]:
    """The executor of the Dask cluster at `address`, as in tcp://host:8786, or the path of its scheduler file.

    out: the run's folder, which every worker must be able to write to.
    inputs: files and folders that every worker must see as they are here.
    threads: for what stays on this machine; one a core when left out.

    Raises KitError when Dask is not installed, the cluster is not there or has no worker, or a worker cannot do its
    part, which is named. A worker that joins later is looked at before its first chunk.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise KitError(f'a cluster needs Dask (pip install "imc-kit[cluster]"): {error}') from error
    place = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    try:
        client = Client(**place, timeout=CONNECT, set_as_default=False)
    except Exception as error:  # an AssertionError for a file of another kind
        raise KitError(f"no Dask scheduler answers at {address}: start one (dask scheduler), or correct it") from error
    with client, _seen(out, inputs) as seen, workers(None, threads) as here:
        try:
            client.wait_for_workers(1, CONNECT)
        except TimeoutError as error:
            start = f"start one (dask worker {client.scheduler_info()['address']})"
            raise KitError(f"the cluster at {address} has no worker: {start}") from error
        for worker, fault in client.run(seen.fault, on_error="return").items():
            if fault:
                raise _unfit(worker, said(fault) if isinstance(fault, Exception) else fault)
        executor = ClusterExecutor(client, seen, here)
        over = threading.Event()
        watch = threading.Thread(target=executor.watch, args=(over,), daemon=True)
        watch.start()
        try:
            yield executor
        finally:
            over.set()
            watch.join()


@dataclass(frozen=True)
class _Seen:
    """What this machine has, and a worker must have too."""

    probe: Path
    """A file in the run's folder that says its own name."""
    sizes: tuple[tuple[Path, int], ...]
    """In bytes, of files; 0 for folders."""
    version: str

    def fault(self) -> str:
        """Make this process ready for work, the first time; why it is of no use, or nothing."""
        return _fault(self)


@cache
def _fault(seen: _Seen) -> str:
    one_thread()
    if (version := _version()) != seen.version:
        return f"it has imc_kit {version}, and this machine {seen.version}"
    for path, size in ((seen.probe, len(seen.probe.name)), *seen.sizes):
        try:
            if size != _size(path):
                return f"it sees another {path}"
        except OSError as error:
            return f"it cannot see {path} ({error.strerror})"
    return "" if os.access(seen.probe.parent, os.W_OK) else f"it cannot write to {seen.probe.parent}"


@contextmanager
def _seen(out: Path, inputs: Iterable[Path]) -> Iterator[_Seen]:
    probe = out.absolute() / f".cluster-{uuid4().hex}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.write_text(probe.name)
    except OSError as error:
        raise KitError(f"cannot write to the folder {out}: {error.strerror}; choose another one") from error
    sizes = []
    for path in inputs:
        with suppress(OSError):  # what nobody can see is not a worker's fault
            sizes.append((path.absolute(), _size(path)))
    try:
        yield _Seen(probe, tuple(sizes), _version())
    finally:
        with suppress(OSError):
            probe.unlink()


def _size(path: Path) -> int:
    """Of a file that can be opened, 0 for a folder."""
    if path.is_dir():
        return 0
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END)


def _version() -> str:
    try:
        return metadata.version("imc-kit")
    except metadata.PackageNotFoundError:  # a checkout on the path
        return "of no version"


def _unfit(worker: str, fault: str) -> KitError:
    return KitError(
        f"the worker {worker} cannot take part: {fault}; all machines need the same imc_kit and a folder in common"
    )


def _done(seen: _Seen, call: Callable[[], T]) -> T:
    """Do a chunk, in a worker."""
    if fault := seen.fault():
        from distributed import get_worker

        raise _unfit(get_worker().address, fault)
    return call()


class ClusterExecutor(Executor):
    """`submit` sends to the cluster, `map` does not: it is for many small calls, which carry what they work on."""

    def __init__(self, client: distributed.Client, seen: _Seen, here: Executor) -> None:
        self._client = client
        self._seen = seen
        self._here = here
        self._waiting: set[distributed.Future[Any]] = set()

    @property
    def width(self) -> int:
        """How many chunks the cluster works on at once, now; 0 when it is gone."""
        try:
            return sum(self._client.nthreads().values())
        except Exception:  # of many kinds, when there is no scheduler any more
            return 0

    def submit(self, function: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        future: Future[T] = Future()
        call = partial(function, *arguments, **named)  # Dask does not look into it
        remote = self._client.submit(_done, self._seen, call, key=f"imc_kit-{uuid4().hex}", pure=False)
        self._waiting.add(remote)
        future.add_done_callback(lambda done: remote.cancel() if done.cancelled() else None)
        remote.add_done_callback(partial(self._hand_over, future))
        return future

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        return self._here.map(fn, *iterables, timeout=timeout, chunksize=chunksize)

    def _hand_over(self, future: Future[T], remote: distributed.Future[T]) -> None:
        self._waiting.discard(remote)
        if not future.set_running_or_notify_cancel():  # cancelled
            return
        from distributed import KilledWorker

        try:
            future.set_result(remote.result())
        except KilledWorker as error:
            future.set_exception(
                KitError(
                    f"a chunk of the work ended {error.allowed_failures + 1} workers one after the other, the last at"
                    f" {error.last_worker.address}: see its log; it may need more memory"
                )
            )
        except BaseException as error:  # a cancelled one is not always an Exception
            lost = KitError("the cluster is gone: no scheduler, or no worker; the same command goes on from here")
            future.set_exception(lost if remote.cancelled() else error)
        finally:
            remote.release()  # or it would be done again when its worker dies later

    def watch(self, over: threading.Event) -> None:
        """Give up what waits when there has been no worker for long: nobody else would end such a run."""
        seen = time.monotonic()
        while not over.wait(PATIENCE / 20):
            if self.width:
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE:
                for remote in list(self._waiting):
                    remote.cancel()
