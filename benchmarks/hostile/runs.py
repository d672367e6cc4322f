"""Whole runs: the command, and what must be true of the folder that it leaves."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from hostile.cases import CONTROLS, Failed, expect
from imc_kit.data import scenes, submission
from imc_kit.data.tables import parse_pose, read_table
from imc_kit.synthetic.plaza import DISTANCES, Camera, orbit, plaza, render_scene, write_layout
from imc_kit.types import Pose

VIEWS = 5
NAME = "plaza"
MOST_DEGREES, MOST_DISTANCE = 0.2, 0.01
"""How far relative rotations, and distances of cameras as a share of the largest, may be from those of a clean run.
Runs with two threads differ by a hundredth of this."""
SECONDS = 120.0
"""For one command. It takes three on an idle machine."""
MARK = "IMC_KIT_TORTURE"
"""The variable of the environment by which a run's processes are found; it holds the run's folder."""
Limits = Callable[[], None]


def render(root: Path) -> None:
    """Render neighbouring views of the plaza, in the layout of 2024."""
    poses = {f"view_{number}.jpg": pose for number, pose in enumerate(orbit(24)[:VIEWS])}
    size = (320, 240)
    write_layout(
        root, NAME, "synthetic", poses, size,
        lambda: render_scene(plaza(), Camera.centred(size), list(poses.values())), DISTANCES,
    )  # fmt: skip


@dataclass
class Command:
    """`imc-kit solve` on a scene.

    env: changes to the environment; None removes a variable. limits: called in the new process before Python starts.
    """

    scene: Path
    out: Path
    options: Sequence[str] = ()
    env: Mapping[str, str | None] = field(default_factory=dict)
    limits: Limits | None = None
    started: float = 0.0
    log: Path | None = None

    def start(self, console: Any = None) -> subprocess.Popen[bytes]:
        """Start it. console: takes what it prints; by default a file next to its folder."""
        self.log = self.out.parent / f"{self.out.name}.log" if console is None else None
        known = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **self.env, MARK: str(self.out)}
        arguments = ["solve", str(self.scene), "--out", str(self.out), "--preset", "small", "--threads", "1"]
        log = self.log.open("ab") if self.log else None
        self.started = time.monotonic()
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "imc_kit.cli.main", *arguments, *self.options],
                env={name: value for name, value in known.items() if value is not None},
                preexec_fn=self.limits, start_new_session=True, stdin=subprocess.DEVNULL,
                stdout=log or console, stderr=log or console,
            )  # fmt: skip
        finally:
            if log:
                log.close()

    def run(self, console: Any = None) -> int:
        """Run it to its end; returns the exit status."""
        return self.ended(self.start(console))

    def ended(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for its end, and check what it printed; returns the exit status."""
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Failed(f"still running after {SECONDS:.0f} s: {self.said()[-200:]!r}") from None
        said = self.said()
        expect("Traceback" not in said, f"a traceback: {said.strip()[-300:]!r}")
        strange = [line for line in said.split("\n") if CONTROLS.search(line)]
        expect(not strange, f"control characters in the log: {strange[:1]}")
        expect(status in (0, 1, 2, 130, 141) or status < 0, f"exit status {status}")  # 141: the console went away
        return status

    def said(self) -> str:
        text = self.log.read_text("utf-8", "replace") if self.log else ""
        return "\n".join(line.split("\r")[-1] for line in text.split("\n"))  # a progress bar overwrites its line


def solve_clean(command: Command, clean: Path) -> None:
    """Run a command that has nothing against it, and check that its result is that of a clean run."""
    log = len(command.said()) if command.started else 0
    status = command.run()
    expect(status == 0, f"exit status {status}: {command.said()[log:][-300:]!r}")
    check_rows(command.scene, command.out)
    check_same(command.out, clean)


def check_rows(scene: Path, out: Path) -> None:
    """Check that the submission has every row, in order."""
    task = scenes.load(scene)
    problems = submission.check(out / "submission.csv", task.columns, task.keys)
    expect(not problems, f"the submission: {problems[:1]}")


def check_same(out: Path, clean: Path) -> None:
    """Check that the rendered photos have the poses of the clean run, whatever the frame and the scale."""
    degrees, distance = difference(poses_in(out), poses_in(clean))
    same = degrees <= MOST_DEGREES and distance <= MOST_DISTANCE
    expect(same, f"poses differ from a clean run's by {degrees:.2f}° and {distance:.1%} of the largest distance")


def poses_in(out: Path) -> dict[str, Pose]:
    """The poses of the rendered photos in a submission."""
    table = read_table(out / "submission.csv")
    return {
        row["image_path"]: Pose(*parse_pose(row["rotation_matrix"], row["translation_vector"]))
        for row in table.to_dict("records")
        if Path(row["image_path"]).name in [f"view_{number}.jpg" for number in range(VIEWS)]
    }


def difference(some: Mapping[str, Pose], others: Mapping[str, Pose]) -> tuple[float, float]:
    """The largest difference of relative rotations in degrees, and of distances as a share of the largest distance."""
    expect(some.keys() == others.keys(), "rows of photos are missing")
    turns, spans = [], []
    for poses in (some, others):
        pairs = list(combinations(sorted(poses), 2))
        turns.append(np.array([poses[a].rotation @ poses[b].rotation.T for a, b in pairs]))
        span = np.array([np.linalg.norm(poses[a].center - poses[b].center) for a, b in pairs])
        spans.append(span / max(span.max(), 1e-12))
    cosines = (np.einsum("nij,nij->n", *turns) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max()), float(np.abs(spans[0] - spans[1]).max())


def left_over(folder: Path, patience: float = 5.0) -> list[str]:
    """The processes of the runs into a folder that are still there after some seconds."""
    end = time.monotonic() + patience
    while found := _running(folder):
        if time.monotonic() > end:
            return found
        time.sleep(0.1)
    return []


def _running(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is someone else's
            if f"{MARK}={folder}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(path.name)
    return found


def children(process: int) -> list[int]:
    """All processes below one, the oldest first."""
    found = []
    with suppress(OSError):
        for path in Path(f"/proc/{process}/task").glob("*/children"):
            for child in map(int, path.read_text().split()):
                found += [child, *children(child)]
    return sorted(found)


def copied(source: Path, to: Path) -> Path:
    shutil.copytree(source, to, symlinks=True)
    return to


@cache
def length(clean: Path) -> float:
    """Seconds of the clean run, as it wrote them beside its folder."""
    return float((clean.parent / "seconds").read_text())


def limited(**limits: int) -> Limits:
    """Set limits of resources by their names, for example fsize=1000."""

    def apply() -> None:
        for name, value in limits.items():
            kind = getattr(resource, f"RLIMIT_{name.upper()}")
            resource.setrlimit(kind, (value, value))

    return apply


def without_privileges() -> None:
    """Permissions hold for root, too (on Linux: drop the capabilities that ignore them)."""
    if os.getuid() == 0 and sys.platform == "linux":
        import ctypes

        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
