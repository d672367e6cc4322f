"""COLMAP's child process crashes, hangs, runs out of memory or finds the disk full, for real, in each of its steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pycolmap
import pytest

from children import inject, running
from imc_kit.colmap import mapping
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.config import Config
from imc_kit.data import scenes, submission, tables
from imc_kit.pipeline.run import Run, solve
from point_scenes import ALL, FIRST, MAPPING_ALONE, ONE_RUN, write_photographs

CRASH = "import ctypes; ctypes.string_at(0)"
HANG = "import time; time.sleep(600)"
JOB = """
import json, sys, time
from imc_kit.colmap import jobs, localisation, merging, readding, refinement  # they load pycolmap
job = json.loads(sys.argv[1])
{}
del job["log"]
jobs.JOBS[job.pop("job")](**job)
"""
MEMORY = JOB.format("""
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used, used))
hoard = []
for size in (10**6, 10**4, 520) * 2:  # threads that end meanwhile give something back
    time.sleep(0.1)
    try:
        while True:
            hoard.append(bytes(size))
    except MemoryError:
        pass
del hoard[-20:]  # something is left to begin with
""")
DISK = JOB.format("resource.setrlimit(resource.RLIMIT_FSIZE, (33_000, 33_000))")  # SQLite's index of 32 KiB fits
FAULTS = {
    "crash": (CRASH, "ended with segmentation fault"),
    "hang": (HANG, "was stopped at its time limit of 1 s"),
    "memory": (MEMORY, "ended with "),
    "disk": (DISK, ""),
}
Which = Callable[[dict[str, Any]], bool]


def mapping_run(mapper: Any) -> tuple[Config, Config, Which]:
    """The first of two mapping runs, by different mappers."""
    first, second = MappingConfig(mapper), MappingConfig("incremental" if mapper == "global" else "global")
    config = replace(MAPPING_ALONE, mapping=(first, second))
    limited = replace(config, mapping=(replace(first, time_limit=1.0), second))
    return config, limited, lambda job: job.get("output", "").endswith("models-0")


def step(config: Config, option: str, name: str) -> tuple[Config, Config, Which]:
    limited = replace(config, **{option: replace(getattr(config, option), time_limit=1.0)})
    return config, limited, lambda job: job["job"] == name


STEPS = {
    "global mapping": mapping_run("global"),
    "incremental mapping": mapping_run("incremental"),
    "readding": step(ONE_RUN, "readding", "readd"),
    "merging": step(ONE_RUN, "merging", "merge"),
    "localisation": step(ONE_RUN, "localisation", "localise"),
    "alignment": step(ONE_RUN, "subpixel", "align"),
    "refinement": step(ONE_RUN, "refinement", "refine"),
}
"""For each: the configuration, that with a time limit of a second for this step, and which job it is."""
MET = [
    *(("crash", name) for name in ("global mapping", "readding", "alignment")),
    *(("hang", name) for name in ("global mapping", "localisation")),
    *(("memory", name) for name in ("incremental mapping", "merging")),
    *(("disk", name) for name in ("incremental mapping", "refinement")),
]
"""All jobs end in the same child process, so each fault is tried in a few steps, and each step with some fault."""


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos in `mixed`, and in `out` a run with one mapping run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("healthy")
    run = solve(write_photographs(folder / "mixed"), folder / "out", ONE_RUN)
    assert run.scenes["mixed"].counts["registered"] == FIRST + 1
    assert run.scenes["mixed"].counts["models"] == 2
    assert run.scenes["mixed"].notes == []
    assert camera(run) == "OPENCV"
    return folder


def camera(run: Run) -> str:
    (one,) = pycolmap.Reconstruction(run.scenes["mixed"].models[0].folder).cameras.values()
    return str(one.model.name)


@pytest.mark.parametrize(("fault", "name"), MET)
def test_a_fault_costs_one_step(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    config, limited, which = STEPS[name]
    code, ending = FAULTS[fault]
    met = inject(monkeypatch, code, which)
    if name == "readding":
        monkeypatch.setattr(mapping, "left_out", lambda *_: [("00.png", "02.png")])
    shutil.copytree(healthy / "out/store", tmp_path / "store")
    run = solve(healthy / "mixed", tmp_path, limited if fault == "hang" else config)
    assert len(met) == 1
    task = scenes.load(healthy / "mixed")
    assert submission.check(run.submission, task.columns, task.keys) == []
    assert len(tables.read_table(run.submission)) == ALL
    assert run.failed == {}
    result = run.scenes["mixed"]
    (note,) = [note for note in result.notes if "weak pairs" not in note]
    assert ending in note
    assert "\n" not in note
    identity = json.loads((tmp_path / "scenes/mixed/result.json").read_text())["identity"]
    mapped = "mapping" in name
    assert identity.endswith("hurried") or not mapped  # the next run tries again
    assert result.counts["registered"] == (FIRST if mapped or name == "localisation" else FIRST + 1)
    assert result.counts["models"] == 2
    assert camera(run) == ("SIMPLE_RADIAL" if mapped or name == "refinement" else "OPENCV")
    assert running(tmp_path) == []
