"""What a kit says of the commit that it was built from."""

from __future__ import annotations

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
