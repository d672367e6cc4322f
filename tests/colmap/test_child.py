"""COLMAP's process may end in any way; it costs one clear error, and nothing of it stays.

The jobs here find a module in pycolmap's place that does the worst as soon as it is used, or imported.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from imc_kit.colmap import child
from imc_kit.errors import KitError

JOB = {"job": "global", "database": "none.db", "images": "", "output": "", "options": {}, "threads": 1, "seed": 0}
WHAT = "COLMAP's test"
FORKS = pytest.mark.parametrize("anew", [True], indirect=True, ids=["forks"])
"""For what does not depend on how a job is begun, waited for and ended."""
NO_CORE = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
Stand = Callable[..., None]
STAY = "import time; time.sleep(600)"


@pytest.fixture(params=[True, False], ids=["forks", "single"])
def anew(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing has loaded COLMAP before, and nothing of it is there after. Also where jobs are no forks."""
    if request.param and not child._FORKS:
        pytest.skip("there is no safe fork")
    monkeypatch.setattr(child, "_FORKS", request.param)
    monkeypatch.setattr(child, "_forker", None)
    monkeypatch.setattr(child, "_users", 0)
    yield
    if child._forker is not None:
        child._forker.end()


@pytest.fixture
def pycolmap_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: None) -> Stand:
    """Puts a module that runs some code in pycolmap's place, in the job or when it is loaded for all. It locks
    `tmp_path`/alive, which holds its process id."""
    start = f"""
import fcntl, os
alive = open({str(tmp_path / "alive")!r}, "w")
fcntl.flock(alive, fcntl.LOCK_EX)
print(os.getpid(), file=alive, flush=True)
"""

    def write(code: str, *, when_loaded: bool = False) -> None:
        (tmp_path / "modules").mkdir(exist_ok=True)
        whole = start + code
        if not when_loaded:
            whole = f"def __getattr__(name):\n    if not name.startswith('_'):\n        exec({whole!r}, {{}})\n"
        (tmp_path / "modules" / "pycolmap.py").write_text(whole)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))

    return write


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def started(folder: Path) -> bool:
    return (folder / "alive").is_file() and (folder / "alive").read_text().endswith("\n")


def gone(folder: Path) -> bool:
    """Whether the process that locked the file has ended: a lock ends with it, however that ends."""
    with (folder / "alive").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def run(folder: Path) -> str:
    with pytest.raises(child.ColmapError) as raised:
        child.run(JOB, WHAT, folder / "log.txt", 60)
    assert isinstance(raised.value, KitError)
    message = str(raised.value)
    assert message.startswith(WHAT)
    assert str(folder / "log.txt") in message
    assert "\n" not in message
    assert started(folder)
    assert gone(folder)
    return message


@FORKS
def test_code_in_the_current_folder_is_not_executed(
    tmp_path: Path, pycolmap_that: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    pycolmap_that("import sys; sys.exit(f'{sys.path}')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", os.environ["PYTHONPATH"], ""]))
    photos = tmp_path / "photos"
    (photos / "imc_kit").mkdir(parents=True)
    for module in ("numpy", "json", "imc_kit/__init__"):
        (photos / f"{module}.py").write_text("import os; os._exit(66)")
    monkeypatch.chdir(photos)
    assert "exit status 1 " in run(tmp_path)
    assert str(photos) not in (tmp_path / "log.txt").read_text()


def test_a_crash(tmp_path: Path, pycolmap_that: Stand) -> None:
    pycolmap_that(f"{NO_CORE}import signal; signal.raise_signal(signal.SIGFPE)")
    described = signal.strsignal(signal.SIGFPE)
    assert described
    assert described.lower() in run(tmp_path)


@FORKS
def test_a_real_crash_in_native_code(tmp_path: Path, pycolmap_that: Stand) -> None:
    pycolmap_that("import ctypes; ctypes.string_at(8)")
    assert "segmentation fault" in run(tmp_path).lower()


def test_killed_from_outside(tmp_path: Path, pycolmap_that: Stand) -> None:
    """As the kernel does when memory runs out."""
    pycolmap_that(STAY)

    def kill() -> None:
        wait_until(lambda: started(tmp_path))
        os.kill(int((tmp_path / "alive").read_text()), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    assert "killed" in run(tmp_path)
    thread.join()


@FORKS
@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="only Linux says which process it would kill")
def test_it_goes_first_when_memory_runs_out(tmp_path: Path, pycolmap_that: Stand) -> None:
    pycolmap_that("from pathlib import Path; print(Path('/proc/self/oom_score_adj').read_text()); raise SystemExit(1)")
    run(tmp_path)
    assert (tmp_path / "log.txt").read_text().split() == ["1000"]


def test_a_process_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: None) -> None:
    """As when there is no memory for it."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with child.loading(), pytest.raises(child.ColmapError, match="COLMAP's test could not be started: No such file"):
        child.run(JOB, WHAT, tmp_path / "log.txt", 60)


def test_a_job_of_any_length(tmp_path: Path, anew: None) -> None:
    """The pairs that are left out of a large scene are many to name."""
    with pytest.raises(child.ColmapError, match="ended with"):
        child.run({**JOB, "database": "x" * 10**6}, WHAT, tmp_path / "log.txt", 60)
    assert "x" * 10**5 in (tmp_path / "log.txt").read_text()


@FORKS
@pytest.mark.parametrize(
    ("code", "ending"),
    [("raise ImportError('no such library')", "exit status 1"), ("import os; os.abort()", "aborted")],
)
def test_colmap_cannot_be_loaded(tmp_path: Path, pycolmap_that: Stand, code: str, ending: str) -> None:
    pycolmap_that(NO_CORE + code, when_loaded=True)
    with child.loading():
        wait_until(lambda: started(tmp_path) and gone(tmp_path))
        for _ in range(2):
            assert ending in run(tmp_path)
    assert ("no such library" in (tmp_path / "log.txt").read_text()) == ("library" in code)


@pytest.fixture
def over_when_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time limits are over as soon as `pycolmap_that` begins, however long the process takes until then."""
    clock = time.monotonic
    monkeypatch.setattr(child.time, "monotonic", lambda: clock() + 1000 * started(tmp_path))


@pytest.mark.usefixtures("over_when_started")
def test_loading_does_not_end(tmp_path: Path, pycolmap_that: Stand) -> None:
    pycolmap_that(STAY, when_loaded=True)
    assert "time limit of 60 s" in run(tmp_path)


@FORKS
def test_the_process_that_loads_colmap_is_killed(tmp_path: Path, pycolmap_that: Stand) -> None:
    """It takes the jobs with it, and the next job finds another."""
    pycolmap_that(STAY)
    with child.loading():
        first = child._forker

        def kill() -> None:
            wait_until(lambda: started(tmp_path))
            assert first is not None
            os.kill(first._process.pid, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(child.ColmapError, match="killed"):
            child.run(JOB, WHAT, tmp_path / "log.txt", 60)
        thread.join()
        wait_until(lambda: gone(tmp_path))
        pycolmap_that("raise SystemExit(7)")
        assert "exit status 7" in run(tmp_path)
        assert child._forker is not first


def test_jobs_side_by_side(tmp_path: Path, pycolmap_that: Stand) -> None:
    """Each ends in its own way, and one that is cancelled leaves the other alone."""
    pycolmap_that(
        "import pathlib, sys, time\nwhile not pathlib.Path(alive.name + '2').exists(): time.sleep(0.01)\nsys.exit(5)"
    )
    cancelled = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(child.run, JOB, "one", tmp_path / "one.txt", 60)
        wait_until(lambda: started(tmp_path))
        other = pool.submit(child.run, JOB, "other", tmp_path / "other.txt", 60, cancelled)
        time.sleep(0.2)
        cancelled.set()
        with pytest.raises(child.ColmapError, match="other was cancelled"):
            other.result(30)
        assert not one.done()
        (tmp_path / "alive2").touch()
        with pytest.raises(child.ColmapError, match="one ended with exit status 5"):
            one.result(30)


@FORKS
def test_it_is_loaded_once_and_ends_with_the_last_that_uses_it(anew: None, tmp_path: Path) -> None:
    with child.loading():
        with child.loading():
            first = child._forker
        assert child._forker is first
        assert first is not None
        with pytest.raises(child.ColmapError):
            child.run(JOB, WHAT, tmp_path / "log.txt", 60)
        assert child._forker is first
    assert child._forker is None
    assert not first.alive


@pytest.mark.usefixtures("over_when_started")
def test_the_time_limit(tmp_path: Path, pycolmap_that: Stand) -> None:
    pycolmap_that("import signal; signal.signal(15, signal.SIG_IGN)\nwhile True: pass")
    assert "time limit of 60 s" in run(tmp_path)


def test_cancelled_by_another_thread(tmp_path: Path, pycolmap_that: Stand) -> None:
    pycolmap_that(STAY)
    cancelled = threading.Event()

    def cancel() -> None:
        wait_until(lambda: started(tmp_path))
        cancelled.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(child.ColmapError, match="COLMAP's test was cancelled"):
        child.run(JOB, WHAT, tmp_path / "log.txt", 60, cancelled)
    thread.join()
    assert gone(tmp_path)


def test_a_python_error(tmp_path: Path, pycolmap_that: Stand) -> None:
    pycolmap_that("raise RuntimeError('no such thing')")
    assert "exit status 1" in run(tmp_path)
    assert "no such thing" in (tmp_path / "log.txt").read_text()


@FORKS
def test_the_log_takes_any_amount_and_keeps_what_was_there(tmp_path: Path, pycolmap_that: Stand) -> None:
    (tmp_path / "log.txt").write_text("before\n")
    pycolmap_that("import sys; print('o' * 10**6); print('e' * 10**6, file=sys.stderr); raise SystemExit(3)")
    assert "exit status 3" in run(tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("before\n")
    assert log.count("o") >= 10**6
    assert log.count("e") >= 10**6


def test_other_errors_of_ours_end_the_child(
    tmp_path: Path, pycolmap_that: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C while waiting, or anything else."""
    pycolmap_that(STAY)
    kind = child._Forker if child._FORKS else child._Single
    status = kind.status
    asked: list[int] = []

    def interrupted(self: child._Forker, number: int, seconds: float) -> int | None:
        asked.append(number)
        if len(asked) > 1:  # to end it
            return status(self, number, seconds)
        wait_until(lambda: started(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, "status", interrupted)
    with pytest.raises(KeyboardInterrupt):
        child.run(JOB, WHAT, tmp_path / "log.txt", 60)
    assert gone(tmp_path)


@FORKS  # the parent of this test is another process, which forks if it can
@pytest.mark.parametrize(("ending", "code"), [(signal.SIGKILL, "while True: pass"), (signal.SIGINT, STAY)])
def test_the_child_ends_with_its_parent(
    tmp_path: Path, pycolmap_that: Stand, ending: signal.Signals, code: str
) -> None:
    pycolmap_that(code)
    program = (
        "import sys, pathlib; from imc_kit.colmap import child; "
        f"child.run({JOB!r}, 'it', pathlib.Path({str(tmp_path / 'log.txt')!r}), 600)"
    )
    root = str(Path(child.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], root])}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL) as parent:
        wait_until(lambda: started(tmp_path))
        assert not gone(tmp_path)
        parent.send_signal(ending)
        parent.wait(30)
    wait_until(lambda: gone(tmp_path))


@FORKS
def test_with_very_many_open_files(tmp_path: Path, pycolmap_that: Stand) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip(f"no more than {hard} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    pycolmap_that("raise SystemExit(6)")
    with ExitStack() as files:
        for _ in range(1200):
            files.enter_context(open(os.devnull))  # noqa: PTH123
        assert "exit status 6" in run(tmp_path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
