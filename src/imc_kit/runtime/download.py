"""Download weight files for `imc-kit weights get`: the only module that uses the network."""

import logging
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pooch  # type: ignore[import-untyped]
import requests

from imc_kit.errors import KitError
from imc_kit.runtime import progress
from imc_kit.runtime.weights import PINS, UNPINNED, Weight, expanded, expected_sha256, flaw_of, other_content, read_pins

logger = logging.getLogger(__name__)

_TIMEOUT = (10, 60)
"""Seconds to wait for a connection, and for the next piece of a file."""
_PIECE = 1 << 16
"""Bytes per write: with pooch's default of 1 KiB, a large file takes a million writes."""


def fetch(weight: Weight, folder: Path) -> Path:
    """Download `weight` to `folder` unless it is there with the right content, and return its path.

    The file gets its name only when it is complete and its SHA-256 is correct. An interrupted download leaves
    NAME.partial, and the next one continues it. The download of an unpinned file restarts, and its SHA-256 is written
    to `PINS` in `folder`.

    Raises `KitError` when the network, the file or disk space is missing, or when the content is wrong.
    """
    folder = expanded(folder) or folder
    path = folder / weight.name
    try:
        if not path.is_file() or flaw_of(path, weight) is not None:
            _retrieve(weight, path)
        if expected_sha256(weight, folder) is None:
            _pin(weight, path)
    except requests.HTTPError as error:
        todo = f"try again later, or put a copy from elsewhere into {folder}"
        raise KitError(f"cannot download {weight.name}: {error}; {todo}") from error
    except requests.RequestException as error:
        where = f"the connection to {urlsplit(weight.url).hostname} for {weight.name} failed ({type(error).__name__})"
        raise KitError(f"{where}: check the network; the same command continues the download") from error
    except OSError as error:
        raise KitError(f"cannot write {weight.name} into {folder}: {error.strerror or error}") from error
    return path


def _retrieve(weight: Weight, path: Path) -> None:
    expected = expected_sha256(weight, path.parent)
    if expected is None:
        path.unlink(missing_ok=True)  # pooch would keep it, because there is no SHA-256 to compare it with
    said = pooch.get_logger()
    level = said.level
    said.setLevel(logging.WARNING)
    downloader = partial(_download, weight, path.with_name(f"{weight.name}.partial"), pinned=expected is not None)
    try:
        pooch.retrieve(weight.url, expected, weight.name, path.parent, downloader=downloader)
    except ValueError as error:  # pooch has deleted the file
        hint = f"; to accept it, delete its line in {path.with_name(PINS)}" if weight.sha256 == UNPINNED else ""
        what = f"the file from {weight.url} is not the expected {weight.name}"
        raise KitError(f"{what}, so it was deleted: its SHA-256 is not {expected}{hint}") from error
    finally:
        said.setLevel(level)


def _download(weight: Weight, rest: Path, url: str, output: str, _: object, *, pinned: bool) -> None:
    """Continue the download `rest`, check that it may be weights, and move it to `output`.

    pinned: whether pooch will compare the SHA-256. If not, nothing would detect a truncated file or one joined from two
        versions, so the download restarts and the server must state the length.
    """
    if not pinned:
        rest.unlink(missing_ok=True)

    def begin(answer: requests.Response, **_: Any) -> None:
        sends_all = answer.status_code == requests.codes.ok
        if file.tell() and (sends_all or answer.status_code == requests.codes.requested_range_not_satisfiable):
            file.truncate(0)  # "not satisfiable": it is longer than the published file
        if sends_all and not pinned and "Content-Length" not in answer.headers:
            raise KitError(f"{url} does not state the size of {weight.name}: a truncated file could not be detected")

    with rest.open("ab") as file, progress.bar(weight.name, weight.bytes or 1, "B") as bar:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={file.tell()}-"} if file.tell() else {})
        options = {"headers": headers, "hooks": {"response": begin}, "timeout": _TIMEOUT}
        pooch.HTTPDownloader(progressbar=bar, chunk_size=_PIECE, **options)(url, file, None)
    if flaw := other_content(rest):
        rest.unlink()
        raise KitError(f"the file from {url} {flaw}, so it was not kept as {weight.name}")
    rest.replace(output)


def _pin(weight: Weight, path: Path) -> None:
    pins = {**read_pins(path.parent), weight.name: pooch.file_hash(path)}
    lines = ["# The SHA-256, at the first download, of files whose publisher states none."]
    lines += [f'"{name}" = "{digest}"' for name, digest in sorted(pins.items())]
    partial_pins = path.with_name(f"{PINS}.partial")
    partial_pins.write_text("\n".join(lines) + "\n", "utf-8")
    partial_pins.replace(path.with_name(PINS))
    logger.info("the SHA-256 of %s is not published: from now on it must be %s", weight.name, pins[weight.name])
