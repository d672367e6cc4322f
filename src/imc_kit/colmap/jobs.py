"""The jobs of COLMAP's processes: `python -m imc_kit.colmap.jobs` loads COLMAP, and forks for each job that arrives.

A command is a line of JSON on standard input: `[number, job]` starts a job, `[number, null]` kills it. A job is an
object with the name of one of `JOBS`, the log that receives all output, and the job's arguments. When a job ends, a
line `[number, exit status]` goes to standard output; a negative status is the signal that ended it. When standard input
closes, all jobs end.

With the argument `one` the process does not fork: it does the first job itself. `child` is the other side.
"""

import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from imc_kit.colmap import steps
from imc_kit.colmap.options import Known, mapper_options

LOOK_UP = 0.01
"""Seconds between checks for ended jobs. A job lasts at least a tenth of a second."""


def _map(
    mapper: str, database: str, images: str, output: str, options: Mapping[str, Any], threads: int, seed: int,
    constant: Sequence[int] = (), names: Sequence[str] = (),
) -> None:  # fmt: skip
    """A mapping run. names: of the images to map; all if empty."""
    import pycolmap

    full = mapper_options(mapper, options, num_threads=threads, random_seed=seed, image_names=list(names))
    if mapper == "incremental":
        full.constant_cameras = set(constant)
        pycolmap.incremental_mapping(database, images, output, full)
        return
    pycolmap.global_mapping(database, images, output, full)
    import_module("imc_kit.colmap.connected").divide(Path(output), full.min_model_size)
    if constant:  # the global mapper has no such option
        import_module("imc_kit.colmap.bundle_adjustment").hold(database, output, constant, threads)


def _step(
    module: str, work: str, config_class: str, config: Mapping[str, Any], known: Mapping[str, Any], **arguments: Any
) -> None:
    """A step after mapping (`steps`)."""
    job = getattr(import_module(f"imc_kit.colmap.{module}"), work)
    job(config=getattr(steps, config_class)(**config), known=Known(**known), **arguments)


def _other(module: str, work: str, **arguments: Any) -> None:
    getattr(import_module(f"imc_kit.colmap.{module}"), work)(**arguments)


_STEPS = (
    *("joining", "readding", "merging", "localisation", "principal_points"),
    *("subpixel", "refinement", "georeference"),
)
"""The modules of the steps after mapping."""
JOBS: dict[str, Callable[..., None]] = {
    "incremental": partial(_map, "incremental"),
    "global": partial(_map, "global"),
    "join": partial(_other, "joining", "join_job"),
    "recalibrate": partial(_other, "recalibration", "recalibrate_job"),
    "rotate": partial(_other, "rotation", "rotate_job"),
    "undistort": partial(_other, "undistortion", "undistort_job"),
    "readd": partial(_step, "readding", "readd_job", "ReaddingConfig"),
    "merge": partial(_step, "merging", "merge_job", "MergingConfig"),
    "localise": partial(_step, "localisation", "localise_job", "LocalisationConfig"),
    "find principal points": partial(_step, "principal_points", "principal_points_job", "PrincipalPointsConfig"),
    "align": partial(_step, "subpixel", "subpixel_job", "SubpixelConfig"),
    "refine": partial(_step, "refinement", "refine_job", "RefinementConfig"),
    "georeference": partial(_step, "georeference", "georeference_job", "PositionsConfig"),
}


def main() -> None:
    """Execute the commands; in a fork of this process, or with the argument `one`, do one job."""
    if sys.argv[1:] == ["one"]:
        _do(**json.loads(sys.stdin.readline())[1])
        return
    for module in _STEPS:
        import_module(f"imc_kit.colmap.{module}")  # with pycolmap: half a second here, and nothing in a fork
    life, ours = os.pipe()  # forks read `life`, which closes however this process ends
    numbers: dict[int, int] = {}
    """The job number of each running process, by process id."""
    received = b""
    while True:
        if select.select([0], [], [], LOOK_UP if numbers else None)[0]:
            more = os.read(0, 2**16)
            if not more:
                break
            *commands, received = (received + more).split(b"\n")
            for number, job in map(json.loads, commands):
                if job is None:
                    _kill(process for process, known in numbers.items() if known == number)
                elif process := os.fork():
                    numbers[process] = number
                else:
                    os.close(ours)
                    os.dup2(life, 0)
                    _do(**job)
                    sys.stdout.flush()
                    os._exit(0)  # Python would spend a tenth of a second on tidying up what it has loaded
        while numbers and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            print(json.dumps([numbers.pop(ended[0]), os.waitstatus_to_exitcode(ended[1])]), flush=True)
    _kill(numbers)


def _kill(processes: Iterable[int]) -> None:
    for process in processes:
        os.kill(process, signal.SIGKILL)


def _do(job: str, log: str, **arguments: Any) -> None:
    """Do a job in this process. All output goes to the log."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    _die_with_parent()
    _die_first()
    JOBS[job](**arguments)


def _die_with_parent() -> None:
    """End this process when standard input closes: its parent holds the other end open."""

    def watch() -> None:
        os.read(0, 1)  # unbuffered, because a lock on sys.stdin would keep the interpreter from ending
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _die_first() -> None:
    """Make Linux kill this process before its parent when memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
