"""What a notebook finds, and what it says if something is wrong."""

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


def refused(root: Path, said: str) -> str:
    """Attaching fails with a message of one sentence, which is returned."""
    with pytest.raises(KitError, match=said) as caught:
        kaggle.attach(root)
    return one_sentence(caught.value)


@pytest.mark.parametrize("nested", [True, False])
def test_both_mount_forms(attached: Path, nested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not nested:
        for part in ("datasets/someone/imc-kit", "competitions/image-matching"):
            (attached / part).rename(attached / Path(part).name)
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


def test_nothing_is_attached(attached: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no folder")
    (competition,) = attached.rglob("sample_submission.csv")
    shutil.rmtree(competition.parent)
    refused(attached, r"no competition is attached: .* holds competitions, datasets; add the competition's data")
    shutil.rmtree(kit_in(attached))
    refused(attached, r"no kit is attached: .* holds .*; add the dataset that build_dataset\.py made")


def test_two_kits(attached: Path) -> None:
    other = write_kit(attached / "other")
    assert str(other) in refused(attached, r"more than one kit is attached: .*; remove all but one")


def test_two_competitions_are_told_apart_by_name(attached: Path) -> None:
    other = write_competition(attached / "other")
    refused(attached, "more than one competition is attached")
    assert kaggle.attach(attached, competition="other").competition == other
    with pytest.raises(KitError, match="no competition called typo is attached"):
        kaggle.attach(attached, competition="typo")


def test_missing_manifest(attached: Path) -> None:
    (kit_in(attached) / "manifest.json").unlink()
    refused(attached, r"has no manifest\.json: its upload was not complete")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "imc-kit 0"}', "\0"])
def test_broken_manifest(attached: Path, content: str) -> None:
    (kit_in(attached) / "manifest.json").write_text(content)
    refused(attached, r"manifest\.json .*upload")


def test_flipped_byte_in_a_weight(attached: Path) -> None:
    weight = kit_in(attached) / "weights" / "toy.pth"
    flip(weight)
    assert str(weight) in refused(attached, "is damaged: its SHA-256 differs")


def test_folders_of_images_are_not_searched_for_kits(attached: Path) -> None:
    """A competition may hold a million files: nothing below its root is listed."""
    (competition,) = attached.rglob("sample_submission.csv")
    write_kit(competition.parent / "train" / "kit")
    assert kaggle.find_kit(attached) == kaggle.attach(attached).kit


def test_manifest_without_wheels_for_this_python_still_attaches(attached: Path) -> None:
    """A kit that is already installed runs."""
    path = kit_in(attached) / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"pythons": ["2.7"]}))
    assert kaggle.attach(attached).preset == "sift"
