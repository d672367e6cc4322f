"""The command line, as a person types it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from imc_kit.cli.main import COMMANDS, main, parse
from imc_kit.cli.solve import Solve
from imc_kit.config import PRESETS, Config
from imc_kit.data.scenes import Task
from imc_kit.detectors import DETECTORS
from imc_kit.detectors.opencv import OrbConfig
from imc_kit.matchers import MATCHERS
from imc_kit.pipeline import run as pipeline_run
from imc_kit.pipeline.results import Run, SceneResult
from imc_kit.retrieval import DESCRIPTORS


@pytest.fixture
def solving(tmp_path: Path) -> list[str]:
    """A command that solves a folder with one file that is not a photo."""
    (tmp_path / "photos").mkdir()
    shutil.copy(Path(__file__), tmp_path / "photos/a.jpg")
    return ["solve", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]


def solve_options(*arguments: str) -> Solve:
    command = parse(["solve", "photos", "--out", "out", *arguments])
    assert isinstance(command, Solve)
    return command


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", text))


def test_the_help_fits_a_screen_and_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(capsys, "solve", "--help").splitlines()
    assert len(lines) <= 65
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert text == help_of(capsys, "solve", "--preset", "small", "-h", "--quiet").rstrip("\n")
    assert set(re.findall(r"[\w]+", text)) >= {*PRESETS, *DETECTORS, *MATCHERS, *DESCRIPTORS}
    flat = {entry.name for entry in fields(Config) if not is_dataclass(getattr(Config(), entry.name))}
    assert options_in(text) >= {"--" + name.replace("_", "-") for name in flat - {"also", "mapping"}}
    for default in (Config().min_matches, Config().enough, Config().trusted, Config().seed):
        assert f"default: {default})" in text
    for example in re.findall(r"^  imc-kit (solve .+)", text, re.MULTILINE):
        parse(example.split())


def test_every_option_of_the_short_help_exists(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "solve", "--help").split("more help:")[0]
    switches = {"--score", "--report", "--upright", "--no-upright", "--quiet", "--verbose", "--cameras.fixed"}
    names = {"--split": "train", "--preset": "small", "--detector": "orb", "--matcher": "adalam"}
    names |= {"--add": "orb+nearest", "--descriptors": "vlad"}
    typed = [[option, names.get(option, "1")] for option in sorted(options_in(text) - switches - {"--out"})]
    solve_options(*switches, *(word for option in typed for word in option))


def test_the_help_of_a_stage_is_that_of_what_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--detector.contrast-threshold" in help_of(capsys, "solve", "--help", "detector")
    orb = help_of(capsys, "solve", "--detector", "orb", "--help", "detector")
    assert "--detector.fast-threshold" in orb
    assert "--matcher" not in orb
    mapping = help_of(capsys, "solve", "--help", "mapping")
    assert mapping.count("min-model-size") == 1  # once for all runs
    assert "--mapping.N.min-model-size" in mapping
    also = help_of(capsys, "solve", "--add", "orb+nearest", "--descriptors", "vlad", "--help", "also")
    assert "--also.0.detector.fast-threshold" in also
    assert main(["solve", "--help", "mappin"]) == 2
    assert "did you mean 'mapping'" in capsys.readouterr().err


def test_the_whole_help_has_no_internals(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "solve", "--help-all")
    stages = {entry.name.replace("_", "-") for entry in fields(Config) if is_dataclass(getattr(Config(), entry.name))}
    assert {option[2:].split(".")[0] for option in options_in(text) if "." in option} == {*stages, "mapping"}
    assert "KitError" not in text


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"solve"}))
def test_the_help_of_other_commands_is_for_people_who_know_no_python(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(help_of(capsys, *command.split(), "--help").split())
    assert "--quiet" in text
    assert re.findall(r"KitError|Raises|\w+_\w+\(", text) == []


def test_the_list_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["weights"], ["weights", "--help"]):
        text = help_of(capsys, *arguments)
        assert all(f"  {command}  " in text for command in COMMANDS)
    assert max(map(len, text.splitlines())) <= 105
    assert re.fullmatch(r"imc-kit \d+\.\d+\.\d+\n", help_of(capsys, "--version"))


def test_options_of_stages_have_the_types_of_their_fields() -> None:
    config = solve_options(
        *("--detector", "orb", "--detector.max-keypoints", "4000", "--detector.long_side", "None"),
        *("--matcher.cells", "None", "--add", "sift+nearest", "--also.0.detector.no-root"),
        *("--descriptors", "vlad", "--pairs.descriptors.0.size", "64", "--masks.folder", "masks"),
        *("--upright", "--time-limit", "60", "--refinement.max-errors", "2", "1"),
        *("--mapping.2.options", "mapper.init_min_tri_angle", "8", "--mapping.1.mapper=incremental"),
    ).config
    assert config.detector == OrbConfig(max_keypoints=4000, long_side=None)
    assert getattr(config.matcher, "cells", 0) is None
    assert config.also[0].detector.root is False
    assert (config.pairs.method, config.pairs.descriptors[0].size) == ("similar", 64)
    assert config.masks.folder == Path("masks")
    assert (config.upright, config.time_limit, config.refinement.max_errors) == (True, 60.0, (2.0, 1.0))
    assert config.mapping[2].options == {"mapper.init_min_tri_angle": 8}
    assert config.mapping[1].mapper == "incremental"
    assert solve_options("--preset", "aliked", "--no-upright").config.upright is False


def test_lists_take_spaces_and_commas() -> None:
    names = ("church", "the lizard", "dioscuri")
    assert solve_options("--scenes", "church", "the lizard", "dioscuri").scenes == names
    assert solve_options("--scenes", "church,the lizard, dioscuri").scenes == names
    assert len(solve_options("--add", "sift+nearest,orb+nearest").config.also) == 2
    assert len(solve_options("--descriptors", "vlad,", "dinov2").config.pairs.descriptors) == 2


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["--preset", "shift"], "sift"),
        (["--detector", "alike"], "aliked"),
        (["--matcher", "nearset"], "nearest"),
        (["--descriptors", "vald"], "vlad"),
        (["--mapping.2.options", "mapper.init_max_eror", "2"], "mapper.init_max_error"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(
    solving: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], nearest: str
) -> None:
    assert main([*solving, *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("imc-kit: ")
    assert nearest in said


@pytest.mark.parametrize(
    "option", ["--threads 0", "--threads -2", "--time-limit 0", "--time-limit -5", "--masks.min-share nan"]
)
def test_a_senseless_number_is_refused_in_one_sentence(
    solving: list[str], capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main([*solving, *option.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("imc-kit: ")
    assert said.count("\n") == 1
    assert option.split()[0].split(".")[-1].strip("-").replace("-", "_") in said.replace("-", "_")


def test_a_misspelt_command_or_option_gets_the_nearest_known_one(capsys: pytest.CaptureFixture[str]) -> None:
    for typed, meant in (("wieghts list", "weights"), ("weights gte", "weights get"), ("slove", "solve")):
        assert main(typed.split()) == 2
        assert f"did you mean {meant!r}?" in capsys.readouterr().err
    for option, meant in (("--detector.max-keypoint", "--detector.max-keypoints"), ("--presett", "--preset")):
        with pytest.raises(SystemExit) as ended:
            main(["solve", "photos", "--out", "out", option, "5"])
        assert ended.value.code == 2
        assert f"{meant} " in capsys.readouterr().err


def test_a_missing_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_some_of_the_scenes(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Task] = []

    def solve(task: Task, out: Path, *_: Any, **__: Any) -> Run:
        asked.append(task)
        return Run(out / "submission.csv", {}, {"fern20": "not tried"})

    monkeypatch.setattr(pipeline_run, "solve", solve)
    command = ["solve", str(shared / "scenes"), "--out", str(tmp_path), "--scenes"]
    assert main([*command, "door12,fern20"]) == 1  # none could be solved
    (task,) = asked
    assert [scene.name for scene in task.scenes] == ["door12", "fern20"]
    assert {row.scene for row in task.rows} == {"door12", "fern20"}
    assert len(task.rows) == 32
    assert main([*command, "door21"]) == 2
    assert "door12" in capsys.readouterr().err
    assert len(asked) == 1
    images = tmp_path / "list.txt"
    names = sorted(task.scenes[0].images)[:3]
    images.write_text("\n".join(f"door12/{name}" for name in names))
    assert main([*command, "door12,fern20", "--images", str(images), "--score"]) == 1
    assert [(scene.name, sorted(scene.images)) for scene in asked[1].scenes] == [("door12", names)]
    assert len(asked[1].rows) == 3
    assert "the score counts the images that --images leaves out as lost" in asked[1].notes
    images.write_text("door12/none.jpg")
    assert main([*command, "door12", "--images", str(images)]) == 2
    assert "names 1 images that do not exist" in capsys.readouterr().err


def test_a_run_ends_with_what_it_found_and_what_to_do_next(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        "door12": SceneResult({}, [], {"images": 12, "registered": 11, "models": 1}, {"map": 50.0, "match": 3550.0}),
        "fern20": SceneResult({}, [], {"images": 20}, notes=[f"warning {number}" for number in range(5)]),
    }

    def solve(_: Any, out: Path, *__: Any, **___: Any) -> Run:
        return Run(out / "submission.csv", found, {"stairs8": "no image can be used"})

    monkeypatch.setattr(pipeline_run, "solve", solve)
    out = tmp_path / "my runs"
    assert main(["solve", str(shared / "scenes"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "scene   images  registered  models    time  warnings",
        "door12      12          11       1  60 min         0",
        "fern20      20           0       0     0 s         5",
        "fern20: warning 0",
        "fern20: warning 1",
        "fern20: warning 2",
        "fern20: 2 more warnings, in run.json",
        "stairs8 could not be solved: no image can be used",
        f"submission: {out}/submission.csv",
        f"models and COLMAP's logs: {out}/scenes; {out}/README.txt explains the files",
        f"next, to see what happened: imc-kit report '{out}'",
    ]


@pytest.mark.parametrize(
    ("written", "said"), [(True, "submission.csv is valid; run the same"), (False, "run the same")]
)
def test_ctrl_c_says_what_is_there(
    solving: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    written: bool,
    said: str,
) -> None:
    def stopped(*_: Any, **__: Any) -> Run:
        if written:
            (tmp_path / "out").mkdir()
            (tmp_path / "out/submission.csv").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline_run, "solve", stopped)
    assert main(solving) == 130
    assert capsys.readouterr().err == f"imc-kit: interrupted: {said} command to resume\n"


def test_ctrl_c_does_not_vouch_for_a_file_from_before(
    solving: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> Run:
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    (tmp_path / "out/submission.csv").write_text("of other photos")
    os.utime(tmp_path / "out/submission.csv", (0, 0))
    monkeypatch.setattr(pipeline_run, "solve", stopped)
    assert main(solving) == 130
    assert capsys.readouterr().err == "imc-kit: interrupted: run the same command to resume\n"


@pytest.mark.parametrize(
    "command", ["report out", "frames a.mp4 --out out", "weights list", "weights check", "compare photos --out out"]
)
def test_ctrl_c_in_any_command_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def stopped(_: Any) -> int:
        raise KeyboardInterrupt

    kind = COMMANDS[" ".join(command.split()[: 1 + command.startswith("weights")])]
    monkeypatch.setattr(kind, "run", stopped)
    assert main([*command.split(), *(["--presets", "sift"] if "compare" in command else [])]) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("imc-kit: interrupted: ")
    assert "same command" in line


def test_ctrl_c_in_a_command_that_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["score"], "run", stopped)
    assert main(["score", "a.csv", "b.csv"]) == 130
    assert capsys.readouterr().err == "imc-kit: interrupted: nothing was written; run the same command again\n"


def test_quiet_and_verbose(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []
    monkeypatch.setattr(COMMANDS["score"], "run", lambda _: levels.append(logging.getLogger("imc_kit").level) or 0)
    for option in (["--quiet"], [], ["--verbose"]):
        assert main(["score", "a.csv", "b.csv", *option]) == 0
    logging.getLogger("imc_kit").setLevel(logging.NOTSET)
    assert levels == [logging.WARNING, logging.INFO, logging.DEBUG]


@pytest.mark.parametrize(
    ("text", "seconds"), [("8.5h", 30600), ("90m", 5400), ("1h30min", 5400), ("45s", 45), ("7", 7)]
)
def test_a_time_limit_has_a_unit(text: str, seconds: float) -> None:
    for asked in (["--time-limit", text], [f"--time-limit={text}"]):
        command = parse(["solve", "photos", "--out", "out", "--detector", "ORB", *asked])
        assert isinstance(command, Solve)
        assert command.config.time_limit == seconds
        assert command.config.detector.name == "orb"


def test_a_time_limit_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("soon", "h", "-5", "1d", "nan"):
        assert main(["solve", "photos", "--out", "out", "--time-limit", text]) == 2
        assert f"--time-limit is a time such as 8.5h, 90m or 3600 (seconds), not {text!r}" in capsys.readouterr().err


def test_score_prints_json(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, thresholds = shared / "scenes/truth.csv", shared / "scenes/thresholds.json"
    assert main(["score", str(truth), str(truth), "--thresholds", str(thresholds), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["mean"] == 1
    assert set(said["scenes"]) == set(json.loads(thresholds.read_text()))


def test_score_refuses_wrong_thresholds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.json").write_text("[1, 2]")
    assert main(["score", "a.csv", "b.csv", "--thresholds", str(tmp_path / "t.json")]) == 2
    assert "a.csv" in capsys.readouterr().err
    table = tmp_path / "truth.csv"
    table.write_text("dataset,scene,image,rotation_matrix,translation_vector\nd,s,i,1;0;0;0;1;0;0;0;1,0;0;0\n")
    for asked, message in ((["--thresholds", str(tmp_path / "t.json")], "t.json"), ([], "--thresholds")):
        assert main(["score", str(table), str(table), *asked]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("form", ["json", "csv"])
def test_score_of_2025s_files(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    """The hosts' numbers, with their file of thresholds next to the truth."""
    folder = shared / "metric_cases_2025"
    for case in json.loads((folder / "expected.json").read_text()):
        place = tmp_path / case["case"]
        place.mkdir()
        (place / "train_labels.csv").write_bytes((folder / f"{case['case']}_truth.csv").read_bytes())
        limits = {scene: [0.0, 0.0, *distances[2:]] for scene, distances in case["thresholds"].items()}
        if form == "json":
            (place / "thresholds.json").write_text(json.dumps(limits))
        else:
            rows = [f"{','.join(scene.split('/'))},{';'.join(map(repr, each))}" for scene, each in limits.items()]
            (place / "train_thresholds.csv").write_text("\n".join(["dataset,scene,thresholds", *rows]))
        submission = folder / f"{case['case']}_submission.csv"
        assert main(["score", str(place / "train_labels.csv"), str(submission), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["mean"] == pytest.approx(case["score"], abs=1e-9)
        assert said["edition"] == "2025"
        assert str(place) in said["distances"]
