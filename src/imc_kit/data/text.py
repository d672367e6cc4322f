"""Read the text files that a person gives: tables, lists of pairs, thresholds."""

from pathlib import Path

from imc_kit.data.listing import exists, is_file
from imc_kit.errors import KitError

_MOST = 2**28
"""Larger files are refused: 256 MB hold the poses of 800,000 images."""


def read_text(path: Path | str) -> str:
    """The text of a file in UTF-8, with its own line ends.

    Raises `KitError` when it is missing, is a folder, a pipe or a device (which may have no end), is too large, or is
    not text in UTF-8.
    """
    path = Path(path)
    if not exists(path):
        raise KitError(f"there is no file {path}")
    if not is_file(path):
        raise KitError(f"cannot read {path}: it is a folder, a pipe or a device, not a file")
    try:
        if (size := path.stat().st_size) > _MOST:
            raise KitError(f"cannot read {path}: it has {size >> 20} MB, and at most {_MOST >> 20} MB are accepted")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise KitError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise KitError(f"{path} is not text in UTF-8 ({error.reason}, byte {error.start}): save it as UTF-8") from error


def content_lines(path: Path | str) -> list[tuple[int, str]]:
    """The lines of a text file with their numbers from 1, without blank lines and comments, which begin with `#`.

    Raises `KitError` as `read_text` does.
    """
    lines = enumerate(map(str.strip, read_text(path).splitlines()), 1)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]
