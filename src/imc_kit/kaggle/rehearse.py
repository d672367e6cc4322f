"""Runs a kit's own notebook at home as Kaggle would, and checks the submission as the competition would.

What is like Kaggle: the Python version, with the packages of its image in a fresh environment; no network; the inputs'
paths, and that they cannot be written; a fresh working folder; its limits of time, memory, cores and disk. What is not:
the GPU, the speed of the machine, the many packages of the image that the kit does not need, and a borrowed torch.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from imc_kit.data import scenes, submission
from imc_kit.errors import KitError
from imc_kit.kaggle import environments, guard, inside, install
from imc_kit.kaggle.environments import Torch

Mount = Literal["nested", "flat"]
"""Where Kaggle puts inputs: datasets/OWNER/SLUG and competitions/SLUG, or SLUG."""
Asked = tuple[Sequence[str], Sequence[Mapping[str, str]]]
"""What a submission must have: its columns, and the keys of its rows, in order."""

_SAMPLE = "sample_submission.csv"


@dataclass(frozen=True)
class Limits:
    """What a notebook may use: Kaggle's, by default."""

    hours: float = 9.0
    """For a whole competition; a rehearsal gets the share of its photographs, and ten minutes at least."""
    images: int = 2000
    """How many photographs the hidden test is thought to have."""
    memory: float = 30.0
    """Gigabytes."""
    disk: float = 19.5
    """Gigabytes in the working folder."""
    cores: int = 4

    def seconds(self, images: int) -> float:
        """The time limit for so many photographs."""
        return max(600.0, 3600 * self.hours * images / self.images)


@dataclass
class Report:
    """facts: what was run, on what, and how it went, by topic. problems: what Kaggle would not have accepted."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{topic:<12}{text}" for topic, text in self.facts]
        return "\n".join(
            [*lines, *(f"problem     {problem}" for problem in self.problems), "FAIL" if self.problems else "PASS"]
        )


def rehearse(
    kit: Path,
    competition: Path,
    out: Path,
    *,
    python: str | None = None,
    only: Sequence[str] = (),
    mount: Mount = "nested",
    torch: Torch = "auto",
    limits: Limits | None = None,
    cache: Path = Path("build/kaggle"),
) -> Report:
    """Rehearse the notebook in the folder `kernel` beside the kit.

    competition: the root of a competition's data. only: its scenes to use; all when left out.
    out: gets the executed notebook, its log, and what it left in its working folder. New, or an earlier rehearsal's.
    python: for example "3.12"; when left out this Python's, if it is in the kit, else the kit's first.
    torch: install the image's (gigabytes), borrow this Python's, or do without; auto is none where the kit needs none,
        else borrow where that can be, else install.
    cache: where environments are kept for the next time.

    Raises `KitError` when there is nothing to rehearse, or no environment to rehearse in.
    """
    limits = limits or Limits()
    report = Report()
    if not kit.is_dir():
        raise KitError(f"there is no folder {kit}: build the kit first, with build_dataset.py")
    try:
        manifest = install.read_manifest(kit)
    except install.InstallError as problem:
        raise KitError(str(problem)) from problem
    notebook = kit.absolute().parent / "kernel" / "submission.ipynb"
    if not notebook.is_file():
        raise KitError(f"there is no {notebook}: build the kit again, which puts the notebook beside it")
    task = scenes.load(competition)
    if task.layout == "folder":
        raise KitError(f"{competition} is not a competition's data: give its root, which has a folder test with scenes")
    whole = not only and (task.root / _SAMPLE).is_file()
    if only:
        task = task.only(*only)
    version = python or environments.default_python(manifest["pythons"])
    interpreter = environments.find_python(version)
    torch = environments.which_torch(torch, manifest, version)
    results = _emptied(out)
    report.facts.append(
        ("kit", f"imc_kit {manifest['version']} ({manifest['commit']}), preset {manifest['preset']}, from {kit}")
    )
    with tempfile.TemporaryDirectory(prefix="imc-kit-rehearsal-") as folder:
        stage = Path(folder)
        pins = manifest["images"].get(version) or next(iter(manifest["images"].values()))
        base, borrowed = environments.base(interpreter, pins, torch, cache.absolute() / "environments")
        environment = environments.fresh(interpreter, base, stage / "environment")
        report.facts.append(
            ("python", f"{version} ({interpreter}), a fresh environment with {_named(pins, 'numpy', 'pandas')}")
        )
        torches = {"none": "not there", "install": f"{_named(pins, 'torch')}, installed"}
        report.facts.append(
            ("torch", torches.get(torch) or f"borrowed from {sys.executable}, not Kaggle's: {borrowed}")
        )
        inputs = _inputs(kit, task, mount, None if whole else stage / _SAMPLE)
        images = sum(len(scene.images) for scene in task.scenes)
        run_notebook(notebook, environment, inputs, (task.columns, task.keys), images, results, stage, limits, report)
    return report


def run_notebook(
    notebook: Path,
    python: Path,
    inputs: Mapping[str, Path],
    asked: Asked | None,
    images: int,
    results: Path,
    stage: Path,
    limits: Limits,
    report: Report,
) -> None:
    """Run a notebook with `python`, and add to the report how it went.

    inputs: what is attached, by its path below the input root.
    asked: None for a notebook that makes no submission. images: how many photographs the scenes have.
    stage: a folder for everything that is needed meanwhile, outside of `results`.
    """
    root, working, calls = stage / "kaggle" / "input", stage / "kaggle" / "working", stage / "calls.jsonl"
    for needed in (root, working, stage / "home", stage / "tmp"):
        needed.mkdir(parents=True)
    _add_guard(python)
    isolated = can_isolate()
    depth = {"datasets": 3, "competitions": 2}
    attached = {"/".join(parts[: depth.get(parts[0], 1)]) for parts in (name.split("/") for name in inputs)}
    job = inside.Job(
        python=str(python),
        notebook=str(notebook),
        inputs={str(root / name): str(source.absolute()) for name, source in inputs.items()},
        working=str(working),
        results=str(results),
        environment=_variables(python, stage, root, calls),
        isolated=isolated,
        disk=int(limits.disk * 1e9),
        memory=int(limits.memory * 1e9),
        cores=limits.cores,
        time_limit=limits.seconds(images),
    )
    (stage / "job.json").write_text(json.dumps(asdict(job)), "utf-8")
    cores = min(limits.cores, os.cpu_count() or 1)
    mounted = ", ".join(sorted(attached))
    report.facts += [
        ("network", "none: a namespace without one" if isolated else "blocked in Python only: no namespaces here"),
        ("inputs", f"{mounted}, read-only" if isolated else f"{mounted}: links, not read-only: no namespaces here"),
        ("time limit", f"{job.time_limit:.0f} s for {images} images ({limits.hours:g} h for {limits.images})"),
        ("limits", f"{cores} cores, {limits.memory:g} GB of memory, {limits.disk:g} GB in the working folder"),
    ]
    before = None if isolated else _listing(inputs.values())
    prefix = ["unshare", "--map-root-user", "--net", "--mount", "--fork", "--kill-child"] if isolated else []
    package = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
    command = [*prefix, sys.executable, "-m", "imc_kit.kaggle.inside", str(stage / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | package)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise KitError(f"the rehearsal itself failed: {reason}")
    _judge(results, asked, report)
    report.problems += _network_calls(calls)
    if before is not None and _listing(inputs.values()) != before:
        report.problems.append("the notebook wrote into its inputs, which are read-only on Kaggle")


def _judge(results: Path, asked: Asked | None, report: Report) -> None:
    """Add to the report how the notebook ended, what it took, and what came out."""
    outcome = inside.Outcome(**json.loads((results / "outcome.json").read_text("utf-8")))
    memory, disk = f"{outcome.memory / 1e9:.1f} GB of memory", f"{outcome.disk / 1e9:.3f} GB in the working folder"
    report.facts.append(("used", f"{outcome.seconds:.0f} s, at most {memory} and {disk}"))
    first = _first_cell_seconds(results / "executed.ipynb")
    if first is not None:
        report.facts.append(("first cell", f"{first:.0f} s"))
    report.facts.append(("results", str(results)))
    if outcome.ended == "error":
        report.problems.append(f"the notebook ended with an error: {outcome.error}")
    elif outcome.ended != "done":
        report.problems.append(f"the notebook did not end: {outcome.ended}")
    if asked is not None:
        _add_scenes(results / "working" / "run.json", report)
        _check_submission(results / "working" / "submission.csv", asked, report)


def _add_scenes(path: Path, report: Report) -> None:
    """How many photographs were registered, and which scenes failed: a submission of guesses is valid, too."""
    if not path.is_file():
        return
    summary = json.loads(path.read_text("utf-8"))
    counts = [scene["counts"] for scene in summary["scenes"].values()]
    registered, images = (sum(count[what] for count in counts) for what in ("registered", "images"))
    report.facts.append(("poses", f"{registered} of {images} images registered; scenes solved: {len(counts)}"))
    report.problems += [f"scene {name} could not be solved: {reason}" for name, reason in summary["failed"].items()]
    if not registered and not summary["failed"]:
        report.problems.append("not one image was registered")


def can_isolate() -> bool:
    """Whether this system lets us have a network and mounts of our own."""
    if platform.system() != "Linux" or shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs -o size=1m tmpfs "$0"'
        command = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", script, folder]
        return subprocess.run(command, capture_output=True).returncode == 0


def _add_guard(python: Path) -> None:
    """Let every process of this environment watch its calls to the network."""
    target = environments.site(python.parents[1])
    shutil.copyfile(Path(guard.__file__), target / "imc_kit_guard.py")
    (target / "imc_kit_guard.pth").write_text("import imc_kit_guard; imc_kit_guard.start()\n", "utf-8")


def _inputs(kit: Path, task: scenes.Task, mount: Mount, sample: Path | None) -> dict[str, Path]:
    """What is attached, by its path below the input root.

    sample: gets the rows of the task, and takes the place of the competition's own; None where that asks for these.
    """
    owner, slug = json.loads((kit / "dataset-metadata.json").read_text("utf-8"))["id"].split("/")
    dataset, challenge = f"datasets/{owner}/{slug}", "competitions/rehearsal"
    if mount == "flat":
        dataset, challenge = slug, "rehearsal"
    # Kaggle does not mount the description of the dataset.
    inputs = {f"{dataset}/{path.name}": path for path in sorted(kit.iterdir()) if path.name != "dataset-metadata.json"}
    if sample is None:
        return inputs | {challenge: task.root}
    submission.write(sample, task.columns, submission.compose(task.rows, {}, predict_scene=task.predicts_scene))
    others = (path for path in sorted(task.root.iterdir()) if path.name != _SAMPLE)
    return inputs | {f"{challenge}/{path.name}": path for path in others} | {f"{challenge}/{_SAMPLE}": sample}


def _variables(python: Path, stage: Path, root: Path, calls: Path) -> dict[str, str]:
    """The environment of the notebook: Kaggle's of a scoring re-run, with nothing of this machine's owner."""
    return {
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(stage / "home"),
        "TMPDIR": str(stage / "tmp"),
        "JUPYTER_DATA_DIR": str(stage / "home" / "jupyter"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "IMC_KIT_INPUT": str(root),
        guard.LOG: str(calls),
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "KAGGLE_IS_COMPETITION_RERUN": "1",
    }


def _network_calls(log: Path) -> list[str]:
    """One sentence for each place that called the network."""
    lines = log.read_text("utf-8").splitlines() if log.is_file() else []
    callers: dict[str, str] = {}
    for call in map(json.loads, lines):
        callers.setdefault(call["caller"], call["target"])
    return [f"{caller} called the network ({target}), which Kaggle does not have" for caller, target in callers.items()]


def _check_submission(path: Path, asked: Asked, report: Report) -> None:
    if not path.is_file():
        report.problems.append("there is no submission.csv in the working folder")
        return
    flaws = submission.check(path, *asked)
    if flaws:
        more = f" (and {len(flaws) - 1} more problems)" if len(flaws) > 1 else ""
        report.problems.append(f"the competition would refuse submission.csv: {flaws[0]}{more}")
    else:
        report.facts.append(("submission", f"valid: {len(asked[1])} rows, as sample_submission.csv asks"))


def _first_cell_seconds(path: Path) -> float | None:
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        times = next(cell for cell in cells if cell["cell_type"] == "code")["metadata"]["execution"]
        start, end = (
            datetime.fromisoformat(times[key].replace("Z", "+00:00"))
            for key in ("iopub.execute_input", "shell.execute_reply")
        )
    except (OSError, ValueError, KeyError, StopIteration):
        return None
    return (end - start).total_seconds()


def _listing(inputs: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Names, sizes and times of all files below the inputs."""
    paths = (path for source in inputs for path in ([source] if source.is_file() else sorted(source.rglob("*"))))
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file()]


def _emptied(folder: Path) -> Path:
    """The folder, without what an earlier rehearsal left. Raises `KitError` if it holds anything else."""
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise KitError(f"{folder} is not a folder: give another one with --out")
    left = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    ours = {"executed.ipynb", "notebook.log", "outcome.json", "working"}
    if left - ours:
        raise KitError(f"{folder} holds {', '.join(sorted(left - ours)[:3])}: give another folder with --out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _named(pins: Sequence[str], *names: str) -> str:
    return ", ".join(pin.replace("==", " ") for pin in pins if pin.split("==")[0] in names)
