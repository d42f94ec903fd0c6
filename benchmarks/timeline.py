"""The page's timeline of 256 devices and 50,000 leases in Chromium, with nothing merged on the way: when it is
there, and how many frames a second it shows while it is moved. Without a GPU for the browser: the processor paints.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from benchmarks.harness import LeftOut, Result, limit
from tests.browser.chromium import MISSING, chromium, watched_context
from tests.browser.harness import harness
from tests.browser.synthetic import clipped, timeline

NODES, DEVICES, LEASES = 32, 8, 50_000
ROUNDS = 5
FRAMES = 120
FIRST_MS, FRAME_MS = 1000, 1000 / 30

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
        yield LeftOut("the page's timeline in a browser", MISSING)
        return
    first, frames, wide = [], [], []
    # All of it in the two days that the widest view asks for.
    made = timeline(int(time.time() * 1000), nodes=NODES, devices=DEVICES, leases=LEASES)
    with harness(lambda query: clipped(made, query)) as server, chromium() as browser:
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
