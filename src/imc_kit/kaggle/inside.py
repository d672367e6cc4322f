"""The inner half of a rehearsal: runs one notebook within the limits of a job, and writes what became of it.

`rehearse.py` starts it as `python -m imc_kit.kaggle.inside JOB.json`, in namespaces of its own where the system allows:
then there is no network device but the loopback one, inputs are mounted read-only, and the working folder is a file
system of limited size. Elsewhere inputs are links, and the size of the working folder is watched.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

_RUNNER = """
import sys, nbclient, nbformat
source, target, folder = sys.argv[1:]
notebook = nbformat.read(source, 4)
place = {"metadata": {"path": folder}}
client = nbclient.NotebookClient(notebook, kernel_name="python3", timeout=None, resources=place)
try:
    client.execute()
finally:
    nbformat.write(notebook, target)
"""
_KEPT = 200_000_000
"""Larger files of the working folder are not kept, nor is the store of features and matches."""


@dataclass(frozen=True)
class Job:
    """What to run. Sizes in bytes, times in seconds.

    inputs: where each thing is, by where it shall be found. working: the folder that the notebook starts in.
    results: gets `executed.ipynb`, `outcome.json` and what the notebook left in its working folder.
    """

    python: str
    notebook: str
    inputs: dict[str, str]
    working: str
    results: str
    environment: dict[str, str]
    isolated: bool
    disk: int
    memory: int
    cores: int
    time_limit: float


@dataclass(frozen=True)
class Outcome:
    """How it went.

    ended: "done", "error", or what stopped it. error: the last line of the notebook's error.
    memory, disk: the most that was used, in bytes.
    """

    ended: str = "done"
    error: str = ""
    seconds: float = 0.0
    memory: int = 0
    disk: int = 0


def run(job: Job) -> Outcome:
    """Prepare what the job says, run its notebook, copy what it left to the results, and tell how it went."""
    for target, source in job.inputs.items():
        place(Path(source), Path(target), mount=job.isolated)
    if job.isolated:
        _loopback_up()
        _mount("-t", "tmpfs", "-o", f"size={job.disk},mode=755", "tmpfs", job.working)
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: job.cores]))
    executed = Path(job.results, "executed.ipynb")
    log = Path(job.results, "notebook.log")
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [job.python, "-c", _RUNNER, job.notebook, str(executed), job.working],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=job.environment, cwd=job.working,
        )  # fmt: skip
        outcome = _watch(process, job, started)
    outcome = replace(outcome, seconds=round(time.monotonic() - started, 1))
    if outcome.ended == "done" and process.returncode != 0:
        said = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
        outcome = replace(
            outcome, ended="error", error=_plain(said[-1]) if said else f"exit status {process.returncode}"
        )
    _keep(Path(job.working), Path(job.results, "working"))
    return outcome


def place(source: Path, target: Path, *, mount: bool) -> None:
    """Make `source` appear at `target`: mounted read-only, or as a link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not mount:
        target.symlink_to(source)
        return
    if source.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    _mount("--bind", str(source), str(target))
    _mount("-o", "remount,bind,ro", str(target))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _loopback_up() -> None:
    """`ip link set lo up`, for Jupyter: in a new network namespace even this device is down."""
    import fcntl  # not on every system

    up, get, put = 1, 0x8913, 0x8914
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = fcntl.ioctl(probe, get, struct.pack("16sH14x", b"lo", 0))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(probe, put, struct.pack("16sH14x", b"lo", flags | up))


def _watch(process: subprocess.Popen[bytes], job: Job, started: float) -> Outcome:
    """Wait for the end of the process, or end it and all that it started when it exceeds a limit of the job."""
    outcome = Outcome()
    while True:
        try:
            process.wait(0.5)
            return outcome
        except subprocess.TimeoutExpired:
            pass
        family = _family(process.pid)
        memory = sum(map(_memory, family))
        disk = sum(path.lstat().st_size for path in Path(job.working).rglob("*") if path.is_file())
        outcome = replace(outcome, memory=max(outcome.memory, memory), disk=max(outcome.disk, disk))
        passed = time.monotonic() - started
        ended = ""
        if passed > job.time_limit:
            ended = f"it was stopped at the time limit of {job.time_limit:.0f} s"
        elif memory > job.memory:
            ended = f"it was stopped with {memory / 1e9:.1f} GB of memory in use, of {job.memory / 1e9:.1f} allowed"
        elif disk > job.disk:
            ended = f"it was stopped with {disk / 1e9:.3f} GB in its working folder, of {job.disk / 1e9:.3f} allowed"
        if ended:
            _kill_family(process.pid)
            process.wait()
            return replace(outcome, ended=ended)


def _kill_family(parent: int) -> None:
    """End a process and all that descend from it, those too that start meanwhile: at first all are halted."""
    halted: set[int] = set()
    while members := set(_family(parent)) - halted:
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGSTOP)
        halted |= members
    for member in halted:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def _family(parent: int) -> list[int]:
    """A process and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(folder.name))
    family = [parent]
    for member in family:
        family += children.get(member, [])
    return family


def _memory(process: int) -> int:
    """Bytes of a process, those that it shares with others in equal parts."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


def _keep(working: Path, target: Path) -> None:
    target.mkdir()
    for path in sorted(working.iterdir()):
        if path.name == "store" or path.is_symlink() or (path.is_file() and path.stat().st_size > _KEPT):
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, ignore=shutil.ignore_patterns("*.db", "partial"))
        else:
            shutil.copy(path, target)


def _plain(line: str) -> str:
    """Without the colours of a terminal."""
    return "".join(part if i == 0 else part.partition("m")[2] for i, part in enumerate(line.split("\x1b["))).strip()


if __name__ == "__main__":
    job = Job(**json.loads(Path(sys.argv[1]).read_text("utf-8")))
    Path(job.results, "outcome.json").write_text(json.dumps(asdict(run(job))), "utf-8")
