"""Blocks calls to the network during a rehearsal and records who made them.

The rehearsal copies this file into its Python environment, where every process loads it first. So it uses the standard
library only. Calls within this machine are allowed, because Jupyter needs them.
"""

import errno
import ipaddress
import json
import os
import sys
import sysconfig
from types import FrameType
from typing import Any

LOG = "IMC_KIT_GUARD_LOG"
"""Environment variable: the file to which each call is appended as a line of JSON."""
_TO_ADDRESS = ("socket.connect", "socket.sendto")
_EVENTS = (*_TO_ADDRESS, "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_HTTP_CLIENTS = ("urllib3", "requests", "httpx", "httpx2", "httpcore", "httpcore2", "anyio", "aiohttp", "pooch")
"""Packages that call the network for others: the log names their caller instead."""


def start() -> None:
    """Watch this process if it belongs to a rehearsal. An audit hook sees every network call made through Python."""
    log = os.environ.get(LOG)
    if log:
        sys.addaudithook(lambda event, arguments: _audit(event, arguments, log) if event in _EVENTS else None)


def _audit(event: str, arguments: tuple[Any, ...], log: str) -> None:
    target = arguments[1] if event in _TO_ADDRESS else arguments[0]
    if event in _TO_ADDRESS and not isinstance(target, tuple):
        return  # a Unix socket
    host = target[0] if isinstance(target, tuple) else target
    if _is_this_machine(host):
        return
    call = {"event": event, "target": str(host), "caller": _caller(sys._getframe(2))}
    with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123 (before pathlib is loaded)
        file.write(json.dumps(call) + "\n")
    raise OSError(errno.ENETUNREACH, f"there is no network on Kaggle, but {call['caller']} called {host}")


def _is_this_machine(host: object) -> bool:
    if host is None or host in ("", "localhost", b"localhost", os.uname().nodename):
        return True
    try:
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host).split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _caller(frame: FrameType | None) -> str:
    """The innermost code outside the standard library and HTTP clients, as "FILE:LINE in FUNCTION"."""
    standard_library = sysconfig.get_path("stdlib")
    caller = "unknown code"
    while frame is not None:
        file = frame.f_code.co_filename
        installed = file.partition("site-packages/")[2]
        if installed or not (file.startswith((standard_library, "<frozen")) or file == __file__):
            caller = f"{installed or file}:{frame.f_lineno} in {frame.f_code.co_name}"
            if installed.partition("/")[0] not in _HTTP_CLIENTS:
                return caller
        frame = frame.f_back
    return caller
