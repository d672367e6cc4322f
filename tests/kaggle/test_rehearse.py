"""The rehearsal finds what Kaggle would refuse. Some tests run real notebooks, in an environment on top of this one."""

from __future__ import annotations

import dataclasses
import io
import json
import math
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
from imc_kit.kaggle.limits import NOTEBOOK_HOURS, Limits
from imc_kit.kaggle.rehearse import Report
from kits import OWN, flip, write_competition, write_kit
from stages import job

WRITE = """
import shutil, os
shutil.copy(os.environ["IMC_KIT_INPUT"] + "/competitions/x/sample_submission.csv", "submission.csv")
"""


class Stage:
    """Runs cells of code as a notebook, with the competition of `kits` attached."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder, self.python = folder, python
        self.competition = write_competition(folder / "competition")
        self.kit = write_kit(folder / "kit")

    def run(self, *cells: str, **limits: float) -> Report:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        path = self.folder / "notebook.ipynb"
        nbformat.write(notebook, path)
        inputs = {"datasets/someone/kit": self.kit, "competitions/x": self.competition}
        report = Report()
        rehearse.run_notebook(
            job(self.folder, path, self.python, inputs, **limits), scenes.load(self.competition), report
        )
        return report


@pytest.fixture
def stage(tmp_path: Path, notebook_python: Path) -> Stage:
    return Stage(tmp_path, notebook_python)


@pytest.fixture(params=[True, False], ids=["namespaces", "none"])
def isolation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With namespaces if the system has them, and as on a system without."""
    if not request.param:
        monkeypatch.setattr(rehearse, "can_isolate", lambda: False)
    return rehearse.can_isolate()


def test_passes(stage: Stage, isolation: bool, capfd: pytest.CaptureFixture[str]) -> None:
    report = stage.run("import os; print(os.getcwd())", WRITE, "# install.py")
    assert f"{stage.folder}/stage/kaggle/working\n" in capfd.readouterr().out  # the notebook's log
    assert report.problems == []
    assert str(report).endswith("\nPASS")
    facts = dict(report.facts)
    assert "valid: 2 rows" in facts["submission"]
    assert facts["install"].endswith(" s")
    assert facts["network"].startswith("none: a namespace" if isolation else "blocked in Python only")


def test_network_calls_and_writing_into_inputs_are_found(stage: Stage, isolation: bool) -> None:
    careless = "from urllib.request import urlopen\ntry:\n    urlopen('http://pypi.org/x')\nexcept OSError: pass"
    library = stage.kit / "careless.py"
    library.write_text("import socket\n\ndef phone_home():\n    socket.create_connection(('192.0.2.1', 80))\n")
    called = f"import sys; sys.path.append({str(library.parent)!r}); import careless\n"
    called += "try: careless.phone_home()\nexcept OSError: pass"
    script = "import socket; socket.gethostbyname('kaggle.com')"
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {script!r}])"
    write = "open(os.environ['IMC_KIT_INPUT'] + '/competitions/x/new.csv', 'w').write('x')"
    report = stage.run(careless, called, child, WRITE, write)
    assert len(report.problems) == 4
    *calls, written = [*report.problems[1:], report.problems[0]] if isolation else report.problems
    assert ("Read-only file system" if isolation else "wrote into its inputs") in written
    assert "called the network (pypi.org), which Kaggle does not have" in calls[0]
    assert ":3 in <module>" in calls[0]
    assert f"{library}:4 in phone_home called the network (192.0.2.1)" in calls[1]
    assert "<string>:1 in <module> called the network (kaggle.com)" in calls[2]
    assert str(report).endswith("\nFAIL")


def test_errors_are_told_in_their_own_words(stage: Stage) -> None:
    """Of a folder that cannot be written, of a full one, and of a damaged weight file, which ends the notebook."""
    flip(stage.kit / "weights" / "toy.pth")
    try_to_write = """
import os
from pathlib import Path
from imc_kit import kaggle
for folder in (os.environ["IMC_KIT_INPUT"] + "/competitions/x", os.getcwd()):
    try:
        kaggle._check_writable(Path(folder))
    except Exception as error:
        print(error)
"""
    report = stage.run("open('big', 'wb').write(bytes(4_500_000))", try_to_write, "kaggle.attach()", disk=0.005)
    executed = nbformat.read(stage.folder / "results" / "executed.ipynb", 4)
    read_only, full = executed.cells[1].outputs[0].text.splitlines()
    if rehearse.can_isolate():
        assert "competitions/x cannot be written (Read-only file system): free some space" in read_only
        assert "/working cannot be written (No space left on device): free some space" in full
    ended, missing = report.problems
    assert ended.startswith("the notebook ended with an error: KitError: ")
    assert ended.endswith("toy.pth is damaged: its SHA-256 differs, so the kit is not used: upload it again")
    assert missing == "there is no submission.csv in the working folder"


@pytest.mark.parametrize(
    ("code", "limits", "seconds", "said"),
    [
        ("open('big', 'wb').write(bytes(6_000_000))", {"disk": 0.005}, 60, "with 0.006 GB in its working folder"),
        ("x = bytearray(300_000_000)", {"memory": 0.25}, 60, "GB of memory in use, of 0.2 allowed"),
        ("import subprocess; subprocess.run(['sleep', '123.75'])", {}, 1, "at the time limit of 1 s"),
    ],
    ids=["disk", "memory", "time"],
)
def test_limits_end_a_process_and_its_children(
    tmp_path: Path, code: str, limits: dict[str, float], seconds: float, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    limited = job(tmp_path, tmp_path / "none.ipynb", Path(sys.executable), {}, **limits)
    limited = dataclasses.replace(limited, time_limit=seconds)
    limited.working.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", f"{code}\nimport time; time.sleep(60)"], cwd=limited.working)
    outcome = inside._watch(process, limited, time.monotonic(), io.BytesIO(b"halfway"))
    assert capfd.readouterr().out == "halfway"  # the log is forwarded while the process runs
    assert outcome.problem.startswith("did not end: it was stopped ")
    assert said in outcome.problem
    assert process.returncode is not None
    end = time.monotonic() + 10  # a killed process needs a moment to end
    while any(_command(path) == b"sleep\x00123.75\x00" for path in Path("/proc").glob("[0-9]*/cmdline")):
        assert time.monotonic() < end
        time.sleep(0.05)


def _command(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has just ended
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
    report = Report()
    report.check_submission(tmp_path / "submission.csv", task)
    (problem,) = report.problems
    assert problem.startswith("the competition would refuse submission.csv: ")
    assert said in problem


class Staged(NamedTuple):
    """What a notebook would find, and what it is asked for."""

    inputs: set[str]
    found: scenes.Task
    """The task as the notebook finds it."""
    asked: scenes.Task
    seconds: float
    flaws: list[str]
    """Flaws of the sample submission, according to what is asked."""


Rehearsed = Callable[..., Staged]


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rehearsed:
    """Rehearses a kit without an environment and without running its notebook, with flat mounts."""
    found: list[Staged] = []

    def run_notebook(job: inside.Job, asked: scenes.Task, report: Report) -> None:
        for name, source in job.inputs.items():
            inside.place(source.absolute(), job.input_root / name, mount=False)
        root = job.input_root / "rehearsal"
        flaws = submission.check(root / "sample_submission.csv", asked.columns, asked.keys)
        inputs = {path.name for path in job.input_root.iterdir()}
        found.append(Staged(inputs, scenes.load(root), asked, job.time_limit, flaws))

    def run(competition: Path, *only: str, **options: Any) -> Staged:
        out = tmp_path / "out"
        flat = rehearse.Rehearsal(kit, competition, only, python=OWN, mount="flat", out=out, **options)
        rehearse.rehearse(flat)
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
    limits = Limits(images=64)
    inputs, found, asked, seconds, flaws = staged(shared / "scenes", "door12", "fern20", limits=limits)
    assert inputs == {"imc-kit", "rehearsal"}
    assert {scene.name: len(scene.images) for scene in found.scenes} == {"door12": 12, "fern20": 20}
    assert len(found.rows) == 32
    assert seconds == 0.5 * NOTEBOOK_HOURS * 3600
    assert (asked.columns, asked.keys) == (found.columns, found.keys)
    assert found.columns == task.columns
    assert [row.key for row in found.rows] == [row.key for row in task.rows if row.scene in ("door12", "fern20")]
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


@pytest.mark.parametrize("with_table", [True, False])
@pytest.mark.parametrize("only", [(), ("vase",)])
def test_scenes_keep_their_categories(
    staged: Rehearsed, two_scenes: Path, only: tuple[str, ...], with_table: bool
) -> None:
    if not with_table:
        (two_scenes / "sample_submission.csv").unlink()
    result = staged(two_scenes, *only)
    expected = {"tower": (), "vase": ("transparent",)}
    categories = {scene.name: scene.categories for scene in result.found.scenes}
    assert categories == {name: expected[name] for name in only or expected}
    assert (result.asked.columns, result.asked.keys) == (result.found.columns, result.found.keys)
    assert result.flaws == []


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
        (0, {}, ["no image was registered"]),
        (7, {"b": "it rained"}, ["scene b could not be solved: it rained"]),
    ],
)
def test_a_valid_submission_of_guesses_does_not_pass(
    tmp_path: Path, registered: int, failed: dict[str, str], problems: list[str]
) -> None:
    task = scenes.load(write_competition(tmp_path / "competition"))
    (tmp_path / "working").mkdir()
    (tmp_path / "outcome.json").write_text(json.dumps(dataclasses.asdict(inside.Outcome())))
    (tmp_path / "working" / "submission.csv").write_bytes((task.root / "sample_submission.csv").read_bytes())
    run = {"scenes": {"a": {"counts": {"images": 9, "registered": registered}}}, "failed": failed}
    (tmp_path / "working" / "run.json").write_text(json.dumps(run))
    report = Report()
    report.judge(tmp_path, task)
    assert report.problems == problems
    assert dict(report.facts)["poses"] == f"{registered} of 9 images registered; scenes solved: 1"


def test_the_time_limit_is_a_share_of_nine_hours() -> None:
    limits = Limits(images=1000)
    assert limits.seconds(1000) == 9 * 3600
    assert limits.seconds(100) == 3240
    assert limits.seconds(1) == 600
    for wrong in ({"hours": math.nan}, {"images": 0}, {"cores": 0}, {"disk": -1.0}):
        (name,) = wrong
        with pytest.raises(KitError, match=rf"limits\.{name} must be above 0"):
            Limits(**wrong)


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
    kit = write_kit(tmp_path / "kit")
    options = rehearse.Rehearsal(kit, write_competition(tmp_path / "competition"), out=tmp_path / "out")
    with pytest.raises(KitError, match=r"there is no .*kernel/submission\.ipynb"):
        rehearse.rehearse(options)
    (kit / "manifest.json").unlink()
    with pytest.raises(KitError, match=r"has no manifest\.json"):
        rehearse.rehearse(options)
