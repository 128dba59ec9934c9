"""A headless Chromium, driven by its DevTools protocol through a pipe: pages as people meet them.

Nothing is installed for it. Where no Chromium or Chrome is on PATH the tests that ask for one skip.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"
PHONE, DESKTOP = (390, 844), (1280, 900)

# What is wider than the window, outside boxes that scroll by themselves.
WIDER = """(() => {
  const width = document.documentElement.clientWidth;
  const held = (e) => e && (getComputedStyle(e).overflowX != "visible" || held(e.parentElement));
  const wide = [...document.querySelectorAll("main *")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width && box.right > width + 1 && !held(e.parentElement.closest("main *"));
  });
  const page = document.documentElement.scrollWidth > width ? ["the page"] : [];
  return [...page, ...wide.map((e) => e.tagName + " " + e.className)];
})()"""

# Texts whose contrast is below WCAG's 4.5:1 (3:1 from 24 px on), with the ratio.
PALE = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const colour = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = (top, below) => top.map((c, i) => i == 3 ? 255
    : c * top[3] / 255 + below[i] * (1 - top[3] / 255));
  const behind = (e) => {
    const own = colour(getComputedStyle(e).backgroundColor);
    return own[3] == 255 ? own
      : over(own, e.parentElement ? behind(e.parentElement) : [255, 255, 255, 255]);
  };
  const light = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Set();
  const walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, style = getComputedStyle(e);
    if (!walk.currentNode.data.trim() || !e.getClientRects().length) continue;
    if (e.closest("script, style, .headerlink") || style.visibility == "hidden") continue;
    const ground = behind(e), drawn = e.closest("svg") ? style.fill : style.color;
    const ink = over(colour(drawn), ground);
    const [low, high] = [light(ground), light(ink)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5))
      found.add(`${e.tagName} ${e.className.baseVal ?? e.className}: ${ratio.toFixed(2)}`);
  }
  return [...found];
})()"""

# Pictures that are not drawn whole: not loaded, or wider than what holds them.
CUT = """[...document.querySelectorAll("main img")].filter((i) => !i.hidden &&
  !(i.naturalWidth && i.getBoundingClientRect().right <= innerWidth)).map((i) => i.alt)"""


class Page:
    """A tab of a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.errors: list[str] = []  # of its scripts
        self.asked: list[str] = []  # what it fetched by network
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        return self._browser.call(method, given, self._session)

    def show(self, path: Path, size: tuple[int, int], scheme: str) -> None:
        """Open a file in a window of this size, in the scheme "light" or "dark"."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=media)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._browser.wait_for("Page.loadEventFired", self._session)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is, as JSON carries it."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        given = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **given, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def heard(self, method: str, given: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            told = given["exceptionDetails"]
            self.errors.append(told.get("exception", {}).get("description", told["text"]))
        if method == "Network.requestWillBeSent":
            url = given["request"]["url"]
            self.asked += [] if url.startswith(("file:", "data:")) else [url]


class Browser:
    """The process and its pipe: messages are JSON, each ended by a zero byte."""

    def __init__(self, sent: int, received: int) -> None:
        self._sent, self._received = sent, received
        self._rest, self._number = b"", 0
        self._pages: dict[str, Page] = {}
        self._seen: list[tuple[str, str | None]] = []

    def page(self) -> Page:
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        given = {"targetId": target, "flatten": True}
        session = self.call("Target.attachToTarget", given)["sessionId"]
        self._pages[session] = page = Page(self, session)
        return page

    def call(self, method: str, given: dict[str, Any], session: str | None = None) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": given}
        message |= {"sessionId": session} if session else {}
        if method == "Page.navigate":
            self._seen.clear()
        os.write(self._sent, json.dumps(message).encode() + b"\0")
        while (told := self._next()).get("id") != self._number:
            pass
        assert "error" not in told, f"{method}: {told['error']}"
        return told["result"]

    def wait_for(self, event: str, session: str) -> None:
        while (event, session) not in self._seen:
            self._next()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._received, 2**20)
            assert more, "the browser has ended"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(text)
        if "method" in told:
            session = told.get("sessionId")
            self._seen.append((told["method"], session))
            if session in self._pages:
                self._pages[session].heard(told["method"], told["params"])
        return told


@contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """A browser with an empty folder as its profile; the test skips where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser on PATH: {', '.join(NAMES)}")
    (ours_in, theirs_out), (theirs_in, ours_out) = os.pipe(), os.pipe()
    # Chromium reads from 3 and writes to 4.
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    options = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"]
    options += ["--no-first-run", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", program, *options],
        pass_fds=(theirs_in, theirs_out),
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        os.close(ours_out)
        os.close(ours_in)
        process.terminate()
        process.wait()
