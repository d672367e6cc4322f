"""The commit that a kit is built from, and the programs that are run for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from imc_kit.errors import KitError
from imc_kit.kaggle import checkout


def test_the_commit_and_whether_the_sources_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "CHECKOUT", tmp_path)
    with pytest.raises(KitError, match="git failed: fatal: not a git repository"):
        checkout.commit()
    (tmp_path / "LICENSE").write_text("as you like")
    checkout.git("init", "--quiet")
    checkout.git("add", "LICENSE")
    checkout.git("-c", "user.name=me", "-c", "user.email=me@here", "commit", "--quiet", "--message", "first")
    commit = checkout.commit()
    assert commit == checkout.git("rev-parse", "HEAD")[:12]
    (tmp_path / "notes.txt").touch()  # which is not packed
    assert checkout.commit() == commit
    (tmp_path / "LICENSE").write_text("as I like")
    assert checkout.commit() == f"{commit}-modified"


def test_what_a_command_writes() -> None:
    assert checkout.run([sys.executable, "-c", "print('done')"], "it failed") == "done\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('out'); sys.exit('one\\ntwo\\n\\n  three\\nfour')", "it failed: two three four"),
        ("print('out'); raise SystemExit(1)", "it failed: out"),
        ("raise SystemExit(3)", "it failed: exit status 3"),
    ],
)
def test_a_failure_is_told_in_the_commands_last_words(code: str, said: str) -> None:
    with pytest.raises(KitError) as caught:
        checkout.run([sys.executable, "-c", code], "it failed")
    assert str(caught.value) == said
