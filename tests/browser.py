"""A page in a real browser, driven by the DevTools protocol over a pipe: no further dependency.

`Page.key` sends what a keyboard sends; `Page.evaluate` looks at what came of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60.0
KEYS = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}


def find_browser() -> str | None:
    """Return the browser of this machine: `DCBMZ_BROWSER`, or a Chromium on the path."""
    named = os.environ.get("DCBMZ_BROWSER")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, process: subprocess.Popen[bytes], write_to: int, read_from: int) -> None:
        self.process = process
        self.write_to, self.read_from = write_to, read_from
        self.rest = b""
        self.number = 0
        self.session: str | None = None
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.file: Path | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.read_from, 1 << 20)
            assert part, f"the browser ended with {self.process.poll()}"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def _note(self, message: dict[str, Any]) -> None:
        """Keep what the page asked for and complained of."""
        method, given = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"].split(",")[0])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(given["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.problems.append(given["entry"]["text"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self.number += 1
        command: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            command["sessionId"] = self.session
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self.write_to, data) :]
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            message = self._next()
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)
        raise TimeoutError(f"{method} was not answered within {SECONDS:g} s")

    def open(self, path: Path) -> None:
        """Open a file and wait until it is shown whole."""
        self.file = path
        self.call("Page.navigate", url=path.absolute().as_uri())
        deadline = time.monotonic() + SECONDS
        while self.evaluate("document.readyState") != "complete":
            assert time.monotonic() < deadline, f"{path.name} is not shown after {SECONDS:g} s"
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression gives on the page; promises are waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def key(self, name: str, times: int = 1) -> None:
        """Press and release a key, as the keyboard does."""
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=name,
                    code=name,
                    windowsVirtualKeyCode=KEYS[name],
                )

    def described(self, selector: str) -> dict[str, Any]:
        """Return role, name and properties of an element, as a screen reader is told."""
        self.call("Accessibility.enable")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        found = self.call("Accessibility.getPartialAXTree", nodeId=node, fetchRelatives=False)
        (element,) = found["nodes"]
        told = {"role": element["role"]["value"], "name": element["name"]["value"]}
        return told | {one["name"]: one["value"].get("value") for one in element["properties"]}


@contextmanager
def page(browser: str) -> Generator[Page]:
    """A tab of a fresh browser without a window, ended afterwards."""
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()

    def place() -> None:
        """Put the ends of the pipes where the protocol expects them: 3 is read, 4 written."""
        reading, writing = os.dup(to_browser), os.dup(from_browser)
        os.dup2(reading, 3)
        os.dup2(writing, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--window-size=1280,900",
                f"--user-data-dir={profile}",
                "--remote-debugging-pipe",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=place,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            yield Page(process, from_us, to_us)
        finally:
            os.close(from_us)
            os.close(to_us)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
