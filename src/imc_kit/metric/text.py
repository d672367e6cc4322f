"""Format scores for printing and for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def mean_of(scores: Iterable[float]) -> float:
    known = [value for value in scores if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def span(low: float, high: float) -> str:
    ends = [f"{end:.4f}" if isinstance(end, float) else str(end) for end in (low, high)]
    return "–".join(dict.fromkeys(ends))


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text, its first column aligned to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in (header, *rows)
    )
