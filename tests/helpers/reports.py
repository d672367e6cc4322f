"""What the tests of reports share."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """All tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1][0] not in ("script", "style"):
            self.text.append(data)


def copy(solved: Path, target: Path) -> Path:
    shutil.copytree(solved / "out", target, ignore=shutil.ignore_patterns("store"))
    return target


def said(path: Path) -> str:
    return " ".join(Page(path).text)
