"""A lease of 4 s on the GPU ends on time, with its memory free, by the monitor alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cumulus.chronos.contract import Device, LeaseRequest, LeaseState
from cumulus.chronos.ledger import Ledger
from cumulus.clock import SystemClock

from .conftest import GIB, HUGE, Node, memory_used, until


def driver_seconds(node: Node, gpu: Device) -> float:
    """From SIGKILL until the driver has freed a quarter of its memory."""
    program = node.cuda("alloc", "device", node.part(HUGE), **node.lease("floor", 0.5))
    assert program.line()["outcome"] == "ok"
    program.process.kill()
    return until(lambda: memory_used(gpu) < GIB)


def test_a_lease_of_4_seconds_ends_within_a_tenth_and_its_memory_is_free(
    node: Node, gpu: Device, tmp_path: Path, measured: Callable[[str, object], None]
) -> None:
    ledger = Ledger(tmp_path / "chronos")
    clock = SystemClock()
    assert ledger.devices()[0].id == gpu.id
    floor = driver_seconds(node, gpu)
    holder = node.cuda("alloc", "device", node.part(HUGE), **node.lease("four", 0.5))
    assert holder.line()["outcome"] == "ok"
    bystander = node.start(["sleep", "60"], {})
    lease = ledger.grant(LeaseRequest("four", 0, gpu.memory_bytes // 2, 500, 4.0, grace=0.0))
    for program in (holder, bystander):
        ledger.attach("four", program.process.pid, lease.token)
    live = ledger.get("four")
    assert live is not None
    end = clock.monotonic() + live.expires_in
    until(lambda: bystander.process.poll() is not None)
    signalled = clock.monotonic() - end
    until(lambda: memory_used(gpu) < GIB)
    freed = clock.monotonic() - end
    until(lambda: holder.process.poll() is not None)
    ended = clock.monotonic() - end
    until(lambda: (found := ledger.get("four")) is not None and found.state is LeaseState.ENDED)
    booked = clock.monotonic() - end
    figures = f"{signalled:.3f} {freed:.3f} {ended:.3f} {booked:.3f}"
    measured("lease of 4 s, s after its end: a program ended, GPU memory free, its holder gone, lease Ended", figures)
    measured("the driver alone, s from SIGKILL to the GPU memory's being free", f"{floor:.3f}")
    assert 0 <= signalled < 0.1
    assert freed < 3 * floor, "the driver's part is all but all of it"
