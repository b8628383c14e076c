"""A real browser for tests: Debian's `chromium`, without a screen, spoken to through a pipe.

Its own protocol (https://chromedevtools.github.io/devtools-protocol/) needs two file descriptors and no library.
"""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_SECONDS = 60


class Browser:
    """One page of a running browser; `requests` and `problems` say what it asked for and what it complained of."""

    def __init__(self, process: subprocess.Popen, to: int, of: int):
        self._process, self._to, self._of = process, to, of
        self._rest, self._number, self._session = b"", 0, None
        self.requests: list[str] = []
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol; returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, f"{method}: {found['error']}"
                return found["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = os.read(self._of, 1 << 20)
            assert block, f"the browser ended: {self._process.poll()}"
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(line)
        match found.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(found["params"]["request"]["url"])
            case "Runtime.exceptionThrown" | "Log.entryAdded" | "Page.javascriptDialogOpening":
                self.problems.append(json.dumps(found["params"]))
        return found

    def open(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """Shows a file on a screen of that size, which prefers dark or light."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        until = time.monotonic() + _SECONDS
        while self.ask("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < until, "the page does not load"
            time.sleep(0.02)

    def ask(self, expression: str) -> Any:
        """Returns what an expression of JavaScript is in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self, path: Path) -> None:
        """Writes the whole page, as far as it can be scrolled, as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=self._whole())
        path.write_bytes(base64.b64decode(found["data"]))

    def _whole(self) -> dict[str, Any]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def pdf(self, path: Path) -> None:
        """Prints the page on A4, backgrounds left out as browsers do."""
        found = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """Starts a browser whose own files lie in a folder, and ends it."""
    (read, to), (of, write) = os.pipe(), os.pipe()
    # The browser reads from 3 and writes to 4.
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "-", CHROMIUM, *_OPTIONS, f"--user-data-dir={folder}"],
        pass_fds=(read, write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HOME": str(folder)},
    )
    os.close(read), os.close(write)
    try:
        yield Browser(process, to, of)
    finally:
        process.terminate()
        process.wait(_SECONDS)
        os.close(to), os.close(of)
