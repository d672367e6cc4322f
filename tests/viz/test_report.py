"""The report: what it says, and how it does in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pages import HOSTILE, Browser  # type: ignore[import-not-found]

from imc_kit import images, preset, solve
from imc_kit.cli import main
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.errors import KitError
from imc_kit.results import Run
from imc_kit.viz.report import write_report


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


def test_photographs_are_shown_as_they_were_matched(
    solved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy(solved, tmp_path / "run")
    result = sorted((run / "scenes").glob("*/result.json"))[0]
    content = json.loads(result.read_text())
    result.write_text(json.dumps(content | {"turns": dict.fromkeys(content["placements"], 2)}))
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

FIGURES = """
const scene = arguments[0] === null ? null : document.querySelectorAll("details.scene")[arguments[0]];
const plots = [...document.querySelectorAll(".plot")].filter((plot) => plot.closest("details") === scene);
return plots.map((plot) => [plot.ariaLabel, plot.classList.contains("space")]);
"""
SHOW = """
const plot = [...document.querySelectorAll(".plot")].find((plot) => plot.ariaLabel === arguments[0]);
plot.scrollIntoView({ block: "center", behavior: "instant" });
const pause = (time) => new Promise((resume) => setTimeout(resume, time));
for (let wait = 0; wait < 300 && !["drawn", "failed"].includes(plot.dataset.state); wait++) await pause(100);
await new Promise((resume) => requestAnimationFrame(() => requestAnimationFrame(resume)));
await pause(100);
const { left, top, width, height } = plot.getBoundingClientRect();
return [plot.dataset.state, [left + scrollX, top + scrollY, width, height]];
"""
TOGGLE = """
const scene = document.querySelectorAll("details.scene")[arguments[0]];
const toggled = new Promise((resume) => scene.addEventListener("toggle", () => setTimeout(resume, 50), { once: true }));
scene.querySelector("summary").click();
await toggled;
return [scene.open, scene.querySelectorAll("img").length, document.querySelectorAll("details.scene > template").length];
"""
COLUMNS = """
return [...document.querySelectorAll("table")].map((table) =>
  [...table.tHead.rows[0].cells].map((head) => [head.innerText, head.querySelector("button") !== null]));
"""
COLUMN = """
const [index, column] = arguments;
const table = document.querySelectorAll("table")[index];
const head = table.tHead.rows[0].cells[column];
head.querySelector("button").click();
const others = [...table.tHead.rows[0].cells].filter((other) => other !== head);
const rows = [...table.tBodies[0].rows];
return [head.ariaSort, others.every((other) => (other.ariaSort ?? "none") === "none"),
  rows.map((row) => row.cells[column].innerText), rows.map((row) => row.cells[column].dataset.value),
  head.classList.contains("number")];
"""
WIDTH = "return document.documentElement.scrollWidth"
SCREENS = {
    "laptop": (1366, 768, False), "laptop-dark": (1366, 768, True), "phone": (390, 844, False),
    "phone-dark": (390, 844, True),
}  # fmt: skip


def ink(browser: Browser, label: str) -> np.ndarray:
    """Scroll to a figure, wait until it is drawn, and take a picture of it, without its frame: what is not the paper.

    Colours [H, W, 3], all 0 where there is paper.
    """
    state, place = browser.run(SHOW, label)
    assert state == "drawn", label
    pixels = browser.picture(*place)[4:-4, 4:-4]
    paper = pixels[0, 0].astype(int)
    return np.where((np.abs(pixels.astype(int) - paper).max(axis=2) > 24)[..., None], pixels, 0)


def look(browser: Browser, page: Path, screen: str, folder: Path, models: Sequence[int]) -> None:
    """Open it: all that it has is drawn, without a complaint or a request, and nothing sticks out.

    models: how many each of the first scenes has, which are opened.
    """
    width, height, dark = SCREENS[screen]
    browser.open(page, width, height, dark=dark)
    loaded = browser.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    print(f"{page.stat().st_size / 1e6:.1f} MB opened in {loaded:.0f} ms ({screen})")
    browser.screenshot(folder / f"{screen}.png")
    charts = browser.run(FIGURES, None)
    assert len(charts) >= 2
    for label, _ in charts:
        assert (ink(browser, label) > 0).any(axis=2).sum() > 500, label
    scenes = browser.run("return document.querySelectorAll('details.scene').length")
    for number, count in enumerate(models):
        opened, pictures, left = browser.run(TOGGLE, number)
        assert opened
        assert pictures > 0
        assert left == scenes - number - 1  # each is made when it is opened
        figures = browser.run(FIGURES, number)
        assert sum(space for _, space in figures) == min(count, 3)
        for label, space in figures:
            drawn = ink(browser, label)
            assert (drawn > 0).any(axis=2).sum() > 200, label
            if space:
                below = drawn[44:]  # without the legend
                assert len(np.unique(below.reshape(-1, 3) >> 4, axis=0)) > 15, label  # the points' own, the cameras'
                rim = np.ones(below.shape[:2], np.bool_)
                rim[:, 2:-2] = False
                assert not below[rim].any(), label  # all is in view
        assert browser.run(WIDTH) == width  # nothing sticks out
        browser.screenshot(folder / f"{screen}-{number + 1}.png", whole=True)
        browser.run(TOGGLE, number)
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []


def check_sorting(browser: Browser, index: int, head: Sequence[tuple[str, bool]]) -> None:
    """A table sorts by each of its columns, up and down; what is not known comes last."""
    for column, (_, sortable) in enumerate(head):
        if not sortable:
            continue
        orders = []
        for direction in ("ascending", "descending"):
            state, alone, texts, values, number = browser.run(COLUMN, index, column)
            assert (state, alone) == (direction, True)
            keys = [text if value is None else value for text, value in zip(texts, values, strict=True)]
            known = [key for key in keys if key != ""]
            assert keys[len(known) :] == [""] * (len(keys) - len(known))
            orders.append(known)
            if number:
                assert list(map(float, known)) == sorted(map(float, known), reverse=direction == "descending")
        assert orders[0] == orders[1][::-1]


@pytest.mark.slow
def test_in_a_browser(browser: Browser, report: Path, tmp_path: Path) -> None:
    for screen in ("laptop", "phone-dark"):
        look(browser, report, screen, tmp_path, models=[1, 0])
    # The page opens a scene by its link, and only then makes its content.
    browser.open(report, 1280, 800)
    before = "return document.querySelectorAll('details.scene img').length"
    assert browser.run(before) == 0
    browser.run("document.querySelector('a[href=\"#scene-1\"]').click(); await new Promise((r) => setTimeout(r, 300));")
    assert browser.run(before) >= 16
    # Tables sort by numbers and by names, up and down; what is not known comes last.
    for index, head in enumerate(browser.run(COLUMNS)):
        check_sorting(browser, index, head)
    assert browser.run(COLUMN, 0, 1)[2] == ["1", "18"]
    assert browser.run(COLUMN, 0, 0)[2] == ["bare & co", "plaza"]
    accuracies = browser.run(COLUMN, 0, 5)[2]
    assert accuracies[0] > "0.5"
    assert accuracies[1] == "–"
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
    # A scene opens by its summary, and its model turns by its buttons.
    browser.run("document.querySelector('details.scene summary').focus()")
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.run("await new Promise((r) => setTimeout(r, 300));")
    title = browser.run(FIGURES, 0)[0][0]
    ink(browser, title)
    eyes = []
    for action in ("left", "nearer", "reset"):
        browser.run(f"document.querySelector('[data-turn={action}]').focus()")
        browser.driver.switch_to.active_element.send_keys(Keys.SPACE)
        browser.run("await new Promise((r) => setTimeout(r, 300));")
        camera = browser.run("return document.querySelector('.plot.space')._fullLayout.scene.camera;")
        eyes.append(np.array([camera["eye"][axis] - camera["center"][axis] for axis in "xyz"]))
    turned, near, first = eyes
    np.testing.assert_allclose(near, 0.8 * turned, rtol=1e-3)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(first), rel=1e-3)
    flat = turned[:2] @ first[:2] / (np.linalg.norm(turned[:2]) * np.linalg.norm(first[:2]))
    assert np.degrees(np.arccos(flat)) == pytest.approx(15, abs=0.1)
    # What leaves the screen is let go, and comes back as it was turned.
    browser.run("document.querySelector('[data-turn=left]').click(); await new Promise((r) => setTimeout(r, 300));")
    browser.run("scrollTo({ top: 1e6, behavior: 'instant' }); await new Promise((r) => setTimeout(r, 500));")
    assert browser.run("return document.querySelector('.plot.space').dataset.state ?? 'gone'") == "gone"
    ink(browser, title)
    camera = browser.run("return document.querySelector('.plot.space')._fullLayout.scene.camera;")
    assert camera["eye"]["x"] - camera["center"]["x"] == pytest.approx(turned[0], rel=1e-3)
    assert browser.complaints() == []


@pytest.fixture(scope="module")
def every_scene(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """The report of all shared scenes, solved with the sift preset, with as little work as still shows something."""
    out = tmp_path_factory.mktemp("every") / "out"
    less = {
        "detector.max_keypoints": 1000, "detector.long_side": 640, "pairs.exhaustive_up_to": 20, "pairs.k": 6,
        "mapping": (MappingConfig(),),
    }  # fmt: skip
    run = solve(shared / "scenes", out, preset("sift", less))
    truth = {"truth": shared / "scenes/truth.csv", "thresholds": shared / "scenes/thresholds.json"}
    return write_report(out, **truth), run


@pytest.mark.slow
def test_350_photographs_are_small_enough(every_scene: tuple[Path, Run]) -> None:
    page, run = every_scene
    counts = {name: len(scene.placements) for name, scene in run.scenes.items()}
    assert len(counts) == 12
    assert counts["liberty135"] == 135
    assert sum(counts.values()) == 350
    assert page.stat().st_size < 15e6  # which is the limit for a hundred
    # Plotly once, the rest is of the photographs: a scene of more than a hundred alone is smaller still.
    text = page.read_text("utf-8")
    start = text.index('<details class="scene" id="scene-1">')
    assert start < 2.5e6
    assert text.index('<details class="scene" id="scene-2">') - start < 5e6


@pytest.mark.slow
@pytest.mark.parametrize(("screen", "scenes"), [("laptop", 12), ("laptop-dark", 2), ("phone", 2), ("phone-dark", 12)])
def test_every_scene_in_a_browser(
    browser: Browser, every_scene: tuple[Path, Run], tmp_path: Path, screen: str, scenes: int
) -> None:
    page, run = every_scene
    models = [len(scene.models) for scene in run.scenes.values()]
    assert len(models) == 12
    look(browser, page, screen, tmp_path, models[:scenes])


@pytest.mark.slow
def test_the_tables_of_every_scene_sort(browser: Browser, every_scene: tuple[Path, Run]) -> None:
    page, run = every_scene
    browser.open(page, *SCREENS["laptop"][:2])
    for number in range(len(run.scenes)):
        browser.run(TOGGLE, number)
    tables = browser.run(COLUMNS)
    assert len(tables) == 1 + len(run.scenes)
    for index, head in enumerate(tables):
        check_sorting(browser, index, head)
    names = browser.run(COLUMN, 0, 0)[2]
    assert names == sorted(run.scenes, key=str.lower)
    assert browser.complaints() == []
