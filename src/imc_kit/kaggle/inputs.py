"""Where Kaggle mounts the attached inputs."""

from __future__ import annotations

import os
from pathlib import Path


def input_root() -> Path:
    """The folder of attached inputs: `/kaggle/input`, or IMC_KIT_INPUT if set, as in a rehearsal."""
    return Path(os.environ.get("IMC_KIT_INPUT", "/kaggle/input"))
