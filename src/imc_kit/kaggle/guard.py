"""Catches calls to the network in a rehearsal, and names who made them.

The rehearsal puts a copy of this file into its Python environment, where every process loads it first: so it uses the
standard library alone. Calls to this machine itself (Jupyter's) pass.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import sys
import sysconfig
from types import FrameType
from typing import Any

LOG = "IMC_KIT_GUARD_LOG"
"""Environment variable: the file that gets a line of JSON for each call."""
_EVENTS = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_PASSED_THROUGH = ("urllib3", "requests", "httpx", "httpx2", "httpcore", "httpcore2", "anyio", "aiohttp", "pooch")
"""Packages that call the network in someone else's name."""


def start() -> None:
    """Watch this process, if a rehearsal is going on. An audit hook sees every call that goes through Python."""
    log = os.environ.get(LOG)
    if log:
        sys.addaudithook(lambda event, arguments: _audit(event, arguments, log) if event in _EVENTS else None)


def _audit(event: str, arguments: tuple[Any, ...], log: str) -> None:
    target = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
    host = target[0] if isinstance(target, tuple) else target
    if event in ("socket.connect", "socket.sendto") and not isinstance(target, tuple):
        return  # a socket in the file system
    if _is_here(host):
        return
    call = {"event": event, "target": str(host), "caller": _caller(sys._getframe(2))}
    with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123 (before pathlib is loaded)
        file.write(json.dumps(call) + "\n")
    raise OSError(errno.ENETUNREACH, f"there is no network on Kaggle, and {call['caller']} wanted {host}")


def _is_here(host: object) -> bool:
    if host is None or host in ("", "localhost", b"localhost", os.uname().nodename):
        return True
    try:
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host).split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _caller(frame: FrameType | None) -> str:
    """The innermost code that is neither Python's own nor passes calls on: "FILE:LINE in FUNCTION"."""
    own = sysconfig.get_path("stdlib")
    best = "unknown code"
    while frame is not None:
        file = frame.f_code.co_filename
        inside = file.partition("site-packages/")[2]
        if inside or not (file.startswith((own, "<frozen")) or file == __file__):
            best = f"{inside or file}:{frame.f_lineno} in {frame.f_code.co_name}"
            if inside.partition("/")[0] not in _PASSED_THROUGH:
                return best
        frame = frame.f_back
    return best
