"""An environment to run notebooks in, on top of that of the tests."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import imc_kit
from imc_kit.kaggle import environments


def layered_python(folder: Path) -> Path:
    """A new environment with all packages of this one, and the source that is being tested; returns its interpreter.

    A layer of its own, so that nothing is put into the environment of the tests.
    """
    python = environments.fresh(Path(sys.executable), Path(sysconfig.get_path("purelib")), folder)
    source = str(Path(imc_kit.__file__).parents[1])
    (environments.site(folder) / "source.pth").write_text(f"import sys; sys.path.insert(0, {source!r})\n")
    return python
