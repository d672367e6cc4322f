"""Error messages."""

from __future__ import annotations

import pytest

from imc_kit.errors import KitError, require, said, unknown_name


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("sitf", ["orb", "sift"], "unknown preset 'sitf': did you mean 'sift'? known are orb, sift"),
        ("qqq", ["orb", "sift"], "unknown preset 'qqq': known are orb, sift"),
        ("a", [], "unknown preset 'a': known are none"),
    ],
)
def test_an_unknown_name(name: str, known: list[str], sentence: str) -> None:
    assert str(unknown_name("preset", name, known)) == sentence


def test_of_many_known_names_only_a_few_are_listed() -> None:
    many = [f"mapper.option_{number:03}" for number in range(200)] + ["mapper.tolerance"]
    sentence = str(unknown_name("option", "mapper.tolerence", many))
    assert "did you mean 'mapper.tolerance'? known are mapper.tolerance, " in sentence
    assert sentence.endswith(", 201 in all")
    assert len(sentence) < 250
    assert str(unknown_name("option", "ßß", many)).endswith("mapper.option_004, 201 in all")


def test_the_message_of_an_error() -> None:
    assert said(KitError("the file is empty")) == "the file is empty"
    assert said(ValueError("not a number")) == "ValueError: not a number"


def test_a_refused_option() -> None:
    require(True, "ratio of matcher 'nearest'", "above 0", 0.8)
    with pytest.raises(KitError, match="ratio of matcher 'nearest' must be above 0, not nan"):
        require(float("nan") > 0, "ratio of matcher 'nearest'", "above 0", float("nan"))
