"""Progress in a log, on a terminal and in a notebook."""

from __future__ import annotations

import contextvars
import logging
import re
import sys
import threading
import time

import pytest
from tqdm.contrib.logging import logging_redirect_tqdm

from imc_kit.runtime import progress


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Lines after a tenth of a second, and then every third tenth."""
    monkeypatch.setattr(progress, "FIRST", 0.1)
    monkeypatch.setattr(progress, "EVERY", 0.3)
    monkeypatch.setattr(progress, "_BAR", 0.05)
    monkeypatch.setattr(progress, "_LOOK", 0.02)
    caplog.set_level(logging.INFO, logger="imc_kit")


def work(steps: int = 30) -> None:
    with progress.titled("plaza (1 of 3)"), progress.bar("matches", steps, "pair") as bar:
        for _ in range(steps):
            time.sleep(0.02)
            bar.update()


def test_a_log_gets_lines_with_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    work()
    assert 1 <= len(caplog.messages) <= 5
    for line in caplog.messages:
        assert re.fullmatch(r"plaza \(1 of 3\), matches: \d+ of 30 pairs after \d+ s(, about \d+ s left)?", line)


def test_bars_around_the_log_cause_no_lines(caplog: pytest.LogCaptureFixture) -> None:
    """The commands redirect their log around bars: every line refreshes all of them."""
    logger = logging.getLogger("imc_kit")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    try:
        with logging_redirect_tqdm([logger]):
            work()
    finally:
        logger.removeHandler(handler)
    assert 1 <= len(caplog.records) <= 5


def test_short_work_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    work(1)
    assert caplog.records == []


def test_one_slow_item_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    with progress.bar("matches", 2, "pair"):
        time.sleep(0.3)
    assert caplog.messages[0].startswith("matches: 0 of 2 pairs after ")


def test_work_in_another_process_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    def look(work: progress.Work) -> None:
        work.step = "rotation averaging"

    with progress.bar("mapping", look=look):
        time.sleep(0.3)
    assert caplog.messages[0].startswith("mapping: rotation averaging, after ")


def test_what_is_inside_is_shown_instead(caplog: pytest.LogCaptureFixture) -> None:
    with progress.bar("stage match"):
        with progress.bar("matches", 2, "pair"):
            time.sleep(0.3)
        inside = len(caplog.messages)
        time.sleep(0.3)
    assert inside >= 1
    assert all(line.startswith("matches") for line in caplog.messages[:inside])
    assert len(caplog.messages) > inside
    assert all(line.startswith("stage match after") for line in caplog.messages[inside:])


def test_a_thread_has_the_title_in_a_copy_of_the_context(caplog: pytest.LogCaptureFixture) -> None:
    def map_once(number: int) -> None:
        with progress.titled(f"mapping run {number} of 3"), progress.bar("global mapping"):
            time.sleep(0.3)

    with progress.titled("plaza (1 of 3)"), progress.bar("stage map"):
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(map_once, number)) for number in (2, 3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    shown = {line.partition(" after")[0] for line in caplog.messages}
    assert shown == {f"plaza (1 of 3), mapping run {number} of 3, global mapping" for number in (2, 3)}
    with progress.titled("castle"), progress.bar("stage detect") as bar:
        assert bar.label == "castle, stage detect"


def test_quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="imc_kit")
    work()
    assert caplog.records == []


def test_a_terminal_and_a_notebook_get_a_bar(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    work()
    shown = capsys.readouterr().err
    assert re.search(r"plaza \(1 of 3\), matches: +\d+%\|.*\| \d+ of 30 \[00:0\d<00:0\d\]", shown)
    assert caplog.records == []
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")  # nobody sees its bars
    work()
    assert capsys.readouterr().err == ""
    assert caplog.records


def test_a_narrow_terminal_shows_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    with progress.titled("a scene with a very long name indeed (1 of 3)"):
        work(10)
        with progress.bar("global mapping"):
            time.sleep(0.2)
    lines = [line.strip() for line in capsys.readouterr().err.split("\r") if line.strip()]
    text = [line for line in lines if "global" in line]
    assert all(len(line) < 60 for line in text)
    assert text[0].startswith("…a very long name indeed (1 of 3), global mapping after ")
    assert re.search(r"…\S.*matches: +\d+%\|.* of 10 \[", lines[0])


def test_durations() -> None:
    said = [progress.duration(seconds) for seconds in (0.4, 40, 119, 120, 3600, 7200, 30600)]
    assert said == ["0 s", "40 s", "119 s", "2 min", "60 min", "2.0 h", "8.5 h"]


def test_bytes_are_said_in_larger_units() -> None:
    assert str(progress.Work("aliked.pth", 2_738_091, "B", 1_500_000)).startswith("aliked.pth: 1.50MB of 2.74MB after")
