"""Runs a kit's notebook at home as Kaggle would, and checks the submission as the competition would.

As on Kaggle: the Python version and the packages of its image in a fresh environment; no network; the paths of inputs,
which are read-only; an empty working folder; limits on time, memory, cores and disk. Unlike on Kaggle: no GPU, a
different speed, only those packages of the image that the kit needs, and perhaps a different torch.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import tyro

from imc_kit.data import scenes, submission
from imc_kit.errors import KitError
from imc_kit.kaggle import environments, inside, manifest_of
from imc_kit.kaggle.environments import Torch
from imc_kit.kaggle.install import PYTHON
from imc_kit.kaggle.limits import Limits
from imc_kit.runtime.python import environment

Folder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Mount = Literal["nested", "flat"]
"""Where Kaggle puts inputs: datasets/OWNER/SLUG and competitions/SLUG, or SLUG."""

_SAMPLE = "sample_submission.csv"
_UNSHARE = ["unshare", "--map-root-user", "--net", "--mount"]
"""Starts a command in its own network and mount namespaces, without root."""


@dataclass(frozen=True)
class Rehearsal:
    """What to rehearse, and how."""

    kit: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="KIT")]
    """The folder that build_dataset.py wrote; the notebook is in `kernel` next to it."""
    competition: Folder
    """The root of a competition's data."""
    scenes: tuple[str, ...] = ()
    """Only these scenes."""
    python: str | None = None
    """Python version, for example 3.12. Default: the running one if the kit has it, else the kit's first."""
    mount: Mount = "nested"
    """How inputs are mounted: datasets/OWNER/SLUG and competitions/SLUG, or all as SLUG."""
    torch: Torch = "auto"
    """Install the image's torch (gigabytes), borrow the running Python's, or use none; auto: the cheapest way."""
    limits: Limits = field(default_factory=Limits)
    out: Folder = Path("build/rehearsal")
    """Folder for the executed notebook, its log and its output."""
    cache: Folder = Path("build/kaggle")
    """Folder for environments, which later rehearsals reuse."""


@dataclass
class Report:
    """facts: what was run and its results, by topic. problems: reasons why Kaggle would not accept it."""

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        facts = [f"{topic:<12}{text}" for topic, text in self.facts.items()]
        problems = [f"{'problem':<12}{text}" for text in self.problems]
        return "\n".join([*facts, *problems, "FAIL" if problems else "PASS"])

    def judge(self, results: Path, task: scenes.Task | None) -> None:
        """Add how the notebook ended, its use of resources, and the flaws of its submission.

        results: the folder that `inside` filled. task: what the submission is for; None for a notebook without one.
        """
        outcome = inside.Outcome(**json.loads((results / "outcome.json").read_text("utf-8")))
        used = f"{outcome.memory / 1e9:.1f} GB of memory and {outcome.disk / 1e9:.3f} GB in the working folder"
        self.facts["used"] = f"{outcome.seconds:.0f} s, at most {used}"
        if (seconds := _install_seconds(results / "executed.ipynb")) is not None:
            self.facts["install"] = f"{seconds:.0f} s"
        self.facts["results"] = str(results)
        if outcome.problem:
            self.problems.append(f"the notebook {outcome.problem}")
        if task is not None:
            self._add_scenes(results / "working" / "run.json")
            self.check_submission(results / "working" / "submission.csv", task)
        for caller, target in outcome.calls.items():
            self.problems.append(f"{caller} called the network ({target}), which Kaggle does not have")

    def _add_scenes(self, path: Path) -> None:
        """Add registered images and failed scenes: a submission can be valid even if every pose is a guess."""
        if not path.is_file():
            return
        summary = json.loads(path.read_text("utf-8"))
        counts = [scene["counts"] for scene in summary["scenes"].values()]
        registered, images = (sum(count[what] for count in counts) for what in ("registered", "images"))
        self.facts["poses"] = f"{registered} of {images} images registered; scenes solved: {len(counts)}"
        self.problems += [f"scene {name} could not be solved: {reason}" for name, reason in summary["failed"].items()]
        if not registered and not summary["failed"]:
            self.problems.append("no image was registered")

    def check_submission(self, path: Path, task: scenes.Task) -> None:
        """Check a submission as the competition does."""
        if not path.is_file():
            self.problems.append("there is no submission.csv in the working folder")
            return
        flaws = submission.check(path, task.columns, task.keys)
        if flaws:
            more = f" (and {len(flaws) - 1} more problems)" if len(flaws) > 1 else ""
            self.problems.append(f"the competition would refuse submission.csv: {flaws[0]}{more}")
        else:
            self.facts["submission"] = f"valid: {len(task.keys)} rows, as sample_submission.csv asks"


def rehearse(options: Rehearsal) -> Report:
    """Rehearse the notebook in the folder `kernel` next to the kit.

    Raises `KitError` if there is nothing to rehearse, or no environment to rehearse in.
    """
    kit, limits = options.kit, options.limits
    if os.name == "nt":
        raise KitError("a rehearsal needs Linux, or macOS without its limits: run it there")
    if not kit.is_dir():
        raise KitError(f"there is no folder {kit}: build the kit first, with build_dataset.py")
    manifest = manifest_of(kit)
    notebook = kit.absolute().parent / "kernel" / "submission.ipynb"
    if not notebook.is_file():
        raise KitError(f"there is no {notebook}: build the kit again, which puts the notebook there")
    task = _load_task(options)
    version = options.python or (PYTHON if PYTHON in manifest["pythons"] else manifest["pythons"][0])
    interpreter = environments.find_python(version)
    torch = environments.which_torch(options.torch, manifest, version)
    results = _emptied(options.out)
    report = Report()
    report.facts["kit"] = "imc_kit {version} ({commit}), preset {preset}, from ".format_map(manifest) + str(kit)
    with tempfile.TemporaryDirectory(prefix="imc-kit-rehearsal-") as folder:
        stage = Path(folder)
        pins = manifest["images"].get(version) or next(iter(manifest["images"].values()))
        base, about_torch = environments.base(interpreter, pins, torch, options.cache.absolute() / "environments")
        environment = environments.fresh(interpreter, base, stage / "environment")
        has = environments.versions(pins, ("numpy", "pandas"))
        report.facts["python"] = f"{version} ({interpreter}), a fresh environment with {has}"
        report.facts["torch"] = about_torch
        images = sum(len(scene.images) for scene in task.scenes)
        seconds = limits.seconds(images)
        report.facts["time limit"] = f"{seconds:.0f} s for {images} images ({limits.hours:g} h for {limits.images})"
        sample = stage / _SAMPLE if options.scenes or not (task.root / _SAMPLE).is_file() else None
        inputs = attached_inputs(kit, task, options.mount, sample)
        job = inside.Job(notebook, inputs, environment, stage, results, limits, seconds, can_isolate())
        run_notebook(job, task, report)
    return report


def _load_task(options: Rehearsal) -> scenes.Task:
    root = options.competition
    task = scenes.load(root)
    if task.layout == "folder":
        raise KitError(f"{root} is not a competition's data: give its root, which has a folder test with scenes")
    return task.only(*options.scenes) if options.scenes else task


def run_notebook(job: inside.Job, task: scenes.Task | None, report: Report) -> None:
    """Run a notebook under Kaggle's conditions, print its log meanwhile, and add the results to the report.

    task: what the notebook's submission must answer; None for a notebook without a submission.
    """
    report.facts |= _conditions(job)
    before = None if job.isolated else _listing(job.inputs.values())
    prefix = [*_UNSHARE, "--fork", "--kill-child"] if job.isolated else []
    code = "import pickle, sys; from imc_kit.kaggle import inside; inside.run(pickle.load(sys.stdin.buffer))"
    command, variables = [*prefix, sys.executable, "-c", code], environment(str(Path(__file__).parents[2]))
    done = subprocess.run(command, input=pickle.dumps(job), stderr=subprocess.PIPE, env=variables)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
        raise KitError(f"the rehearsal itself failed: {said[-1]}")
    report.judge(job.results, task)
    if before is not None and _listing(job.inputs.values()) != before:
        report.problems.append("the notebook wrote into its inputs, which are read-only on Kaggle")


def _conditions(job: inside.Job) -> dict[str, str]:
    """The report's facts about the network, the inputs and the limits."""
    depth = {"datasets": 3, "competitions": 2}
    parts = (name.split("/") for name in job.inputs)
    attached = ", ".join(sorted({"/".join(part[: depth.get(part[0], 1)]) for part in parts}))
    network, how = "none: a namespace without one", "read-only"
    if not job.isolated:
        network, how = "blocked in Python only: no namespaces here", "as links, not read-only: no namespaces here"
    cores, memory, disk = min(job.limits.cores, os.cpu_count() or 1), job.limits.memory, job.limits.disk
    limits = f"{cores} cores, {memory:g} GB of memory, {disk:g} GB in the working folder"
    return {"network": network, "inputs": f"{attached}, {how}", "limits": limits}


def can_isolate() -> bool:
    """Whether this system can run the notebook in its own network and mount namespaces."""
    with tempfile.TemporaryDirectory() as folder:
        script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs -o size=1m tmpfs "$0"'
        command = [*_UNSHARE, "sh", "-c", script, folder]
        return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True).returncode == 0


def attached_inputs(kit: Path, task: scenes.Task, mount: Mount, sample: Path | None) -> dict[str, Path]:
    """The files and folders to attach, by path below the input root.

    sample: where to write a sample_submission.csv with the task's rows, which replaces the competition's; None keeps
        the competition's.
    """
    owner, slug = json.loads((kit / "dataset-metadata.json").read_text("utf-8"))["id"].split("/")
    nested = mount == "nested"
    dataset, challenge = (f"datasets/{owner}/{slug}", "competitions/rehearsal") if nested else (slug, "rehearsal")
    # Kaggle does not mount dataset-metadata.json.
    inputs = {f"{dataset}/{path.name}": path for path in sorted(kit.iterdir()) if path.name != "dataset-metadata.json"}
    if sample is None:
        return inputs | {challenge: task.root}
    submission.write(sample, task.columns, submission.compose(task.rows, {}, predict_scene=task.predicts_scene))
    others = (path for path in sorted(task.root.iterdir()) if path.name != _SAMPLE)
    return inputs | {f"{challenge}/{path.name}": path for path in others} | {f"{challenge}/{_SAMPLE}": sample}


def _listing(inputs: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Name, size and modification time (ns) of every file in the inputs."""
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


def _install_seconds(path: Path) -> float | None:
    """Duration of the cell that installs the kit; None if there is no such cell or the notebook has no times."""
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        installing = (cell for cell in cells if cell["cell_type"] == "code" and "install.py" in "".join(cell["source"]))
        times = next(installing)["metadata"]["execution"]
        start, end = map(datetime.fromisoformat, (times["iopub.execute_input"], times["shell.execute_reply"]))
    except (OSError, ValueError, KeyError, StopIteration):
        return None
    return (end - start).total_seconds()
