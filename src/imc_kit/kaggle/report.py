"""The report of a rehearsal: what was run, how the notebook ended, and whether Kaggle would accept the submission."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from imc_kit.data import submission
from imc_kit.data.scenes import Task
from imc_kit.kaggle.inside import Outcome


@dataclass
class Report:
    """facts: what was run and how it went, by topic. problems: what Kaggle would not accept."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{topic:<12}{text}" for topic, text in (*self.facts, *(("problem", text) for text in self.problems))]
        return "\n".join([*lines, "FAIL" if self.problems else "PASS"])

    def add(self, topic: str, text: str) -> None:
        """Add a fact."""
        self.facts.append((topic, text))

    def judge(self, results: Path, task: Task | None) -> None:
        """Add how the notebook ended, what it used, and what is wrong with its submission.

        results: the folder that `inside` filled. task: what the submission is for; None for a notebook without one.
        """
        outcome = Outcome(**json.loads((results / "outcome.json").read_text("utf-8")))
        used = f"{outcome.memory / 1e9:.1f} GB of memory and {outcome.disk / 1e9:.3f} GB in the working folder"
        self.add("used", f"{outcome.seconds:.0f} s, at most {used}")
        seconds = _install_seconds(results / "executed.ipynb")
        if seconds is not None:
            self.add("install", f"{seconds:.0f} s")
        self.add("results", str(results))
        if outcome.ended == "error":
            self.problems.append(f"the notebook ended with an error: {outcome.error}")
        elif outcome.ended != "done":
            self.problems.append(f"the notebook did not end: {outcome.ended}")
        if task is not None:
            self._add_scenes(results / "working" / "run.json")
            self.check_submission(results / "working" / "submission.csv", task)

    def _add_scenes(self, path: Path) -> None:
        """Add the registered images and the failed scenes: a submission can be valid although every pose is a guess."""
        if not path.is_file():
            return
        summary = json.loads(path.read_text("utf-8"))
        counts = [scene["counts"] for scene in summary["scenes"].values()]
        registered, images = (sum(count[what] for count in counts) for what in ("registered", "images"))
        self.add("poses", f"{registered} of {images} images registered; scenes solved: {len(counts)}")
        self.problems += [f"scene {name} could not be solved: {reason}" for name, reason in summary["failed"].items()]
        if not registered and not summary["failed"]:
            self.problems.append("no image was registered")

    def check_submission(self, path: Path, task: Task) -> None:
        """Check a submission as the competition does."""
        if not path.is_file():
            self.problems.append("there is no submission.csv in the working folder")
            return
        flaws = submission.check(path, task.columns, task.keys)
        if flaws:
            more = f" (and {len(flaws) - 1} more problems)" if len(flaws) > 1 else ""
            self.problems.append(f"the competition would refuse submission.csv: {flaws[0]}{more}")
        else:
            self.add("submission", f"valid: {len(task.keys)} rows, as sample_submission.csv asks")

    def add_network_calls(self, log: Path) -> None:
        """Add a problem for each place in the code that called the network. log: the file that `guard` wrote."""
        lines = log.read_text("utf-8").splitlines() if log.is_file() else []
        targets: dict[str, str] = {}
        for call in map(json.loads, lines):
            targets.setdefault(call["caller"], call["target"])
        self.problems += [
            f"{caller} called the network ({target}), which Kaggle does not have" for caller, target in targets.items()
        ]


def _install_seconds(path: Path) -> float | None:
    """How long the cell took that installs the kit, if there is one and the notebook says so."""
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        installing = (cell for cell in cells if cell["cell_type"] == "code" and "install.py" in "".join(cell["source"]))
        times = next(installing)["metadata"]["execution"]
        start, end = map(datetime.fromisoformat, (times["iopub.execute_input"], times["shell.execute_reply"]))
    except (OSError, ValueError, KeyError, StopIteration):
        return None
    return (end - start).total_seconds()
