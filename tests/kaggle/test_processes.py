"""Other programs, run to their end."""

from __future__ import annotations

import sys

import pytest

from imc_kit.errors import KitError
from imc_kit.kaggle.processes import run


def test_what_a_command_writes() -> None:
    assert run([sys.executable, "-c", "print('done')"], "it failed") == "done\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('out'); sys.exit('one\\ntwo\\n\\n  three\\nfour')", "it failed: two three four"),
        ("print('out'); raise SystemExit(1)", "it failed: out"),
        ("raise SystemExit(3)", "it failed: exit status 3"),
    ],
)
def test_a_failure_is_told_in_the_commands_last_words(code: str, said: str) -> None:
    with pytest.raises(KitError) as caught:
        run([sys.executable, "-c", code], "it failed")
    assert str(caught.value) == said
