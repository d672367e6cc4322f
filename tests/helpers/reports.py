"""What the tests of pages share: a reader of HTML."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """All tags with their attributes, the text, the rows of each table by its caption, and the figures by label."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.tables: dict[str, list[list[str]]] = {}
        self.figures: dict[str, Any] = {}
        self.caption, self.label = "", ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag == "tr":
            self.tables.setdefault(self.caption, []).append([])
        if tag in ("th", "td"):
            self.tables[self.caption][-1].append("")
        if found.get("role") == "img":
            self.label = found["aria-label"] or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.caption = ""

    def handle_data(self, data: str) -> None:
        tag = self.tags[-1][0] if self.tags else ""
        if tag == "script":
            if data.startswith("{"):
                self.figures[self.label] = json.loads(data)
        elif tag != "style":
            self.text += f"{data} "
            if tag == "caption":
                self.caption = data
            elif self.caption:
                self.tables[self.caption][-1][-1] += data

    def assert_alone(self) -> None:
        """Nothing in the page is anywhere else."""
        for tag, attributes in self.tags:
            for name in ("src", "href", "srcset", "action", "data", "poster"):
                assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, name)


def copy(solved: Path, target: Path) -> Path:
    """A copy of a run's folder, without its store."""
    shutil.copytree(solved / "out", target, ignore=shutil.ignore_patterns("store"))
    return target


def said(path: Path) -> str:
    return Page(path).text
