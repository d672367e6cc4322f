"""The report: what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from imc_kit.cli.main import main
from imc_kit.errors import KitError
from imc_kit.viz.report import write_report
from pages import HOSTILE  # type: ignore[import-not-found]
from reports import Page, copy, said


def test_nothing_in_it_is_anywhere_else(report: Path) -> None:
    for tag, attributes in Page(report).tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert "@import" not in report.read_text("utf-8")


def test_the_numbers_are_the_runs(solved: Path, report: Path) -> None:
    run = json.loads((solved / "out/run.json").read_text("utf-8"))
    text = said(report)
    counts = run["scenes"]["plaza"]["counts"]
    assert counts["registered"] >= 12
    assert counts["images"] == 18
    assert f"{counts['registered']} of 18 images registered" in text
    assert f"{counts['points']:,}" in text
    assert re.search(r"mAA [01]\.\d{3}", text)
    assert "bare & co" in text


def test_a_hostile_name_is_only_a_name(report: Path) -> None:
    assert not [tag for tag, _ in Page(report).tags if tag in ("b", "i")]
    assert HOSTILE in said(report)
    assert HOSTILE not in report.read_text("utf-8")


def test_warnings_name_the_cause_and_the_option(report: Path) -> None:
    text = said(report)
    assert "1 image is not in the model, with fewer than 500 keypoints" in text
    assert "broken.jpg: it is not a JPEG" in text
    assert "Likely cause: blurred, dark or smooth photographs" in text
    assert "--preset aliked" in text


def test_tables_and_pictures_are_accessible(report: Path) -> None:
    tags = Page(report).tags
    assert ("html", {"lang": "en"}) in tags
    assert all("alt" in attributes for tag, attributes in tags if tag == "img")
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    assert all(attributes.get("aria-label") for tag, attributes in tags if attributes.get("role") in ("img", "region"))
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_command_writes_it_into_the_run(solved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy(solved, tmp_path / "run")
    assert main(["report", str(run)]) == 0
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().out
    assert "mAA" not in said(run / "report.html")


def test_memory_is_shown_where_it_was_recorded(solved: Path, tmp_path: Path) -> None:
    run = copy(solved, tmp_path / "run")
    path = run / "scenes/plaza/result.json"
    result = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(result | {"memory": {"detect": 3e8, "map": 5e8}}), "utf-8")
    assert "Memory by stage" in said(write_report(run))


def test_a_file_that_cannot_be_written_is_named(solved: Path, tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"cannot write .*report.html"):
        write_report(solved / "out", tmp_path / "no/such/folder/report.html")


def test_a_run_without_scenes(tmp_path: Path) -> None:
    content = {"input": str(tmp_path), "layout": "folder", "machine": {"cores": 2}, "scenes": {}, "failed": {"a": "b"}}
    (tmp_path / "run.json").write_text(json.dumps(content), "utf-8")
    assert "0 of 1" in said(write_report(tmp_path))


def test_what_run_json_says_is_no_markup(tmp_path: Path) -> None:
    content = {
        "input": f"{tmp_path}/<i>gone", "layout": "<i>", "machine": {"cores": "<i>2"}, "versions": {"imc-kit": "<i>"},
        "config": {"detector": {"name": "<i>"}}, "notes": ["<i>"], "scenes": {}, "failed": {"<i>": "<i>"},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(content), "utf-8")
    assert "i" not in [tag for tag, _ in Page(write_report(tmp_path)).tags]
