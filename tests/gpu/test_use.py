"""What the driver says that each process uses, with MPS and without."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cumulus.chronos import nvml
from cumulus.clock import SystemClock

from .conftest import GIB, Node


@pytest.mark.parametrize("where", ["mps", "bare"])
def test_the_use_of_each_process_is_told(node: Node, where: str, measured: Callable[[str, object], None]) -> None:
    leases = [node.lease("one", 0.5), node.lease("other", 0.5)] if where == "mps" else [{}, {}]
    holder = node.cuda("alloc", "device", 8 * GIB, **leases[0])
    assert holder.line()["outcome"] == "ok"
    worker = node.cuda("spin", 3, **leases[1])
    worker.line()
    worker.tell("go")
    SystemClock().sleep(2.0)
    use = nvml.ask()[node.gpu.id]
    worker.line()
    told = {name: use.processes.get(program.process.pid) for name, program in (("8 GiB", holder), ("busy", worker))}
    measured(f"use told of {where}: in all, by process", (use.whole, told, len(use.processes)))
    assert use.whole.memory_bytes >= 8 * GIB
    held = told["8 GiB"]
    assert held is not None
    assert 8 * GIB <= held.memory_bytes < 10 * GIB
