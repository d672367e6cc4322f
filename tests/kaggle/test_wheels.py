"""The wheels of a kit: each is downloaded once, and the same sources give the same wheel."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from imc_kit.kaggle import locks, wheels
from kits import write_wheel

CHECKOUT = Path(__file__).parents[2]


def test_downloads_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete file in the cache is used; a broken one is fetched again and replaced in one step."""
    good = write_wheel(tmp_path / "there", "kit-toy")
    entry = locks.Locked("kit-toy", "1.0", (hashlib.sha256(good.read_bytes()).hexdigest(),))
    calls = []

    def pip(command: list[str], failure: str) -> str:
        calls.append(command)
        shutil.copy(good, command[command.index("--dest") + 1])
        return ""

    monkeypatch.setattr(wheels, "run", pip)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / good.name).write_bytes(good.read_bytes()[:100])
    for _ in range(2):
        assert wheels._fetch(entry, "3.12", cache).read_bytes() == good.read_bytes()
    assert len(calls) == 1
    assert [path.name for path in cache.iterdir()] == [good.name]
    assert {"--only-binary", "--require-hashes", "manylinux2014_x86_64", "manylinux_2_28_x86_64"} <= set(calls[0])


@pytest.mark.slow
def test_this_package_is_built_to_the_same_bytes(tmp_path: Path) -> None:
    """Also with other permissions for new files. Downloads setuptools once."""
    built = []
    for number, mask in enumerate((0o022, 0o077)):
        folder = tmp_path / str(number)
        folder.mkdir()
        before = os.umask(mask)
        try:
            built.append(wheels._build_own(folder, CHECKOUT / "build" / "kaggle"))
        finally:
            os.umask(before)
    assert built[0].read_bytes() == built[1].read_bytes()
    assert built[0].name.startswith("imc_kit-")
