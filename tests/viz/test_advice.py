"""Warnings in plain words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imc_kit.cli.main import main
from imc_kit.viz.advice import Advice, advise

NAMES = ["a", "b", "c", "d"]
MANY = dict.fromkeys(NAMES, 3000)
LINKED = {("a", "b"): 100, ("b", "c"): 80, ("c", "d"): 40}
NOTES = [
    "COLMAP's incremental mapping was stopped at its time limit of 1800 s (its output is in colmap.log)",
    "COLMAP's geometric verification was stopped at its time limit of 3600 s (its output is in colmap.log)",
    "COLMAP's incremental mapping ended with killed after 12 s (its output is in colmap.log)",
    "cannot read the image x/y.jpg: the file is empty",
    "no model came out: the images share too few matches, so all get the same pose",
    "localisation of images was stopped at its time limit of 600 s (its output is in colmap.log)",
    "time ran out for the refinement of the model",
    "something else",
]
CASES = {
    "poor": advise([["a", "b", "c"]], NAMES, MANY | {"d": 20}, {}),
    "lonely": advise([["a", "b", "c"]], NAMES, MANY, {("a", "b"): 100, ("a", "d"): 14}),
    "linked": advise([["a", "b", "c"]], NAMES, MANY, LINKED),
    "nothing": advise([], NAMES, MANY, LINKED),
    "parts": advise([["a", "b", "c"], ["c", "d"]], NAMES, MANY, LINKED),
    "wrong": advise([NAMES], NAMES, MANY, LINKED, accuracy=0.25),
    "notes": advise([NAMES], NAMES, MANY, LINKED, NOTES),
    "separate": advise([["a", "b"], ["c"]], NAMES, MANY, LINKED, separate=True),
}


def test_a_scene_that_went_well_needs_no_words() -> None:
    assert advise([NAMES], NAMES, MANY, LINKED, accuracy=0.9) == []
    assert advise([], [], {}, {}) == []


@pytest.mark.parametrize(
    ("case", "what"),
    [
        ("poor", "1 image is not in the model: fewer than 500 keypoints"),
        ("lonely", "1 image is not in the model: no pair with 15 verified matches"),
        ("linked", "1 image is not in the model despite verified matches"),
        ("nothing", "There is no model despite verified matches"),
        ("parts", "The scene split into 2 models (of 3, 2 images); only the largest counts"),
        ("wrong", "Every image is in the model, but the mAA is 0.25"),
    ],
)
def test_what_went_wrong_is_said(case: str, what: str) -> None:
    assert what in [advice.what for advice in CASES[case]]
    assert all(advice.cause for advice in CASES[case])


def test_models_that_are_scenes_of_their_own_are_no_failure() -> None:
    (only,) = CASES["separate"]
    assert (only.what, only.which) == ("1 image is not in the model despite verified matches", "d")
    assert advise([["a", "b"], ["c", "d"]], NAMES, MANY, LINKED, separate=True) == []
    (low,) = advise([["a", "b"], ["c", "d"]], NAMES, MANY, LINKED, accuracy=0.2, separate=True)
    assert low.what == "Every image is in the model, but the score is 0.20"


def test_images_that_could_not_be_read_are_left_to_the_pipelines_own_note() -> None:
    known = {name: 3000 for name in NAMES if name != "d"}
    assert advise([["a", "b", "c"]], NAMES, known, {}, NOTES[3:4]) == [
        Advice(NOTES[3], "the file is damaged or not a photo")
    ]


def test_many_images_are_not_all_named() -> None:
    names = [f"{n}.jpg" for n in range(100)]
    (advice,) = advise([["0.jpg"]], names, dict.fromkeys(names, 3000), {})
    assert advice.what.startswith("99 images are not in the model")
    assert advice.which == "1.jpg, 2.jpg, 3.jpg and 96 more"
    sizes = [[name] for name in names[:9]]
    assert "9 models (of 1, 1, 1, 1, … images)" in advise(sizes, names, {}, {})[-1].what


def test_a_step_that_was_stopped_is_given_more_time() -> None:
    options = [advice.option for advice in CASES["notes"] if "time-limit" in advice.option]
    assert [option.split()[0] for option in options] == [
        "--mapping.2.time-limit",
        "--verification.time-limit",
        "--localisation.time-limit",
    ]


@pytest.mark.parametrize("option", sorted({advice.option for case in CASES.values() for advice in case} - {""}))
def test_every_option_that_is_named_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    if option == "--preset aliked":
        pytest.importorskip("kornia")
    (tmp_path / "photos").mkdir()
    shutil.copy(Path(__file__), tmp_path / "photos/a.jpg")
    assert main(["solve", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), *option.split()]) in (1, 2)
    said = capsys.readouterr().err
    # It gets as far as the photograph, or as the weights, which may be elsewhere.
    assert "none of the 1 images can be used" in said or "weights" in said, said
