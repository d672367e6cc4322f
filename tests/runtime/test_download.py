"""Downloads, from a server on this machine: whole or not at all, resumed, and held to what they should be."""

from __future__ import annotations

import hashlib
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest

from imc_kit.errors import KitError
from imc_kit.runtime import weights
from imc_kit.runtime.download import fetch

CONTENT = bytes(range(256)) * 4096
"""1 MiB: several pieces."""
CUT = 6 << 16


@dataclass
class Site:
    """What a server does next, and what it was asked."""

    content: bytes = CONTENT
    status: int = 200
    ranges: bool = True
    length: bool = True
    cut: int | None = None
    """Close the connection after so many bytes of the answer."""
    redirects: int = 0
    asked: list[str | None] = field(default_factory=list)
    """The Range of each request."""


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if site.redirects:
                site.redirects -= 1
                self.send_response(302)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            wanted = self.headers["Range"]
            site.asked.append(wanted)
            body, start = site.content, 0
            if wanted and site.ranges:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                body = body[start:]
            if start and not body:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else site.status)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
            if site.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if site.cut is None else body[: site.cut])
            self.close_connection = True

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}/toy.pth"
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture
def pinned(site):
    digest = hashlib.sha256(CONTENT).hexdigest()
    return weights.Weight("toy.pth", site.url, digest, "MIT", True, ("toys",), bytes=len(CONTENT))


@pytest.fixture
def loose(pinned):
    return replace(pinned, sha256=weights.UNPINNED, bytes=0)


@contextmanager
def refused(match):
    with pytest.raises(KitError, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)


def holds(folder, *names):
    """Whether there is nothing else in a folder: no rest of a download."""
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_a_file_arrives_whole_and_only_once(site, pinned, tmp_path):
    site.redirects = 2
    folder = tmp_path / "new" / "folder"
    level = pooch.get_logger().level
    path = fetch(pinned, folder)
    assert pooch.get_logger().level == level
    assert path == folder / "toy.pth"
    assert path.read_bytes() == CONTENT
    assert holds(folder, "toy.pth")
    assert fetch(pinned, folder) == path
    assert site.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("kind", ["pinned", "loose"])
def test_an_interrupted_download_is_continued_or_starts_again(site, tmp_path, request, kind, ranges):
    """Only a published SHA-256 shows that both parts are of the same file, so an unpinned file starts again."""
    weight = request.getfixturevalue(kind)
    site.ranges, site.cut = ranges, CUT
    with refused(r"the connection to 127\.0\.0\.1 for toy\.pth failed .*the same command continues the download"):
        fetch(weight, tmp_path)
    assert not (tmp_path / "toy.pth").exists()
    got = (tmp_path / "toy.pth.partial").stat().st_size
    assert 0 < got <= CUT
    site.cut = None
    if kind == "loose":
        site.content = CONTENT[::-1]
    assert fetch(weight, tmp_path).read_bytes() == site.content
    assert site.asked == [None, f"bytes={got}-" if kind == "pinned" else None]
    assert holds(tmp_path, "toy.pth", *([weights.PINS] if kind == "loose" else []))


@pytest.mark.parametrize("rest", [CONTENT + b"more", b"?" * 1000])
def test_a_wrong_partial_file_is_deleted_and_the_next_download_starts_again(site, pinned, tmp_path, rest):
    (tmp_path / "toy.pth.partial").write_bytes(rest)
    with refused("416" if len(rest) > len(CONTENT) else "so it was deleted"):
        fetch(pinned, tmp_path)
    assert not (tmp_path / "toy.pth").exists()
    assert fetch(pinned, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("length", [True, False])
def test_another_content_is_deleted(site, pinned, tmp_path, length):
    site.content, site.length = CONTENT[:-1] + b"?", length
    with refused("is not the expected toy.pth, so it was deleted: its SHA-256 is not"):
        fetch(pinned, tmp_path)
    assert holds(tmp_path)


@pytest.mark.parametrize("kind", ["pinned", "loose"])
@pytest.mark.parametrize(
    ("content", "reason"), [(b"\n\n<!DOCTYPE html><title>Sign in</title>", "is a web page"), (b"", "is empty")]
)
def test_a_web_page_is_refused(site, tmp_path, request, kind, content, reason):
    site.content = content
    with refused(f"the file from {site.url} {reason}"):
        fetch(request.getfixturevalue(kind), tmp_path)
    assert holds(tmp_path)


def test_a_damaged_file_is_replaced_when_the_new_one_is_there(site, pinned, loose, tmp_path):
    path = tmp_path / "toy.pth"
    path.write_bytes(CONTENT[:10])
    site.status = 404
    with refused("404"):
        fetch(pinned, tmp_path)
    assert path.read_bytes() == CONTENT[:10]
    site.status = 200
    assert fetch(pinned, tmp_path).read_bytes() == CONTENT
    path.write_bytes(b"<html>")
    assert fetch(loose, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 503])
def test_a_refusal_says_what_the_server_says(site, pinned, tmp_path, status):
    site.status = status
    with refused(rf"cannot download toy\.pth: {status} .*{site.url}; try again .* {tmp_path}"):
        fetch(pinned, tmp_path)
    assert not (tmp_path / "toy.pth").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/toy.pth", "http://nowhere.invalid/toy.pth"])
def test_without_a_network_it_says_so(pinned, tmp_path, url):
    with refused(r"the connection to \S+ for toy\.pth failed \(ConnectionError\): check the network"):
        fetch(replace(pinned, url=url), tmp_path)
    assert not (tmp_path / "toy.pth").exists()


def test_a_full_disk_and_a_folder_that_is_a_file_are_refused(site, pinned, loose, tmp_path):
    (tmp_path / "toy.pth.partial").symlink_to("/dev/full")
    with refused(rf"cannot write toy\.pth into {tmp_path}: No space left on device"):
        fetch(pinned, tmp_path)
    (tmp_path / "file").touch()
    for weight in (pinned, loose):
        with refused("cannot write toy.pth into"):
            fetch(weight, tmp_path / "file")
    assert len(site.asked) == 1


def test_the_first_download_pins_an_unpinned_file(site, loose, tmp_path):
    other = replace(loose, name="other.pth")
    path = fetch(loose, tmp_path)
    site.content = CONTENT[::-1]
    fetch(other, tmp_path)
    assert weights.read_pins(tmp_path) == {
        "toy.pth": hashlib.sha256(CONTENT).hexdigest(),
        "other.pth": hashlib.sha256(CONTENT[::-1]).hexdigest(),
    }
    assert holds(tmp_path, "toy.pth", "other.pth", weights.PINS)
    path.unlink()
    with refused(r"its SHA-256 is not \w{64}; to accept it, delete its line in \S+pins\.toml"):
        fetch(loose, tmp_path)
    site.content = CONTENT
    assert fetch(loose, tmp_path).read_bytes() == CONTENT


def test_an_unpinned_file_that_was_put_there_is_pinned_as_it_is(site, loose, tmp_path):
    (tmp_path / "toy.pth").write_bytes(b"by hand")
    fetch(loose, tmp_path)
    assert site.asked == []
    assert weights.read_pins(tmp_path) == {"toy.pth": hashlib.sha256(b"by hand").hexdigest()}


def test_an_unpinned_file_of_unknown_length_is_refused(site, loose, tmp_path):
    site.length, site.cut = False, CUT
    with refused("does not state the size"):
        fetch(loose, tmp_path)
    assert not (tmp_path / "toy.pth").exists()
