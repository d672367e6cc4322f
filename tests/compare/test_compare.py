"""Configurations side by side: the numbers are those of the runs, and a failure costs only itself."""

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
from imc_kit.compare.rows import Row, of_seeds, summarize, verdicts
from imc_kit.compare.run import Comparison, configurations
from imc_kit.config import Config
from imc_kit.data.scenes import load
from imc_kit.data.tables import POSE_COLUMNS, format_pose
from imc_kit.matchers.nearest import NearestConfig
from views import ORBIT, views

VIEWS = 7
QUICK = RepeatabilityConfig(long_side=160, max_keypoints=200, photos=2, views=1)


def quick(name: str) -> Config:
    """With few keypoints, few wrong matches and one mapping run."""
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
    """A scene that is solved, one without texture, and one whose only photo is damaged."""
    root = tmp_path_factory.mktemp("data")
    for name in ("plaza", "bare", "broken"):
        (root / f"test/{name}/images").mkdir(parents=True)
    truth = []
    for number, pixels in enumerate(views(tmp_path_factory, range(VIEWS))):
        path = f"test/plaza/images/{number}.png"
        Image.fromarray(pixels).save(root / path)
        truth.append((path, "plaza", "plaza", *format_pose(ORBIT[number])))
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


def test_each_configuration_and_scene_has_a_row(compared: Comparison) -> None:
    expected = [(name, scene) for name in ("sift", "orb+nearest") for scene in ("plaza", "bare", "broken")]
    assert [(one.configuration, one.scene) for one in compared.rows] == [*expected, ("orb+lightglue", None)]


@pytest.mark.parametrize("name", ["sift", "orb+nearest"])
def test_the_numbers_are_those_of_the_run(compared: Comparison, data: Path, name: str) -> None:
    import pycolmap

    one = row(compared, name, "plaza")
    done = json.loads((compared.out / name / "run.json").read_text("utf-8"))["scenes"]["plaza"]
    assert (one.images, one.registered) == (VIEWS, done["counts"]["registered"])
    assert one.seconds == done["seconds"]
    assert one.total == pytest.approx(sum(done["seconds"].values()))
    (found,) = (compared.out / name / "scenes/plaza").glob("database.db")
    with pycolmap.Database.open(found) as opened:
        keypoints = [opened.num_keypoints_for_image(image.image_id) for image in opened.read_all_images()]
        inliers = [n for pair in opened.read_two_view_geometries()[1] if (n := len(pair.inlier_matches))]
    assert one.keypoints == np.mean(keypoints)
    assert (one.verified_pairs, one.inliers_mean) == (len(inliers), np.mean(inliers))
    assert one.inliers_median == np.median(inliers)
    thresholds = json.loads((data / "thresholds.json").read_text("utf-8"))
    score = metric.score(data / "truth.csv", compared.out / name / "submission.csv", thresholds)
    assert one.accuracy == score.scenes["plaza"].score
    assert one.accuracy > 0.8 or name != "sift"
    assert list(one.repeated) == list(CHANGES)
    assert one.overall is not None
    assert 0.2 < one.overall.repeatability < 1  # type: ignore[operator]


def test_failures_say_why_and_do_not_stop_the_rest(compared: Comparison) -> None:
    bare = row(compared, "sift", "bare")
    assert (bare.images, bare.registered, bare.keypoints, bare.verified_pairs) == (1, 0, 0, 0)
    assert (bare.inliers_mean, bare.accuracy) == (None, None)
    assert bare.overall == Repeated(*[pytest.approx(0, abs=0.3)] * 3)  # noise in the light is all there is to find
    assert "no model came out" in bare.remarks[0]
    broken = row(compared, "orb+nearest", "broken")
    assert (broken.solved, broken.images) == (False, 1)
    assert "not a JPEG" in broken.remarks[0]
    refused = row(compared, "orb+lightglue", None)
    assert refused == Row("orb+lightglue", None, remarks=refused.remarks)
    assert refused.remarks[0].startswith("could not run: matcher 'lightglue' cannot match orb descriptors")


def test_the_files_and_the_print_have_the_rows(compared: Comparison, data: Path) -> None:
    table, sift = compared.table, compared.rows[0]
    with (compared.out / "compare.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(table.columns)
    for line, one in zip(lines, compared.rows, strict=True):
        assert line["configuration"] == one.configuration
        assert line["registered"] == ("" if one.registered is None else str(one.registered))
        assert line["remarks"] == "; ".join(one.remarks)
    first = table.iloc[0]
    assert first["repeatability"] == sift.overall.repeatability  # type: ignore[union-attr]
    assert first["matching_score_light"] == sift.repeated["light"].matching_score
    assert first["seconds"] == pytest.approx(sum(first[f"seconds_{stage}"] for stage in sift.seconds))
    assert pd.isna(table.iloc[-1]["mAA"])

    content = json.loads((compared.out / "compare.json").read_text("utf-8"))
    assert content["input"] == str(data)
    assert list(content["configurations"]) == list(configs())
    assert content["configurations"]["sift"]["detector"]["max_keypoints"] == 1500
    assert content["repeatability"]["long_side"] == 160
    assert "pycolmap" in content["versions"]
    assert content["rows"][0]["repeated"]["light"]["repeatability"] == sift.repeated["light"].repeatability

    printed = str(compared).splitlines()
    assert len(printed) == 4
    assert printed[1].split()[:4] == ["sift", "9", "7", f"{sift.accuracy:.3f}"]
    assert printed[3].split()[:3] == ["orb+lightglue", "–", "–"]


def test_the_same_call_again_solves_nothing_again(
    compared: Comparison, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(compared.out, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(compare_run, "measure", fail)
    again = run(data, out)
    assert len(before) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    remark = "repeatability is not known: RuntimeError: out of memory"
    one, earlier = (row(comparison, "sift", "plaza") for comparison in (again, compared))
    assert one == replace(earlier, repeated={}, remarks=(*earlier.remarks, remark))


def test_an_unreadable_photo_costs_only_itself(data: Path, tmp_path: Path) -> None:
    scene = load(data).only("plaza").scenes[0]
    shutil.copytree(scene.root, tmp_path / "photos")
    broken = replace(scene, root=tmp_path / "photos")
    whole = compare_run._with_repeatability(Row("orb", "plaza", 7), broken, quick("orb+nearest"), QUICK)
    (tmp_path / "photos" / scene.images[2]).write_bytes(b"GIF89a")  # one of the two that are measured
    some = compare_run._with_repeatability(Row("orb", "plaza", 7), broken, quick("orb+nearest"), QUICK)
    assert list(some.repeated) == list(whole.repeated) == list(CHANGES)
    assert some.repeated != whole.repeated
    assert "repeatability is measured without a photo" in some.remarks[0]


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


def test_the_summary_of_seeds() -> None:
    """By scene too; measures of the first seed count for all, and what all seeds say is said once."""
    dark = Repeated(0.2, 0.4, 0.6)
    rows = [
        Row("a", "x", 10, 8, 0.5, repeated={"light": dark}, seconds={"map": 1.0}, remarks=("cut",)),
        Row("a", "y", 10, 6, 0.1, seconds={"map": 5.0}, remarks=("dark",)),
        Row("a", "x", 10, 10, 0.9, seconds={"map": 3.0}, seed=1, remarks=("cut",)),
        Row("a", "y", 10, 6, 0.1, seconds={"map": 5.0}, seed=1),
    ]
    x, y = summarize(rows, by_scene=True)
    assert (x.scene, x.images, x.registered, x.accuracy, x.total) == ("x", 10, 9, pytest.approx(0.7), 2)
    assert x.overall == dark
    assert (y.scene, y.accuracy, y.total) == ("y", pytest.approx(0.1), 5)
    (both,) = summarize(rows)
    assert both.remarks == ("x: cut", "y: dark (seed 0)")
    assert (both.total, of_seeds(rows, "a", lambda row: row.total)) == (7, [6, 8])


def test_names_are_presets_or_a_detector_with_a_matcher() -> None:
    found = configurations(["sift", "akaze+nearest", "none+loftr"])
    assert list(found) == ["sift", "akaze+nearest", "none+loftr"]
    assert found["sift"] == preset("sift")
    akaze = found["akaze+nearest"]
    assert (akaze.detector.name, akaze.matcher.name) == ("akaze", "nearest")
    assert akaze.mapping == preset("sift").mapping
    assert found["none+loftr"].feature_pipelines[0].detector.name == "none"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("shift", "sift"),
        ("orb", "orb+nearest"),
        ("none", "none+loftr"),
        ("alike+nearest", "aliked"),
        ("orb+nearset", "nearest"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(KitError, match=f"did you mean '{nearest.replace('+', '.')}'"):
        configurations([name])


def test_bad_arguments_are_refused_before_the_work(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sift = {"sift": preset("sift")}
    (tmp_path / "t.json").write_text("[]")
    for name in ("", ".", "..", "a/b", "/a"):
        with pytest.raises(KitError, match="cannot be the name of a folder"):
            compare_run.compare(data, {name: preset("sift")}, out)
    with pytest.raises(KitError, match="nothing to compare"):
        compare_run.compare(data, {}, out)
    with pytest.raises(KitError, match="did you mean 'plaza'"):
        compare_run.compare(data, sift, out, scenes=["plazza"])
    with pytest.raises(KitError, match=r"there is no file .*t\.csv"):
        compare_run.compare(data, sift, out, truth=tmp_path / "t.csv")
    with pytest.raises(KitError, match=r"t\.json must hold an object"):
        compare_run.compare(data, sift, out, truth=data / "truth.csv", thresholds=tmp_path / "t.json")
    with pytest.raises(KitError, match=r"t\.json need the true poses: give --truth"):
        compare_run.compare(data, sift, out, thresholds=tmp_path / "t.json")
    assert not out.exists()


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["compare", str(data), "--out", str(out), "--presets"]
    assert main([*command, "orb+nearest", "--scenes", "bare"]) == 0
    said = capsys.readouterr()
    assert "orb+nearest, bare: no model came out" in said.err
    assert f"wrote {out / 'compare.html'}" in said.out
    with (out / "orb+nearest/submission.csv").open() as file:
        assert len(file.readlines()) == 2  # the chosen scene alone
    assert main([*command, "orb+nearest", "--scenes", "bare", "broken"]) == 1  # one is not solved
    assert main([*command, "shift"]) == 2
    assert "did you mean 'sift'" in capsys.readouterr().err


def test_the_command_refuses_before_the_work(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", str(data), "--out", str(tmp_path / "out"), "--presets", "sift", "orb+lightglue"]
    assert main(command) == 2
    assert "nothing was compared, because of orb+lightglue: matcher 'lightglue'" in capsys.readouterr().err
    for given, message in (("detector.max_keypoint=5", "did you mean"), ("threads", "OPTION=VALUE")):
        assert main([*command[:-1], "--set", given]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_several_seeds_with_equal_budgets(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["compare", str(data), "--out", str(out), "--presets", "small", "orb+nearest", "--scenes", "plaza"]
    options = ["--set", "detector.max_keypoints=400", "detector.long-side=320", "--threads", "1", "--seeds", "2"]
    assert main([*command, *options, "--truth", str(data / "truth.csv")]) == 0
    said = capsys.readouterr().out
    assert " over seeds" in said.splitlines()[-2]
    told = json.loads((out / "compare.json").read_text())
    assert [(row["configuration"], row["seed"]) for row in told["rows"]] == [
        (name, seed) for name in ("small", "orb+nearest") for seed in (0, 1)
    ]
    assert all(0 < row["keypoints"] <= 400 for row in told["rows"])
    page = (out / "compare.html").read_text("utf-8")
    assert "Which differences count?" in page
    assert "The same pair, plaza: " in page
    for shown in ("over 2 seeds", "<code>detector.max_keypoints</code>", "<code>detector.name</code>", str(data)):
        assert shown in page
    assert "<code>detector.border</code>" not in page  # both have the same
    assert page.count("matches are inliers") == 4  # each configuration's picture, its text and its caption


def test_a_difference_counts_if_no_seed_contradicts_it() -> None:
    def rows(name: str, *accuracies: float) -> list[Row]:
        return [Row(name, "x", 10, 8, value, seed=seed) for seed, value in enumerate(accuracies)]

    both = [*rows("a", 0.5, 0.7), *rows("b", 0.6, 0.9)]
    assert verdicts(both) == ["b − a: +0.150, within the spread over seeds"]
    assert verdicts([*both, *rows("c", 0.1, 0.2)])[1:] == [
        "b − c: +0.600, more than the spread over seeds",
        "a − c: +0.450, more than the spread over seeds",
    ]
    assert verdicts([*rows("a", 0.5), *rows("b", 0.9)]) == []  # one seed each says nothing
    assert of_seeds(both, "a") == [0.5, 0.7]
    (summary,) = summarize(rows("a", 0.5, 0.7))
    assert (summary.images, summary.registered, summary.accuracy) == (10, 8, pytest.approx(0.6))
