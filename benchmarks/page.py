"""The page in Chromium: its timeline of 256 devices and 50,000 leases, with nothing merged on the way, until it is
there and while it is moved; and how soon a page of a real daemon shows a change. The browser has no GPU: the processor
paints."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import LeftOut, Result, limit
from tests.browser.chromium import MISSING, chromium, watched_context
from tests.browser.harness import harness
from tests.browser.synthetic import clipped, timeline
from tests.e2e.conftest import Machine, manifest, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NODES, DEVICES, LEASES = 32, 8, 50_000
ROUNDS = 5
FRAMES = 120
CHANGES = 9
FIRST_MS, FRAME_MS, CHANGE_MS = 1000, 1000 / 30, 1000

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


def run() -> Iterator[Result]:
    if MISSING:
        yield LeftOut("the page in a browser", MISSING)
        return
    with chromium() as browser:
        yield from _timeline(browser)
        yield from _change(browser)


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
    what = f"the page's timeline, {NODES * DEVICES} devices and {LEASES:,} leases"
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
