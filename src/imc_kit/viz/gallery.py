"""Figures side by side in a notebook, as small JPEG files."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SHARPNESS = 1.5
"""Pixels of a picture for each pixel of the page: with 1, text is blurred on dense screens; 2 doubles the size."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures with captions, which a notebook shows side by side in rows.

    pictures: JPEG files by caption. width: of each, in pixels of the page.
    """

    pictures: Mapping[str, bytes] = field(repr=False)
    width: int

    def _repr_html_(self) -> str:
        figures = []
        for caption, jpeg in self.pictures.items():
            text = html.escape(caption)
            source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
            figures.append(
                f'<figure style="margin:0;width:{self.width}px;max-width:100%">'
                f'<img src="{source}" alt="{text}" style="width:100%;height:auto;margin:0">'
                f'<figcaption style="margin-top:4px;line-height:1.35">{text}</figcaption></figure>'
            )
        return f'<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start">{"".join(figures)}</div>'


def gallery(figures: Mapping[str, Any], *, width: int = 340) -> Gallery:
    """Show matplotlib figures, by their captions, side by side in a notebook; `width` in pixels of the page."""
    pictures = {}
    for caption, figure in figures.items():
        file = io.BytesIO()
        dpi = _SHARPNESS * width / figure.get_figwidth()
        figure.savefig(file, format="jpeg", dpi=dpi, facecolor="white", pil_kwargs={"quality": 85})
        pictures[caption] = file.getvalue()
    return Gallery(pictures, width)
