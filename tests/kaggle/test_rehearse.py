"""The rehearsal catches what Kaggle would not forgive. Real notebooks, in environments on top of this one."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest

from imc_kit.data import scenes, submission
from imc_kit.errors import KitError
from imc_kit.kaggle import environments, inside, rehearse
from kits import OWN, flip, write_competition, write_kit
from stages import layered_python

COLUMNS = ("image_path", "dataset", "scene", "rotation_matrix", "translation_vector")
WRITE = """
import shutil, os
shutil.copy(os.environ["IMC_KIT_INPUT"] + "/competitions/x/sample_submission.csv", "submission.csv")
"""


class Stage:
    """Runs cells of code as a notebook, with the competition of `kits` attached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.competition = write_competition(folder / "competition")
        self.kit = write_kit(folder / "kit")
        self.python = layered_python(folder / "environment")

    def run(self, *cells: str, **limits: float) -> rehearse.Report:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        path = self.folder / "notebook.ipynb"
        nbformat.write(notebook, path)
        task = scenes.load(self.competition)
        report = rehearse.Report()
        stage, results = self.folder / "stage", self.folder / "results"
        stage.mkdir()
        results.mkdir()
        inputs = {"datasets/someone/kit": self.kit, "competitions/x": self.competition}
        allowed = dataclasses.replace(rehearse.Limits(), **limits)
        rehearse.run_notebook(
            path, self.python, inputs, (task.columns, task.keys), 2, results, stage, allowed, report
        )  # fmt: skip
        return report


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture(params=[True, False], ids=["namespaces", "none"])
def isolation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With namespaces where the system has them, and as on a system without."""
    if not request.param:
        monkeypatch.setattr(rehearse, "can_isolate", lambda: False)
    return rehearse.can_isolate()


def test_passes(stage: Stage, isolation: bool) -> None:
    report = stage.run("import os; print(os.getcwd())", WRITE)
    assert report.problems == []
    assert str(report).endswith("\nPASS")
    facts = dict(report.facts)
    assert "valid: 2 rows" in facts["submission"]
    assert facts["first cell"].endswith(" s")
    assert facts["network"].startswith("none: a namespace" if isolation else "blocked in Python only")


def test_network_calls_are_caught_and_their_callers_named(stage: Stage, isolation: bool) -> None:
    careless = "from urllib.request import urlopen\ntry:\n    urlopen('http://pypi.org/x')\nexcept OSError: pass"
    library = stage.kit / "careless.py"
    library.write_text("import socket\n\ndef phone_home():\n    socket.create_connection(('192.0.2.1', 80))\n")
    called = f"import sys; sys.path.append({str(library.parent)!r}); import careless\n"
    called += "try: careless.phone_home()\nexcept OSError: pass"
    script = "import socket; socket.gethostbyname('kaggle.com')"
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {script!r}])"
    report = stage.run(careless, called, child, WRITE)
    assert len(report.problems) == 3
    first, second, third = report.problems
    assert "called the network (pypi.org), which Kaggle does not have" in first
    assert ":3 in <module>" in first
    assert f"{library}:4 in phone_home called the network (192.0.2.1)" in second
    assert "<string>:1 in <module> called the network (kaggle.com)" in third
    assert str(report).endswith("\nFAIL")
    assert isolation == rehearse.can_isolate()


def test_an_error_is_told_in_its_own_words(stage: Stage) -> None:
    flip(stage.kit / "weights" / "toy.pth")
    report = stage.run("from imc_kit import kaggle\nkaggle.attach()")
    assert len(report.problems) == 2
    assert report.problems[0].startswith("the notebook ended with an error: KitError: ")
    assert report.problems[0].endswith(
        "toy.pth is damaged: its SHA-256 differs, so nothing of the kit is used: upload the kit again"
    )
    assert report.problems[1] == "there is no submission.csv in the working folder"


def test_working_folder_that_cannot_be_written(stage: Stage) -> None:
    elsewhere = "import os\nos.chdir(os.environ['IMC_KIT_INPUT'] + '/competitions/x')"
    report = stage.run(elsewhere, "from imc_kit import kaggle\nkaggle.attach()")
    assert "cannot be written (Read-only file system)" in report.problems[0]


def test_full_working_folder(stage: Stage) -> None:
    fill = "open('big', 'wb').write(bytes(4_500_000))\n"
    report = stage.run(fill, "from imc_kit import kaggle\nkaggle.attach()", disk=0.005)
    assert "/working cannot be written (No space left on device): free some space" in report.problems[0]


def test_full_working_folder_without_namespaces(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearse, "can_isolate", lambda: False)
    report = stage.run("import time\nopen('big', 'wb').write(bytes(6_000_000))\ntime.sleep(20)", disk=0.005)
    assert "stopped with 0.006 GB in its working folder, of 0.005 allowed" in report.problems[0]


def test_inputs_cannot_be_written(stage: Stage, isolation: bool) -> None:
    report = stage.run(WRITE, "open(os.environ['IMC_KIT_INPUT'] + '/competitions/x/new.csv', 'w').write('x')")
    assert "Read-only file system" in report.problems[0] if isolation else "wrote into its inputs" in report.problems[0]


def test_memory(stage: Stage) -> None:
    report = stage.run("x = bytearray(600_000_000)\nimport time; time.sleep(20)", memory=0.5)
    assert "GB of memory in use, of 0.5 allowed" in report.problems[0]


def test_time_ends_the_notebook_and_its_children(tmp_path: Path) -> None:
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell("import subprocess; subprocess.run(['sleep', '123.75'])")]
        ),
        tmp_path / "notebook.ipynb",
    )
    (tmp_path / "working").mkdir()
    (tmp_path / "results").mkdir()
    job = inside.Job(
        python=sys.executable,
        notebook=str(tmp_path / "notebook.ipynb"),
        inputs={},
        working=str(tmp_path / "working"),
        results=str(tmp_path / "results"),
        environment={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        isolated=False,
        disk=10**9,
        memory=10**10,
        cores=1,
        time_limit=6,
    )
    (tmp_path / "job.json").write_text(json.dumps(dataclasses.asdict(job)))
    subprocess.run([sys.executable, "-m", "imc_kit.kaggle.inside", str(tmp_path / "job.json")], check=True)
    outcome = json.loads((tmp_path / "results" / "outcome.json").read_text())
    assert outcome["ended"] == "it was stopped at the time limit of 6 s"
    end = time.monotonic() + 10  # what is killed takes a moment to go
    while any(_says(path) == b"sleep\x00123.75\x00" for path in Path("/proc").glob("[0-9]*/cmdline")):
        assert time.monotonic() < end
        time.sleep(0.05)


def _says(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], "the row test/tower/images/b.png,tower,tower is missing"),
        (lambda lines: [lines[0], lines[2], lines[1]], "the rows are not in the order asked for"),
        (lambda lines: [lines[0].replace("scene", "Scene"), *lines[1:]], "has the columns"),
        (lambda lines: [*lines[:2], lines[2].replace("0;0;0", "0;0;nan")], "row 2 has no valid pose"),
        (lambda lines: [*lines[:2], lines[2].replace("1;0", "x;0", 1)], "row 2 has no valid pose"),
        (lambda lines: [*lines, lines[-1]], "is there 2 times"),
    ],
)
def test_the_submission_is_checked_as_the_competition_does(tmp_path: Path, change, said: str) -> None:
    task = scenes.load(write_competition(tmp_path / "competition"))
    lines = (tmp_path / "competition" / "sample_submission.csv").read_text().splitlines()
    (tmp_path / "submission.csv").write_text("\n".join(change(lines)) + "\n")
    report = rehearse.Report()
    rehearse._check_submission(tmp_path / "submission.csv", (task.columns, task.keys), report)
    (problem,) = report.problems
    assert problem.startswith("the competition would refuse submission.csv: ")
    assert said in problem


class Staged(NamedTuple):
    """What a notebook would find, and what it is asked for."""

    inputs: set[str]
    task: scenes.Task
    asked: rehearse.Asked | None
    images: int
    flaws: list[str]
    """Of the sample submission, by what is asked."""


Rehearsed = Callable[..., Staged]


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rehearsed:
    """Rehearses a kit without running its notebook, in no environment, with flat mounts."""
    found: list[Staged] = []

    def run_notebook(
        notebook: Path, python: Path, inputs: dict[str, Path], asked: rehearse.Asked | None, images: int, results: Path,
        stage: Path, *_: object,
    ) -> None:  # fmt: skip
        root = stage / "input"
        for name, source in inputs.items():
            inside.place(source.absolute(), root / name, mount=False)
        sample = root / "rehearsal" / "sample_submission.csv"
        task = scenes.load(root / "rehearsal")
        flaws = submission.check(sample, *asked) if asked else []
        found.append(Staged({path.name for path in root.iterdir()}, task, asked, images, flaws))

    def run(competition: Path, *only: str, **options: Any) -> Staged:
        out = tmp_path / "out"
        rehearse.rehearse(kit, competition, out, python=OWN, only=only, mount="flat", **options)
        return found.pop()

    kit = write_kit(tmp_path / "kit")
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel" / "submission.ipynb").touch()
    monkeypatch.setattr(environments, "base", lambda *_: (tmp_path, ""))
    monkeypatch.setattr(environments, "fresh", lambda *_: Path(sys.executable))
    monkeypatch.setattr(rehearse, "run_notebook", run_notebook)
    return run


def test_some_scenes_of_a_competition(staged: Rehearsed, shared: Path) -> None:
    task = scenes.load(shared / "scenes")
    inputs, part, asked, images, flaws = staged(shared / "scenes", "door12", "fern20")
    assert inputs == {"imc-kit", "rehearsal"}
    assert {scene.name: len(scene.images) for scene in part.scenes} == {"door12": 12, "fern20": 20}
    assert images == len(part.rows) == 32
    assert asked == (part.columns, part.keys)
    assert part.columns == task.columns
    assert [row.key for row in part.rows] == [row.key for row in task.rows if row.scene in ("door12", "fern20")]
    assert flaws == []


@pytest.fixture
def two_scenes(tmp_path: Path) -> Path:
    """A competition with a tower and a vase, which is transparent."""
    root = write_competition(tmp_path / "competition")
    shutil.copytree(root / "test" / "tower", root / "test" / "vase")
    (root / "test" / "categories.csv").write_text("scene,categories\nvase,transparent\n")
    with (root / "sample_submission.csv").open("a") as file:
        file.write("test/vase/images/a.png,vase,vase,1;0;0;0;1;0;0;0;1,0;0;0\n")
    return root


@pytest.mark.parametrize("asked_by", ["a table", "what is there"])
@pytest.mark.parametrize("only", [(), ("vase",)])
def test_scenes_keep_their_categories(
    staged: Rehearsed, two_scenes: Path, only: tuple[str, ...], asked_by: str
) -> None:
    if asked_by == "what is there":
        (two_scenes / "sample_submission.csv").unlink()
    found = staged(two_scenes, *only)
    expected = {"tower": (), "vase": ("transparent",)}
    categories = {scene.name: scene.categories for scene in found.task.scenes}
    assert categories == {name: expected[name] for name in only or expected}
    assert found.asked == (found.task.columns, found.task.keys)
    assert found.flaws == []


def test_what_cannot_be_rehearsed_leaves_the_last_results(staged: Rehearsed, two_scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "executed.ipynb").touch()
    with pytest.raises(KitError, match="did you mean 'tower'"):
        staged(two_scenes, "towr")
    with pytest.raises(KitError, match=r"images is not a competition's data: give its root"):
        staged(two_scenes / "test" / "vase" / "images")
    assert (tmp_path / "out" / "executed.ipynb").exists()
    staged(two_scenes)
    assert not (tmp_path / "out" / "executed.ipynb").exists()


@pytest.mark.parametrize(
    ("registered", "failed", "problems"),
    [
        (7, {}, []),
        (0, {}, ["not one image was registered"]),
        (7, {"b": "it rained"}, ["scene b could not be solved: it rained"]),
    ],
)
def test_a_valid_submission_of_guesses_is_no_pass(
    tmp_path: Path, registered: int, failed: dict[str, str], problems: list[str]
) -> None:
    task = scenes.load(write_competition(tmp_path / "competition"))
    (tmp_path / "working").mkdir()
    (tmp_path / "outcome.json").write_text(json.dumps(dataclasses.asdict(inside.Outcome())))
    (tmp_path / "working" / "submission.csv").write_bytes((task.root / "sample_submission.csv").read_bytes())
    run = {"scenes": {"a": {"counts": {"images": 9, "registered": registered}}}, "failed": failed}
    (tmp_path / "working" / "run.json").write_text(json.dumps(run))
    report = rehearse.Report()
    rehearse._judge(tmp_path, (task.columns, task.keys), report)
    assert report.problems == problems
    assert dict(report.facts)["poses"] == f"{registered} of 9 images registered; scenes solved: 1"


def test_limits_are_scaled_by_the_photographs() -> None:
    limits = rehearse.Limits(hours=9, images=1000)
    assert limits.seconds(1000) == 9 * 3600
    assert limits.seconds(100) == 3240
    assert limits.seconds(1) == 600


def test_results_of_others_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(KitError, match="holds precious: give another folder"):
        rehearse._emptied(tmp_path)
    assert (tmp_path / "precious").exists()
    with pytest.raises(KitError, match="precious is not a folder: give another one with --out"):
        rehearse._emptied(tmp_path / "precious")


def test_results_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "working").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert rehearse._emptied(tmp_path / "out") == tmp_path / "real"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_notebook_and_a_missing_manifest(tmp_path: Path) -> None:
    kit, competition = write_kit(tmp_path / "kit"), write_competition(tmp_path / "competition")
    with pytest.raises(KitError, match=r"there is no .*kernel/submission\.ipynb"):
        rehearse.rehearse(kit, competition, tmp_path / "out")
    (kit / "manifest.json").unlink()
    with pytest.raises(KitError, match=r"has no manifest\.json"):
        rehearse.rehearse(kit, competition, tmp_path / "out")
