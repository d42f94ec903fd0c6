"""Debian's Chromium, driven by Playwright, which downloads nothing. It reaches this machine alone, and each page that a
test opens is watched: a request that fails or leaves the machine, an error of a script, or what the
Content-Security-Policy refuses fails the test."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, BrowserType, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LEFT_OUT = "WHAT A BROWSER SHOWS IS NOT TESTED: "
MISSING = (
    f"{LEFT_OUT}chromium is not installed (Debian: apt install chromium)" if CHROMIUM is None
    else f"{LEFT_OUT}playwright is not installed (scripts/test.sh does)"
    if importlib.util.find_spec("playwright") is None
    else ""
)  # fmt: skip

LOOPBACK = {"127.0.0.1", "localhost", "[::1]", "::1"}
DISABLED = (
    # Each context has a window, and each window a popup of its own below the address bar, with pages that nobody sees:
    # two thirds of what a context costs.
    "WebUIOmniboxPopup", "WebUIOmniboxAimPopup",
    # Of several such flags Chromium heeds the last: these are what Playwright disables on Linux.
    "AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades",
    "HttpsFirstBalancedModeAutoEnable", "LensOverlay", "MediaRouter", "PaintHolding", "ThirdPartyStoragePartitioning",
    "AvoidCorsURLLoaderRestartOnRedirect", "OptimizationHints", "NetworkTimeServiceQuerying", "AimEnabled",
    "PreconnectToSearch",
)  # fmt: skip
"""Features of Chromium. One that it does not know means nothing to it."""
FLAGS = (
    f"--disable-features={','.join(DISABLED)}",
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    # Whatever is asked for beyond this machine goes to a port where nobody listens.
    "--proxy-server=http://127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)  # fmt: skip

MILLISECONDS = PATIENCE * 1000

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Playwright keeps an event loop in this thread until the block ends: no asyncio may run beside it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, launched(playwright.chromium) as browser:
        yield browser


@contextmanager
def launched(chromium: BrowserType) -> Iterator[Browser]:
    """Another process, of its own user data."""
    browser = chromium.launch(executable_path=CHROMIUM, args=[*FLAGS], timeout=MILLISECONDS)
    try:
        yield browser
    finally:
        browser.close()


class Watched:
    """What went wrong in the pages of one context. A test that breaks something on purpose clears `faults`."""

    def __init__(self, context: BrowserContext) -> None:
        self.faults: list[str] = []
        self.received = 0
        context.on("page", self._page)
        context.on("request", self._request)
        context.on("requestfailed", self._failed)
        context.on("response", self._response)

    def _page(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.faults.append(f"a script failed: {error}"))
        page.on("console", self._console)

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.faults.append(f"the console says: {message.text}")

    def _request(self, request: Any) -> None:
        split = urlsplit(request.url)
        if split.scheme not in ("data", "blob", "about") and split.hostname not in LOOPBACK:
            self.faults.append(f"a request left this machine: {request.url}")

    def _failed(self, request: Any) -> None:
        # The page itself gives up what it no longer needs.
        if request.failure != "net::ERR_ABORTED":
            self.faults.append(f"a request failed: {request.method} {request.url}: {request.failure}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.faults.append(f"a request failed: {response.status} {response.url}")


@contextmanager
def watched_context(browser: Browser, **options: Any) -> Iterator[tuple[BrowserContext, Watched]]:
    """A fresh profile. `viewport`, `color_scheme`, `java_script_enabled` and the like are Playwright's."""
    context = browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", "timezone_id": "Europe/Berlin", **options})
    context.set_default_timeout(MILLISECONDS)
    watched = Watched(context)
    try:
        yield context, watched
    finally:
        context.close()
    assert watched.faults == []
