"""What COLMAP is doing, from its log."""

import os
import re
from pathlib import Path

from imc_kit.runtime.progress import Work

_PART = 1 << 15
"""Bytes that are read at the beginning and at the end of a log: some 200 lines each."""
_ALL = re.compile(r"(\d+) in [\d.]+s \(connected ")
_STEP = re.compile(r"=== (?:Running )?([^=]+?) ===|num_reg_(?:frames|images)=(\d+)")


class Log:
    """What a job adds to a log from now on. Earlier jobs may have written to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin = path.stat().st_size if path.exists() else 0

    def look(self, work: Work) -> None:
        """Set COLMAP's last step, or how many of the images its incremental mapper has registered."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._begin)
                head = file.read(_PART).decode("utf-8", "replace")
                file.seek(max(self._begin, os.fstat(file.fileno()).st_size - _PART))
                steps = _STEP.findall(file.read().decode("utf-8", "replace"))
        except OSError:
            return
        step, registered = steps[-1] if steps else ("starting", "")
        images = _ALL.search(head)
        work.step = f"{registered} images registered" if registered else step.lower()
        if registered and images:
            work.total, work.unit, work.done = int(images[1]), "image", int(registered)
