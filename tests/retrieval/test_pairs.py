"""Lists of pairs."""

from __future__ import annotations

import pytest

from imc_kit.retrieval import exhaustive


@pytest.mark.parametrize(("images", "pairs"), [([], []), (["a"], []), (["b", "a"], [("b", "a")])])
def test_few_images(images: list[str], pairs: list[tuple[str, str]]) -> None:
    assert exhaustive(images) == pairs


def test_every_pair_once_in_the_images_order() -> None:
    images = [f"{number}.jpg" for number in (3, 1, 4, 15, 9, 2, 6)]
    pairs = exhaustive(images)
    assert pairs == [(first, second) for i, first in enumerate(images) for second in images[i + 1 :]]
    assert len({frozenset(pair) for pair in pairs}) == 7 * 6 // 2
