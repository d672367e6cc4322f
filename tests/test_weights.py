"""Where weight files are looked for, and which are refused."""

from __future__ import annotations

import hashlib
import os
import shutil

import pytest

from imc_kit import weights
from imc_kit.errors import KitError

NAME = "toy.pth"
CONTENT = b"not really a network " * 20


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A manifest of one file, which is nowhere yet, and every place below `tmp_path`."""
    toy = weights.Weight(NAME, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "MIT", "https://example.org/toy.pth")
    monkeypatch.setattr(weights, "manifest", lambda: {NAME: toy})
    monkeypatch.setattr(weights, "_CHECKOUT", tmp_path / "checkout")
    monkeypatch.setattr(weights, "_KAGGLE_INPUT", tmp_path / "kaggle")
    monkeypatch.setenv("IMC_KIT_WEIGHTS", os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").touch()


def put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_places_are_tried_in_order(tmp_path):
    """Each place is used when all those before it have nothing."""
    places = [
        tmp_path / "torch" / "hub" / "checkpoints" / NAME,
        tmp_path / "kaggle" / "datasets" / "someone" / "a set" / "deep" / NAME,
        tmp_path / "checkout" / "weights" / NAME,
        tmp_path / "two" / NAME,
        tmp_path / "one" / NAME,
    ]
    for place in places:
        put(place)
        assert weights.find(NAME) == place


def test_cache_of_torch_without_its_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = put(tmp_path / ".cache" / "torch" / "hub" / "checkpoints" / NAME)
    assert weights.find(NAME) == path


def test_explicit_file_or_folder_is_the_only_place(tmp_path):
    put(tmp_path / "one" / NAME)
    file = put(tmp_path / "mine" / "renamed.bin")
    assert weights.find(NAME, file) == file
    put(tmp_path / "mine" / NAME)
    assert weights.find(NAME, tmp_path / "mine") == tmp_path / "mine" / NAME
    with pytest.raises(KitError, match=r"toy\.pth is missing: looked in .*typo;"):
        weights.find(NAME, tmp_path / "typo")


def test_missing_says_what_where_and_whence(tmp_path):
    with pytest.raises(KitError) as caught:
        weights.find(NAME)
    message = str(caught.value)
    for part in (NAME, "one", "two", "checkout/weights", "kaggle", "torch/hub/checkpoints", "example.org", "MIT"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CONTENT[:-1], "has 419 of 420 bytes: it is cut off"),
        (b"", "has 0 of 420 bytes"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"<HTML>" + CONTENT, "is a web page"),
        (CONTENT[:-1] + b"?", "is not the published file"),
        (CONTENT + b"?", "is not the published file"),
    ],
)
def test_other_content_is_refused(tmp_path, content, reason):
    path = put(tmp_path / "mine.pth", content)
    with pytest.raises(KitError, match=reason) as caught:
        weights.find(NAME, path)
    assert str(path) in str(caught.value)


def test_broken_file_does_not_hide_a_good_one(tmp_path, caplog):
    put(tmp_path / "one" / NAME, CONTENT[:100])
    good = put(tmp_path / "kaggle" / "x" / NAME)
    assert weights.find(NAME) == good
    assert f"{tmp_path / 'one' / NAME} has 100 of 420 bytes" in caplog.text


def test_folders_named_like_the_file_are_passed_over(tmp_path):
    (tmp_path / "one" / NAME).mkdir(parents=True)
    (tmp_path / "kaggle" / NAME).mkdir(parents=True)
    good = put(tmp_path / "kaggle" / NAME / NAME)
    assert weights.find(NAME) == good


def test_unreadable_file_is_named(tmp_path, monkeypatch):
    def fail(*_):
        raise PermissionError(13, "Permission denied")

    path = put(tmp_path / "one" / NAME)
    monkeypatch.setattr(hashlib, "file_digest", fail)
    with pytest.raises(KitError, match="cannot be read") as caught:
        weights.find(NAME)
    assert str(path) in str(caught.value)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(KitError, match=r"did you mean 'toy\.pth'"):
        weights.find("toi.pth")


def test_the_manifest_describes_the_published_files(shared, monkeypatch, tmp_path):
    monkeypatch.undo()
    for name in ("aliked-t16.pth", "aliked-n16.pth", "aliked-n16rot.pth", "aliked-n32.pth"):
        weight = weights.manifest()[name]
        assert weights.find(name, shared / "weights") == shared / "weights" / name
        assert (shared / "weights" / name).stat().st_size == weight.bytes
        assert weight.url.startswith("https://")
        assert weight.url.endswith(name)
        shutil.copy(shared / "weights" / name, tmp_path)
        with (tmp_path / name).open("r+b") as file:
            file.seek(1000)
            file.write(b"x")
        with pytest.raises(KitError, match="SHA-256 differs"):
            weights.find(name, tmp_path)
