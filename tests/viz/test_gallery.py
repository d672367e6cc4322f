"""Figures side by side: what a notebook is given."""

from __future__ import annotations

import base64
import io
import re

from matplotlib.figure import Figure
from PIL import Image

from imc_kit.viz import gallery


def pictures(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_pictures_have_their_captions_and_widths() -> None:
    figures = {"wide": Figure(figsize=(8, 2), dpi=50), "tall <&>": Figure(figsize=(2, 4), dpi=200)}
    shown = gallery(figures, width=200)
    html = shown._repr_html_()
    wide, tall = pictures(html)
    assert (wide.format, wide.size) == ("JPEG", (300, 75))
    assert tall.size == (300, 600)
    assert html.count("width:200px") == 2
    assert re.findall(r"<figcaption[^>]*>([^<]*)</figcaption>", html) == ["wide", "tall &lt;&amp;&gt;"]
    assert re.findall(r'alt="([^"]*)"', html) == ["wide", "tall &lt;&amp;&gt;"]
    assert len(repr(shown)) < 100  # notebooks keep it beside the pictures


def test_an_empty_gallery() -> None:
    assert pictures(gallery({})._repr_html_()) == []
