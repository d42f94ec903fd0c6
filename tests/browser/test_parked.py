"""A job that is really parked, on stand-ins for NVIDIA's libraries, as the page shows it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cumulus.chronos.contract import Proof
from cumulus.chronos.contract.variables import CUDA_COUNTER
from cumulus.chronos.database import Database
from cumulus.chronos.parking import rows
from tests.browser.conftest import Opens
from tests.browser.test_pages import timeline_of
from tests.chronos.parking_node import counted
from tests.commands import CHRONOS_CLI
from tests.e2e.conftest import Machine, manifest, serving
from tests.enforce.conftest import counter, libraries
from tests.standin_cuda import StandInCuda
from tests.standin_nvml import GIB, StandInNvml
from tests.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["counter", "libraries"]

GPU = "GPU-11111111-2222-3333-4444-555555555555"


@pytest.fixture
def machine(tmp_path: Path, counter: Path) -> Iterator[Machine]:
    """A node that parks; the job `notebook` runs there and holds a GiB of the GPU."""
    nvml = StandInNvml(tmp_path / "nvml", {GPU: 80 * GIB})
    cuda = StandInCuda(nvml.directory)
    made = Machine(tmp_path / "m")
    made.env |= {"LD_LIBRARY_PATH": str(nvml.directory), "CHRONOS_MPS": "off", CUDA_COUNTER: str(counter)}
    made.env["PATH"] = f"{nvml.directory}:{made.env['PATH']}"
    with serving(made):
        home = tmp_path / "m" / "chronos"
        subprocess.run([CHRONOS_CLI, "policy", "--parking-memory", "4Gi"], env=made.env, check=True)
        with Database(home).write() as tx:
            rows.record_proofs(tx, [Proof("Stand-in", "580.1", "cuda", True, "of a test", "2030-01-01T00:00:00Z")])
        job = manifest("notebook", "echo pid $$; exec sleep 600", memory="50%", duration="30m")
        job["spec"]["gpu"]["sharing"] = "Parkable"
        made.apply(job)
        pid = int(
            eventually(lambda: made.run("logs", "notebook").stdout.partition("pid ")[2].split(), what="it runs")[0]
        )
        [lease] = made.leases()
        nvml.hold(GPU, {pid: GIB})
        cuda.uses(pid)
        counted(home, lease["partitionId"], {pid: 0})
        yield made


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
    machine.ok("wait", "gpujob/notebook", "--for=condition=Parked", "--timeout=120s")
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
