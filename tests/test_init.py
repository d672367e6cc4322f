"""Importing the package is light, and what it names is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import imc_kit

HEAVY = ("torch", "kornia", "pycolmap", "cv2", "pandas", "h5py", "PIL", "matplotlib", "numba")


def test_import_loads_nothing_heavy() -> None:
    code = f"import sys, imc_kit; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_configuration_loads_neither_torch_nor_pycolmap_nor_numba() -> None:
    heavy = ("torch", "pycolmap", "numba")
    code = f"import sys, imc_kit; imc_kit.preset('aliked'); print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert len(imc_kit.__all__) == len(set(imc_kit.__all__))
    assert dir(imc_kit) == sorted(imc_kit.__all__)
    for name in imc_kit.__all__:
        found = getattr(imc_kit, name)
        assert name == "PRESETS" or found.__name__ == name
        assert getattr(imc_kit, name) is found


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from imc_kit import *", names)
    assert set(imc_kit.__all__) <= set(names)


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="sovle"):
        _ = imc_kit.sovle
