"""Which pairs are selected: against brute force, and for few, equal and hostile images."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest

from imc_kit.errors import KitError
from imc_kit.retrieval import pairs
from imc_kit.retrieval.aggregates import VladConfig
from imc_kit.retrieval.listed import read_pairs
from imc_kit.retrieval.nearby import nearby, neighbours
from imc_kit.retrieval.networks import DinoConfig
from imc_kit.retrieval.pairs import PairsConfig, exhaustive, nearest_first, select, sequential


def similar(images, descriptors, k, min_per_image=0, **options):
    return pairs.similar(images, descriptors, PairsConfig(k=k, min_per_image=min_per_image, **options))


def by_matches(images, counts, k, min_count=1, min_per_image=0, **options):
    config = PairsConfig(k=k, min_matches=min_count, min_per_image=min_per_image, **options)
    return pairs.by_matches(images, counts, config)


def names(count: int) -> list[str]:
    """In no order of their own."""
    return [f"{(7 * i) % 101}.jpg" for i in range(count)]


def vectors(count: int, dimension: int = 6, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def in_order(images: list[str], chosen: set[frozenset[str]]) -> list[tuple[str, str]]:
    return [pair for pair in combinations(images, 2) if frozenset(pair) in chosen]


def brute_similar(images, descriptors, k, min_similarity=-2.0, min_per_image=0):
    """As `similar` says, image by image."""
    chosen: set[frozenset[str]] = set()
    for matrix in descriptors:
        for i, image in enumerate(images):
            order = sorted((j for j in range(len(images)) if j != i), key=lambda j: (-float(matrix[i] @ matrix[j]), j))
            for rank, j in enumerate(order[:k]):
                if rank < min_per_image or matrix[i] @ matrix[j] >= min_similarity:
                    chosen.add(frozenset((image, images[j])))
    return in_order(images, chosen)


@pytest.mark.parametrize(("images", "expected"), [([], []), (["a"], []), (["b", "a"], [("b", "a")])])
def test_few_images(images, expected):
    matrix = vectors(len(images))
    assert exhaustive(images) == expected
    assert similar(images, [matrix], 3) == expected
    assert similar(images, [matrix, matrix], 3, min_per_image=2) == expected
    assert sequential(images, 3) == expected
    assert by_matches(images, dict.fromkeys(expected, 5), 3) == expected
    for method in ("exhaustive", "similar", "sequential"):
        config = PairsConfig(method, exhaustive_up_to=0)
        assert select(images, config, lambda _: matrix) == expected


def test_exhaustive_is_every_pair_once_in_the_images_order():
    images = names(7)
    found = exhaustive(images)
    assert found == [(first, second) for i, first in enumerate(images) for second in images[i + 1 :]]
    assert len({frozenset(pair) for pair in found}) == 7 * 6 // 2


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("k", "options"),
    [(1, {}), (4, {}), (100, {}), (6, {"min_similarity": 0.6}), (6, {"min_similarity": 0.99, "min_per_image": 2})],
)
@pytest.mark.parametrize("count", [1, 3])
def test_similar_is_what_brute_force_gives(monkeypatch, seed, k, options, count):
    monkeypatch.setattr(pairs, "_BLOCK", 100)  # several blocks of rows
    images = names(23)
    descriptors = [vectors(23, 4 + n, 10 * seed + n) for n in range(count)]
    expected = brute_similar(images, descriptors, k, **options)
    assert similar(images, descriptors, k, **options) == expected


def test_an_image_is_paired_with_those_that_choose_it():
    """The last is nobody's first choice, and still has its own."""
    line = np.array([0.0, 0.1, 0.3, 0.7])
    matrix = np.stack([np.cos(line), np.sin(line)], 1).astype(np.float32)
    assert similar(list("abcd"), [matrix], 1) == [("a", "b"), ("b", "c"), ("c", "d")]


def test_every_image_keeps_its_minimum():
    matrix = vectors(40)
    images = names(40)
    found = similar(images, [matrix], 10, min_similarity=1.0, min_per_image=2)
    for i, image in enumerate(images):
        best = [images[j] for j in np.argsort(-(matrix @ matrix[i])) if j != i][:2]
        assert all((image, other) in found or (other, image) in found for other in best)


def test_equal_images_choose_the_first():
    matrix = np.tile(vectors(1), (6, 1))
    images = list("abcdef")
    assert similar(images, [matrix], 1) == [("a", other) for other in "bcdef"]
    assert similar(images, [matrix], 5) == exhaustive(images)
    nothing = np.zeros((6, 0), np.float32)  # what aggregates give where there are no features at all
    assert similar(images, [nothing], 1) == [("a", other) for other in "bcdef"]


def test_bad_descriptors_are_refused():
    matrix = vectors(3)
    matrix[1, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        similar(list("abc"), [vectors(3), matrix], 1)
    with pytest.raises(ValueError, match=r"\[4, D\]"):
        similar(list("abcd"), [vectors(3)], 1)
    with pytest.raises(ValueError, match=r"\[3, D\]"):
        similar(list("abc"), [vectors(3)[0]], 1)


def test_thousands_of_images_are_no_matter():
    images = [str(i) for i in range(3000)]
    matrix = vectors(3000, 16)
    found = similar(images, [matrix], 20, min_per_image=3)
    assert 30_000 < len(found) == len(set(found)) <= 60_000
    assert len(sequential(images, 10)) == 3000 * 10 - 55


# By the matches of a first, quick matching.


def brute_by_matches(images, counts, k, min_count=1, min_per_image=0):
    chosen = set()
    for i, image in enumerate(images):
        mine = []
        for j, other in enumerate(images):
            count = max(counts.get((image, other), 0), counts.get((other, image), 0))
            if count > 0 and i != j:
                mine.append((-count, j, other))
        for rank, (count, _, other) in enumerate(sorted(mine)[:k]):
            if rank < min_per_image or -count >= min_count:
                chosen.add(frozenset((image, other)))
    return in_order(images, chosen)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("k", "options"), [(2, {}), (5, {"min_count": 9}), (5, {"min_count": 11, "min_per_image": 1})])
def test_by_matches_is_what_brute_force_gives(seed, k, options):
    random = np.random.default_rng(seed)
    images = names(15)
    candidates = [pair if random.random() < 0.5 else pair[::-1] for pair in combinations(images, 2)]
    counts = {pair: int(random.integers(0, 12)) for pair in candidates if random.random() < 0.6}
    assert by_matches(images, counts, k, **options) == brute_by_matches(images, counts, k, **options)


def test_by_matches_leaves_out_pairs_without_matches():
    counts = {("a", "b"): 50, ("c", "a"): 20, ("c", "b"): 0, ("d", "c"): 1}
    assert by_matches("abcd", counts, 3) == [("a", "b"), ("a", "c"), ("c", "d")]
    assert by_matches("abcd", counts, 3, min_count=20) == [("a", "b"), ("a", "c")]
    assert by_matches("abcd", counts, 3, min_count=60, min_per_image=1) == [("a", "b"), ("a", "c"), ("c", "d")]
    assert by_matches("abcd", {}, 3) == []


# In a sequence.


@pytest.mark.parametrize("window", [1, 4, 30])
@pytest.mark.parametrize("count", [3, 17])
def test_sequential_is_what_brute_force_gives(count, window):
    images = names(count)
    order = sorted(images, key=lambda name: int(name.removesuffix(".jpg")))
    chosen = {frozenset((order[i], order[j])) for i in range(count) for j in range(i + 1, min(count, i + window + 1))}
    assert sequential(images, window) == in_order(images, chosen)


def test_select_follows_numbers_in_names():
    images = sorted(f"frame {i}.jpg" for i in range(12))  # as text: 0, 1, 10, 11, 2, …
    config = PairsConfig("sequential", window=1, exhaustive_up_to=3)
    found = {frozenset(pair) for pair in select(images, config, lambda _: vectors(12))}
    assert found == {frozenset((f"frame {i}.jpg", f"frame {i + 1}.jpg")) for i in range(11)}


# From a file.

IMAGES = ["a.jpg", "b c.jpg", "d/e, f.jpg", "ü.jpg", "#g.jpg"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n  \n# a remark, with a comma\na.jpg\tb c.jpg", [(0, 1)]),
        ("d\\e, f.jpg\tb c.jpg", [(1, 2)]),
        ("a.jpg\tb c.jpg\n", [(0, 1)]),
        ("a.jpg b c.jpg", [(0, 1)]),
        ("a.jpg, b c.jpg\r\n\r\nb c.jpg,a.jpg\r\n", [(0, 1)]),
        ("\ufeffü.jpg d/e, f.jpg\nü.jpg a.jpg", [(0, 3), (2, 3)]),
        ("d/e, f.jpg,b c.jpg", [(1, 2)]),
        ("d/e, f.jpg \t b c.jpg", [(1, 2)]),
        ("#g.jpg a.jpg", [(0, 4)]),
    ],
)
def test_a_file_of_pairs(tmp_path, text, expected):
    (tmp_path / "pairs.txt").write_bytes(text.encode())
    wanted = [(IMAGES[i], IMAGES[j]) for i, j in expected]
    assert read_pairs(tmp_path / "pairs.txt", IMAGES) == wanted
    assert select(IMAGES, PairsConfig("file", file=tmp_path / "pairs.txt"), lambda _: vectors(5)) == wanted


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg\tb.jpg", r"'b\.jpg' is not an image of the scene"),
        ("x.png a.jpg", r"'x\.png' is not an image of the scene"),
        ("a.jpg", "does not name two images"),
        ("a.jpg\tb c.jpg\t0.5", "does not name two images"),
        ("a.jpg b c.jpg ü.jpg", "does not name two images"),
        ("a.jpg a.jpg", "names one image twice"),
        ("../../etc/passwd\ta.jpg", "is not an image of the scene"),
        ("<html>" * 50, "<h…"),
        ("\x00\x00\x00", "does not name two images"),
    ],
)
def test_a_line_that_is_no_pair_costs_only_itself(tmp_path, line, message):
    path = tmp_path / "pairs.txt"
    path.write_text(f"# first\na.jpg\tü.jpg\n{line}\n", "utf-8")
    notes = []
    assert select(IMAGES, PairsConfig("file", file=path), lambda _: vectors(5), notes) == [("a.jpg", "ü.jpg")]
    [note] = notes
    assert re.search(rf"1 lines .*pairs\.txt are left out: line 3: .*{message}", note)
    path.write_text(f"\n{line}\n")
    with pytest.raises(KitError, match=rf"pairs\.txt names no two images of the scene: line 2: .*{message}"):
        read_pairs(path, IMAGES)


def test_a_line_of_several_meanings_needs_a_tab(tmp_path):
    images = ["a", "a b", "b c", "c"]
    path = tmp_path / "pairs.txt"
    path.write_text("a b c")
    with pytest.raises(KitError, match=r"line 1: 'a b c' can be read as several pairs: put a tab"):
        read_pairs(path, images)
    path.write_text("a b\tc")
    assert read_pairs(path, images) == [("a b", "c")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b"\r\n , \n", "is empty"),
        ("a.jpg ü.jpg".encode("utf-16"), "is not text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "is not text in UTF-8"),
    ],
)
def test_a_file_that_is_no_list_is_refused_before_any_work(tmp_path, content, message):
    path = tmp_path / "pairs.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KitError, match=message):
        PairsConfig("file", file=path).check()
    with pytest.raises(KitError, match="it is a folder, a pipe or a device"):
        PairsConfig("file", file=tmp_path).check()


# The configuration.


def test_select_asks_for_descriptors_only_when_it_needs_them():
    asked = []

    def describe(config):
        asked.append(config)
        return vectors(20, 5, len(asked))

    images = names(20)
    small = PairsConfig("similar", exhaustive_up_to=20)
    assert select(images, small, describe) == exhaustive(images)
    assert select(images, PairsConfig("exhaustive", exhaustive_up_to=0), describe) == exhaustive(images)
    assert asked == []
    two = (VladConfig(), DinoConfig())
    config = PairsConfig(exhaustive_up_to=19, descriptors=two, k=4, min_similarity=0.5, min_per_image=1)
    expected = brute_similar(images, [vectors(20, 5, 1), vectors(20, 5, 2)], 4, 0.5, 1)
    assert select(images, config, describe) == expected
    assert asked == list(two)


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ("method", {"method": "best"}),
        ("exhaustive_up_to", {"exhaustive_up_to": -1}),
        ("descriptors", {"descriptors": ()}),
        ("k", {"k": 0}),
        ("min_similarity", {"min_similarity": 1.5}),
        ("min_similarity", {"min_similarity": float("nan")}),
        ("min_per_image", {"min_per_image": -1}),
        ("window", {"window": 0}),
        ("file", {"method": "file"}),
    ],
)
def test_options_that_make_no_sense_are_refused(option, options):
    with pytest.raises(KitError, match=f"^{option} of the selection of pairs must be"):
        PairsConfig(**options)


@pytest.mark.parametrize("seed", range(2))
def test_nearest_first_is_what_brute_force_gives(seed):
    images, descriptors = names(9), vectors(9, seed=seed)
    similarity = {
        (a, b): float(descriptors[i] @ descriptors[j]) for i, a in enumerate(images) for j, b in enumerate(images)
    }

    def rank(image: str, other: str) -> int:
        """How many images are more like `image`, itself among them."""
        return 1 + sum(similarity[image, third] > similarity[image, other] for third in images if third != image)

    given = [(a, b) if (i + j) % 3 else (b, a) for i, a in enumerate(images) for j, b in enumerate(images) if i < j]
    expected = sorted(given, key=lambda pair: (min(rank(*pair), rank(*pair[::-1])), -similarity[pair]))
    square = (descriptors @ descriptors.T).astype(np.float64)
    assert nearest_first(images, given, square) == expected
    first = expected[: sum(min(rank(*pair), rank(*pair[::-1])) == 1 for pair in expected)]
    assert {image for pair in first for image in pair} == set(images)  # every image has its best partner early
    assert nearest_first(images, given[:5], square) == [pair for pair in expected if pair in given[:5]]
    assert nearest_first(images, [], square) == []


# ---- positions ----


def grid(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    places = np.array([(10.0 * i, 12.0 * j, 0.0) for i in range(rows) for j in range(columns)])
    return places + np.random.default_rng(seed).normal(0, 1, places.shape)


@pytest.mark.parametrize(("count", "k"), [(30, 5), (30, 1), (4, 9), (2, 3)])
def test_nearby_images_are_the_nearest_and_neighbours_in_all_directions(count: int, k: int) -> None:
    images, places = names(count), np.random.default_rng(count).uniform(-50, 50, (count, 3))
    away = np.linalg.norm(places[:, None] - places, axis=2)
    nearest = {frozenset((images[i], images[j])) for i in range(count) for j in np.argsort(away[i])[1 : k + 1].tolist()}
    found = nearby(images, places, k)
    assert found == in_order(images, set(map(frozenset, found)))
    assert nearest <= set(map(frozenset, found))
    assert len(found) <= len(nearest) + 3 * count  # a plane triangulation has fewer edges
    distances, others = neighbours(places, k)
    np.testing.assert_allclose(distances, np.sort(away, axis=1)[:, 1 : k + 1])
    np.testing.assert_allclose(away[np.arange(count)[:, None], others], distances)


def test_a_grid_of_two_hundred_needs_a_tenth_of_the_pairs() -> None:
    assert len(nearby(names(200), grid(10, 20), 15)) <= 1990


def test_images_without_a_position_are_in_no_pair() -> None:
    images, places = names(12), grid(3, 4)
    places[[2, 7], 0] = np.nan
    found = {name for pair in nearby(images, places, 3) for name in pair}
    assert found == set(images) - {images[2], images[7]}
    assert nearby(images, np.full((12, 3), np.nan), 3) == []
    assert nearby(images[:1], places[:1], 3) == []
    assert nearby([], np.empty((0, 3)), 3) == []


def test_equal_positions_and_positions_on_a_line() -> None:
    images = names(20)
    for places in (np.zeros((20, 3)), np.array([(i, 2 * i, 0) for i in range(20)], float)):
        found = nearby(images, places, 4)
        assert {name for pair in found for name in pair} == set(images)
        assert all(first != second for first, second in found)
        assert neighbours(places, 4)[1].shape == (20, 4)


def test_flight_lines_are_joined_however_close_their_photos_follow_each_other() -> None:
    images = [f"{i}.jpg" for i in range(80)]
    places = np.array([(40.0 * (i // 40), 1.0 * (i % 40), 0) for i in range(80)])  # 40 m beside 1 m
    between = [pair for pair in nearby(images, places, 10) if sum(images.index(one) < 40 for one in pair) == 1]
    assert len(between) >= 40
