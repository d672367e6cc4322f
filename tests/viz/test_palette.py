"""Colours that stay apart for the colour-blind, judged by a model of colour vision and CIE's distance of colours."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from imc_kit.errors import KitError
from imc_kit.viz import palette

# Machado, Oliveira and Fernandes, 2009: what is left of linear RGB with one kind of cone lacking altogether.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TOGETHER = [
    (palette.INLIER, palette.OUTLIER),
    (palette.REGISTERED, palette.UNREGISTERED, palette.OTHER_MODEL),
    (palette.REGISTERED, palette.TRUTH),
    palette.SERIES,
    tuple(palette.STAGES.values()),
]


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ np.clip(light, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colours", TOGETHER)
def test_what_stands_together_can_be_told_apart(vision: str, colours: tuple[str, ...]) -> None:
    for one, other in combinations(colours, 2):
        apart = np.linalg.norm(lab(VISION[vision] @ linear(one)) - lab(VISION[vision] @ linear(other)))
        assert apart > 15, (one, other, apart)  # 2.3 can just be told apart side by side


@pytest.mark.parametrize("background", ["#ffffff", "#15181c"])
def test_lines_and_marks_stand_out_from_the_page_light_or_dark(background: str) -> None:
    def luminance(colour: str) -> float:
        return float(np.array([0.2126, 0.7152, 0.0722]) @ linear(colour))

    for colour in (palette.REGISTERED, palette.UNREGISTERED, palette.OTHER_MODEL, palette.TRUTH, palette.NEUTRAL):
        low, high = sorted([luminance(colour), luminance(background)])
        assert (high + 0.05) / (low + 0.05) > 2.9, colour  # WCAG asks 3 of graphics


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(KitError, match=r"imc-kit\[viz\].*no_such_module"):
        palette.package("no_such_module")
