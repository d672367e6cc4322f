"""The only module that uses the network, when a person asks for weight files: `imc-kit weights get`."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pooch  # type: ignore[import-untyped]
import requests

from imc_kit.errors import KitError
from imc_kit.runtime import progress
from imc_kit.runtime.weights import PINS, UNPINNED, Weight, expected_sha256, flaw_of, other_content, read_pins

logger = logging.getLogger(__name__)

_SECONDS = (10, 60)
"""Patience when connecting, and between two pieces."""
_PIECE = 1 << 16


def fetch(weight: Weight, folder: Path) -> Path:
    """The path of `weight` in `folder`, where it is downloaded unless it is there and its content is right.

    It has its name only once it is whole and checked. An interrupted download leaves NAME.partial, and the next one
    goes on from there. The SHA-256 of an unpinned file is written to `PINS` beside it.

    Raises `KitError` when there is no network, no such file at the address, no space, or another content.
    """
    folder = folder.expanduser()
    path = folder / weight.name
    if not path.is_file() or flaw_of(path, weight) is not None:
        try:
            _retrieve(weight, path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise KitError(
                    f"no space left in {folder} for {weight.name}: make some, and the same command goes on from there"
                ) from error
            raise KitError(f"cannot write {weight.name} into {folder}: {error.strerror or error}") from error
    if expected_sha256(weight, folder) is None:
        _pin(weight, path)
    return path


def _retrieve(weight: Weight, path: Path) -> None:
    expected = expected_sha256(weight, path.parent)
    if expected is None:
        path.unlink(missing_ok=True)  # pooch would keep it, as there is nothing to compare it with
    pooch.get_logger().setLevel(logging.WARNING)
    partial = path.with_name(f"{weight.name}.partial")
    host = urlsplit(weight.url).hostname

    def download(_url: str, output: str, _pooch: object) -> None:
        _stream(weight, partial, checked=expected is not None)
        with partial.open("rb") as file:
            flaw = other_content(file.read(1024))
        if flaw is not None:
            partial.unlink()
            raise KitError(f"what came from {weight.url} {flaw}, so it was not kept as {weight.name}")
        partial.replace(output)

    try:
        pooch.retrieve(weight.url, expected, weight.name, path.parent, downloader=download)
    except requests.RequestException as error:
        got = partial.stat().st_size if partial.is_file() else 0
        if not got:
            raise KitError(
                f"no connection to {host} for {weight.name}: is there a network? ({type(error).__name__})"
            ) from error
        raise KitError(
            f"the connection to {host} broke off after {got:,} bytes of {weight.name}:"
            " the same command goes on from there"
        ) from error
    except ValueError as error:  # of pooch, which has deleted the file
        anew = f"; to take it nevertheless, delete its line in {path.with_name(PINS)}"
        raise KitError(
            f"what came from {weight.url} is not the {weight.name} that was expected, so it was deleted:"
            f" its SHA-256 is not {expected}{anew if weight.sha256 == UNPINNED else ''}"
        ) from error


def _stream(weight: Weight, partial: Path, checked: bool) -> None:
    """Bring `partial` to the whole content of the address, from where it ends.

    checked: whether the whole will be compared with a SHA-256. If not, what there is must be of the same file, by the
        ETag that is kept beside it.
    """
    etag_file = partial.with_name(f"{partial.name}.etag")
    etag = etag_file.read_text("utf-8") if etag_file.is_file() else ""
    done = partial.stat().st_size if partial.is_file() else 0
    headers = {"Accept-Encoding": "identity"}
    if done and (checked or etag):
        headers["Range"] = f"bytes={done}-"
        if not checked:
            headers["If-Range"] = etag
    with requests.get(weight.url, headers=headers, stream=True, timeout=_SECONDS) as answer:
        if done and answer.status_code == requests.codes.requested_range_not_satisfiable:
            partial.unlink()  # it is longer than the file, so it is of another one
            return _stream(weight, partial, checked)
        if not answer.ok:
            raise KitError(
                f"the answer to {weight.url} is {answer.status_code} {answer.reason}: try again later, or put a copy"
                f" of {weight.name} from elsewhere into {partial.parent}"
            )
        if answer.status_code != requests.codes.partial_content:
            done = 0  # all of it comes
        length = answer.headers.get("Content-Length")
        size = None if length is None else done + int(length)
        if size is None and not checked:
            raise KitError(
                f"{weight.url} does not say how large {weight.name} is, so a part could be taken for the whole"
            )
        if size is not None and size - done > shutil.disk_usage(partial.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with (
            partial.open("ab" if done else "wb") as file,
            progress.bar(total=size, initial=done, unit="B", unit_scale=True, desc=weight.name) as bar,
        ):
            if not done:  # only now that the old content is gone
                etag_file.write_text(answer.headers.get("ETag", ""), "utf-8")
            for piece in answer.iter_content(_PIECE):
                file.write(piece)
                bar.update(len(piece))
    if size is not None and partial.stat().st_size != size:
        raise requests.ConnectionError(f"{partial.stat().st_size:,} of {size:,} bytes came")
    etag_file.unlink(missing_ok=True)
    return None


def _pin(weight: Weight, path: Path) -> None:
    with path.open("rb") as file:
        pins = {**read_pins(path.parent), weight.name: hashlib.file_digest(file, "sha256").hexdigest()}
    lines = ["# The SHA-256 of files whose publisher states none, as they were when first downloaded."]
    lines += [f'"{name}" = "{digest}"' for name, digest in sorted(pins.items())]
    partial = path.with_name(f"{PINS}.partial")
    partial.write_text("\n".join(lines) + "\n", "utf-8")
    partial.replace(path.with_name(PINS))
    logger.info("the SHA-256 of %s is not published: from now on it is held to %s", weight.name, pins[weight.name])
