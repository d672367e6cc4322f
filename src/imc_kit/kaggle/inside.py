"""The inner process of a rehearsal: runs one notebook within the limits of a job and records how it ended.

`rehearse` starts it as a separate process, in Linux namespaces if the system allows it. Then there is no network,
inputs are mounted read-only, and the working folder is a file system of limited size. Without namespaces, inputs are
links, and the size of the working folder is checked regularly.
"""

import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired, check_call
from typing import BinaryIO

from imc_kit.kaggle import guard
from imc_kit.kaggle.limits import GB, Limits

_RUNNER = """
import sys, nbclient, nbformat
source, target, folder = sys.argv[1:]
notebook = nbformat.read(source, 4)
class Client(nbclient.NotebookClient):
    def output(self, outs, msg, display_id, cell_index):
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().output(outs, msg, display_id, cell_index)
try:
    Client(notebook, kernel_name="python3", timeout=None, resources={"metadata": {"path": folder}}).execute()
finally:
    nbformat.write(notebook, target)
"""
"""Executes a notebook and prints what its cells print."""
_LARGEST_KEPT = 200_000_000
"""Bytes. Larger files in the working folder are not copied to the results, to keep these small."""
_POLL_SECONDS = 0.5
"""Interval between checks of memory, disk and time. If halved, a notebook can exceed its limits for half as long."""


@dataclass(frozen=True)
class Job:
    """A notebook to run, and how.

    inputs: files and folders to attach, by path below the input root.
    python: the interpreter of a fresh environment that has Jupyter.
    stage: a folder for temporary files. results: an empty folder for `executed.ipynb`, `outcome.json`, the log and the
        content of the working folder.
    time_limit: seconds. isolated: whether this process runs in its own namespaces.
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


@dataclass
class Outcome:
    """How the notebook ended.

    problem: the last line of the notebook's error, or why it was stopped; empty on success.
    memory, disk: the peak in bytes. calls: the host that was called, by the line of code that called the network.
    """

    problem: str = ""
    seconds: float = 0.0
    memory: int = 0
    disk: int = 0
    calls: dict[str, str] = field(default_factory=dict)


def run(job: Job) -> None:
    """Prepare inputs and limits, run the notebook, copy its working folder to the results, and write outcome.json."""
    for folder in (job.input_root, job.working, job.stage / "home", job.stage / "tmp"):
        folder.mkdir(parents=True)
    for name, source in job.inputs.items():
        place(source.absolute(), job.input_root / name, mount=job.isolated)
    if job.isolated:
        _loopback_up()
        _mount("-t", "tmpfs", "-o", f"size={job.limits.disk * GB:.0f},mode=755", "tmpfs", str(job.working))
    if hasattr(os, "sched_setaffinity"):  # Linux has it
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: job.limits.cores]))
    log, calls = job.results / "notebook.log", job.stage / "calls.jsonl"
    calls.touch()
    variables = _variables(job) | {guard.LOG: str(calls)}
    started = time.monotonic()
    with log.open("wb") as output, log.open("rb") as written:
        command = map(str, (job.python, "-c", _RUNNER, job.notebook, job.results / "executed.ipynb", job.working))
        process = Popen([*command], stdin=DEVNULL, stdout=output, stderr=STDOUT, env=variables, cwd=job.working)
        outcome = _watch(process, job, started, written)
        _forward(written)
    outcome.seconds = round(time.monotonic() - started, 1)
    if not outcome.problem and process.returncode != 0:
        said = re.sub(r"\x1b[^m]*m", "", log.read_text("utf-8", errors="replace")).split("\n")  # without colour codes
        said = [line.strip() for line in said if line.strip()]
        outcome.problem = f"ended with an error: {said[-1] if said else f'exit status {process.returncode}'}"
    for call in map(json.loads, calls.read_text("utf-8").splitlines()):
        outcome.calls.setdefault(call["caller"], call["target"])
    shutil.copytree(job.working, job.results / "working", ignore=_not_kept)
    (job.results / "outcome.json").write_text(json.dumps(asdict(outcome)), "utf-8")


def _variables(job: Job) -> dict[str, str]:
    """The notebook's environment variables: those that Kaggle sets for scoring, and none of this machine."""
    return {
        "PATH": f"{job.python.parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(job.stage / "home"),
        "TMPDIR": str(job.stage / "tmp"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "IMC_KIT_INPUT": str(job.input_root),
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "KAGGLE_IS_COMPETITION_RERUN": "1",
    }


def place(source: Path, target: Path, *, mount: bool) -> None:
    """Make `source` available at `target`: mounted read-only, or as a link."""
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
    check_call(["mount", *arguments])


def _loopback_up() -> None:
    """Do `ip link set lo up`: in a new network namespace even the loopback device is down, and Jupyter needs it."""
    import fcntl  # does not exist on Windows

    up, get_flags, set_flags = 1, 0x8913, 0x8914  # IFF_UP, SIOCGIFFLAGS, SIOCSIFFLAGS of Linux
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = fcntl.ioctl(probe, get_flags, struct.pack("16sH14x", b"lo", 0))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(probe, set_flags, struct.pack("16sH14x", b"lo", flags | up))


def _watch(process: Popen[bytes], job: Job, started: float, log: BinaryIO) -> Outcome:
    """Wait until the process ends. If it exceeds a limit of the job, kill it with all its descendants.

    log: the output of the process, which is forwarded meanwhile.
    """
    outcome, limit = Outcome(), job.limits
    while True:
        with suppress(TimeoutExpired):
            process.wait(_POLL_SECONDS)
            return outcome
        _forward(log)
        memory = sum(map(_memory, _family(process.pid)))
        disk = _size(job.working)
        outcome.memory, outcome.disk = max(outcome.memory, memory), max(outcome.disk, disk)
        checks = (
            (time.monotonic() - started > job.time_limit, f"at the time limit of {job.time_limit:.0f} s"),
            (memory > limit.memory * GB, f"with {memory / GB:.1f} GB of memory in use, of {limit.memory:.1f} allowed"),
            (disk > limit.disk * GB, f"with {disk / GB:.3f} GB in its working folder, of {limit.disk:.3f} allowed"),
        )
        for reason in (text for exceeded, text in checks if exceeded):
            _kill_family(process.pid)
            process.wait()
            outcome.problem = f"did not end: it was stopped {reason}"
            return outcome


def _forward(log: BinaryIO) -> None:
    """Print what was added to the log since the last call."""
    sys.stdout.buffer.write(log.read())
    sys.stdout.buffer.flush()


def _kill_family(parent: int) -> None:
    """Kill a process and its descendants. Stop all of them first, so that none starts another."""
    halted: set[int] = set()
    while members := set(_family(parent)) - halted:
        _signal(members, signal.SIGSTOP)
        halted |= members
    _signal(halted, signal.SIGKILL)


def _signal(processes: set[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _size(folder: Path) -> int:
    """The bytes of the files in a folder, whose content may vanish meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total


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


def _not_kept(folder: str, names: list[str]) -> set[str]:
    """Names not to copy to the results: databases, large files, links, and the store of features and matches."""
    paths = [Path(folder, name) for name in names]
    large = {path.name for path in paths if path.is_symlink() or path.stat().st_size > _LARGEST_KEPT}
    return large | shutil.ignore_patterns("store", "partial", "*.db")(folder, names)
