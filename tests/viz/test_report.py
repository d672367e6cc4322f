"""The report: what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from imc_kit.cli.main import main
from imc_kit.data import images
from imc_kit.errors import KitError
from imc_kit.pipeline.results import content_digest, read_content
from imc_kit.viz.report import write_report
from pages import HOSTILE  # type: ignore[import-not-found]
from reports import Page, copy, said


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report)


def test_the_page_is_one_accessible_file(report: Path, page: Page) -> None:
    page.assert_alone()
    assert "@import" not in report.read_text("utf-8")
    assert ("html", {"lang": "en"}) in page.tags
    assert all("alt" in attributes for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    labelled = [attributes for _, attributes in page.tags if attributes.get("role") in ("img", "region")]
    assert all(attributes.get("aria-label") for attributes in labelled)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_numbers_are_the_runs(solved: Path, page: Page) -> None:
    counts = json.loads((solved / "out/run.json").read_text("utf-8"))["scenes"]["plaza"]["counts"]
    assert counts["registered"] >= 6
    assert counts["images"] == 10
    assert f"{counts['registered']} of 10 images registered" in page.text
    assert f"{counts['points']:,}" in page.text
    assert re.search(r"mAA [01]\.\d{3}", page.text)
    assert '"max_keypoints": 2048' in page.text  # of its configuration


def test_names_are_no_markup(report: Path, page: Page, tmp_path: Path) -> None:
    assert not [tag for tag, _ in page.tags if tag in ("b", "i")]
    assert HOSTILE in page.text
    assert "bare & co" in page.text
    assert HOSTILE not in report.read_text("utf-8")
    content = {
        "input": f"{tmp_path}/<i>gone", "layout": "<i>", "machine": {"cores": "<i>2"}, "versions": {"imc-kit": "<i>"},
        "config": {"detector": {"name": "<i>"}}, "notes": ["<i>"], "scenes": {}, "failed": {"<i>": "<i>"},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(content), "utf-8")
    nothing = Page(write_report(tmp_path))
    assert "i" not in [tag for tag, _ in nothing.tags]
    assert "0 of 1" in nothing.text


def test_warnings_name_the_cause_and_the_option(page: Page) -> None:
    assert "1 image is not in the model: fewer than 500 keypoints" in page.text
    assert "broken.jpg: it is not a JPEG" in page.text
    assert "Likely cause: the photo is blurred, dark or without texture" in page.text
    assert "--preset aliked" in page.text


def test_the_command_writes_it_into_the_run(solved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy(solved, tmp_path / "run")
    path = run / "scenes/plaza/result.json"
    result = json.loads(path.read_text("utf-8"))
    del result["memory"]
    path.write_text(json.dumps(result), "utf-8")
    assert main(["report", str(run)]) == 0
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().out
    text = said(run / "report.html")
    assert "mAA" not in text  # without the truth
    with pytest.raises(KitError, match=r"cannot write .*report.html"):
        write_report(run, tmp_path / "no/such/folder/report.html")


def test_rotated_photos_are_shown_as_they_were_matched(
    solved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy(solved, tmp_path / "run")
    result = run / "scenes/plaza/result.json"
    content = read_content(result)
    content |= {"rotation_quarters": dict.fromkeys(content["placements"], 2)}
    result.write_text(json.dumps(content | {"digest": content_digest(content)}))
    rotations: list[int] = []
    real = images.load

    def load(path: Path, long_side: int | None = None, rotation: int = 0) -> images.Photo:
        rotations.append(rotation)
        return real(path, long_side, rotation)

    monkeypatch.setattr(images, "load", load)
    write_report(run)
    assert rotations.count(2) >= len(content["placements"])
    assert rotations.count(0) > 0  # the other scene's
    assert set(rotations) == {0, 2}
