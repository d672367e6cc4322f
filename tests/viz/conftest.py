"""What the tests of the report share: a browser, and a run to report on."""

from __future__ import annotations

from pathlib import Path

import pytest

from once import once
from pages import HOSTILE, browser
from views import ORBIT, SIZE, views

__all__ = ["browser"]


@pytest.fixture(scope="session")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a rendered competition in `data` and its run in `out`: a scene that is solved, and one that fails.

    The first has eight views of the plaza, a photo without texture by a hostile name, and a file that is no photo.
    """
    from PIL import Image

    from imc_kit import preset, solve
    from imc_kit.synthetic.plaza import DISTANCES, write_layout

    def make(root: Path) -> None:
        poses = {f"{number}.jpg": pose for number, pose in enumerate(ORBIT[:8])}
        photos = views(tmp_path_factory, range(len(poses)))
        write_layout(root / "data", "plaza", "synthetic", poses, SIZE, lambda: photos, DISTANCES)
        folder = root / "data/test/plaza/images"
        Image.new("RGB", (120, 90), "olive").save(folder / HOSTILE)
        (folder / "broken.jpg").write_bytes(b"nothing")
        (root / "data/test/bare & co/images").mkdir(parents=True)
        Image.new("RGB", (120, 90), "olive").save(root / "data/test/bare & co/images/x.jpg")
        table = root / "data/sample_submission.csv"
        row = "test/bare & co/images/x.jpg,bare & co,bare & co,1;0;0;0;1;0;0;0;1,0;0;0\n"
        table.write_text(table.read_text("utf-8") + row, "utf-8")
        solve(root / "data", root / "out", preset("small", {"threads": 1}))

    return once(tmp_path_factory, "competition", make)


@pytest.fixture(scope="session")
def report(solved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from imc_kit.viz.report import write_report

    data = solved / "data"

    def make(folder: Path) -> None:
        more = {"truth": data / "truth.csv", "thresholds": data / "thresholds.json"}
        write_report(solved / "out", folder / "report.html", **more)

    return once(tmp_path_factory, "report", make) / "report.html"


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of pairs take half of a report's time; test_report.py looks at them."""
    from imc_kit.viz import report_scene

    monkeypatch.setattr(report_scene, "pair_uri", lambda *_: "")
