"""The page in Chromium: its timeline of 256 devices and 50,000 leases, until it is there and while it is moved: of a
server with a history, which clips and merges, and of made-up data with nothing merged on the way. And how soon a page
of a real daemon shows a change. The browser has no GPU: the processor paints."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import history
from benchmarks.harness import LeftOut, Result, limit
from tests.browser.chromium import MISSING, chromium, watched_context
from tests.browser.harness import harness
from tests.browser.pictures import pool
from tests.browser.synthetic import clipped, timeline
from tests.e2e.conftest import Machine, manifest, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NODES, DEVICES, LEASES = 32, 8, 50_000
ROUNDS = 5
FRAMES = 120
CHANGES = 9
FIRST_MS, FRAME_MS, CHANGE_MS = 1000, 1000 / 30, 1000
WINDOWS = {"6 hours": "", "a week": "1 week", "30 days": "30 days"}

FIRST = """async () => {
  const element = document.querySelector("lease-timeline");
  while (!(element.model?.rows.length > 0)) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now();
}"""
"""Milliseconds from the start of the navigation until the picture is on the screen."""

PAN = """async (frames) => {
  const element = document.querySelector("lease-timeline"), canvas = element.canvas;
  const box = canvas.getBoundingClientRect(), times = [];
  for (let frame = 0; frame <= frames; frame += 1) {
    const at = { clientX: box.left + 400, clientY: box.top + 200, bubbles: true, cancelable: true };
    canvas.dispatchEvent(new WheelEvent("wheel", { deltaX: frame % 40 < 20 ? 12 : -12, ...at }));
    element.scroller.scrollTop += 6;
    times.push(await new Promise(requestAnimationFrame));
  }
  return (times.at(-1) - times[0]) / frames;
}"""
"""Milliseconds a frame, while it moves in time and over the lanes."""

LOADED = """async () => {
  const element = document.querySelector("lease-timeline"), began = performance.now();
  const there = ({ source, view }) => source.pending === null && source.loaded.from <= view.from
    && view.until <= source.loaded.until && source.loaded.scale < (2 * view.span) / view.width;
  while (!there(element)) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""
"""Milliseconds until what the window shows is there, as finely as it can be seen, and painted."""

FAR = """() => {
  const element = document.querySelector("lease-timeline");
  for (let page = 0; page < 5; page += 1) element._page(false);
}"""
"""To a window of which nothing is there yet."""


def run() -> Iterator[Result]:
    if MISSING:
        yield LeftOut("the page in a browser", MISSING)
        return
    with chromium() as browser:
        yield from _history(browser)
        yield from _timeline(browser)
        yield from _change(browser)


def _history(browser: Browser) -> Iterator[Result]:
    """The overview of a server whose history holds the leases."""
    first: list[float] = []
    far: list[float] = []
    frames: dict[str, list[float]] = {name: [] for name in WINDOWS}
    with pool(history.fill) as (url, enter), watched_context(browser) as (context, _watched):
        page = context.new_page()
        page.goto(url + enter)
        for _ in range(ROUNDS):
            page.goto(f"{url}/ui/")
            first.append(page.evaluate(FIRST))
            for name, choice in WINDOWS.items():
                if choice:
                    page.get_by_role("combobox").select_option(choice)
                page.evaluate(LOADED)
                frames[name].append(page.evaluate(PAN, FRAMES))
            page.evaluate(FAR)
            far.append(page.evaluate(LOADED))
    what = f"the overview with a history of {NODES * DEVICES} devices and {LEASES:,} leases"
    yield limit(f"{what}: until it is painted", statistics.median(first), FIRST_MS, unit="ms")
    for name, taken in frames.items():
        yield limit(f"{what}: a frame while it is moved, {name} wide", statistics.median(taken), FRAME_MS, unit="ms")
    yield limit(f"{what}: another window of 30 days, until it is painted", statistics.median(far), FIRST_MS, unit="ms")


def _timeline(browser: Browser) -> Iterator[Result]:
    first, frames, wide = [], [], []
    made = timeline(int(time.time() * 1000), nodes=NODES, devices=DEVICES, leases=LEASES)
    with harness(lambda query: clipped(made, query)) as server:
        for _ in range(ROUNDS):
            with watched_context(browser) as (context, _watched):
                page = context.new_page()
                page.goto(server.url)
                first.append(page.evaluate(FIRST))
                frames.append(page.evaluate(PAN, FRAMES))
                page.get_by_role("combobox").select_option("1 week")
                wide.append(page.evaluate(PAN, FRAMES))
    what = f"the page's timeline of made-up data, nothing merged, {NODES * DEVICES} devices and {LEASES:,} leases"
    yield limit(f"{what}: until it is painted", statistics.median(first), FIRST_MS, unit="ms")
    yield limit(f"{what}: a frame while it is moved, 6 hours wide", statistics.median(frames), FRAME_MS, unit="ms")
    yield limit(f"{what}: a frame while it is moved, a week wide", statistics.median(wide), FRAME_MS, unit="ms")


def _change(browser: Browser) -> Iterator[Result]:
    delays = []
    with (
        tempfile.TemporaryDirectory() as directory, serving(Machine(Path(directory) / "m")) as machine,
        watched_context(browser) as (context, _watched),
    ):  # fmt: skip
        page = context.new_page()
        page.goto(machine.ok("ui", "--print").split()[0])
        page.get_by_role("link", name="Jobs").click()
        for number in range(CHANGES):
            # After the one before is over, as on a page that nobody uses.
            page.wait_for_timeout(2000)
            began = time.monotonic()
            machine.apply(manifest(f"job-{number}", "true", suspend=True))
            page.get_by_role("link", name=f"job-{number}", exact=True).wait_for()
            delays.append((time.monotonic() - began) * 1000)
    what = "from the start of `cumulus apply` until an open page shows the job"
    yield limit(what, statistics.median(delays), CHANGE_MS, unit="ms")
