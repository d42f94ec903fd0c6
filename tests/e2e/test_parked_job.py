"""A job that is parked and comes back while its daemon dies, on stand-ins for NVIDIA's libraries."""

from __future__ import annotations

import signal
from pathlib import Path

from cumulus.chronos.parking.driver import CheckpointState
from tests.enforce.conftest import counter, libraries
from tests.parkable_job import ParkableJob, parkable_job
from tests.standin_nvml import GIB
from tests.waiting import eventually

__all__ = ["counter", "libraries"]


def test_a_daemon_that_ends_while_its_job_is_moved_leaves_it_as_the_node_has_it(tmp_path: Path, counter: Path) -> None:
    """The node's monitor goes on by itself; the next daemon finds what became of it, and begins no attempt anew."""
    with parkable_job(tmp_path, counter) as job:
        daemon_ends_at(job, "checkpoint", signal.SIGKILL, "park")
        job.machine.ok("wait", "gpujob/notebook", "--for=condition=Parked", "--timeout=200s")
        assert (job.cuda.state(job.pid), job.set_aside()) == (CheckpointState.CHECKPOINTED, GIB)
        daemon_ends_at(job, "restore", signal.SIGTERM, "unpark")
        job.machine.ok("wait", "gpujob/notebook", "--for=condition=Parked=False", "--timeout=200s")
        assert (job.cuda.state(job.pid), job.set_aside()) == (CheckpointState.RUNNING, 0)
        status = job.machine.get("job", "notebook")["status"]
        assert (status["phase"], len(status["attempts"])) == ("Running", 1)


def daemon_ends_at(job: ParkableJob, call: str, number: signal.Signals, verb: str) -> None:
    """Its daemon ends once its node's driver was called so, and another is started."""
    reached = job.home / f"{call}-was-called"
    job.cuda.script(f"touch {call} {job.pid} {reached}", f"slow {call} {job.pid} 300")
    job.machine.ok(verb, "notebook")
    eventually(reached.exists, what=f"the driver is asked to {call}")
    daemon = job.machine.daemons[-1]
    daemon.send_signal(number)
    daemon.wait()
    job.machine.serve()
