"""A Dask cluster of real processes, with workers that are killed, and clusters that cannot be used."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from math import inf
from multiprocessing import forkserver, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from imc_kit.cli.main import main
from imc_kit.colmap.child import LargeScenes, Workplace
from imc_kit.colmap.mapping import MappingConfig, map_scene
from imc_kit.data import scenes, submission, tables
from imc_kit.data.store import Store
from imc_kit.errors import KitError
from imc_kit.pipeline import chunks
from imc_kit.pipeline.run import solve
from imc_kit.runtime import dask_executor
from imc_kit.runtime.dask_executor import connected
from imc_kit.runtime.executors import cores, fan_out, width
from imc_kit.types import Features
from point_scenes import ALL, FIRST, MAPPING_ALONE, ONE_RUN, Points, PointsConfig, write_photographs
from small_tasks import write_task
from synthetic_models import errors, synthesize, unmatch
from views import views

HERE = Path(__file__).parent
HELPERS = HERE.parent / "helpers"
BLIND = """
import sys
def hook(event, arguments):
    if event == "open" and "out of sight" in str(arguments[0]):
        raise FileNotFoundError(2, "No such file or directory")
sys.addaudithook(hook)
"""
"""Hides folders of this name from a worker, as if it ran on another machine."""

MORTAL = """
import os, signal, sys
def hook(event, arguments):
    if event == "os.rename" and "parts" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""
"""Kills a worker that renames a finished partition."""


def eventually(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def dask_command(folder: Path, *arguments: str) -> None:
    """Does what `dask ARGUMENTS` does, in `folder` and in silence."""
    from dask import config
    from dask.cli import run_cli

    config.set({"distributed.scheduler.allowed-failures": 1})  # the second death ends a task
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    sys.argv = ["dask", *arguments]
    run_cli()


class Cluster:
    """A scheduler and workers without nannies, so that a killed worker is not restarted.

    They are forks of one process, which has loaded Dask and the kit once for all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.workers: list[BaseProcess] = []
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0")
        eventually(lambda: self.file.exists() and self.file.read_text().rstrip().endswith("}"))  # it is complete
        self.address = json.loads(self.file.read_text())["address"]

    def _start(self, what: str, *options: str) -> BaseProcess:
        arguments = (self.folder, what, "--scheduler-file", str(self.file), "--no-dashboard", *options)
        process = get_context("forkserver").Process(target=dask_command, args=arguments, daemon=True)
        process.start()
        return process

    def worker(self, *options: str) -> BaseProcess:
        options = ("--no-nanny", "--nthreads", "1", "--local-directory", str(self.folder), *options)
        process = self._start("worker", *options)
        self.workers.append(process)
        return process

    def has(self, count: int) -> list[int]:
        """Start or kill workers until there are `count`; returns their process ids."""
        from distributed import Client

        self.workers = [process for process in self.workers if process.is_alive()]
        while len(self.workers) > count:
            kill(self.workers.pop())
        while len(self.workers) < count:
            self.worker()
        with Client(self.address, set_as_default=False) as client:
            eventually(lambda: len(client.nthreads()) == count)
        return [process.pid or 0 for process in self.workers]

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            kill(process)


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


@pytest.fixture(scope="module")
def forking() -> None:
    """Starts the process that the cluster's are forks of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (Path(dask_executor.__file__).parents[2], HELPERS, HERE))))
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # as a user's
            patch.delenv(name)
        loaded = ["distributed.cli.dask_scheduler", "distributed.cli.dask_worker", __name__]
        get_context("forkserver").set_forkserver_preload(loaded)
        forkserver.ensure_running()


@pytest.fixture(scope="module")
def dask(forking: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("dask"))
    try:
        yield made
    finally:
        made.close()


@dataclass(frozen=True)
class HeldConfig(PointsConfig):
    """Records the finished images in a folder, and waits with some images while a file `hold` is there."""

    name: ClassVar[str] = "held"
    folder: str = ""  # no path: the content of a path would be part of the fingerprint
    held_from: int = 8
    deadly: int = 255
    """The grey of an image that kills the process."""

    def create(self) -> Held:
        return Held(self)


class Held(Points):
    config: HeldConfig

    def detect(self, images: Sequence[Any], masks: Sequence[Any]) -> list[Features]:
        greys = [int(image[0, 0, 0]) for image in images]
        if self.config.deadly in greys:
            os.kill(os.getpid(), signal.SIGKILL)
        while max(greys) >= self.config.held_from and (Path(self.config.folder) / "hold").exists():
            (Path(self.config.folder) / f"waiting-{os.getpid()}").touch()
            time.sleep(0.02)
        for grey in greys:
            (Path(self.config.folder) / f"done-{grey}-{time.monotonic_ns()}").touch()
        return super().detect(images, masks)


def contents(out: Path) -> tuple[set[str], set[str], set[frozenset[str]]]:
    """Keys of the features, keys of the matches, and the latter as unordered pairs."""
    store = Store(out / "store")
    features = {key for path in (out / "store/features").iterdir() for key in store.features(path.name)._where}
    matches = {key for path in (out / "store/matches").iterdir() for key in store.matches(path.name)._where}
    return features, matches, {frozenset(key.split("-")) for key in matches}


# ---- workers that die ----


def test_a_worker_killed_in_the_middle_of_its_chunk(dask: Cluster, tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "mixed")
    notes = tmp_path / "notes"
    notes.mkdir()
    config = replace(MAPPING_ALONE, mapping=ONE_RUN.mapping, detector=HeldConfig(folder=str(notes)))
    local = solve(photographs, tmp_path / "local", config)
    for path in notes.iterdir():
        path.unlink()

    (notes / "hold").touch()
    victim, survivor = dask.has(2)
    with connected(dask.address, tmp_path / "out", [photographs], 1) as executor:
        thread = threading.Thread(
            target=solve, args=(photographs, tmp_path / "out", config), kwargs={"executor": executor}
        )
        thread.start()
        eventually(
            lambda: {path.name for path in notes.glob("waiting-*")} == {f"waiting-{victim}", f"waiting-{survivor}"}
        )
        parts = chunks.image_chunks(range(ALL), executor, inf)
        left = sum(max(chunk) >= config.detector.held_from for chunk in parts)
        eventually(lambda: len(executor._client.futures) == left)  # the others have been taken note of
        os.kill(victim, signal.SIGKILL)
        (notes / "hold").unlink()
        thread.join()
    run = solve(photographs, tmp_path / "out", config)  # reads the store

    done = [int(path.name.split("-")[1]) for path in notes.glob("done-*")]
    assert sorted(done) == list(range(ALL))  # each image once: finished chunks are not repeated
    assert run.submission.read_bytes() == local.submission.read_bytes()
    assert run.scenes["mixed"].notes == local.scenes["mixed"].notes == []
    assert run.scenes["mixed"].counts["registered"] == FIRST
    features, _, pairs = stored = contents(tmp_path / "out")
    assert (len(features), len(pairs)) == (ALL, ALL * (ALL - 1) // 2)
    assert stored == contents(tmp_path / "local")
    assert list((tmp_path / "out").glob(".cluster-*")) == []


def test_a_rendered_scene_from_the_command_line_while_a_worker_is_killed(
    dask: Cluster, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = views(tmp_path_factory, range(8))
    write_task(tmp_path / "root", {"plaza": {f"{number}.jpg": photo for number, photo in enumerate(photos)}})
    monkeypatch.chdir(tmp_path)  # the workers have another working directory
    victim, _ = dask.has(2)

    def killer() -> None:
        eventually(lambda: any((tmp_path / "out/store").glob("matches/*/*.h5")))
        os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    command = ["solve", "root", "--detector.max-keypoints", "500", "--threads", "1", "--out", "out"]
    assert main([*command, "--cluster", str(dask.file)]) == 0
    thread.join()
    dask.workers[0].join(10)
    assert dask.workers[0].exitcode == -signal.SIGKILL

    task = scenes.load(tmp_path / "root")
    assert submission.check(tmp_path / "out/submission.csv", task.columns, task.keys) == []
    assert len(tables.read_table(tmp_path / "out/submission.csv")) == len(photos)
    features, _, pairs = contents(tmp_path / "out")
    assert (len(features), len(pairs)) == (8, 8 * 7 // 2)


def test_a_worker_killed_while_it_maps_a_partition(dask: Cluster, tmp_path: Path) -> None:
    """It dies when its partition is mapped, just before it says so: the other worker maps all of them."""
    row = synthesize(tmp_path / "scene", 14, points=150)
    for one in row.ids:
        unmatch(row, [one], [other for other in row.ids if other > one + 4])
    preload = tmp_path / "preload.py"
    preload.write_text(MORTAL)
    dask.has(1)
    victim = dask.worker("--preload", str(preload))
    with connected(dask.address, tmp_path / "out") as executor:
        eventually(lambda: executor.width == 2)
        large = LargeScenes(tmp_path / "parts", executor)
        at = Workplace(tmp_path / "models", tmp_path / "log.txt", threads=1, large=large)
        (model,) = map_scene(row.database, tmp_path, MappingConfig("global", partition=6), at)
    victim.join()
    folders = [path for path in (tmp_path / "parts").iterdir() if path.is_dir()]
    assert len(folders) == 3 + 1  # the victim's was never renamed
    assert model.poses.keys() == row.poses.keys()
    assert errors(model.poses, row.poses) < (2e-3, 0.1)


def test_a_chunk_that_kills_its_workers_costs_its_scene_alone(dask: Cluster, tmp_path: Path) -> None:
    write_photographs(tmp_path / "root/test/good/images")
    deadly = tmp_path / "root/test/bad/images"
    deadly.mkdir(parents=True)
    for grey in (200, 0, 1):
        cv2.imwrite(str(deadly / f"{grey}.png"), np.full((90, 120, 3), grey, np.uint8))
    dask.has(3)
    config = replace(ONE_RUN, detector=HeldConfig(folder=str(tmp_path), deadly=200))
    with connected(dask.address, tmp_path / "out", threads=1) as executor:
        run = solve(tmp_path / "root", tmp_path / "out", config, executor=executor)
    assert set(run.scenes) == {"good"}
    assert run.scenes["good"].counts["registered"] == FIRST + 1
    assert set(run.failed) == {"bad"}
    assert "a task killed 2 workers in a row, the last at tcp://127.0.0.1" in run.failed["bad"]
    task = scenes.load(tmp_path / "root")
    assert submission.check(run.submission, task.columns, task.keys) == []


def test_all_workers_are_gone(dask: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "PATIENCE", 0.5)
    (only,) = dask.has(1)
    with connected(dask.address, tmp_path) as executor:
        future = executor.submit(time.sleep, 600)
        os.kill(only, signal.SIGKILL)
        with pytest.raises(KitError, match="no worker"):
            future.result(60)
        assert width(executor) == cores()  # the cluster does not tell


def test_the_scheduler_is_gone(forking: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "CONNECT", 2.0)
    own = Cluster(tmp_path)
    try:
        own.has(1)
        with connected(own.address, tmp_path) as executor:
            future = executor.submit(time.sleep, 600)
            kill(own.scheduler)
            with pytest.raises(KitError, match="no scheduler"):
                future.result(60)
            with pytest.raises(KitError, match="no scheduler"):
                executor.submit(os.getpid).result(60)
    finally:
        own.close()


# ---- the executor ----


def test_submit_runs_on_the_cluster_and_map_here(dask: Cluster, tmp_path: Path) -> None:
    workers = set(dask.has(2))
    threads = cv2.getNumThreads()
    with connected(dask.address, tmp_path / "new/out") as executor:
        assert executor.width == width(executor) == 2
        assert executor.submit(os.getpid).result() in workers
        assert executor.submit(cv2.getNumThreads).result() == 1
        assert executor.submit(len, ["open", (1, 2)]).result() == 2
        assert set(executor.map(lambda first, second: (os.getpid(), first + second), [1, 2], [3, 4], chunksize=2)) == {
            (os.getpid(), 4),
            (os.getpid(), 6),
        }
        with pytest.raises(KitError, match="as it is"):
            executor.submit(fail, "as it is").result()
        assert fan_out(executor, noted, [("a",), ("b",)], "", "image", 2) in (["a", "b"], ["b", "a"])
        assert fan_out(executor, noted, [], "", "image", 0) == []
    assert cv2.getNumThreads() == threads
    assert list((tmp_path / "new/out").iterdir()) == []


def test_cancelled_work_is_not_done(dask: Cluster, tmp_path: Path) -> None:
    (worker,) = dask.has(1)
    with connected(dask.address, tmp_path) as executor:
        (tmp_path / "hold").touch()
        first = executor.submit(hold, tmp_path / "hold")
        eventually(lambda: list(executor._client.run(executing).values()) == [1])
        later = [executor.submit(Path.touch, tmp_path / f"{number}") for number in range(5)]
        eventually(lambda: executor._client.run_on_scheduler(known) == 6)
        assert all(future.cancel() for future in later)
        eventually(lambda: executor._client.run_on_scheduler(known) == 1)
        eventually(lambda: list(executor._client.run(held).values()) == [1])
        (tmp_path / "hold").unlink()
        assert first.result() == worker
        with pytest.raises(CancelledError):
            later[0].result()
    assert list(tmp_path.iterdir()) == []


def known(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def executing(dask_worker: Any) -> int:
    return len(dask_worker.state.executing)


def held(dask_worker: Any) -> int:
    return len(dask_worker.state.tasks)


def fail(reason: str) -> None:
    raise KitError(reason)


def noted(note: str) -> tuple[int, list[str]]:
    return 1, [note]


def hold(path: Path) -> int:
    while path.exists():
        time.sleep(0.01)
    return os.getpid()


# ---- clusters that cannot be used ----


def refusal(address: str, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that the command prints."""
    photographs = out.parent / "photographs"
    if not photographs.exists():
        write_photographs(photographs)
    assert main(["solve", str(photographs), "--out", str(out), "--cluster", address]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("imc-kit: ")]
    assert len(said) == 1
    return said[0]


def test_no_scheduler(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "CONNECT", 0.2)
    (tmp_path / "file").write_text("{}")
    for address in ("tcp://127.0.0.1:1", "nowhere", "/no/such/file.json", "htp://a:1", "", str(tmp_path / "file")):
        assert f"no Dask scheduler answers at {address}: " in refusal(address, tmp_path / "out", capsys)


def test_no_worker(
    dask: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dask.has(0)
    monkeypatch.setattr(dask_executor, "CONNECT", 0.5)
    assert f"has no worker: start one (dask worker {dask.address})" in refusal(dask.address, tmp_path / "out", capsys)


def test_dask_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert 'pip install "imc-kit[cluster]"' in refusal("tcp://127.0.0.1:1", tmp_path / "out", capsys)


def test_another_version(dask: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dask.has(1)
    monkeypatch.setattr(dask_executor, "_VERSION", "0.0.7")
    with pytest.raises(KitError, match=r"the worker tcp://\S+ cannot take part: it has imc_kit .*, and .* 0\.0\.7"):
        enter(dask, tmp_path)


def test_a_worker_that_does_not_see_the_folders(
    dask: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It joins a run that has begun, and is still there for the next run."""
    dask.has(1)
    out = tmp_path / "out of sight"
    preload = tmp_path / "preload.py"
    preload.write_text(BLIND)
    with connected(dask.address, out) as executor:
        blind = dask.worker("--preload", str(preload))
        eventually(lambda: executor.width == 2)
        chunks = [executor.submit(time.sleep, 0.2) for _ in range(8)]
        faults = [future.exception() for future in chunks]
        assert any(faults)
        assert not all(faults)
        assert {type(fault) for fault in faults if fault} == {KitError}
    said = refusal(dask.address, out, capsys)
    assert "the worker tcp://127.0.0.1:" in said
    assert f"it cannot see {out}" in said
    hidden = (tmp_path / "photographs").rename(tmp_path / "photographs out of sight")
    with pytest.raises(KitError, match=f"it cannot see {hidden}"):
        enter(dask, tmp_path / "other", *hidden.iterdir())
    kill(blind)


def test_a_folder_that_cannot_be_made(dask: Cluster, tmp_path: Path) -> None:
    dask.has(1)
    (tmp_path / "file").touch()
    with pytest.raises(KitError, match="cannot write to the folder"):
        enter(dask, tmp_path / "file/out")


def enter(dask: Cluster, out: Path, *inputs: Path) -> None:
    with connected(dask.address, out, inputs):
        raise AssertionError("never comes here")
