"""Progress bars."""

import logging
from typing import Any

from tqdm import tqdm


def bar(**settings: Any) -> "tqdm[Any]":
    """A tqdm bar on a terminal; none elsewhere, or if the level of the kit's logger is above INFO (`--quiet`)."""
    return tqdm(disable=logging.getLogger("imc_kit").level > logging.INFO or None, **settings)
