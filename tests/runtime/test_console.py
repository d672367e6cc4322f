"""Output on consoles that cannot show it, and to readers that stop."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from imc_kit.cli.main import COMMANDS, main
from imc_kit.runtime.console import printing


@pytest.mark.parametrize("encoding", ["cp437", "iso8859-5", "ascii"])
def test_signs_that_the_console_lacks(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", console)
    with printing("imc-kit"):
        print("a – b … \udcff")
    assert console.errors == "strict"
    assert console.buffer.getvalue().replace(b"\n", b"") == b"a ? b ? ?"  # type: ignore[attr-defined]
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([*name.split(), "--help"])
        assert ended.value.code == 0
        console.seek(0)
        console.truncate()


@pytest.mark.parametrize("length", [10, 100_000])
def test_nobody_reads_on(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], length: int) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        os.close(reader)
        with pytest.raises(SystemExit) as ended, printing("imc-kit"):
            print("x" * length)
        assert ended.value.code == 141
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("length", [10, 100_000])
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], length: int) -> None:
    with Path("/dev/full").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended, printing("build_dataset.py"):
            print("x" * length)
        assert ended.value.code == 2
    assert capfd.readouterr().err == "build_dataset.py: cannot print: No space left on device\n"


def test_closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["score", "none.csv", "none.csv"]) == 2
    assert sys.stderr.fileno() > 2


def test_errors_of_the_command_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), printing("imc-kit"):
        (tmp_path / "none").read_text()
