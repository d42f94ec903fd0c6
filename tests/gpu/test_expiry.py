"""A lease of 4 s on the GPU ends on time, with its memory free, by the monitor alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cumulus.chronos.lease import Device, LeaseRequest, LeaseState
from cumulus.chronos.ledger import Ledger
from cumulus.clock import SystemClock

from .conftest import GIB, Node, memory_used, until


def test_a_lease_of_4_seconds_ends_within_a_tenth_with_its_memory_free(
    node: Node, gpu: Device, tmp_path: Path, measured: Callable[[str, object], None]
) -> None:
    ledger = Ledger(tmp_path / "chronos")
    clock = SystemClock()
    assert ledger.devices()[0].id == gpu.id
    program = node.cuda("alloc", "device", 20 * GIB)
    assert program.line()["outcome"] == "ok"
    before = clock.monotonic()
    lease = ledger.grant(LeaseRequest("four", 0, 30 * GIB, 500, 4.0, grace=0.0))
    ledger.attach("four", program.process.pid, lease.token)
    program.process.wait(timeout=10)
    died = clock.monotonic() - before
    freed = until(lambda: memory_used(gpu) < GIB)
    until(lambda: (found := ledger.get("four")) is not None and found.state is LeaseState.ENDED)
    measured("lease of 4 s: process gone after s, memory free s later", (f"{died:.3f}", f"{freed:.3f}"))
    assert 3.9 < died < 4.1
