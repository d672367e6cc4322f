"""Environments and jobs to run notebooks in."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import imc_kit
from imc_kit.kaggle import environments, rehearse
from imc_kit.kaggle.inside import Job
from imc_kit.kaggle.limits import Limits


def layered_python(folder: Path) -> Path:
    """A new environment with all packages of this one and the source that is tested; returns its interpreter.

    It is separate, so that nothing is installed into the environment of the tests.
    """
    python = environments.fresh(Path(sys.executable), Path(sysconfig.get_path("purelib")), folder)
    source = str(Path(imc_kit.__file__).parents[1])
    (environments.site(folder) / "source.pth").write_text(f"import sys; sys.path.insert(0, {source!r})\n")
    return python


def job(folder: Path, notebook: Path, python: Path, inputs: Mapping[str, Path], **limits: float) -> Job:
    """A job whose temporary files and results are in `folder`."""
    stage, results = folder / "stage", folder / "results"
    stage.mkdir(exist_ok=True)
    results.mkdir()
    return Job(notebook, dict(inputs), python, stage, results, Limits(**limits), 1800.0, rehearse.can_isolate())
