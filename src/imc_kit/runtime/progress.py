"""Progress bars."""

import logging
from typing import Any

from tqdm import tqdm


def bar(**settings: Any) -> "tqdm[Any]":
    """A bar of tqdm on a terminal, and none elsewhere or where the kit's logger has a level above INFO (`--quiet`)."""
    return tqdm(disable=logging.getLogger("imc_kit").level > logging.INFO or None, **settings)
