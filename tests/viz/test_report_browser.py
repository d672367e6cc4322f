"""The report in a real browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from imc_kit import preset, solve
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.viz.report import write_report
from pages import Browser  # type: ignore[import-not-found]

FIGURES = """
const scene = arguments[0] === null ? null : document.querySelectorAll("details.scene")[arguments[0]];
const plots = [...document.querySelectorAll(".plot")].filter((plot) => plot.closest("details") === scene);
return plots.map((plot) => [plot.ariaLabel, plot.classList.contains("space")]);
"""
SHOW = """
const plot = [...document.querySelectorAll(".plot")].find((plot) => plot.ariaLabel === arguments[0]);
plot.scrollIntoView({ block: "center", behavior: "instant" });
const pause = (time) => new Promise((resume) => setTimeout(resume, time));
for (let wait = 0; wait < 1500 && !["drawn", "failed"].includes(plot.dataset.state); wait++) await pause(20);
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
SCREENS = {"laptop-dark": (1366, 768, True), "phone": (390, 844, False)}


def ink(browser: Browser, label: str) -> np.ndarray:
    """Scroll to a figure, wait until it is drawn, and take a picture of it, without its frame: what is not the paper.

    Colours [H, W, 3], all 0 where there is paper.
    """
    state, place = browser.run(SHOW, label)
    assert state == "drawn", label
    pixels = browser.picture(*place)[4:-4, 4:-4]
    paper = pixels[0, 0].astype(int)
    return np.where((np.abs(pixels.astype(int) - paper).max(axis=2) > 24)[..., None], pixels, 0)


def open_on(browser: Browser, screen: str, page: Path) -> None:
    width, height, dark = SCREENS[screen]
    browser.open(page, width, height, dark=dark)
    loaded = browser.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    print(f"{page.stat().st_size / 1e6:.1f} MB opened in {loaded:.0f} ms ({screen})")


def look(browser: Browser, screen: str, page: Path, models: Sequence[int]) -> None:
    """All that the open page has is drawn, without complaints or requests since it was opened, and nothing sticks out.

    models: how many each of the first scenes has, which are opened. All scenes must be closed, or there is only one.
    """
    charts = browser.run(FIGURES, None)
    assert charts
    for label, _ in charts:
        assert (ink(browser, label) > 0).any(axis=2).sum() > 500, label
    scenes = browser.run("return document.querySelectorAll('details.scene').length")
    if scenes == 1:  # it is open from the start
        browser.run(TOGGLE, 0)
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
        assert browser.run(WIDTH) == SCREENS[screen][0]  # nothing sticks out
        browser.run(TOGGLE, number)
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []


def check_sorting(browser: Browser, index: int, head: Sequence[tuple[str, bool]]) -> None:
    """A table sorts by each of its columns, up and down; unknown values come last."""
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
def test_in_a_browser(browser: Browser, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    open_on(browser, "laptop-dark", report)
    # By keyboard alone: the first stops are the link to the content and the table's buttons.
    stops = []
    for _ in range(3):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        stops.append(browser.driver.switch_to.active_element.text.strip())
    assert stops == ["Skip to the content", "Scene", "Images"]
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.run("return document.querySelectorAll('th')[1].ariaSort") == "ascending"
    # The page opens a scene by its link, and only then makes its content.
    before = "return document.querySelectorAll('details.scene img').length"
    assert browser.run(before) == 0
    browser.run("document.querySelector('a[href=\"#scene-1\"]').click(); await new Promise((r) => setTimeout(r, 300));")
    assert browser.run(before) >= 10
    # Tables sort by numbers and by names, up and down; unknown values come last.
    for index, head in enumerate(browser.run(COLUMNS)):
        check_sorting(browser, index, head)
    assert browser.run(COLUMN, 0, 1)[2] == ["1", "10"]
    assert browser.run(COLUMN, 0, 0)[2] == ["bare & co", "plaza"]
    accuracies = browser.run(COLUMN, 0, 5)[2]
    assert accuracies[0] > "0.5"
    assert accuracies[1] == "–"
    assert browser.run(TOGGLE, 0)[0] is False
    look(browser, "laptop-dark", report, models=[1, 0])
    # A scene opens by its summary, and its model rotates by its buttons.
    browser.run("document.querySelector('details.scene summary').focus()")
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.run("await new Promise((r) => setTimeout(r, 300));")
    title = browser.run(FIGURES, 0)[0][0]
    ink(browser, title)
    eyes = []
    for action in ("left", "nearer", "reset"):
        browser.run(f"document.querySelector('[data-move={action}]').focus()")
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
    browser.run("document.querySelector('[data-move=left]').click(); await new Promise((r) => setTimeout(r, 300));")
    browser.run("scrollTo({ top: 1e6, behavior: 'instant' }); await new Promise((r) => setTimeout(r, 500));")
    assert browser.run("return document.querySelector('.plot.space').dataset.state ?? 'gone'") == "gone"
    ink(browser, title)
    camera = browser.run("return document.querySelector('.plot.space')._fullLayout.scene.camera;")
    assert camera["eye"]["x"] - camera["center"]["x"] == pytest.approx(turned[0], rel=1e-3)
    assert browser.complaints() == []


@pytest.mark.slow
def test_a_real_scene_in_a_browser(browser: Browser, shared: Path, tmp_path: Path) -> None:
    """All figures are drawn, and the page is small."""
    less = {
        "detector.max_keypoints": 800,
        "detector.long_side": 480,
        "mapping": (MappingConfig(),),
        "subpixel.on": False,
    }
    (tmp_path / "photos").mkdir()
    for photo in sorted((shared / "scenes/test/fountain_P11/images").iterdir())[:6]:
        (tmp_path / "photos" / photo.name).symlink_to(photo)
    run = solve(tmp_path / "photos", tmp_path / "out", preset("sift", less))
    page = write_report(tmp_path / "out")
    open_on(browser, "phone", page)
    look(browser, "phone", page, [len(scene.models) for scene in run.scenes.values()])
    assert page.stat().st_size < 3e6  # half of it is plotly
    browser.run(TOGGLE, 0)
    assert len(browser.run(COLUMNS)) == 2
