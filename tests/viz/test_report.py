"""The report: what it says, and how it does in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pages import HOSTILE, Browser  # type: ignore[import-not-found]

from imc_kit import preset, solve
from imc_kit.cli import main
from imc_kit.errors import KitError
from imc_kit.viz.report import write_report

SCENES = ("herzjesu_P8", "fountain_P11", "reichstag10")


class Page(HTMLParser):
    """All tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1][0] not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(scope="module")
def report(solved: Path) -> Path:
    data = solved / "data"
    return write_report(
        solved / "out", solved / "report.html", truth=data / "truth.csv", thresholds=data / "thresholds.json"
    )


def copy(solved: Path, target: Path) -> Path:
    shutil.copytree(solved / "out", target, ignore=shutil.ignore_patterns("store"))
    return target


def said(path: Path) -> str:
    return " ".join(Page(path).text)


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
    assert f"{HOSTILE}: is not in the model, and with fewer than 500 keypoints" in text
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


def test_what_is_gone_is_said(solved: Path, tmp_path: Path) -> None:
    run = copy(solved, tmp_path / "run")
    for database in run.glob("scenes/*/database-*.db"):
        database.unlink()
    content = json.loads((run / "run.json").read_text("utf-8"))
    content |= {"input": str(tmp_path / "gone"), "failed": {"lost": "none of the 3 images can be used"}}
    (run / "run.json").write_text(json.dumps(content), "utf-8")
    text = said(write_report(run))
    assert "database was deleted" in text
    assert "photographs are not where they were" in text
    assert "none of the 3 images can be used" in text
    assert "2 of 3" in text


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(KitError, match=r"run\.json.*folder of a finished run"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_file_that_cannot_be_written_is_named(solved: Path, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="cannot write the report"):
        write_report(solved / "out", tmp_path / "no/such/folder/report.html")


def test_a_run_without_scenes(tmp_path: Path) -> None:
    content = {"input": str(tmp_path), "layout": "folder", "machine": {"cores": 2}, "scenes": {}, "failed": {"a": "b"}}
    (tmp_path / "run.json").write_text(json.dumps(content), "utf-8")
    assert "0 of 1" in said(write_report(tmp_path))


# ---- in a browser ----

DRAW_ALL = """
for (const scene of document.querySelectorAll("details.scene")) scene.open = true;
await new Promise((resume) => setTimeout(resume, 300));
for (const plot of document.querySelectorAll(".plot")) {
  plot.scrollIntoView({ block: "center", behavior: "instant" });
  for (let wait = 0; wait < 300 && !["drawn", "failed"].includes(plot.dataset.state); wait++)
    await new Promise((resume) => setTimeout(resume, 100));
}
return [...document.querySelectorAll(".plot")].map((plot) => [plot.ariaLabel, plot.dataset.state]);
"""
COLOURS = """
const plot = [...document.querySelectorAll(".plot.space")][arguments[0]];
const picture = new Image();
picture.src = await Plotly.toImage(plot, { format: "png", width: 400, height: 300 });
await picture.decode();
const canvas = document.createElement("canvas");
[canvas.width, canvas.height] = [400, 300];
const context = canvas.getContext("2d");
context.drawImage(picture, 0, 0);
const pixels = context.getImageData(0, 40, 400, 260).data;  // without the legend
const seen = new Set();
let inked = 0;
for (let i = 0; i < pixels.length; i += 4)
  if (pixels[i + 3] > 0) {
    inked++;
    seen.add([pixels[i] >> 4, pixels[i + 1] >> 4, pixels[i + 2] >> 4].join());
  }
return [inked, seen.size];
"""
COLUMN = """
const [index, column] = arguments;
const table = document.querySelectorAll("table")[index];
const head = table.tHead.rows[0].cells[column];
head.querySelector("button").click();
return [head.ariaSort, [...table.tBodies[0].rows].map((row) => row.cells[column].innerText)];
"""


def look(browser: Browser, page: Path, folder: Path, models: int) -> None:
    """Open it on a laptop and a phone, light and dark: all is drawn, without a complaint or a request."""
    for width, height, dark in ((1280, 800, False), (390, 844, True)):
        browser.open(page, width, height, dark=dark)
        opening = browser.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        assert opening < 2000
        drawn = browser.run(DRAW_ALL)
        assert [state for _, state in drawn] == ["drawn"] * len(drawn), drawn
        assert sum("in 3D" in label for label, _ in drawn) == models
        for number in range(models):
            inked, colours = browser.run(COLOURS, number)
            assert inked > 300
            assert colours > 15  # the points' own, and those of the cameras
        assert browser.run("return document.documentElement.scrollWidth") == width  # nothing sticks out
        browser.screenshot(folder / f"report-{width}.png", whole=True)
        assert browser.requests() == [page.as_uri()]
        assert browser.complaints() == []


@pytest.mark.slow
def test_in_a_browser(browser: Browser, report: Path, tmp_path: Path) -> None:
    look(browser, report, tmp_path, models=1)
    # The page opens a scene by its link, and only then makes its content.
    browser.open(report, 1280, 800)
    before = "return document.querySelectorAll('details.scene img').length"
    assert browser.run(before) == 0
    browser.run("document.querySelector('a[href=\"#scene-1\"]').click(); await new Promise((r) => setTimeout(r, 300));")
    assert browser.run(before) >= 16
    # Tables sort by numbers and by names, up and down; what is not known comes last.
    state, values = browser.run(COLUMN, 0, 1)
    assert (state, values) == ("ascending", ["1", "18"])
    assert browser.run(COLUMN, 0, 1) == ["descending", ["18", "1"]]
    assert browser.run(COLUMN, 0, 0)[1] == ["bare & co", "plaza"]
    accuracies = browser.run(COLUMN, 0, 5)[1]
    assert accuracies[0] > "0.5"
    assert accuracies[1] == "–"
    _, keypoints = browser.run(COLUMN, 1, 3)
    numbers = [int(text.replace(",", "")) for text in keypoints if text != "–"]
    assert numbers == sorted(numbers)
    assert keypoints[-1] == "–"
    # By keyboard alone: the first stops are the link to the content and the table's buttons.
    browser.open(report, 1280, 800)
    from selenium.webdriver.common.keys import Keys

    stops = []
    for _ in range(3):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        stops.append(browser.driver.switch_to.active_element.text.strip())
    assert stops == ["To the content", "Scene", "Images"]
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.run("return document.querySelectorAll('th')[1].ariaSort") == "ascending"
    # The buttons turn the model.
    browser.run(DRAW_ALL)
    eyes = [
        browser.run(
            "const plot = document.querySelector('.plot.space');"
            f"plot.parentElement.querySelector('[data-turn={action}]').click();"
            "await new Promise((r) => setTimeout(r, 300)); return plot._fullLayout.scene.camera.eye;"
        )
        for action in ("left", "nearer", "reset")
    ]
    length = [sum(eye[axis] ** 2 for axis in "xyz") ** 0.5 for eye in eyes]
    assert length[1] == pytest.approx(0.8 * length[0], rel=1e-3)
    assert length[2] == pytest.approx(length[0], rel=1e-3)
    assert eyes[0] != eyes[2]


@pytest.mark.slow
def test_real_scenes_in_a_browser(browser: Browser, shared: Path, tmp_path: Path) -> None:
    import pandas as pd

    root = tmp_path / "data"
    (root / "test").mkdir(parents=True)
    for scene in SCENES:
        (root / "test" / scene).symlink_to(shared / "scenes/test" / scene)
    for name in ("sample_submission.csv", "truth.csv"):
        table: Any = pd.read_csv(shared / "scenes" / name, dtype=str)
        table[table["scene"].isin(SCENES)].to_csv(root / name, index=False)
    thresholds = json.loads((shared / "scenes/thresholds.json").read_text("utf-8"))
    (root / "thresholds.json").write_text(json.dumps({scene: thresholds[scene] for scene in SCENES}))
    run = solve(root, tmp_path / "out", preset("sift", {"detector.max_keypoints": 2000}))
    assert set(run.scenes) == set(SCENES)
    page = write_report(tmp_path / "out", truth=root / "truth.csv", thresholds=root / "thresholds.json")
    # A hundred photographs must stay under 15 MB: what these take, and plotly once.
    images = sum(len(scene.placements) for scene in run.scenes.values())
    assert page.stat().st_size < 2.5e6 + 12.5e6 * images / 100
    look(browser, page, tmp_path, models=sum(min(len(scene.models), 3) for scene in run.scenes.values()))
