"""What runs in COLMAP's processes: `python -m imc_kit.colmap.jobs` loads COLMAP, and forks for each job that comes.

A command is a line of JSON from standard input: the number of a job, and the job, or null to kill it. A job has the
name of one of `JOBS`, the log that everything it prints goes to, and arguments. When one has ended, a line of its
number and its exit status (minus the signal that ended it) goes to standard output. When standard input ends all do.
With the argument `one` it does not fork, but does the first job itself. See `child`, which is the other side.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from imc_kit.colmap.options import with_options

LOOK_UP = 0.01
"""Seconds between looks whether a job has ended."""


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
    from imc_kit.colmap import readding

    readding.adjust(config=readding.ReaddingConfig(**config), **arguments)


def _refine(config: Mapping[str, Any], **arguments: Any) -> None:
    from imc_kit.colmap import refinement

    refinement.adjust(config=refinement.RefinementConfig(**config), **arguments)


JOBS: dict[str, Callable[..., None]] = {
    "verify": _verify,
    "incremental": _incremental,
    "global": _global,
    "readd": _readmit,
    "merge": _merge,
    "localise": _localise,
    "refine": _refine,
}


def main() -> None:
    """Do what is commanded, or in a fork of this process one job."""
    import_module("pycolmap")  # this takes a fifth of a second, and a fork of the process that has done it none
    if sys.argv[1:] == ["one"]:
        _do(**json.loads(sys.stdin.readline())[1])
        return
    life, ours = os.pipe()  # the other end closes when this process ends, however it does
    begun: dict[int, int] = {}
    read = b""
    while True:
        if select.select([0], [], [], LOOK_UP if begun else None)[0]:
            more = os.read(0, 2**16)
            if not more:
                break
            *commands, read = (read + more).split(b"\n")
            for number, job in map(json.loads, commands):
                if job is None:
                    for process in [process for process, known in begun.items() if known == number]:
                        os.kill(process, signal.SIGKILL)
                elif process := os.fork():
                    begun[process] = number
                else:
                    os.close(ours)
                    os.dup2(life, 0)
                    _do(**job)
                    return
        while begun and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            print(json.dumps([begun.pop(ended[0]), os.waitstatus_to_exitcode(ended[1])]), flush=True)
    for process in begun:
        os.kill(process, signal.SIGKILL)


def _do(job: str, log: str, **arguments: Any) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    _die_with_parent()
    _die_first()
    JOBS[job](**arguments)


def _die_with_parent() -> None:
    """End this process when standard input closes, which its parent holds open."""

    def watch() -> None:
        os.read(0, 1)  # unbuffered: a lock on sys.stdin would stop the interpreter from ending
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _die_first() -> None:
    """When memory runs out, Linux is to end this process and not its parent."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
