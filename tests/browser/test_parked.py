"""A job that is really parked, on stand-ins for NVIDIA's libraries, as the page shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import Opens
from tests.browser.test_pages import timeline_of
from tests.e2e.conftest import Machine
from tests.enforce.conftest import counter, libraries
from tests.parkable_job import parkable_job
from tests.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["counter", "libraries"]


@pytest.fixture
def machine(tmp_path: Path, counter: Path) -> Iterator[Machine]:
    """A node that parks; the job `notebook` runs there and holds a GiB of the GPU."""
    with parkable_job(tmp_path, counter) as job:
        yield job.machine


def spans(page: Page) -> Mapping[str, Any]:
    """By kind, what of the job is there now: its share, and whether pointing at it finds it."""
    found: list[Any] = timeline_of(
        page,
        """[...t.model.within(t.now, t.now + 1)].filter(([span]) => span.job === "default/notebook")
        .map(([span]) => [span.kind, span.share])""",
    )
    return dict(found)


def test_a_parked_job_is_on_the_timeline_until_it_comes_back(machine: Machine, open_page: Opens) -> None:
    page = open_page(machine.ok("ui", "--print").split()[0])
    eventually(lambda: spans(page) == {"Lease": pytest.approx(0.5)}, what="it runs")
    begun = timeline_of(page, "t.now")
    machine.ok("park", "notebook")
    machine.ok("wait", "gpujob/notebook", "--for=condition=Parked", "--timeout=200s")
    eventually(lambda: spans(page) == {"Parked": 0}, what="it is parked")
    page.locator("lease-timeline canvas").first.focus()
    page.keyboard.press("ArrowRight")
    eventually(lambda: "default/notebook" in page.locator(".timeline-spoken").inner_text(), what="keys reach it")
    page.locator("lease-timeline summary").click()
    rows = "[...t.table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent))"

    def told() -> bool:
        return any("Parked" in row and "default/notebook" in row for row in timeline_of(page, rows))

    eventually(told, what=lambda: f"the table says it: {timeline_of(page, rows)}")
    machine.ok("unpark", "notebook")
    eventually(lambda: spans(page) == {"Lease": pytest.approx(0.5)}, what="it has its share again")
    # Little more than that, so that no part of it is shorter than a pixel.
    timeline_of(page, f"(t._loose(), t.view.from = {begun} - 5, t.view.until = t.now + 5, t._moved())")
    kinds = """[...t.model.within(t.now - 3600, t.now + 1)].filter(([span]) => span.job === "default/notebook")
        .map(([span]) => span.kind)"""
    whole = ["Lease", "Parked", "Lease"]
    eventually(lambda: timeline_of(page, kinds) == whole, what=lambda: f"it was recorded: {timeline_of(page, kinds)}")
