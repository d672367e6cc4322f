"""Runs that are interrupted, short of resources, or not alone; and scenes with hostile photos or options."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from random import Random

from hostile import runs
from hostile.cases import Failed, Place, digests, expect
from hostile.images import hostile_file, odd_name
from hostile.options import accepted
from hostile.runs import NAME, Command, check_rows, check_same, copied, limited, solve_clean
from imc_kit.data.scenes import fits_table
from imc_kit.data.tables import read_table

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MB = 1 << 20


def interruption_case(number: int, random: Random, at: Place) -> str:
    """End a run by a signal at a random moment, or a process that it has started; then run it again."""
    command = Command(at.scene, at.folder / "out")
    scene, ends = digests(at.scene), SIGNALS[number % 3]
    for _ in range(random.choice((1, 1, 2))):
        said, process = command.said(), command.start()
        while ends == signal.SIGINT and process.poll() is None and command.said() == said:
            time.sleep(0.01)  # Ctrl-C while Python still loads modules ends with Python's own traceback
        moment = time.monotonic() + random.uniform(0.1, 1.1) * runs.length(at.clean)
        while time.monotonic() < moment and process.poll() is None:
            time.sleep(0.01)
        below = runs.children(process.pid)
        if number % 4 == 3 and below:  # one that it has started, such as COLMAP's
            with suppress(ProcessLookupError):
                os.kill(random.choice(below), signal.SIGKILL)
        else:
            process.send_signal(ends)
        command.ended(process)
        if (command.out / "submission.csv").exists():
            check_rows(at.scene, command.out)
        expect(not runs.left_over(command.out), "a process of the run is still there")
    solve_clean(command, at.clean)
    expect(digests(at.scene) == scene, "the input was changed")
    return "a clean run's result"


LIMITS = {
    "files of at most 0 bytes": {"fsize": 0},
    "files of at most 4 kB": {"fsize": 4096},
    "files of at most 100 kB": {"fsize": 100_000},
    "files of at most 400 kB": {"fsize": 400_000},
    "files of at most 1 MB": {"fsize": MB},
    "20 open files": {"nofile": 20},
    "32 open files": {"nofile": 32},
    "64 open files": {"nofile": 64},
    "1 GB of address space": {"as": 1024 * MB},
    "1.5 GB of address space": {"as": 1536 * MB},
    "2.5 GB of address space": {"as": 2560 * MB},
    "two seconds of processor time": {"cpu": 2},
    "no large stack": {"stack": 512 * 1024},
}
ENVIRONMENTS: dict[str, dict[str, str | None]] = {
    "no HOME": {"HOME": None},
    "HOME that does not exist": {"HOME": "/nonexistent", "XDG_CACHE_HOME": None},
    "no variables": {name: None for name in os.environ if name not in ("PYTHONPATH", "LD_LIBRARY_PATH")},
    "a console of ASCII": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"},
    "a POSIX locale": {"LC_ALL": "POSIX", "LANG": None, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "a Latin-1 console": {"PYTHONIOENCODING": "latin-1"},
    "TMPDIR that does not exist": {"TMPDIR": "/nonexistent"},
    "strange thread counts": {"OMP_NUM_THREADS": "0", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "-1"},
}


def limit_case(number: int, random: Random, at: Place) -> str:
    """Run without enough of something: either the result is a clean run's, or the next run's is."""
    command = Command(at.scene, at.folder / "out")
    if number < len(LIMITS):
        what, limits = list(LIMITS.items())[number]
        command.limits = limited(**limits)
    elif (number := number - len(LIMITS)) < len(ENVIRONMENTS):
        what, command.env = list(ENVIRONMENTS.items())[number]
    else:
        return _place_case(number - len(ENVIRONMENTS), at)
    try:
        command.run()
        if (command.out / "submission.csv").exists():
            check_rows(at.scene, command.out)
        if command.env:
            check_same(command.out, at.clean)
        command.limits, command.env = None, {}
        solve_clean(command, at.clean)
    except Failed as failure:
        raise Failed(f"{what}: {failure}") from None
    return "a clean run's result"


def _place_case(number: int, at: Place) -> str:
    """Run with `--out`, the input or the console in an unusual place."""
    scene, out = at.scene, at.folder / "out"
    what = PLACES[number]
    command = Command(scene, out)
    try:
        match what:
            case "a read-only folder":
                out.mkdir(mode=0o555)
                command.limits = runs.without_privileges
                expect(command.run() == 2, "a read-only folder was accepted")
                command.limits = None
                out.chmod(0o755)
            case "a read-only store":
                copied(at.clean, out)
                _forget(out)
                for path in [*(out / "store").rglob("*"), out / "store"]:
                    path.chmod(0o555 if path.is_dir() else 0o444)
                before, command.limits = digests(out / "store"), runs.without_privileges
            case "an unreadable store":
                copied(at.clean, out)
                _forget(out)
                before = digests(out / "store")
                for path in (out / "store").rglob("*.h5"):
                    path.chmod(0)
                command.limits = runs.without_privileges
                command.run()
                for path in (out / "store").rglob("*.h5"):
                    path.chmod(0o644)
                now = digests(out / "store")
                expect(before.items() <= now.items(), "good files of the store were deleted")
            case "a file":
                out.write_text("mine")
                expect(command.run() == 2 and out.read_text() == "mine", "a file was accepted as a folder")
                out.unlink()
            case "someone else's folder":
                for name in ("submission.csv", f"scenes/{NAME}/models/mine.txt", "notes.txt"):
                    (out / name).parent.mkdir(parents=True, exist_ok=True)
                    (out / name).write_text("mine")
                before = digests(out)
                expect(command.run() == 2, "the folder was accepted")
                expect(digests(out) == before, "the folder was changed")
                shutil.rmtree(out)
            case "a path of 600 characters":
                command.out = out / "/".join(["d" * 99] * 6)
                command.out.parent.mkdir(parents=True)
            case "inside the photos":
                photos = copied(scene / "test" / NAME / "images", at.folder / "photos")
                command = Command(photos, photos / "out", ["--masks.vegetation"])
                expect(command.run() == 0, "exit status")
                copied(photos / "out/scenes", photos / "out/pictures")
                expect(command.run() == 0, "exit status")
                rows = read_table(photos / "out/submission.csv")["image_path"].tolist()
                expect(rows == sorted(path.name for path in photos.glob("*.jpg")), f"rows {rows}")
                return "a clean run's result"
            case "the photos themselves":
                command = Command(copied(scene, at.folder / "scene"), at.folder / "scene")
                before = digests(command.scene)
                status = command.run()
                now = digests(command.scene)
                expect(before.items() <= now.items(), f"the input was changed (exit status {status})")
                return "the unchanged input"
            case "a full console":
                with Path("/dev/full").open("wb") as full:
                    command.run(full)
            case "no console":
                process = command.start(subprocess.PIPE)
                for pipe in (process.stdout, process.stderr):
                    assert pipe
                    pipe.close()
                command.ended(process)
        solve_clean(command, at.clean)
        if what == "a read-only store":
            expect(digests(out / "store") == before, "a file of a read-only store changed")
    except Failed as failure:
        raise Failed(f"{what}: {failure}") from None
    return "a clean run's result"


PLACES = (
    *("a read-only folder", "a read-only store", "an unreadable store", "a file", "someone else's folder"),
    *("a path of 600 characters", "inside the photos", "the photos themselves", "a full console", "no console"),
)


LIMIT_CASES = len(LIMITS) + len(ENVIRONMENTS) + len(PLACES)


def _forget(out: Path) -> None:
    """Leave only the store of a finished run."""
    shutil.rmtree(out / "scenes")


def concurrent_case(number: int, random: Random, at: Place) -> str:
    """Two runs at once into one folder: each ends well or is refused, and the result is a clean run's."""
    command, other = (Command(at.scene, at.folder / "out") for _ in range(2))
    if number % 2:
        _forget(copied(at.clean, command.out))
    first = command.start()
    time.sleep(random.uniform(0, 0.7) * runs.length(at.clean))
    second = other.start()
    statuses = command.ended(first), other.ended(second)
    expect(0 in statuses and {*statuses} <= {0, 2}, f"exit statuses {statuses}: {command.said()[-300:]!r}")
    check_same(command.out, at.clean)
    solve_clean(command, at.clean)
    return "a clean run's result"


def photos_case(number: int, random: Random, at: Place) -> str:
    """Solve a scene that has 25 hostile files among its photos, under odd names."""
    scene = copied(at.scene, at.folder / "scene")
    folder = scene / "test" / NAME / "images"
    for count in range(25):
        path = hostile_file(25 * number + count, random, at.folder / f"file-{count}")
        if os.path.lexists(path):
            target = folder / ((odd_name(random) if random.random() < 0.5 else path.stem) + path.suffix)
            if not os.path.lexists(target):
                path.rename(target)
    table = scene / "sample_submission.csv"
    lines = list(csv.reader(table.read_text("utf-8").splitlines()))
    asked = {line[0] for line in lines}
    for path in sorted(folder.iterdir()):
        name = f"test/{NAME}/images/{path.name}"
        if fits_table(name) and name not in asked:
            lines.append([name, *lines[1][1:]])
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([*lines, [f"test/{NAME}/images/not there.jpg", *lines[1][1:]]])
    before, command = digests(scene), Command(scene, at.folder / "out")
    status = command.run()
    expect(status == 0, f"exit status {status}: {command.said()[-300:]!r}")
    check_rows(scene, command.out)
    degrees, distance = runs.difference(runs.poses_in(command.out), runs.poses_in(at.clean))
    expect(degrees < 2 and distance < 0.1, f"the readable photos are off by {degrees:.1f}° and {distance:.0%}")
    expect(digests(scene) == before, "the input was changed")
    return "every row, and the readable photos registered"


def configured_case(number: int, random: Random, at: Place) -> str:
    """Run with hostile values that the command line accepts."""
    options = accepted(random, at, random.choice((1, 2, 4)))
    command = Command(at.scene, at.folder / "out", [*options, "--time-limit", "60"])
    try:
        status = command.run()
        if status != 2:
            check_rows(at.scene, command.out)
    except Failed as failure:
        raise Failed(f"{' '.join(options)}: {failure}") from None
    return "every row" if status != 2 else "one sentence"
