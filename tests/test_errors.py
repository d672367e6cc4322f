"""Error messages."""

from __future__ import annotations

import io
import logging
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from tqdm import tqdm

from imc_kit.cli.terminal import PrintableFormatter, escaping
from imc_kit.errors import KitError, printable, require, said, unknown_name
from imc_kit.viz.page import e


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("sitf", ["orb", "sift"], "unknown preset 'sitf': did you mean 'sift'? known are orb, sift"),
        ("ORBB", ["orb", "Sift"], "unknown preset 'ORBB': did you mean 'orb'? known are Sift, orb"),
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


def test_control_characters_do_not_reach_messages_or_logs() -> None:
    hostile = "a\x1b]0;x\x07b\x9bc\u202ed\udcff\r"
    escaped = r"a\x1b]0;x\x07b\x9bc\u202ed\udcff\r"
    assert printable(hostile + "é日🏰 \n") == escaped + r"é日🏰 \n"
    assert str(KitError(f"no {hostile}\n")) == rf"no {escaped}\n"
    assert len(str(KitError(f"no {9999 * 'x'}: give another"))) == 1000
    assert said(ValueError(hostile)) == f"ValueError: {escaped}"
    assert unknown_name("scene", "\x1b[2J", ["x"]).args[0].isprintable()
    record = logging.LogRecord("imc_kit", logging.WARNING, "", 1, "%s is lost", (hostile,), None)
    assert PrintableFormatter("%(message)s").format(record) == f"{escaped} is lost"
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err, escaping():
        print(hostile)
        print(hostile, file=sys.stderr)
    assert out.getvalue() == err.getvalue() == f"{escaped}\n"
    assert e(f"<{hostile}>") == f"&lt;{escaped}&gt;"


def test_a_progress_bar_is_drawn_over_the_last_one() -> None:
    with redirect_stderr(io.StringIO()) as err, escaping():
        for _ in tqdm(range(2), desc="a\x1b[2J", mininterval=0):
            pass
    assert err.getvalue().count("\r") >= 2
    assert "\\r" not in err.getvalue()
    assert r"a\x1b[2J" in err.getvalue()
