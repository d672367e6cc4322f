"""The inner process of a rehearsal: runs one notebook within the limits of a job and writes down how it ended.

`rehearse` starts it in a process of its own, in Linux namespaces if the system allows it. Then there is no network,
inputs are mounted read-only, and the working folder is a file system of limited size. Without
namespaces, inputs are links and the size of the working folder is watched.
"""

from __future__ import annotations

import json
import os
import pickle
import re
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
from typing import BinaryIO

from imc_kit.kaggle import guard
from imc_kit.kaggle.limits import GB, Limits

_RUNNER = """
import sys, nbclient, nbformat
source, target, folder = sys.argv[1:]
notebook = nbformat.read(source, 4)
place = {"metadata": {"path": folder}}
class Client(nbclient.NotebookClient):
    def output(self, outs, msg, display_id, cell_index):
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().output(outs, msg, display_id, cell_index)
client = Client(notebook, kernel_name="python3", timeout=None, resources=place)
try:
    client.execute()
finally:
    nbformat.write(notebook, target)
"""
"""Executes a notebook and prints what its cells print."""
_LARGEST_KEPT = 200_000_000
"""Bytes. Larger files of the working folder are not copied to the results, to keep them small."""
_POLL_SECONDS = 0.5
"""Time between two checks of memory, disk and time. If halved, a notebook exceeds its limits for half as long."""


@dataclass(frozen=True)
class Job:
    """What to run, and how.

    inputs: what is attached, by its path below the input root.
    python: the interpreter of a fresh environment that has Jupyter.
    stage: a folder for temporary files. results: an empty folder for `executed.ipynb`, `outcome.json`, the log and the
        content of the working folder.
    time_limit: seconds. isolated: whether this process has namespaces of its own.
    """

    notebook: Path
    inputs: dict[str, Path]
    python: Path
    stage: Path
    results: Path
    limits: Limits
    time_limit: float
    isolated: bool

    @property
    def working(self) -> Path:
        """The folder in which the notebook starts."""
        return self.stage / "kaggle" / "working"

    @property
    def input_root(self) -> Path:
        """The folder in which the notebook finds its inputs."""
        return self.stage / "kaggle" / "input"

    @property
    def calls(self) -> Path:
        """The file that lists calls to the network."""
        return self.stage / "calls.jsonl"


@dataclass(frozen=True)
class Outcome:
    """How the notebook ended.

    ended: "done", "error", or the reason why it was stopped. error: the last line of the notebook's error.
    memory, disk: the peak in bytes.
    """

    ended: str = "done"
    error: str = ""
    seconds: float = 0.0
    memory: int = 0
    disk: int = 0


def run(job: Job) -> Outcome:
    """Prepare inputs and limits, run the notebook, and copy its working folder to the results."""
    for folder in (job.input_root, job.working, job.stage / "home", job.stage / "tmp"):
        folder.mkdir(parents=True)
    for name, source in job.inputs.items():
        place(source.absolute(), job.input_root / name, mount=job.isolated)
    if job.isolated:
        _loopback_up()
        _mount("-t", "tmpfs", "-o", f"size={job.limits.disk * GB:.0f},mode=755", "tmpfs", str(job.working))
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: job.limits.cores]))
    log = job.results / "notebook.log"
    started = time.monotonic()
    with log.open("wb") as output, log.open("rb") as written:
        process = subprocess.Popen(
            [job.python, "-c", _RUNNER, job.notebook, job.results / "executed.ipynb", job.working],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=_variables(job), cwd=job.working,
        )  # fmt: skip
        outcome = _watch(process, job, started, written)
        _forward(written)
    outcome = replace(outcome, seconds=round(time.monotonic() - started, 1))
    if outcome.ended == "done" and process.returncode != 0:
        said = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
        error = _without_colours(said[-1]) if said else f"exit status {process.returncode}"
        outcome = replace(outcome, ended="error", error=error)
    _copy_results(job.working, job.results / "working")
    return outcome


def _variables(job: Job) -> dict[str, str]:
    """The notebook's environment variables: Kaggle's when a submission is scored, and none of this machine's."""
    return {
        "PATH": f"{job.python.parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(job.stage / "home"),
        "TMPDIR": str(job.stage / "tmp"),
        "JUPYTER_DATA_DIR": str(job.stage / "home" / "jupyter"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "IMC_KIT_INPUT": str(job.input_root),
        guard.LOG: str(job.calls),
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "KAGGLE_IS_COMPETITION_RERUN": "1",
    }


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
    """Do `ip link set lo up`: in a new network namespace even the loopback device is down, and Jupyter needs it."""
    import fcntl  # does not exist on Windows

    up, get_flags, set_flags = 1, 0x8913, 0x8914  # IFF_UP, SIOCGIFFLAGS, SIOCSIFFLAGS of Linux
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = fcntl.ioctl(probe, get_flags, struct.pack("16sH14x", b"lo", 0))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(probe, set_flags, struct.pack("16sH14x", b"lo", flags | up))


def _watch(process: subprocess.Popen[bytes], job: Job, started: float, log: BinaryIO) -> Outcome:
    """Wait until the process ends, or stop it with all its descendants when it exceeds a limit of the job.

    log: what the process prints; it is forwarded meanwhile.
    """
    memory = disk = 0
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
            return Outcome(memory=memory, disk=disk)
        _forward(log)
        memory_now = sum(map(_memory, _family(process.pid)))
        disk_now = sum(path.lstat().st_size for path in job.working.rglob("*") if path.is_file())
        memory, disk = max(memory, memory_now), max(disk, disk_now)
        ended = ""
        if time.monotonic() - started > job.time_limit:
            ended = f"at the time limit of {job.time_limit:.0f} s"
        elif memory_now > job.limits.memory * GB:
            ended = f"with {memory_now / GB:.1f} GB of memory in use, of {job.limits.memory:.1f} allowed"
        elif disk_now > job.limits.disk * GB:
            ended = f"with {disk_now / GB:.3f} GB in its working folder, of {job.limits.disk:.3f} allowed"
        if ended:
            _kill_family(process.pid)
            process.wait()
            return Outcome(f"it was stopped {ended}", memory=memory, disk=disk)


def _forward(log: BinaryIO) -> None:
    """Print what was added to the log since the last call."""
    sys.stdout.buffer.write(log.read())
    sys.stdout.buffer.flush()


def _kill_family(parent: int) -> None:
    """Kill a process and its descendants. All are halted first, so that none starts another one meanwhile."""
    halted: set[int] = set()
    while members := set(_family(parent)) - halted:
        _signal(members, signal.SIGSTOP)
        halted |= members
    _signal(halted, signal.SIGKILL)


def _signal(processes: set[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _family(parent: int) -> list[int]:
    """A process and its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may have ended
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    family = [parent]
    for member in family:
        family += children.get(member, [])
    return family


def _memory(process: int) -> int:
    """The memory of a process in bytes; memory shared with other processes is divided among them."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _copy_results(working: Path, target: Path) -> None:
    """Copy the working folder, without databases, large files and the store of features and matches."""
    target.mkdir()
    for path in sorted(working.iterdir()):
        if path.name == "store" or path.is_symlink() or (path.is_file() and path.stat().st_size > _LARGEST_KEPT):
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, ignore=shutil.ignore_patterns("*.db", "partial"))
        else:
            shutil.copy(path, target)


def _without_colours(line: str) -> str:
    """A line of a terminal without its colour codes."""
    return re.sub(r"\x1b[^m]*m", "", line).strip()


def main() -> None:
    """Run the pickled job on the standard input, and leave outcome.json in its results."""
    job = pickle.load(sys.stdin.buffer)
    (job.results / "outcome.json").write_text(json.dumps(asdict(run(job))), "utf-8")
