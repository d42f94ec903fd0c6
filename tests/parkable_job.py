"""A machine with a daemon, a GPU of stand-ins for NVIDIA's libraries, and a job there that holds a GiB and can be
parked."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cumulus.chronos.contract import Proof
from cumulus.chronos.contract.variables import CUDA_COUNTER
from cumulus.chronos.database import Database
from cumulus.chronos.parking import rows
from tests.chronos.parking_node import counted
from tests.commands import CHRONOS_CLI
from tests.e2e.conftest import Machine, manifest, serving
from tests.standin_cuda import StandInCuda
from tests.standin_nvml import GIB, StandInNvml
from tests.waiting import eventually

GPU = "GPU-11111111-2222-3333-4444-555555555555"


@dataclass(frozen=True)
class ParkableJob:
    """The job `notebook`, which runs; `pid` is its program's."""

    machine: Machine
    home: Path
    """The ledger's directory."""
    cuda: StandInCuda
    pid: int

    def set_aside(self) -> int:
        with Database(self.home).read() as db:
            return rows.set_aside(db)


@contextmanager
def parkable_job(directory: Path, counter: Path) -> Iterator[ParkableJob]:
    """`counter`: the counting library."""
    nvml = StandInNvml(directory / "nvml", {GPU: 80 * GIB})
    cuda = StandInCuda(nvml.directory)
    machine = Machine(directory / "m")
    machine.env |= {"LD_LIBRARY_PATH": str(nvml.directory), "CHRONOS_MPS": "off", CUDA_COUNTER: str(counter)}
    machine.env["PATH"] = f"{nvml.directory}:{machine.env['PATH']}"
    with serving(machine):
        home = directory / "m" / "chronos"
        subprocess.run([CHRONOS_CLI, "policy", "--parking-memory", "4Gi"], env=machine.env, check=True)
        with Database(home).write() as tx:
            rows.record_proofs(tx, [Proof("Stand-in", "580.1", "cuda", True, "of a test", "2030-01-01T00:00:00Z")])
        job = manifest("notebook", "echo pid $$; exec sleep 600", memory="50%", duration="30m")
        job["spec"]["gpu"]["sharing"] = "Parkable"
        machine.apply(job)
        [told] = eventually(lambda: machine.run("logs", "notebook").stdout.partition("pid ")[2].split(), what="it runs")
        pid = int(told)
        [lease] = machine.leases()
        nvml.hold(GPU, {pid: GIB})
        cuda.uses(pid)
        counted(home, lease["partitionId"], {pid: 0})
        yield ParkableJob(machine, home, cuda, pid)
