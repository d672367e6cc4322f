"""The photographs in a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imc_kit.data import images
from imc_kit.viz.report import write_report
from reports import copy


def test_photographs_are_shown_as_they_were_matched(
    solved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy(solved, tmp_path / "run")
    result = sorted((run / "scenes").glob("*/result.json"))[0]
    content = json.loads(result.read_text())
    result.write_text(json.dumps(content | {"rotation_quarters": dict.fromkeys(content["placements"], 2)}))
    turns: list[int] = []
    real = images.load

    def load(path: Path, long_side: int | None = None, turn: int = 0) -> images.Photo:
        turns.append(turn)
        return real(path, long_side, turn)

    monkeypatch.setattr(images, "load", load)
    write_report(run, tmp_path / "report.html")
    assert turns.count(2) >= len(content["placements"])
    assert turns.count(0) > 0  # the other scenes'
    assert set(turns) == {0, 2}
