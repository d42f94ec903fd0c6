"""Jobs with an image through the real daemon: placed, leased over SSH, run as services, observed, removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.swarm.control import Control, job
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def test_a_job_runs_as_a_service_inside_a_lease(control: Control, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    script = "echo in $CHRONOS_PARTITION_ID; while [ ! -e /gate/open ]; do sleep 0.1; done"
    control.apply(job("hello", script, mounts=[{"source": str(gate), "target": "/gate"}]))
    control.ok("wait", "gpujob/hello", "--for=condition=Running", "--timeout=200s")
    [service] = control.services()
    assert "node.id==" in control.lab.manager.docker("service", "inspect", service)
    assert len(control.all_leases()) == 1
    (gate / "open").touch()
    control.ok("wait", "gpujob/hello", "--for=condition=Succeeded", "--timeout=200s")
    eventually(lambda: not control.services() and not control.all_leases(), what="nothing is left over")
    [partition] = control.items("partitions")
    assert control.ok("logs", "hello") == f"in {partition['status']['partitionId']}\n"
