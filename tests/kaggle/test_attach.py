"""What a notebook finds, and what it says when something is not as it should be."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from imc_kit import kaggle
from imc_kit.errors import KitError
from kits import flip, one_sentence, write_competition, write_kit


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    monkeypatch.setenv("IMC_KIT_WEIGHTS", "/mine")
    for name in ("IMC_KIT_INPUT", "KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_IS_COMPETITION_RERUN"):
        monkeypatch.delenv(name, raising=False)


def kit_in(root: Path) -> Path:
    (lock,) = root.rglob("imc_kit.lock")
    return lock.parent


def test_both_mount_forms(attached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMC_KIT_INPUT", str(attached))
    session = kaggle.attach()
    assert session.kit == kit_in(attached)
    assert (session.competition / "sample_submission.csv").is_file()
    assert (session.version, session.preset, session.run_type) == ("9.9", "sift", "local")
    assert os.environ["IMC_KIT_WEIGHTS"] == f"{session.kit / 'weights'}{os.pathsep}/mine"
    assert str(session.kit) in str(session)


@pytest.mark.parametrize(
    ("run", "rerun", "kind"),
    [
        ("Interactive", None, "interactive"),
        ("Batch", None, "batch"),
        ("Batch", "", "batch"),
        ("Batch", "1", "rerun"),
        ("Batch", "True", "rerun"),
        ("Batch", "False", "batch"),
        (None, None, "local"),
        ("Something new", None, "local"),
    ],
)
def test_kinds_of_run(monkeypatch: pytest.MonkeyPatch, run: str | None, rerun: str | None, kind: str) -> None:
    if run is not None:
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", run)
    if rerun is not None:
        monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", rerun)
    assert kaggle.run_type() == kind


def test_no_kit(attached: Path) -> None:
    shutil.rmtree(kit_in(attached))
    with pytest.raises(KitError, match=r"no kit is attached: .* holds .*; add the dataset") as caught:
        kaggle.attach(attached)
    one_sentence(caught.value)


def test_no_input_root(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="there is no folder") as caught:
        kaggle.attach(tmp_path / "nowhere")
    one_sentence(caught.value)


def test_two_kits(attached: Path) -> None:
    write_kit(attached / "other")
    with pytest.raises(KitError, match=r"more than one kit is attached: .*other.*; remove all but one") as caught:
        kaggle.attach(attached)
    assert str(kit_in(attached / "other")) in one_sentence(caught.value)


def test_no_competition(attached: Path) -> None:
    (competition,) = attached.rglob("sample_submission.csv")
    shutil.rmtree(competition.parent)
    with pytest.raises(KitError, match="no competition is attached") as caught:
        kaggle.attach(attached)
    one_sentence(caught.value)


def test_two_competitions_are_told_apart_by_name(attached: Path) -> None:
    other = write_competition(attached / "other")
    with pytest.raises(KitError, match="more than one competition") as caught:
        kaggle.attach(attached)
    one_sentence(caught.value)
    assert kaggle.attach(attached, competition="other").competition == other
    with pytest.raises(KitError, match="no competition called typo"):
        kaggle.attach(attached, competition="typo")


def test_missing_manifest(attached: Path) -> None:
    (kit_in(attached) / "manifest.json").unlink()
    with pytest.raises(KitError, match=r"has no manifest\.json: its upload was not complete") as caught:
        kaggle.attach(attached)
    one_sentence(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "imc-kit 0"}', "\0"])
def test_broken_manifest(attached: Path, content: str) -> None:
    (kit_in(attached) / "manifest.json").write_text(content)
    with pytest.raises(KitError, match=r"manifest\.json .*upload") as caught:
        kaggle.attach(attached)
    one_sentence(caught.value)


def test_flipped_byte_in_a_weight(attached: Path) -> None:
    weight = kit_in(attached) / "weights" / "toy.pth"
    flip(weight)
    with pytest.raises(KitError, match="is damaged: its SHA-256 differs") as caught:
        kaggle.attach(attached)
    assert str(weight) in one_sentence(caught.value)


def test_photographs_are_not_searched_for_kits(attached: Path) -> None:
    """A competition may hold a million files: nothing below its root is listed."""
    (competition,) = attached.rglob("sample_submission.csv")
    write_kit(competition.parent / "train" / "kit")
    assert kaggle.find_kit(attached) == kaggle.attach(attached).kit


def test_manifest_without_wheels_for_this_python_still_attaches(attached: Path) -> None:
    """What is installed already, runs."""
    path = kit_in(attached) / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"pythons": ["2.7"]}))
    assert kaggle.attach(attached).preset == "sift"
