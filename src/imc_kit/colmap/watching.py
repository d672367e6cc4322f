"""What COLMAP is doing, from its log."""

import os
import re
from pathlib import Path

_TAIL = 1 << 15
"""Bytes at the end of a log that are read: some 200 lines."""
_STEP = re.compile(r"=== (?:Running )?([^=]+?) ===|num_reg_(?:frames|images)=(\d+)")


def state(log: Path) -> str:
    """The last step that COLMAP reports, or how many images its incremental mapper has registered, in words."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            found = _STEP.findall(file.read().decode("utf-8", "replace"))
    except OSError:
        found = []
    step, count = found[-1] if found else ("starting", "")
    return f"{int(count) + 1} images registered" if count else step.lower()
