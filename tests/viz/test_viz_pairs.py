"""Figures of pairs, against planted structure."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from figures import trace
from imc_kit.viz import block_order, draw_graph, draw_matrix
from imc_kit.viz.palette import OTHER_MODEL, REGISTERED, UNREGISTERED

RNG = np.random.default_rng(0)
Counts = dict[tuple[str, str], int]


def shuffled(names: list[str]) -> list[str]:
    return [names[n] for n in RNG.permutation(len(names))]


def blocks(*sizes: int, inside: int = 200, between: int = 0) -> tuple[list[str], Counts]:
    names = [f"{group}-{n}" for group, size in enumerate(sizes) for n in range(size)]
    counts = {
        (a, b): inside + int(RNG.integers(50)) if a[0] == b[0] else between
        for number, a in enumerate(names)
        for b in names[number + 1 :]
    }
    return shuffled(names), {pair: count for pair, count in counts.items() if count}


class TestOrder:
    @pytest.mark.parametrize("between", [0, 2])
    def test_planted_blocks_come_out_whole(self, between: int) -> None:
        names, counts = blocks(5, 9, 3, between=between)
        groups = [name[0] for name in block_order(names, counts)]
        assert sum(a != b for a, b in itertools.pairwise(groups)) == 2

    def test_a_chain_of_overlapping_photographs_is_sorted(self) -> None:
        chain = [f"{n:02}" for n in range(30)]
        counts = {(chain[a], chain[b]): 1000 >> (b - a) for a in range(30) for b in range(a + 1, min(30, a + 5))}
        order = block_order(shuffled(chain), counts)
        assert order in (chain, chain[::-1])

    def test_every_image_once_whatever_there_is(self) -> None:
        assert block_order([], {}) == []
        assert block_order(["a"], {}) == ["a"]
        assert sorted(block_order(["a", "b", "c"], {})) == ["a", "b", "c"]
        assert sorted(block_order(["a", "b", "c"], {("c", "a"): 5, ("c", "unknown"): 9})) == ["a", "b", "c"]
        assert block_order(["a", "b", "c"], {("c", "a"): 5})[1] != "b"


class TestMatrix:
    def test_matches_above_inliers_below_the_diagonal_in_one_order(self) -> None:
        names, inliers = blocks(4, 3)
        matches = {(b, a): 3 * count for (a, b), count in inliers.items()}  # either way round
        figure = draw_matrix(names, matches, inliers)
        order = block_order(names, inliers)
        for name, counts, sign in (("matches", matches, 1), ("inliers", inliers, -1)):
            one = trace(figure, name)
            assert list(one.x) == list(one.y) == order
            for i, first in enumerate(order):
                for j, second in enumerate(order):
                    expected = counts.get((first, second), counts.get((second, first), 0)) if sign * (j - i) > 0 else 0
                    assert one.customdata[i][j] == expected
                    assert np.isnan(one.z[i][j]) if expected == 0 else np.isclose(one.z[i][j], np.log10(expected))
        scale = figure.layout.coloraxis
        values = [*matches.values(), *inliers.values()]
        assert (scale.cmin, scale.cmax) == pytest.approx((np.log10(min(values)), np.log10(max(values))))
        assert figure.layout.xaxis.title.text == "7 images"
        assert scale.colorbar.title.text == "matches"

    def test_of_many_images_some_are_shown_and_it_is_said(self) -> None:
        names, counts = blocks(40, 20)
        figure = draw_matrix(names, counts, counts, most=12)
        assert len(trace(figure, "inliers").x) == 12
        assert figure.layout.xaxis.title.text == "12 of 60 images"

    @pytest.mark.parametrize("names", [[], ["a"], ["a", "b"]])
    def test_no_matches(self, names: list[str]) -> None:
        figure = draw_matrix(names, {}, {})
        assert np.asarray(trace(figure, "matches").customdata).sum() == 0
        assert figure.to_json()
        assert ("no images" in figure.to_json()) == (not names)

    def test_names_are_no_markup(self) -> None:
        figure = draw_matrix(["<b>a", "&amp;"], {}, {})
        assert set(trace(figure, "matches").x) == {"&lt;b&gt;a", "&amp;amp;"}


class TestGraph:
    def test_dots_by_state_and_lines_by_strength(self) -> None:
        names = ["a", "b", "c", "d", "e"]
        inliers = {("a", "b"): 150, ("b", "c"): 50, ("c", "a"): 20, ("d", "a"): 30, ("x", "a"): 99}
        figure = draw_graph(names, inliers, {"a": 0, "b": 0, "c": 1, "e": None})
        registered, other, out = (trace(figure, kind) for kind in ("registered", "in a smaller", "unregistered"))
        assert [len(one.x) for one in (registered, other, out)] == [2, 1, 2]
        assert [one.marker.color for one in (registered, other, out)] == [REGISTERED, OTHER_MODEL, UNREGISTERED]
        assert len({one.marker.symbol for one in (registered, other, out)}) == 3
        assert registered.name == "registered (2)"
        assert next(iter(registered.hovertext)) == "a<br>verified pairs: 3<br>inliers: 200"
        edges = {one.name: np.isnan(one.x).sum() for one in figure.data if one.mode == "lines"}
        assert edges == {
            "fewer than 30 inliers (1 pairs)": 1,
            "30 to 100 inliers (2 pairs)": 2,
            "100 and more inliers (1 pairs)": 1,
        }

    def test_a_chain_is_laid_out_as_one(self) -> None:
        names = [f"{n:02}" for n in range(12)]
        figure = draw_graph(names, dict.fromkeys(itertools.pairwise(names), 100), dict.fromkeys(names, 0))
        places = np.stack([figure.data[-1].x, figure.data[-1].y], axis=1)
        apart = np.linalg.norm(places[:, None] - places, axis=-1)
        steps = np.abs(np.subtract.outer(np.arange(12), np.arange(12)))
        assert np.corrcoef(apart.ravel(), steps.ravel())[0, 1] > 0.98

    def test_groups_without_a_match_lie_apart(self) -> None:
        names, counts = blocks(6, 5)
        figure = draw_graph(names, counts, dict.fromkeys(names, 0))
        places = dict(zip(names, zip(figure.data[-1].x, figure.data[-1].y, strict=True), strict=True))
        inside = [np.linalg.norm(np.subtract(places[a], places[b])) for a, b in counts]
        across = [np.linalg.norm(np.subtract(places[a], places[b])) for a in names for b in names if a[0] < b[0]]
        assert max(inside) < min(across)

    @pytest.mark.parametrize("names", [[], ["a"], ["a", "b", "c"]])
    def test_no_pairs(self, names: list[str]) -> None:
        figure = draw_graph(names, {}, {})
        assert [one.name for one in figure.data] == ([f"unregistered ({len(names)})"] if names else [])
        if names:
            places = np.stack([figure.data[0].x, figure.data[0].y], axis=1)
            assert np.isfinite(places).all()
            assert len(np.unique(places.round(2), axis=0)) == len(names)
        assert ("no images" in figure.to_json()) == (not names)
