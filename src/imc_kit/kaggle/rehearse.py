"""Runs a kit's notebook at home as Kaggle would, and checks the submission as the competition would.

As on Kaggle: the Python version and the packages of its image in a fresh environment; no network for Python code; the
paths of inputs; an empty working folder; limits on time, memory, cores and disk. Unlike on Kaggle: no GPU, a different
speed, only those packages of the image that the kit needs, and perhaps a different torch. Inputs are not read-only, but
the rehearsal fails if they change.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from imc_kit.data import scenes, submission
from imc_kit.errors import KitError
from imc_kit.kaggle import environments, manifest_of, notebook
from imc_kit.kaggle.environments import Torch
from imc_kit.kaggle.install import PYTHON
from imc_kit.kaggle.limits import Limits

Folder = Annotated[Path, tyro.conf.arg(metavar="DIR")]

_SAMPLE = "sample_submission.csv"


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

    def judge(self, outcome: notebook.Outcome, results: Path, task: scenes.Task | None) -> None:
        """Add how the notebook ended, its use of resources, and the flaws of its submission.

        results: of the job. task: what the submission is for; None for a notebook without one.
        """
        used = f"{outcome.memory / 1e9:.1f} GB of memory and {outcome.disk / 1e9:.3f} GB in the working folder"
        self.facts["used"] = f"{outcome.seconds:.0f} s, at most {used}"
        self.facts["results"] = str(results)
        if outcome.problem:
            self.problems.append(f"the notebook {outcome.problem}")
        if task is not None:
            self._add_scenes(results / "working" / "run.json")
            self.check_submission(results / "working" / "submission.csv", task)
        for caller, target in outcome.calls.items():
            self.problems.append(f"{caller} called the network ({target}), which Kaggle does not have")
        if outcome.wrote:
            self.problems.append("the notebook wrote into its inputs, which are read-only on Kaggle")

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
    path = kit.absolute().parent / "kernel" / "submission.ipynb"
    if not path.is_file():
        raise KitError(f"there is no {path}: build the kit again, which puts the notebook there")
    task = scenes.load(options.competition)
    if task.layout == "folder":
        raise KitError(f"{task.root} is not a competition's data: give its root, which has a folder test with scenes")
    task = task.only(*options.scenes) if options.scenes else task
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
        inputs = attached_inputs(kit, task, sample)
        job = notebook.Job(path, inputs, environment, stage, results, limits, seconds)
        run_notebook(job, task, report)
    return report


def run_notebook(job: notebook.Job, task: scenes.Task | None, report: Report) -> None:
    """Run a notebook under Kaggle's conditions, and add these and the results to the report.

    task: what the notebook's submission must answer; None for a notebook without a submission.
    """
    limits = job.limits
    report.facts["inputs"] = ", ".join(sorted({name.rpartition("/")[0] for name in job.inputs}))
    cores = min(limits.cores, os.cpu_count() or 1)
    report.facts["limits"] = f"{cores} cores, {limits.memory:g} GB of memory, {limits.disk:g} GB in the working folder"
    report.judge(notebook.run(job), job.results, task)


def attached_inputs(kit: Path, task: scenes.Task, sample: Path | None) -> dict[str, Path]:
    """The files and folders to attach, by path below the input root.

    sample: where to write a sample_submission.csv with the task's rows, which replaces the competition's; None keeps
        the competition's.
    """
    dataset = f"datasets/{json.loads((kit / 'dataset-metadata.json').read_text('utf-8'))['id']}"
    # Kaggle does not mount dataset-metadata.json.
    inputs = {f"{dataset}/{path.name}": path for path in sorted(kit.iterdir()) if path.name != "dataset-metadata.json"}
    if sample is not None:
        submission.write(sample, task.columns, submission.compose(task.rows, {}, predict_scene=task.predicts_scene))
    data = {path.name: path for path in sorted(task.root.iterdir())} | ({_SAMPLE: sample} if sample else {})
    return inputs | {f"competitions/rehearsal/{name}": path for name, path in data.items()}


def _emptied(folder: Path) -> Path:
    """The folder, without the results of an earlier rehearsal. Raises `KitError` if it holds anything else."""
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise KitError(f"{folder} is not a folder: give another one with --out")
    ours = {"executed.ipynb", "notebook.log", "working"}
    others = {path.name for path in folder.iterdir()} - ours if folder.is_dir() else set()
    if others:
        raise KitError(f"{folder} holds {', '.join(sorted(others)[:3])}: give another folder with --out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
