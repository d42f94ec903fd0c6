"""What the driver says that each process uses, with MPS and without, and what a lease is shown to use by that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cumulus.chronos import nvml, usage
from cumulus.chronos.contract import LeaseRequest
from cumulus.chronos.ledger import Ledger
from cumulus.clock import SystemClock

from .conftest import GIB, Node


@pytest.mark.parametrize("where", ["mps", "bare"])
def test_the_use_of_each_lease_is_told(
    node: Node, where: str, tmp_path: Path, measured: Callable[[str, object], None]
) -> None:
    leases = [node.lease("one", 0.5), node.lease("other", 0.5)] if where == "mps" else [{}, {}]
    held = node.part(0.1)
    holder = node.cuda("alloc", "device", held, **leases[0])
    assert holder.line()["outcome"] == "ok"
    worker = node.cuda("spin", 4, **leases[1])
    worker.line()
    ledger = Ledger(tmp_path / "chronos", start_monitor=False)
    for id, size, program in (("one", 2 * held, holder), ("small", held // 2, holder), ("busy", held, worker)):
        lease = ledger.grant(LeaseRequest(id, 0, size, 300, 60.0))
        ledger.attach(id, program.process.pid, lease.token)
    worker.tell("go")
    SystemClock().sleep(2.5)
    told = nvml.read_utilization()[node.gpu.id]
    one, small, busy = usage.measure(ledger.database, ledger.devices(), ledger.list()).leases
    worker.line()
    pids = {"holder": holder.process.pid, "busy": worker.process.pid}
    by_process = {name: told.processes.get(pid) for name, pid in pids.items()}
    measured(f"use told, {where}: in all, by process", (told.whole, by_process, len(told.processes)))
    measured(f"use of a busy lease, {where}", (busy.memory_bytes, busy.compute))
    assert one.memory_bytes is not None
    assert held <= one.memory_bytes < held + 2 * GIB
    assert (one.over, small.over, busy.over) == (False, True, False)
    # Of an MPS client the driver tells no compute; of the whole GPU it does.
    assert (one.compute, busy.compute is None) == ((None, True) if where == "mps" else (0, False))
    assert told.whole.compute is not None
    assert told.whole.compute > 500
