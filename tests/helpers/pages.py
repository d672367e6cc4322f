"""Headless Chromium, for the tests of pages."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

HOSTILE = "a <b>&'\" <script>.jpg"
"""An image name with characters that are special in HTML and JavaScript."""

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """Chromium, driven by selenium: opens a page, and reports its network requests and its console messages."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options, service)
        self.driver.set_script_timeout(60)

    def open(self, path: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Open a file in a window; a narrow window is a phone's."""
        self.driver.get("about:blank")
        for kind in ("performance", "browser"):
            self.logs(kind)  # forget the earlier ones
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self.driver.get(path.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns, once its promise is fulfilled."""
        wrapped = "const done = arguments[arguments.length - 1];"
        wrapped += f"(async (...arguments) => {{{script}}})(...arguments).then(done, (e) => done('error: ' + e));"
        return self.driver.execute_async_script(wrapped, *arguments)

    def logs(self, kind: str) -> list[dict[str, Any]]:
        return list(self.driver.get_log(kind))

    def requests(self) -> list[str]:
        """The addresses requested since the page was opened, without those inside the page."""
        messages = [json.loads(entry["message"])["message"] for entry in self.logs("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def complaints(self) -> list[str]:
        """Errors on the console since the page was opened."""
        return [entry["message"] for entry in self.logs("browser") if entry["level"] == "SEVERE"]

    def picture(self, left: float, top: float, width: float, height: float) -> NDArray[np.uint8]:
        """The pixels [H, W, 3] of a part of the page."""
        clip = {"x": left, "y": top, "width": width, "height": height, "scale": 1}
        command = {"format": "png", "clip": clip, "captureBeyondViewport": False}
        data = self.driver.execute_cdp_cmd("Page.captureScreenshot", command)["data"]
        return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium. Tests are skipped where it is not installed, but not in CI."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        message = "no chromium and chromedriver here: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.driver.quit()
