"""Downloads, from a server on this machine: whole or not at all, resumed, and held to what they should be."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
    etag: str | None = '"1"'
    status: int = 200
    ranges: bool = True
    length: bool = True
    cut: int | None = None
    """Close the connection after so many bytes of the answer."""
    redirects: int = 0
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    """The Range and the If-Range of each request."""


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
            wanted, condition = self.headers["Range"], self.headers["If-Range"]
            site.asked.append((wanted, condition))
            body, start = site.content, 0
            if wanted and site.ranges and condition in (None, site.etag):
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
            if site.etag:
                self.send_header("ETag", site.etag)
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
    folder = tmp_path / "new" / "folder"
    path = fetch(pinned, folder)
    assert path == folder / "toy.pth"
    assert path.read_bytes() == CONTENT
    assert holds(folder, "toy.pth")
    assert fetch(pinned, folder) == path
    assert site.asked == [(None, None)]


def test_a_redirection_is_followed(site, pinned, tmp_path):
    site.redirects = 2
    assert fetch(pinned, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["pinned", "loose"])
def test_an_interrupted_download_goes_on(site, tmp_path, request, kind):
    weight = request.getfixturevalue(kind)
    site.cut = CUT
    with refused(r"the connection to 127\.0\.0\.1 broke off after 393,216 bytes of toy\.pth: the same command goes on"):
        fetch(weight, tmp_path)
    assert not (tmp_path / "toy.pth").exists()
    assert (tmp_path / "toy.pth.partial").read_bytes() == CONTENT[:CUT]
    with refused("after 786,432 bytes"):
        fetch(weight, tmp_path)
    site.cut = None
    assert fetch(weight, tmp_path).read_bytes() == CONTENT
    condition = None if kind == "pinned" else '"1"'
    assert site.asked == [(None, None), (f"bytes={CUT}-", condition), (f"bytes={2 * CUT}-", condition)]
    assert holds(tmp_path, "toy.pth", *([weights.PINS] if kind == "loose" else []))


@pytest.mark.parametrize("kind", ["pinned", "loose"])
def test_a_server_that_knows_no_ranges_starts_again(site, tmp_path, request, kind):
    weight = request.getfixturevalue(kind)
    site.cut, site.ranges = CUT, False
    for _ in range(2):
        with refused("after 393,216 bytes"):
            fetch(weight, tmp_path)
    site.cut = None
    assert fetch(weight, tmp_path).read_bytes() == CONTENT


def test_two_versions_of_an_unpinned_file_are_not_joined(site, loose, tmp_path):
    """Nothing would notice it later: the ETag must be the same, and without one all of it comes again."""
    site.cut = CUT
    for etag, content in (('"2"', CONTENT[::-1]), (None, CONTENT)):
        with refused("broke off"):
            fetch(loose, tmp_path / str(etag))
        site.etag, site.content, site.cut = etag, content, None
        assert fetch(loose, tmp_path / str(etag)).read_bytes() == content
        site.cut = CUT


def test_a_rest_that_is_longer_than_the_file_is_dropped(site, pinned, tmp_path):
    (tmp_path / "toy.pth.partial").write_bytes(CONTENT + b"more")
    assert fetch(pinned, tmp_path).read_bytes() == CONTENT
    assert len(site.asked) == 2


@pytest.mark.parametrize("length", [True, False])
def test_another_content_is_deleted(site, pinned, tmp_path, length):
    site.content, site.length = CONTENT[:-1] + b"?", length
    with refused("is not the toy.pth that was expected, so it was deleted: its SHA-256 is not"):
        fetch(pinned, tmp_path)
    assert holds(tmp_path)


def test_a_wrong_rest_is_deleted_and_the_next_attempt_starts_anew(site, pinned, tmp_path):
    (tmp_path / "toy.pth.partial").write_bytes(b"?" * 1000)
    with refused("so it was deleted"):
        fetch(pinned, tmp_path)
    assert holds(tmp_path)
    assert fetch(pinned, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["pinned", "loose"])
@pytest.mark.parametrize(
    ("content", "reason"), [(b"\n\n<!DOCTYPE html><title>Sign in</title>", "is a web page"), (b"", "is empty")]
)
def test_a_web_page_is_refused(site, tmp_path, request, kind, content, reason):
    site.content = content
    with refused(f"what came from {site.url} {reason}"):
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


@pytest.mark.parametrize("status", [404, 403, 503])
def test_a_refusal_says_what_the_server_says(site, pinned, tmp_path, status):
    site.status = status
    with refused(rf"the answer to {site.url} is {status} \w[\w ]+: try again .* toy\.pth .* {tmp_path}"):
        fetch(pinned, tmp_path)
    assert holds(tmp_path)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/toy.pth", "http://nowhere.invalid/toy.pth"])
def test_without_a_network_it_says_so(pinned, tmp_path, url):
    with refused(r"no connection to \S+ for toy\.pth: is there a network\? \(ConnectionError\)"):
        fetch(replace(pinned, url=url), tmp_path)
    assert holds(tmp_path)


def test_no_space_is_noticed_before_and_while_writing(site, pinned, tmp_path, monkeypatch):
    (tmp_path / "toy.pth.partial").symlink_to("/dev/full")
    with refused(rf"no space left in {tmp_path} for toy\.pth: make some"):
        fetch(pinned, tmp_path)
    (tmp_path / "toy.pth.partial").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": len(CONTENT) - 1}))
    with refused("no space left"):
        fetch(pinned, tmp_path)
    assert not (tmp_path / "toy.pth").exists()
    (tmp_path / "toy.pth.partial").write_bytes(CONTENT[:1])
    assert fetch(pinned, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["pinned", "loose"])
def test_a_folder_that_is_a_file_is_refused(site, tmp_path, request, kind):
    (tmp_path / "file").touch()
    with refused("cannot write toy.pth into"):
        fetch(request.getfixturevalue(kind), tmp_path / "file")
    assert site.asked == []


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
    with refused(r"its SHA-256 is not \w{64}; to take it nevertheless, delete its line in \S+pins\.toml"):
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
    with refused("does not say how large"):
        fetch(loose, tmp_path)
    assert holds(tmp_path)
