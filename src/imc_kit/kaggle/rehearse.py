"""Runs a kit's own notebook at home as Kaggle would, and checks the submission as the competition would.

Like Kaggle: the Python version and the packages of its image in a fresh environment; no network; the paths of inputs,
which are read-only; an empty working folder; limits of time, memory, cores and disk. Unlike Kaggle: no GPU, another
speed, none of the image's packages that the kit does not need, and perhaps another torch.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from imc_kit.data import scenes, submission
from imc_kit.errors import KitError
from imc_kit.kaggle import environments, guard, inside, manifest_of
from imc_kit.kaggle.environments import Torch
from imc_kit.kaggle.limits import Limits
from imc_kit.kaggle.report import Report

Mount = Literal["nested", "flat"]
"""Where Kaggle puts inputs: datasets/OWNER/SLUG and competitions/SLUG, or SLUG."""

_SAMPLE = "sample_submission.csv"
_UNSHARE = ["unshare", "--map-root-user", "--net", "--mount"]
"""Starts a command with a network and mounts of its own, without being root."""


def rehearse(
    kit: Path,
    competition: Path,
    out: Path,
    *,
    python: str | None = None,
    only: Sequence[str] = (),
    mount: Mount = "nested",
    torch: Torch = "auto",
    limits: Limits = Limits(),  # noqa: B008 (it is frozen)
    cache: Path = Path("build/kaggle"),
) -> Report:
    """Rehearse the notebook in the folder `kernel` next to the kit.

    competition: the root of a competition's data. only: names of the scenes to use; default: all.
    out: folder for the executed notebook, its log and its working folder. It must be new or from an earlier rehearsal.
    python: a version, for example "3.12"; default: this Python's if it is in the kit, else the kit's first.
    torch: "install" the image's (gigabytes), "borrow" this Python's, or "none". "auto": none if the kit needs none,
        else borrow if possible, else install.
    cache: folder where environments are kept for the next rehearsal.

    Raises `KitError` if there is nothing to rehearse, or no environment to rehearse in.
    """
    if not kit.is_dir():
        raise KitError(f"there is no folder {kit}: build the kit first, with build_dataset.py")
    manifest = manifest_of(kit)
    notebook = kit.absolute().parent / "kernel" / "submission.ipynb"
    if not notebook.is_file():
        raise KitError(f"there is no {notebook}: build the kit again, which puts the notebook there")
    task = _load_task(competition, only)
    version = python or environments.default_python(manifest["pythons"])
    interpreter = environments.find_python(version)
    torch = environments.which_torch(torch, manifest, version)
    results = _emptied(out)
    report = Report()
    report.add("kit", f"imc_kit {manifest['version']} ({manifest['commit']}), preset {manifest['preset']}, from {kit}")
    with tempfile.TemporaryDirectory(prefix="imc-kit-rehearsal-") as folder:
        stage = Path(folder)
        pins = manifest["images"].get(version) or next(iter(manifest["images"].values()))
        base, borrowed = environments.base(interpreter, pins, torch, cache.absolute() / "environments")
        environment = environments.fresh(interpreter, base, stage / "environment")
        report.facts += _packages(version, interpreter, pins, torch, borrowed)
        images = sum(len(scene.images) for scene in task.scenes)
        seconds = limits.seconds(images)
        report.add("time limit", f"{seconds:.0f} s for {images} images ({limits.hours:g} h for {limits.images})")
        sample = stage / _SAMPLE if only or not (task.root / _SAMPLE).is_file() else None
        inputs = attached_inputs(kit, task, mount, sample)
        job = inside.Job(notebook, inputs, environment, stage, results, limits, seconds, can_isolate())
        run_notebook(job, task, report)
    return report


def _packages(
    version: str, interpreter: Path, pins: Sequence[str], torch: Torch, borrowed: str
) -> list[tuple[str, str]]:
    """The facts of the report about Python and its packages."""

    def pinned(*names: str) -> str:
        return ", ".join(pin.replace("==", " ") for pin in pins if pin.split("==")[0] in names)

    torches = {"none": "not there", "install": f"{pinned('torch')}, installed"}
    return [
        ("python", f"{version} ({interpreter}), a fresh environment with {pinned('numpy', 'pandas')}"),
        ("torch", torches.get(torch) or f"borrowed from {sys.executable}, not Kaggle's: {borrowed}"),
    ]


def _load_task(competition: Path, only: Sequence[str]) -> scenes.Task:
    task = scenes.load(competition)
    if task.layout == "folder":
        raise KitError(f"{competition} is not a competition's data: give its root, which has a folder test with scenes")
    return task.only(*only) if only else task


def run_notebook(job: inside.Job, task: scenes.Task | None, report: Report) -> None:
    """Run a notebook under Kaggle's conditions, print its log meanwhile, and add to the report how it went.

    task: what the notebook's submission must answer; None for a notebook without a submission.
    """
    report.facts += _conditions(job)
    _add_guard(job.python)
    before = None if job.isolated else _listing(job.inputs.values())
    prefix = [*_UNSHARE, "--fork", "--kill-child"] if job.isolated else []
    package = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*prefix, sys.executable, "-c", "from imc_kit.kaggle import inside; inside.main()"],
        input=pickle.dumps(job), stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": package},
    )  # fmt: skip
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
        raise KitError(f"the rehearsal itself failed: {said[-1]}")
    report.judge(job.results, task)
    report.add_network_calls(job.calls)
    if before is not None and _listing(job.inputs.values()) != before:
        report.problems.append("the notebook wrote into its inputs, which are read-only on Kaggle")


def _conditions(job: inside.Job) -> list[tuple[str, str]]:
    """The facts of the report about the network, the inputs and the limits."""
    depth = {"datasets": 3, "competitions": 2}
    parts = (name.split("/") for name in job.inputs)
    attached = ", ".join(sorted({"/".join(part[: depth.get(part[0], 1)]) for part in parts}))
    network, how = "none: a namespace without one", "read-only"
    if not job.isolated:
        network, how = "blocked in Python only: no namespaces here", "as links, not read-only: no namespaces here"
    limits = job.limits
    cores = min(limits.cores, os.cpu_count() or 1)
    return [
        ("network", network),
        ("inputs", f"{attached}, {how}"),
        ("limits", f"{cores} cores, {limits.memory:g} GB of memory, {limits.disk:g} GB in the working folder"),
    ]


def can_isolate() -> bool:
    """Whether this system can give the notebook a network and mounts of its own."""
    if platform.system() != "Linux" or shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs -o size=1m tmpfs "$0"'
        return subprocess.run([*_UNSHARE, "sh", "-c", script, folder], capture_output=True).returncode == 0


def _add_guard(python: Path) -> None:
    """Let every process of this environment watch its calls to the network."""
    target = environments.site(python.parents[1])
    shutil.copyfile(Path(guard.__file__), target / "imc_kit_guard.py")
    (target / "imc_kit_guard.pth").write_text("import imc_kit_guard; imc_kit_guard.start()\n", "utf-8")


def attached_inputs(kit: Path, task: scenes.Task, mount: Mount, sample: Path | None) -> dict[str, Path]:
    """What is attached, by its path below the input root.

    sample: where to write a sample_submission.csv with the task's rows, which replaces the competition's; None keeps
        the competition's.
    """
    owner, slug = json.loads((kit / "dataset-metadata.json").read_text("utf-8"))["id"].split("/")
    dataset, challenge = f"datasets/{owner}/{slug}", "competitions/rehearsal"
    if mount == "flat":
        dataset, challenge = slug, "rehearsal"
    # Kaggle does not mount dataset-metadata.json.
    inputs = {f"{dataset}/{path.name}": path for path in sorted(kit.iterdir()) if path.name != "dataset-metadata.json"}
    if sample is None:
        return inputs | {challenge: task.root}
    submission.write(sample, task.columns, submission.compose(task.rows, {}, predict_scene=task.predicts_scene))
    others = (path for path in sorted(task.root.iterdir()) if path.name != _SAMPLE)
    return inputs | {f"{challenge}/{path.name}": path for path in others} | {f"{challenge}/{_SAMPLE}": sample}


def _listing(inputs: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file in the inputs."""
    paths = (path for source in inputs for path in ([source] if source.is_file() else sorted(source.rglob("*"))))
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file()]


def _emptied(folder: Path) -> Path:
    """The folder, without the results of an earlier rehearsal. Raises `KitError` if it holds anything else."""
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise KitError(f"{folder} is not a folder: give another one with --out")
    ours = {"executed.ipynb", "notebook.log", "outcome.json", "working"}
    others = {path.name for path in folder.iterdir()} - ours if folder.is_dir() else set()
    if others:
        raise KitError(f"{folder} holds {', '.join(sorted(others)[:3])}: give another folder with --out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
