"""Configurations side by side: the numbers are those of the runs, and what fails costs only itself."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from imc_kit import KitError, metric, preset
from imc_kit.cli.main import main
from imc_kit.compare import run as compare_run
from imc_kit.compare.repeatability import CHANGES, RepeatabilityConfig, Repeated
from imc_kit.compare.run import Comparison, Row, configurations, summarize
from imc_kit.config import Config
from imc_kit.data.tables import POSE_COLUMNS, format_pose
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.synthetic.plaza import Camera, orbit, plaza, render_scene

VIEWS = 7
QUICK = RepeatabilityConfig(long_side=160, max_keypoints=200, photographs=2, views=1)


def quick(name: str) -> Config:
    """With few keypoints, few wrong matches and one attempt at mapping."""
    config = configurations([name])[name]
    if isinstance(config.matcher, NearestConfig):
        config = replace(config, matcher=NearestConfig(ratio=0.8))
    detector = replace(config.detector, max_keypoints=1500)
    return replace(config, detector=detector, mapping=config.mapping[:1], threads=1)


def configs() -> dict[str, Config]:
    """Two that run and one that does not: LightGlue takes no ORB."""
    return {name: quick(name) for name in ("sift", "orb+nearest", "orb+lightglue")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene that comes out, one with nothing on it, and one whose only photograph is none."""
    root = tmp_path_factory.mktemp("data")
    for name in ("plaza", "bare", "broken"):
        (root / f"test/{name}/images").mkdir(parents=True)
    poses = orbit(40)[:VIEWS]
    truth = []
    for number, pixels in enumerate(render_scene(plaza(), Camera.centred((320, 240)), poses)):
        path = f"test/plaza/images/{number}.png"
        Image.fromarray(pixels).save(root / path)
        truth.append((path, "plaza", "plaza", *format_pose(poses[number])))
    Image.new("RGB", (120, 90), "olive").save(root / "test/bare/images/x.jpg")
    (root / "test/broken/images/x.jpg").write_bytes(b"nothing")
    asked = [*truth, *((f"test/{name}/images/x.jpg", name, name, *truth[0][3:]) for name in ("bare", "broken"))]
    columns = ("image_path", "dataset", "scene", *POSE_COLUMNS)
    for table, rows in (("truth.csv", truth), ("sample_submission.csv", asked)):
        pd.DataFrame(rows, columns=columns).to_csv(root / table, index=False)
    (root / "thresholds.json").write_text(json.dumps({"plaza": [0.05, 0.1, 0.2]}))
    return root


def run(data: Path, out: Path) -> Comparison:
    return compare_run.compare(
        data, configs(), out, truth=data / "truth.csv", thresholds=data / "thresholds.json", repeatability=QUICK
    )


@pytest.fixture(scope="module")
def compared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return run(data, tmp_path_factory.mktemp("compared"))


def row(comparison: Comparison, name: str, scene: str | None) -> Row:
    (found,) = (one for one in comparison.rows if (one.configuration, one.scene) == (name, scene))
    return found


def test_there_is_a_row_for_each_configuration_and_scene(compared: Comparison) -> None:
    scenes = ["plaza", "bare", "broken"]
    expected = [(name, scene) for name in ("sift", "orb+nearest") for scene in scenes] + [("orb+lightglue", None)]
    assert [(one.configuration, one.scene) for one in compared.rows] == expected


@pytest.mark.parametrize("name", ["sift", "orb+nearest"])
def test_the_numbers_are_those_of_the_run(compared: Comparison, data: Path, name: str) -> None:
    import pycolmap

    one = row(compared, name, "plaza")
    done = json.loads((compared.out / name / "run.json").read_text("utf-8"))["scenes"]["plaza"]
    assert (one.images, one.registered) == (VIEWS, done["counts"]["registered"])
    assert one.seconds == done["seconds"]
    assert one.total == pytest.approx(sum(done["seconds"].values()))
    (found,) = (compared.out / name / "scenes/plaza").glob("database-*.db")
    with pycolmap.Database.open(found) as opened:
        keypoints = [opened.num_keypoints_for_image(image.image_id) for image in opened.read_all_images()]
        inliers = [
            len(geometry.inlier_matches)
            for geometry in opened.read_two_view_geometries()[1]
            if len(geometry.inlier_matches)
        ]
    assert one.keypoints == np.mean(keypoints)
    assert (one.verified_pairs, one.inliers_mean) == (len(inliers), np.mean(inliers))
    assert one.inliers_median == np.median(inliers)
    thresholds = json.loads((data / "thresholds.json").read_text("utf-8"))
    score = metric.score(data / "truth.csv", compared.out / name / "submission.csv", thresholds)
    assert one.accuracy == score.scenes["plaza"].score
    assert list(one.repeated) == list(CHANGES)
    assert one.overall is not None
    assert 0.2 < one.overall.repeatability < 1  # type: ignore[operator]


def test_sift_solves_the_rendered_scene(compared: Comparison) -> None:
    one = row(compared, "sift", "plaza")
    assert one.registered == VIEWS
    assert one.accuracy is not None
    assert one.accuracy > 0.8


def test_a_scene_without_anything_on_it(compared: Comparison) -> None:
    one = row(compared, "sift", "bare")
    assert (one.images, one.registered, one.keypoints, one.verified_pairs) == (1, 0, 0, 0)
    assert one.inliers_mean is None
    assert one.accuracy is None
    assert one.overall == Repeated(*[pytest.approx(0, abs=0.3)] * 3)  # noise in the light is all there is to find
    assert "no model came out" in one.remarks[0]


def test_what_fails_says_why_and_does_not_stop_the_rest(compared: Comparison) -> None:
    broken = row(compared, "orb+nearest", "broken")
    assert not broken.solved
    assert broken.images == 1
    assert "not a JPEG" in broken.remarks[0]
    refused = row(compared, "orb+lightglue", None)
    assert refused == Row("orb+lightglue", None, remarks=refused.remarks)
    assert refused.remarks[0].startswith("could not run: matcher 'lightglue' cannot match orb descriptors")


def test_the_table_is_the_file(compared: Comparison) -> None:
    table = compared.table
    with (compared.out / "compare.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(table) == 7
    assert list(lines[0]) == list(table.columns)
    for line, one in zip(lines, compared.rows, strict=True):
        assert line["configuration"] == one.configuration
        assert line["registered"] == ("" if one.registered is None else str(one.registered))
        assert line["remarks"] == "; ".join(one.remarks)
    first = table.iloc[0]
    sift = compared.rows[0]
    assert first["repeatability"] == sift.overall.repeatability  # type: ignore[union-attr]
    assert first["matching_score_light"] == sift.repeated["light"].matching_score
    assert first["seconds"] == pytest.approx(sum(first[f"seconds_{stage}"] for stage in sift.seconds))
    assert pd.isna(table.iloc[-1]["mAA"])


def test_the_json_says_what_was_compared(compared: Comparison, data: Path) -> None:
    content = json.loads((compared.out / "compare.json").read_text("utf-8"))
    assert content["input"] == str(data)
    assert list(content["configurations"]) == list(configs())
    assert content["configurations"]["sift"]["detector"]["max_keypoints"] == 1500
    assert content["repeatability"]["long_side"] == 160
    assert "pycolmap" in content["versions"]
    assert len(content["rows"]) == 7
    assert content["rows"][0]["repeated"]["light"]["repeatability"] == compared.rows[0].repeated["light"].repeatability


def test_it_is_printed(compared: Comparison) -> None:
    lines = str(compared).splitlines()
    assert len(lines) == 4
    assert lines[1].split()[:3] == ["sift", "9", "7"]
    assert lines[3].split()[:3] == ["orb+lightglue", "–", "–"]


def test_the_same_call_again_does_nothing_again(
    compared: Comparison, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(compared.out, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert len(before) == 4

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(compare_run, "measure", refuse)
    again = run(data, out)
    assert again.rows == compared.rows
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_cannot_be_measured_is_said(
    compared: Comparison, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(compared.out, out)
    for path in out.rglob("repeatability.json"):
        path.write_text("{")  # cut off

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(compare_run, "measure", fail)
    one = row(run(data, out), "sift", "plaza")
    assert one.solved
    assert one.repeated == {}
    assert one.overall is None
    assert one.remarks[-1] == "repeatability is not known: RuntimeError: out of memory"


def test_the_summary_adds_counts_and_averages_shares() -> None:
    dark, light, near = Repeated(0.2, 0.4, 0.6), Repeated(0.4, 0.8, 0.2), Repeated(0.1, 0.1, 0.1)
    rows = [
        Row("a", "x", 10, 8, 0.5, 100.0, 20, 50.0, 40.0, {"light": dark}, {"detect": 1.0}),
        Row("a", "y", 6, None, None, remarks=("could not be solved: why",)),
        Row("a", "z", 4, 4, 1.0, 300.0, 6, 150.0, 160.0, {"light": light, "scale": near}, {"detect": 2.0, "map": 3.0}),
        Row("b", None, remarks=("could not run: why",)),
    ]
    a, b = summarize(rows)
    assert (a.images, a.registered, a.verified_pairs) == (20, 12, 26)
    assert (a.accuracy, a.keypoints, a.inliers_mean, a.inliers_median) == (0.75, 200, 100, 100)
    assert a.repeated["light"] == Repeated(pytest.approx(0.3), pytest.approx(0.6), pytest.approx(0.4))
    assert a.repeated["scale"] == near
    assert a.seconds == {"detect": 3.0, "map": 3.0}
    assert a.remarks == ("y: could not be solved: why",)
    assert b == rows[3]
    assert summarize([]) == []


def test_scenes_can_be_chosen(data: Path, tmp_path: Path) -> None:
    done = compare_run.compare(data, {"sift": quick("sift")}, tmp_path / "out", scenes=["bare"], repeatability=QUICK)
    assert [one.scene for one in done.rows] == ["bare"]
    assert done.rows[0].accuracy is None
    with (tmp_path / "out/sift/submission.csv").open() as file:
        assert len(file.readlines()) == 2


class TestNames:
    def test_presets_and_pairs(self) -> None:
        found = configurations(["sift", "akaze+nearest", "none+loftr"])
        assert list(found) == ["sift", "akaze+nearest", "none+loftr"]
        assert found["sift"] == preset("sift")
        akaze = found["akaze+nearest"]
        assert (akaze.detector.name, akaze.matcher.name) == ("akaze", "nearest")
        assert akaze.mapping == preset("sift").mapping
        assert found["none+loftr"].feature_pipelines[0].detector.name == "none"

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [("shift", "sift"), ("orb", "orb+nearest"), ("alike+nearest", "aliked"), ("orb+nearset", "nearest")],
    )
    def test_an_unknown_one_gets_the_nearest(self, name: str, nearest: str) -> None:
        with pytest.raises(KitError, match=f"did you mean '{nearest.replace('+', '.')}'"):
            configurations([name])

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a"])
    def test_one_that_is_no_folder_is_refused(self, data: Path, tmp_path: Path, name: str) -> None:
        with pytest.raises(KitError, match="cannot be the name of a folder"):
            compare_run.compare(data, {name: preset("sift")}, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_none_is_refused(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(KitError, match="nothing to compare"):
            compare_run.compare(data, {}, tmp_path)

    def test_an_unknown_scene_gets_the_nearest(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(KitError, match="did you mean 'plaza'"):
            compare_run.compare(data, {"sift": preset("sift")}, tmp_path, scenes=["plazza"])


def test_a_truth_that_cannot_be_read_is_found_out_before_the_work(data: Path, tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"there is no file .*t\.csv"):
        compare_run.compare(data, configs(), tmp_path / "out", truth=tmp_path / "t.csv")
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(KitError, match=r"t\.json must hold an object"):
        compare_run.compare(data, configs(), tmp_path / "out", thresholds=tmp_path / "t.json")
    assert not (tmp_path / "out").exists()


class TestCommand:
    def test_it_compares(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        names = "orb+nearest, orb+lightglue"
        out = tmp_path / "out"
        assert main(["compare", str(data), "--presets", names, "--scenes", "bare", "--out", str(out)]) == 0
        said = capsys.readouterr()
        assert "orb+lightglue: could not run: matcher 'lightglue'" in said.err
        assert "orb+nearest, bare: no model came out" in said.err
        assert f"wrote {out / 'compare.html'}" in said.out
        assert (out / "compare.csv").is_file()

    def test_nothing_solved_is_a_failure(self, data: Path, tmp_path: Path) -> None:
        command = ["compare", str(data), "--presets", "orb+lightglue", "--out", str(tmp_path / "out")]
        assert main(command) == 1

    def test_an_unknown_name_is_wrong_use(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["compare", str(data), "--presets", "shift", "--out", str(tmp_path / "out")]) == 2
        assert "did you mean 'sift'" in capsys.readouterr().err
