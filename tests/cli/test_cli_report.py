"""The help of the commands that show things: for people, who know of no Python."""

from __future__ import annotations

import re

import pytest

from imc_kit.cli.main import main


@pytest.mark.parametrize("command", ["report", "compare"])
def test_the_help_needs_no_python(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--truth FILE" in text
    assert re.findall(r"None|KitError|Raises|PATH|\w+_\w+\(", text) == []
