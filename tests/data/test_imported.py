"""Which names in files of other programs mean which image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imc_kit.data.imported import aliases, coverage, names_of
from imc_kit.errors import KitError
from imc_kit.types import Scene

ROOT = Path("/data/in")
CHURCH = Scene("church", ROOT / "test/church/images", ("a.jpg", "b.jpg", "images/a.jpg"))
LAKE = Scene("lake", ROOT / "test/lake/images", ("a.jpg", "c.jpg"))


@dataclass
class Named:
    """A source of nothing but names."""

    names: Any
    path: Path = Path("x.h5")


@pytest.mark.parametrize("prefix", ["", "images/", "church/images/", "test/church/images/", "in/test/church/images/"])
def test_names_are_relative_to_any_folder_above(prefix: str) -> None:
    names = [prefix + name for name in CHURCH.images]
    assert names_of(CHURCH, Named([*names, "other.jpg"])) == dict(zip(CHURCH.images, names, strict=True))
    known = aliases(CHURCH)
    assert known[f"{prefix}b.jpg"] == "b.jpg"


def test_only_images_with_features_are_named() -> None:
    assert names_of(CHURCH, Named(["b.jpg"])) == {"b.jpg": "b.jpg"}
    assert names_of(CHURCH, Named([])) == {}
    assert names_of(CHURCH, Named(["church/b.jpg", "B.JPG"])) == {}


def test_two_ways_to_name_images_are_refused() -> None:
    with pytest.raises(KitError, match=r"x\.h5 names the images of lake in two ways \(a\.jpg, lake/images/c\.jpg\)"):
        names_of(LAKE, Named(["a.jpg", "lake/images/c.jpg"]))


def test_names_of_several_scenes() -> None:
    every = [f"test/{scene.name}/images/{name}" for scene in (CHURCH, LAKE) for name in scene.images]
    assert coverage([CHURCH, LAKE], Named(every)) == []
    [note] = coverage([LAKE], Named(every))
    assert note.startswith("x.h5 has features of 3 images that are not solved: test/church/images/a.jpg")
    with pytest.raises(KitError, match=r"x\.h5: 'a\.jpg' is an image of church and lake: name the images relative"):
        coverage([CHURCH, LAKE], Named(["a.jpg", "b.jpg", "c.jpg"]))


@pytest.mark.parametrize(("names", "shown"), [(["x.jpg"], "x.jpg"), ([], "it is empty")])
def test_a_file_that_fits_no_image_is_refused(names: list[str], shown: str) -> None:
    with pytest.raises(KitError, match=rf"x\.h5 has features of no image of the input \({shown}\)"):
        coverage([CHURCH], Named(names))
