"""Figures of a comparison, and its page, in a real browser too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imc_kit.compare.page import METRICS, colours, draw_changes, draw_metric, draw_stages, write_comparison
from imc_kit.compare.repeatability import CHANGES, Repeated
from imc_kit.compare.rows import Row
from imc_kit.config import Config
from imc_kit.errors import KitError
from imc_kit.viz.palette import SERIES, STAGES
from pages import HOSTILE, Browser  # type: ignore[import-not-found]
from reports import Page

TRIED = {change: Repeated(0.2 + 0.1 * n, 0.9, 0.5) for n, change in enumerate(CHANGES)}
SIFT = Row("sift", "x", 10, 8, 0.5, 4000.0, 20, 60.0, 50.0, TRIED, {"detect": 1.5, "map": 3.0})
SIFT_Y = Row("sift", "y", 5, 5, 0.9, 2000.0, 10, 20.0, 10.0, TRIED, {"detect": 0.5, "map": 1.0})
ORB = Row("<b>orb", "x", 10, 2, 0.1, 3000.0, 4, 20.0, 18.0, {"light": Repeated(0.6, 0.7, 0.3)}, {"detect": 0.5})
GONE = Row("gone", None, remarks=(f"could not run: {HOSTILE} is missing",))
DETECTOR_FREE = Row(
    "free", "x", 10, 10, 0.7, 900.0, 30, 90.0, 80.0, {"light": Repeated(None, 0.8, None)}, {"match": 9.0}
)
ROWS = [SIFT, SIFT_Y, GONE, ORB]


def bars(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data if trace.type == "bar"}


def written(figure: Any) -> list[str]:
    return [note.text for note in figure.layout.annotations]


def test_a_bar_is_a_configuration_and_a_dot_a_scene() -> None:
    figure = draw_metric(ROWS, "mAA")
    assert list(bars(figure)) == ["sift", "gone", "&lt;b&gt;orb"]
    assert bars(figure)["sift"].x[0] == pytest.approx(0.7)
    assert bars(figure)["gone"].x[0] is None
    dots = [trace for trace in figure.data if trace.type == "scatter"]
    assert [list(trace.x) for trace in dots] == [[0.5, 0.9], [0.1]]
    assert list(dots[0].hovertext) == ["x: 0.500", "y: 0.900"]
    assert written(figure) == ["0.700", "did not run", "0.100"]
    assert figure.layout.xaxis.title.text == "mAA"
    assert tuple(figure.layout.xaxis.range) == (0, 1.02)


def test_one_scene_has_no_dots() -> None:
    figure = draw_metric([SIFT, ORB], "keypoints")
    assert [trace.type for trace in figure.data] == ["bar", "bar"]
    assert written(figure) == ["4,000", "3,000"]


@pytest.mark.parametrize(
    ("name", "sift", "orb"),
    [("registered", "87%", "20%"), ("keypoints", "3,000", "3,000"), ("inliers", "30", "18"),
     ("repeatability", "0.350", "0.600"), ("matching_accuracy", "0.900", "0.700"), ("matching_score", "0.500", "0.300"),
     ("seconds", "6.0 s", "0.5 s")],
)  # fmt: skip
def test_every_metric_says_its_value(name: str, sift: str, orb: str) -> None:
    assert written(draw_metric(ROWS, name)) == [sift, "did not run", orb]
    assert draw_metric(ROWS, name).layout.xaxis.title.text == METRICS[name].axis


def test_a_configuration_has_the_same_colour_everywhere() -> None:
    palette = colours(ROWS)
    assert palette == dict(zip(["sift", "gone", "<b>orb"], SERIES[:3], strict=True))
    for figure in (*(draw_metric(ROWS, name) for name in METRICS), draw_changes(ROWS)):
        assert bars(figure)["&lt;b&gt;orb"].marker.color == SERIES[2]
        assert bars(figure)["sift"].marker.color == SERIES[0]
    many = [Row(str(n), None) for n in range(9)]
    assert colours(many)[str(len(SERIES))] == SERIES[0]  # the colours repeat


def test_shares_by_kind_of_change() -> None:
    figure = draw_changes(ROWS)
    assert list(bars(figure)) == ["sift", "&lt;b&gt;orb"]
    assert list(bars(figure)["sift"].y) == list(CHANGES)
    assert list(bars(figure)["sift"].x) == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert list(bars(figure)["&lt;b&gt;orb"].y) == ["light"]
    assert figure.layout.barmode == "group"
    assert list(bars(draw_changes(ROWS, "matching_score"))["&lt;b&gt;orb"].x) == [0.3]


def test_a_matcher_that_takes_photos_has_a_matching_accuracy_only() -> None:
    assert written(draw_metric([SIFT, DETECTOR_FREE], "repeatability")) == ["0.350", "not known"]
    assert list(bars(draw_changes([SIFT, DETECTOR_FREE]))) == ["sift"]
    assert list(bars(draw_changes([SIFT, DETECTOR_FREE], "matching_accuracy"))) == ["sift", "free"]


def test_stages_are_summed_over_scenes() -> None:
    figure = draw_stages(ROWS)
    assert [trace.name for trace in figure.data] == ["detect", "map"]
    assert list(figure.data[0].x) == [2.0, 0.5]
    assert figure.data[0].marker.color == STAGES["detect"]


@pytest.mark.parametrize("rows", [[], [GONE]])
def test_figures_without_data_say_so(rows: list[Row]) -> None:
    for figure in (draw_metric(rows, "mAA"), draw_metric(rows, "seconds"), draw_changes(rows)):
        assert "not known" in figure.to_json()
    assert "nothing was measured" in draw_stages(rows).to_json()


@pytest.mark.parametrize("draw", [draw_metric, draw_changes])
def test_an_unknown_metric_gets_the_nearest(draw: Any) -> None:
    with pytest.raises(KitError, match="did you mean 'repeatability'"):
        draw(ROWS, "repeatabilty")


# ---- the page ----


def test_the_page_says_what_the_rows_say(tmp_path: Path) -> None:
    write_comparison(ROWS, tmp_path / "compare.html", "a <i> scene")
    page = Page(tmp_path / "compare.html")
    page.assert_alone()
    assert not [tag for tag, _ in page.tags if tag in ("b", "i")]
    for said in ("2 of 3 ran", "a <i> scene", "<b>orb", "13 of 15", "8 of 10", "0.700", HOSTILE, "Scene by scene"):
        assert said in page.text, said
    plots = [attributes for _, attributes in page.tags if (attributes.get("class") or "").startswith("plot ")]
    assert len(plots) == len(METRICS) + 3 + 1
    assert all(attributes["aria-label"] for attributes in plots)


def test_seeds_are_summed_up(tmp_path: Path) -> None:
    """A dot is the mean of a scene over the seeds, a row of the second table too; the range is below the mean."""
    rows = [
        *(replace(row, seed=seed) for row in (SIFT, SIFT_Y) for seed in (0, 1)),
        replace(SIFT, accuracy=0.2, seed=2),
    ]
    rows += [replace(SIFT_Y, accuracy=0.6, repeated={}, seed=2)]
    figure = draw_metric(rows, "mAA")
    (dots,) = (trace for trace in figure.data if trace.type == "scatter")
    assert list(dots.x) == pytest.approx([0.4, 0.8])
    assert [trace.type for trace in draw_metric(rows, "repeatability").data] == ["bar", "scatter"]
    write_comparison(rows, tmp_path / "compare.html", "x", "in /photos", {"a": Config(), "b": Config(seed=1)})
    page = Page(tmp_path / "compare.html")
    for said in (
        "0.600 0.400–0.700",
        "0.400 0.200–0.500",
        "over 3 seeds",
        "in /photos",
        "detector.long_side 3200 3200",
    ):
        assert said in " ".join(page.text.split()), said
    assert page.text.count("0.400–0.700") == 1


def test_the_page_leaves_out_unknown_values(tmp_path: Path) -> None:
    for rows in ([], [GONE], [Row("a", "x", 3, remarks=("could not be solved: why",))]):
        write_comparison(rows, tmp_path / "compare.html", "scene")
        page = Page(tmp_path / "compare.html")
        assert "mAA" not in page.text
        assert "Figures" not in page.text
        assert all(remark in page.text for row in rows for remark in row.remarks)


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="cannot write"):
        write_comparison(ROWS, tmp_path / "no/compare.html", "scene")


DRAW = """
for (const plot of document.querySelectorAll(".plot")) {
  plot.scrollIntoView({ block: "center", behavior: "instant" });
  for (let wait = 0; wait < 300 && !["drawn", "failed"].includes(plot.dataset.state); wait++)
    await new Promise((resume) => setTimeout(resume, 100));
}
const plots = [...document.querySelectorAll(".plot")];
return plots.map((plot) => [plot.dataset.state, plot.querySelectorAll(".point").length]);
"""
WAIT = """
const plots = [...document.querySelectorAll(".plot")];
for (let wait = 0; wait < 300 && plots.some((plot) => plot.dataset.state !== "drawn"); wait++)
  await new Promise((resume) => setTimeout(resume, 100));
return plots.map((plot) => plot.dataset.state);
"""
SORT = """
const table = document.querySelector("table");
const head = [...table.tHead.rows[0].cells].find((head) => head.innerText.includes("mAA"));
head.querySelector("button").click();
return [...table.tBodies[0].rows].map((row) => row.cells[0].innerText.trim());
"""


@pytest.mark.slow
def test_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    write_comparison(ROWS, page, "scenes")
    browser.open(page, 1280, 800)
    assert browser.run(WAIT) == ["drawn"] * len(browser.run(WAIT))  # without scrolling, as a print needs
    browser.open(page, 390, 844, dark=True)
    drawn = browser.run(DRAW)
    assert [state for state, _ in drawn] == ["drawn"] * len(drawn)
    assert all(marks >= 2 for _, marks in drawn)
    assert browser.run("return document.documentElement.scrollWidth") == 390  # nothing sticks out
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []
    assert browser.run(SORT) == ["■ <b>orb", "■ sift", "■ gone"]  # unknown values come last
    assert browser.run(SORT) == ["■ sift", "■ <b>orb", "■ gone"]
