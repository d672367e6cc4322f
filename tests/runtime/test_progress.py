"""Progress in a log, on a terminal and in a notebook."""

from __future__ import annotations

import logging
import sys
import time

import pytest
from tqdm.contrib.logging import logging_redirect_tqdm

from imc_kit.runtime import progress


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Lines after a tenth of a second, and then every third tenth."""
    monkeypatch.setattr(progress, "FIRST", 0.1)
    monkeypatch.setattr(progress, "EVERY", 0.3)
    monkeypatch.setattr(progress, "_LOOK", 0.02)
    caplog.set_level(logging.INFO, logger="imc_kit")


def work(steps: int = 30) -> None:
    with progress.bar(total=steps, desc="plaza, matches", unit="pair", delay=2, leave=False) as bar:
        for _ in range(steps):
            time.sleep(0.02)
            bar.update(1)


def test_a_log_gets_lines_with_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    work()
    lines = [record.getMessage() for record in caplog.records]
    assert 1 <= len(lines) <= 3
    assert all(line.startswith("plaza, matches: ") and " of 30 pairs after 00:0" in line for line in lines)
    assert all("about 00:0" in line for line in lines)


def test_lines_do_not_cause_lines(caplog: pytest.LogCaptureFixture) -> None:
    """The commands redirect their log around bars: every line refreshes all of them."""
    logger = logging.getLogger("imc_kit")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    try:
        with logging_redirect_tqdm([logger]):
            work()
    finally:
        logger.removeHandler(handler)
    assert 1 <= len(caplog.records) <= 3


def test_short_work_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    work(1)
    assert caplog.records == []


def test_work_that_cannot_count_is_watched(caplog: pytest.LogCaptureFixture) -> None:
    seen = iter(range(1000))
    with progress.watching("plaza, mapping", lambda: f"{next(seen)} of 19 images"):
        time.sleep(0.3)
    lines = [record.getMessage() for record in caplog.records]
    assert lines
    assert all(line.startswith("plaza, mapping: ") and line.endswith("of 19 images, after 00:00") for line in lines)


def test_quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="imc_kit")
    work()
    assert caplog.records == []


def test_a_terminal_and_a_notebook_get_a_bar(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with progress.bar(total=2, desc="plaza", unit="pair", delay=0) as bar:
        bar.update(2)
    assert "plaza: 100%" in capsys.readouterr().err
    assert caplog.records == []
