"""`imc-kit weights`, as a person types it; and that nothing but its `get` uses the network."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from imc_kit import config
from imc_kit.cli import weights as cli_weights
from imc_kit.cli.main import main
from imc_kit.errors import KitError
from imc_kit.runtime import download, weights

CONTENT = b"tensors " * 50
TOY = weights.Weight(
    "toy.pth", "https://example.org/toy.pth", hashlib.sha256(CONTENT).hexdigest(), "MIT", True, ("toys",), len(CONTENT)
)
OTHER = b"other tensors"
KEPT = replace(
    TOY,
    name="kept.pth",
    sha256=hashlib.sha256(OTHER).hexdigest(),
    bytes=len(OTHER),
    license="for you alone",
    redistributable=False,
    used_by=("toys", "dolls"),
)
LOOSE = replace(TOY, name="loose.pth", sha256=weights.UNPINNED, bytes=0, used_by=("dolls",))


@pytest.fixture(autouse=True)
def known(tmp_path, monkeypatch):
    """A manifest of three files, and every place below `tmp_path`."""
    monkeypatch.setattr(weights, "manifest", lambda: {weight.name: weight for weight in (TOY, KEPT, LOOSE)})
    monkeypatch.setattr(cli_weights, "PRESETS", {})
    monkeypatch.setattr(weights, "_CHECKOUT", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("IMC_KIT_INPUT", str(tmp_path / "kaggle"))
    monkeypatch.setenv("IMC_KIT_WEIGHTS", str(tmp_path / "one"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def fetched(monkeypatch):
    """The files that were asked for, each with its folder; they arrive without a network, or fail with `KitError`."""
    asked = []

    def fetch(weight, folder):
        asked.append((weight.name, folder))
        if weight == KEPT and len(asked) == 1:
            raise KitError("no connection")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / weight.name).write_bytes(OTHER if weight == KEPT else CONTENT)
        return folder / weight.name

    monkeypatch.setattr(download, "fetch", fetch)
    return asked


def put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_list_is_a_table_of_all_files(tmp_path, capsys):
    put(tmp_path / "kaggle/x/kept.pth")
    path = put(tmp_path / "one/kept.pth")
    assert main(["weights", "list"]) == 0
    rows = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["name", "used by", "licence", "redistributable", "size", "here"],
        ["toy.pth", "toys", "MIT", "yes", "0.0 MB", "no"],
        ["kept.pth", "toys, dolls", "for you alone", "no", "0.0 MB", str(path)],
        ["loose.pth", "dolls", "MIT", "yes", "unknown", "no"],
    ]


def test_get_takes_names_of_files_and_of_what_uses_them(tmp_path, fetched):
    assert main(["weights", "get", "dolls", "toy.pth", "loose.pth", "--to", str(tmp_path / "new")]) == 0
    assert fetched == [(name, tmp_path / "new") for name in ("toy.pth", "kept.pth", "loose.pth")]


def test_get_goes_on_after_a_failure_and_skips_what_is_right(tmp_path, capsys, caplog, fetched):
    caplog.set_level(logging.WARNING, "imc_kit")
    here = put(tmp_path / "kaggle/deep/toy.pth")
    assert main(["weights", "get", "toys", "loose.pth"]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"{here} is here already", str(tmp_path / "one/loose.pth")]
    assert said.err.splitlines()[-1] == "imc-kit: no connection"
    assert "kept.pth: you may use it but not pass it on (licence: for you alone)" in caplog.text
    assert main(["weights", "get", "toys"]) == 0
    assert [name for name, _ in fetched] == ["kept.pth", "loose.pth", "kept.pth"]


def test_get_replaces_what_is_damaged_and_looks_only_where_it_was_told(tmp_path, fetched):
    put(tmp_path / "one/toy.pth", b"cut off")
    assert main(["weights", "get", "toy.pth"]) == 0
    assert main(["weights", "get", "toy.pth"]) == 0
    assert main(["weights", "get", "toy.pth", "--to", str(tmp_path / "two")]) == 0
    assert fetched == [("toy.pth", tmp_path / "one"), ("toy.pth", tmp_path / "two")]


@pytest.mark.parametrize(("name", "nearest"), [("tois", "toys"), ("keptpth", "kept.pth")])
def test_get_names_the_nearest(capsys, fetched, name, nearest):
    assert main(["weights", "get", "toy.pth", name]) == 2
    said = capsys.readouterr().err
    assert f"{name!r}: did you mean {nearest!r}?" in said
    assert said.count("\n") == 1
    assert fetched == []


def test_get_wants_a_name(capsys):
    assert main(["weights", "get"]) == 2
    assert "imc-kit weights list" in capsys.readouterr().err


def test_get_that_is_interrupted_says_how_to_go_on(capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "fetch", stop)
    assert main(["weights", "get", "toy.pth"]) == 130
    said = "complete files are kept; run the same command to get the others"
    assert capsys.readouterr().err == f"imc-kit: interrupted: {said}\n"


@pytest.mark.parametrize("options", [[], ["--to", "two"]])
def test_get_completes_a_preset(tmp_path, capsys, monkeypatch, fetched, options):
    class Config:
        def weight_files(self):
            return "loose.pth", "toy.pth"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "PRESETS", {"mine": Config(), "bare": config.Config()})
    folder = Path("two") if options else tmp_path / "one"
    assert main(["weights", "get", "--preset", "mine", *options]) == 0
    assert fetched == [("toy.pth", folder), ("loose.pth", folder)]
    assert main(["weights", "get", "kept.pth", "--preset", "mine", *options]) == 0
    assert fetched[2:] == [("kept.pth", folder)]
    assert f"{folder / 'toy.pth'} is here already" in capsys.readouterr().out
    assert main(["weights", "get", "--preset", "mien", *options]) == 2
    assert "did you mean 'mine'" in capsys.readouterr().err
    assert main(["weights", "get", "--preset", "bare"]) == 0
    assert "preset bare needs no weight files" in capsys.readouterr().out


def test_check_names_each_flaw(tmp_path, capsys):
    assert main(["weights", "check"]) == 1
    assert "no known weight file in" in capsys.readouterr().err
    good, loose = put(tmp_path / "one/toy.pth"), put(tmp_path / "one/loose.pth", b"unpinned")
    mine = put(tmp_path / "one/mine.PTH", b"retrained")
    put(tmp_path / "one/notes.txt", b"notes")
    assert main(["weights", "check", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{good} is right",
        f"{loose} has a known name, but its SHA-256 is not known",
        f"{mine} is no published file, by its name or by its content",
    ]
    cut, page = put(tmp_path / "weights/kept.pth", OTHER[:3]), put(tmp_path / "kaggle/a/loose.pth", b"<html>")
    assert main(["weights", "check"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"imc-kit: {cut} has 3 of 13 bytes: it is cut off, or another file",
        f"imc-kit: {page} is a web page that was saved instead",
    ]
    assert f"{good} is right" in said.out
    assert main(["weights", "check", str(tmp_path / "one")]) == 0


def test_check_knows_files_by_their_content(tmp_path, capsys):
    """Renamed by a browser, without a suffix, deep in an attached data set, and with the name of another file."""
    copy, bare = put(tmp_path / "one/toy (1).pth"), put(tmp_path / "one/blob", OTHER)
    deep, swapped = put(tmp_path / "kaggle/a/b/model.PT", OTHER), put(tmp_path / "two/kept.pth")
    assert main(["weights", "check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{bare} is kept.pth under another name: to use it, mv {bare} {tmp_path / 'one/kept.pth'}",
        f"{copy} is toy.pth under another name: to use it, mv '{copy}' {tmp_path / 'one/toy.pth'}",
        f"{deep} is kept.pth under another name: to use it, mv {deep} {tmp_path / 'kaggle/a/b/kept.pth'}",
    ]
    assert main(["weights", "check", str(tmp_path / "two")]) == 1  # what is looked for by this name is another file
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out == f"{swapped} is toy.pth under another name: to use it, mv {swapped} {tmp_path / 'two/toy.pth'}\n"
    put(tmp_path / "one/toy.pth")
    assert main(["weights", "check"]) == 0
    assert f"{copy} is toy.pth under another name\n" in capsys.readouterr().out


def test_check_says_what_presets_lack(tmp_path, capsys, monkeypatch):
    class Config:
        def __init__(self, *files):
            self.weight_files = lambda: files

    known = {"mine": Config("loose.pth", "toy.pth"), "yours": Config("kept.pth"), "bare": Config()}
    monkeypatch.setattr(config, "PRESETS", known)
    monkeypatch.setattr(cli_weights, "PRESETS", known)
    put(tmp_path / "one/kept.pth", OTHER)
    assert main(["weights", "check"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "preset mine lacks loose.pth, toy.pth: imc-kit weights get --preset mine",
        "preset yours has all its weight files",
    ]
    for name, status in (("mine", 1), ("yours", 0), ("bare", 0)):
        assert main(["weights", "check", "--preset", name]) == status
        assert re.findall(r"^preset (\w+)", capsys.readouterr().out, re.MULTILINE) == [name]
    folder = tmp_path / "my files"
    put(folder / "renamed", CONTENT)
    assert main(["weights", "check", str(folder), "--preset", "mine"]) == 1
    said = f"preset mine lacks loose.pth: imc-kit weights get --preset mine --to '{folder}'"
    assert capsys.readouterr().out.splitlines()[-1] == said
    put(folder / "loose.pth", b"unpinned")
    assert main(["weights", "check", str(folder), "--preset", "mine"]) == 1  # not found by that name yet
    assert "preset mine has all its weight files, once renamed" in capsys.readouterr().out
    assert main(["weights", "check", "--preset", "mien"]) == 2
    assert "did you mean 'mine'" in capsys.readouterr().err


def test_check_wants_a_folder(tmp_path, capsys):
    assert main(["weights", "check", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_the_documentation_lists_what_the_manifest_does(monkeypatch):
    monkeypatch.undo()
    rows = [
        f"| `{name}` | {' | '.join(others)} |" for name, *others in map(cli_weights.facts, weights.manifest().values())
    ]
    text = (Path(__file__).parents[2] / "docs/weights.md").read_text("utf-8")
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows


NO_NETWORK = """
import socket, sys
def refuse(*_, **__): raise AssertionError("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = socket.socket.bind = socket.getaddrinfo = refuse
socket.socket.sendto = socket.gethostbyname = refuse
from pathlib import Path
import imc_kit, imc_kit.cli.main, imc_kit.config, imc_kit.pipeline.run
from imc_kit import KitError
from imc_kit.runtime import weights
folder = Path(sys.argv[1])
weights.find("aliked-t16.pth", folder)
try: weights.find("loftr_outdoor.ckpt")
except KitError as error: assert "weights get" in str(error)
else: raise SystemExit("it is there?")
assert imc_kit.cli.main.main(["weights", "list"]) == 0
assert imc_kit.cli.main.main(["weights", "check", str(folder)]) == 0
assert imc_kit.cli.main.main(["weights", "get", "aliked-t16.pth", "--to", str(folder)]) == 0
assert not {"imc_kit.runtime.download", "pooch", "requests"} & set(sys.modules), "what can use the network was imported"
print("no network so far")
imc_kit.cli.main.main(["weights", "get", "loftr_outdoor.ckpt"])
"""


def test_nothing_but_a_download_opens_a_socket(shared, tmp_path):
    """The last line shows that the guard works."""
    environment = os.environ | {"IMC_KIT_WEIGHTS": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "")
    command = [sys.executable, "-c", NO_NETWORK, str(shared / "weights")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "no network so far" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("AssertionError: a socket was opened")
