"""Headless Chromium by the DevTools protocol over a pipe, with the standard library alone; where to get one."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PACKAGE = "chromium-headless-shell"
FLAGS = ("--headless", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
         "--remote-debugging-pipe")  # fmt: skip


class Browser:
    """One page of a browser: `with Browser(binary) as browser: browser.open(url)`."""

    def __init__(self, binary: str | Path, size: tuple[int, int] = (1280, 900)) -> None:
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands, self.write = os.pipe()
        self.read, answers = os.pipe()
        # It reads commands from its descriptor 3 and answers to 4, where bash puts our pipes whatever their numbers.
        script = f'exec "$@" 3<&{commands} 4>&{answers}'
        own = [f"--user-data-dir={self.home.name}", f"--window-size={size[0]},{size[1]}"]
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", str(binary), *FLAGS, *own, "about:blank"],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self.buffer, self.number, self.session = b"", 0, ""
        self.requested: list[str] = []  # addresses that the page asked for
        self.wrong: list[str] = []  # exceptions and errors that it reported
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.resize(*size)
        for domain in ("Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.session = ""
            self.call("Browser.close", timeout=5)
            self.process.wait(5)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait(5)
        os.close(self.write)
        os.close(self.read)
        self.home.cleanup()

    def call(self, method: str, timeout: float = 30.0, **params: Any) -> dict[str, Any]:
        """A command of the protocol and its result. Raises RuntimeError or TimeoutError."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + timeout
        while (answer := self._next(until, method)).get("id") != self.number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, url: str) -> None:
        """Go to a page, and wait until it has loaded. From about:blank: else another #fragment alone is no new load."""
        for address in ("about:blank", url):
            if error := self.call("Page.navigate", url=address).get("errorText"):
                raise RuntimeError(f"{address}: {error}")
        self.wait("location.href != 'about:blank' && document.readyState == 'complete'")

    def js(self, expression: str) -> Any:
        """The value of an expression, as JSON holds it; of a promise, what it comes to."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, expression: str, timeout: float = 30.0) -> Any:
        """The value of an expression once it is true."""
        until = time.monotonic() + timeout
        while not (value := self.js(expression)):
            if time.monotonic() > until:
                raise TimeoutError(f"not so in {timeout} s: {expression}")
            time.sleep(0.1)
        return value

    def resize(self, width: int, height: int) -> None:
        """Make the page's window so many pixels large."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, dark: bool) -> None:
        """What the page hears of the reader's preference."""
        value = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def screenshot(self, path: Path) -> Path:
        """The window as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def _next(self, until: float, method: str) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.read], [], [], left)[0]:
                raise TimeoutError(f"{method}: no answer in time")
            part = os.read(self.read, 1 << 20)
            if not part:
                raise RuntimeError(f"{method}: the browser ended ({self.process.wait(10)})")
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        kind, params = event.get("method"), event.get("params", {})
        if kind == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif kind == "Runtime.exceptionThrown" or kind == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.wrong.append(json.dumps(params))


def find(folder: Path) -> Path:
    """A browser: one on the PATH, else Debian's unpacked into `folder`, which needs no root but apt's package lists.

    Raises RuntimeError, saying why, where there is none to be had.
    """
    if installed := next(filter(None, map(shutil.which, NAMES)), None):
        return Path(installed)
    launcher = folder / "chromium"
    if not launcher.exists():
        _unpack(folder, launcher)
    return launcher


def _unpack(folder: Path, launcher: Path) -> None:
    """The package, and those of its dependencies that are not installed."""
    debs, root = folder / "debs", folder / "root"
    (debs / "partial").mkdir(parents=True, exist_ok=True)
    apt = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "--download-only", "-o", "Debug::NoLocking=1",
           "-o", f"Dir::Cache::archives={debs}", PACKAGE]  # fmt: skip
    try:
        subprocess.run(apt, check=True, capture_output=True, timeout=300, stdin=subprocess.DEVNULL)
        for deb in debs.glob("*.deb"):
            subprocess.run(["dpkg", "-x", deb, root], check=True, capture_output=True, timeout=120)
        binary = next(root.rglob(f"chromium/{PACKAGE}"))
    except (OSError, subprocess.SubprocessError, StopIteration) as error:
        told = getattr(error, "stderr", None) or b""
        raise RuntimeError(f"no {' or '.join(NAMES)}, and apt gives none: {error} {told.decode()[-300:]}") from None
    libraries = ":".join(str(path) for path in (*root.glob("usr/lib/*-linux-gnu"), *root.glob("usr/lib/*/pulseaudio")))
    temporary = launcher.with_suffix(".part")
    temporary.write_text(f'#!/bin/sh\nexport LD_LIBRARY_PATH="{libraries}"\nexec "{binary}" "$@"\n')
    temporary.chmod(0o755)
    temporary.replace(launcher)
    shutil.rmtree(debs)
