"""A run on a machine that lacks much, as a program that imports the kit would do it: nothing of the program changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from imc_kit.runtime.python import environment

PROGRAM = """
import json, locale, logging, os, pwd, random, signal, sys, warnings
import cv2, h5py, numba, numpy, pandas, pooch, pycolmap, scipy.spatial, threadpoolctl, tqdm

def nobody(*_):
    raise KeyError("uid not found")

photos, out = sys.argv[1:]
pwd.getpwuid = pwd.getpwnam = nobody
for name in ("sched_getaffinity", "sched_setaffinity", "fork", "forkpty", "getloadavg"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGPIPE"):
    delattr(signal, name)
sys.modules["fcntl"] = sys.modules["resource"] = None

def state():
    blas = [library["num_threads"] for library in threadpoolctl.threadpool_info()]
    loggers = map(logging.getLogger, (None, "imc_kit", "pooch"))
    loggers = [(logger.level, logger.propagate, len(logger.handlers)) for logger in loggers]
    handlers = [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    chance = hash(str(numpy.random.get_state())), hash(random.getstate())
    mask = os.umask(0o22)
    os.umask(mask)
    return {
        "variables": dict(os.environ), "folder": os.getcwd(), "path": list(sys.path), "loggers": loggers, "mask": mask,
        "handlers": handlers, "numpy": numpy.geterr(), "warnings": len(warnings.filters), "chance": chance,
        "locale": locale.setlocale(locale.LC_ALL), "threads": [cv2.getNumThreads(), *blas],
        "hooks": [str(sys.excepthook), str(sys.displayhook)],
    }


before = state()
import imc_kit
from imc_kit.colmap import child
child._FORKS = False
run = imc_kit.solve(photos, out, imc_kit.preset("small", {"threads": 1}))
after = state()
changed = [name for name in before if before[name] != after[name]]
print(json.dumps([changed, run.failed, [scene.counts["registered"] for scene in run.scenes.values()]]))
"""


@pytest.mark.slow
def test_a_run_on_a_poor_machine_changes_nothing_of_the_program(shared: Path, tmp_path: Path) -> None:
    here, temporary = tmp_path / "here", tmp_path / "tmp"
    for folder in (here / "imc_kit", temporary, tmp_path / "photos"):
        folder.mkdir(parents=True)
    for path in sorted((shared / "scenes/test/herzjesu_P8/images").iterdir())[:5]:
        with Image.open(path) as image:
            image.thumbnail((480, 480))
            image.save(tmp_path / "photos" / path.name)
    for name in ("imc_kit/__init__", "h5py", "struct", "sitecustomize"):  # they end a process that imports them
        (here / f"{name}.py").write_text("import os; os._exit(66)")
    source = str(Path(__file__).parents[2] / "src")
    poor = {"PATH": "/usr/bin:/bin", "TMPDIR": str(temporary), "LC_ALL": "C", "PYTHONUTF8": "0"}
    path = {name: value for name, value in environment(source).items() if name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "photos"), str(tmp_path / "out")],
        env=poor | path, cwd=here, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    changed, failed, registered = json.loads(done.stdout.splitlines()[-1])
    assert failed == {}
    assert registered == [5]
    assert changed == []
    assert list(temporary.iterdir()) == []  # COLMAP writes no log files
    assert {path.name for path in here.iterdir()} == {"imc_kit", "h5py.py", "struct.py", "sitecustomize.py"}
