"""COLMAP in a process of its own, with a time limit.

COLMAP is C++: it can abort, crash, hang or eat memory, and that must cost one attempt at one scene. So the calls that
do its long work run as `python -m imc_kit.colmap.child JOB.json`; everything it prints goes to a log file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imc_kit import clock
from imc_kit.colmap.options import with_options
from imc_kit.errors import KitError

_LOOK_UP = 0.02
"""Seconds between looks whether a process has ended, or is to be given up."""


class ColmapError(KitError):
    """COLMAP's process crashed, was killed, raised, or ran out of time; the message says which."""


def run(
    job: Mapping[str, Any], what: str, log: Path, time_limit: float, given_up: threading.Event | None = None
) -> None:
    """Run one job (see `_JOBS`) in a child process and wait for it.

    The job gets paths as strings. `what` names it in messages; COLMAP's output is appended to `log`; `time_limit` is in
    seconds. Raises ColmapError when the process does not end well, or when another thread sets `given_up`. The child
    ends with its parent, however that ends.
    """
    package_root = str(Path(__file__).parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([package_root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    }
    started = time.monotonic()
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "imc_kit.colmap.child", json.dumps(job, default=str)],
                stdin=subprocess.PIPE,  # stays open while we live: see _die_with_parent
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        except OSError as error:
            raise ColmapError(f"{what} could not be started: {error.strerror}") from error
        try:
            while (status := child.poll()) is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, min(_LOOK_UP, time_limit - (time.monotonic() - started))))
                if child.returncode is None and given_up is not None and given_up.is_set():
                    raise ColmapError(f"{what} was given up, as there was no more need of it")
                if child.returncode is None and time.monotonic() - started >= time_limit:
                    raise ColmapError(f"{what} {clock.STOPPED} of {time_limit:.0f} s (its output is in {log})")
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            if child.stdin:
                child.stdin.close()
    if status != 0:
        ending = signal.strsignal(-status) or f"signal {-status}" if status < 0 else f"exit status {status}"
        seconds = time.monotonic() - started
        raise ColmapError(f"{what} ended with {ending.lower()} after {seconds:.0f} s (its output is in {log})")


def fill(folder: Path, job: str, what: str, config: Any, log: Path, **arguments: Any) -> None:
    """Run a job that writes its models to `folder`, which is emptied first; the rest and what it raises as `run`.

    config: the dataclass of the step's configuration; its `time_limit` is the job's.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run({"job": job, "output": folder, "config": asdict(config), **arguments}, what, log, config.time_limit)


def _verify(database: str, options: Mapping[str, Any], threads: int, seed: int) -> None:
    import pycolmap

    geometry = pycolmap.TwoViewGeometryOptions()
    geometry.ransac.random_seed = seed
    pycolmap.geometric_verification(
        database,
        verifier_options=pycolmap.GeometricVerifierOptions(num_threads=threads),
        two_view_geometry_options=with_options(geometry, options, "verification"),
    )


def _incremental(database: str, images: str, output: str, options: Mapping[str, Any], threads: int, seed: int) -> None:
    import pycolmap

    pipeline = pycolmap.IncrementalPipelineOptions(num_threads=threads, random_seed=seed)
    pycolmap.incremental_mapping(database, images, output, with_options(pipeline, options, "incremental mapping"))


def _global(database: str, images: str, output: str, options: Mapping[str, Any], threads: int, seed: int) -> None:
    import pycolmap

    pipeline = pycolmap.GlobalPipelineOptions(num_threads=threads, random_seed=seed)
    pycolmap.global_mapping(database, images, output, with_options(pipeline, options, "global mapping"))


def _merge(config: Mapping[str, Any], **arguments: Any) -> None:
    from imc_kit.colmap import joining, merging

    joining.merge(config=merging.MergingConfig(**config), **arguments)


def _localise(config: Mapping[str, Any], **arguments: Any) -> None:
    from imc_kit.colmap import localisation, resection

    resection.localise(config=localisation.LocalisationConfig(**config), **arguments)


def _readmit(config: Mapping[str, Any], **arguments: Any) -> None:
    from imc_kit.colmap import readmission

    readmission.adjust(config=readmission.ReadmissionConfig(**config), **arguments)


def _refine(config: Mapping[str, Any], **arguments: Any) -> None:
    from imc_kit.colmap import refinement

    refinement.adjust(config=refinement.RefinementConfig(**config), **arguments)


_JOBS: dict[str, Callable[..., None]] = {
    "verify": _verify,
    "incremental": _incremental,
    "global": _global,
    "readmit": _readmit,
    "merge": _merge,
    "localise": _localise,
    "refine": _refine,
}


def _die_with_parent() -> None:
    """End this process when the pipe that its parent holds open closes."""

    def watch() -> None:
        os.read(0, 1)  # unbuffered: a lock on sys.stdin would stop the interpreter from ending
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _die_first() -> None:
    """When memory runs out, Linux is to end this process and not its parent."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    _die_with_parent()
    _die_first()
    arguments = json.loads(sys.argv[1])
    _JOBS[arguments.pop("job")](**arguments)
