"""What the tests of the scores share."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from imc_kit.types import Float64


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def scenes(random: np.random.Generator) -> dict[str, dict[str, Float64 | None]]:
    """Of 8, 5 and 3 images."""
    return {
        "A": {f"a{i}": random.normal(size=3) for i in range(8)},
        "B": {f"b{i}": random.normal(size=3) for i in range(5)},
        "outliers": {f"o{i}": None for i in range(3)},
    }
