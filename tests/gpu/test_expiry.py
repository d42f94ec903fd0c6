"""A lease of 4 s on the GPU ends on time, with its memory free, by the monitor alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cumulus.chronos.lease import Device, LeaseRequest, LeaseState
from cumulus.chronos.ledger import Ledger
from cumulus.clock import SystemClock

from .conftest import GIB, Node, memory_used, until


def test_a_lease_of_4_seconds_ends_within_a_tenth_and_its_memory_is_free(
    node: Node, gpu: Device, tmp_path: Path, measured: Callable[[str, object], None]
) -> None:
    """Its processes are ended on time; how long the driver then takes to take a process's context down is its own."""
    ledger = Ledger(tmp_path / "chronos")
    clock = SystemClock()
    assert ledger.devices()[0].id == gpu.id
    holder = node.cuda("alloc", "device", 20 * GIB, **node.lease("four", 0.5))
    assert holder.line()["outcome"] == "ok"
    bystander = node.start(["sleep", "60"], {})
    lease = ledger.grant(LeaseRequest("four", 0, gpu.memory_bytes // 2, 500, 4.0, grace=0.0))
    end = clock.monotonic() + lease.expires_in
    for program in (holder, bystander):
        ledger.attach("four", program.process.pid, lease.token)
    bystander.process.wait(timeout=10)
    ended = clock.monotonic() - end
    until(lambda: memory_used(gpu) < GIB)
    freed = clock.monotonic() - end
    until(lambda: (found := ledger.get("four")) is not None and found.state is LeaseState.ENDED)
    measured("lease of 4 s: processes ended and GPU memory free, s after the end", f"{ended:.3f} {freed:.3f}")
    assert 0 <= ended < 0.1
    assert freed < 0.5
