"""Hostile run folders for the report: it must be a page without foreign markup, or one sentence."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from random import Random
from typing import Any

from hostile.cases import Place, become_other, damaged, expect, sentence, word
from imc_kit.errors import KitError
from imc_kit.viz.report import write_report

MARK = "zzq"
"""Occurs in no page of the kit."""
EVIL: tuple[Any, ...] = (
    *(
        f"<{MARK}><img src={MARK} on{MARK}=1>",
        f"</script><{MARK}>",
        f"\" on{MARK}='1' x=\"",
        f"javascript:{MARK}",
        f"]]><{MARK}>",
    ),
    *(
        None,
        True,
        -1,
        0,
        10**30,
        float("nan"),
        float("inf"),
        "",
        [],
        {},
        [[]],
        {MARK: MARK},
        "../../../etc",
        "\x1b[2J",
        "\0",
    ),
)


class _Page(HTMLParser):
    """Looks for elements and attributes that carry the mark."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.foreign = 0, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags += 1
        harmful = [name for name, value in attrs if MARK in name or f"javascript:{MARK}" in (value or "")]
        if MARK in tag or harmful:
            self.foreign = self.get_starttag_text() or tag


def report_case(number: int, random: Random, at: Place) -> str:
    """Write the report of a run folder with one kind of damage."""
    run = at.folder / "run"
    shutil.copytree(at.clean, run, ignore=shutil.ignore_patterns("store"))
    files = sorted(path for path in run.rglob("*") if path.is_file())
    jsons = [path for path in files if path.suffix == ".json"]
    if number % 4:
        path = random.choice(jsons)
        content = json.loads(path.read_text("utf-8"))
        for _ in range(random.choice((1, 1, 2, 4))):
            _poison(content, random)
        path.write_text(json.dumps(content), "utf-8")
    elif random.random() < 0.7:
        path = random.choice(files)
        path.write_bytes(damaged(path.read_bytes() or b"x", random))
    else:
        become_other(random.choice(files), random)
    try:
        text = write_report(run).read_text("utf-8")
    except KitError as error:
        return sentence(str(error), at)
    page = _Page()
    page.feed(text)
    expect(not page.foreign, f"foreign markup: {page.foreign[:200]!r}")
    expect(page.tags > 20, "an empty page")
    return "a page"


def _poison(content: Any, random: Random) -> None:
    """Replace a random value of JSON content, or rename a key."""
    while isinstance(content, dict | list) and content:
        key = random.choice(list(content) if isinstance(content, dict) else range(len(content)))
        inner = content[key]
        if isinstance(inner, dict | list) and inner and random.random() < 0.6:
            content = inner
        elif isinstance(content, dict) and random.random() < 0.2:
            content[random.choice((EVIL[0], EVIL[1], word(random), ""))] = content.pop(key)
            return
        else:
            content[key] = random.choice(EVIL)
            return
