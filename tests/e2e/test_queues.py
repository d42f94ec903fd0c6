"""Queues on the real daemon: a promise is given and kept, and what was held is counted once, over a kill -9."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from cumulus.clock import parse_timestamp
from tests import pages
from tests.e2e.conftest import Machine, manifest
from tests.waiting import eventually

pytestmark = pytest.mark.daemon


def counted(machine: Machine) -> dict[str, Any]:
    """What its only user has used, when both leases are counted."""

    def both() -> dict[str, Any] | None:
        found = [usage["status"] for usage in machine.items("queueusages")]
        return found[0] if found and found[0]["leases"] == 2 else None

    return eventually(both, what="both leases are counted")


def test_a_promise_is_kept_and_each_lease_is_counted_once(machine: Machine) -> None:
    daemon = machine.serve()
    machine.ready()
    seen = machine.directory / "seen"
    script = f"sleep 3; until [ -e {seen} ]; do sleep 0.1; done"
    machine.apply(
        {"apiVersion": "cumulus.dev/v1alpha1", "kind": "Queue", "metadata": {"name": "default"}, "spec": {}},
        manifest("first", script, memory="100%", duration="1h"),
    )
    machine.ok("wait", "gpujob/first", "--for=condition=Running", "--timeout=150s")
    machine.apply(manifest("second", "true", memory="50%"))
    told = eventually(lambda: machine.get("job", "second")["status"].get("promise"), what="it is promised a start")
    assert "at the latest" in machine.ok("why", "second")
    line = machine.ok("queue")
    assert "default/second" in line
    assert "default/first" in line
    seen.touch()
    daemon.kill()
    daemon.wait()
    machine.serve()
    machine.ok("wait", "gpujob/first", "gpujob/second", "--for=condition=Succeeded", "--timeout=150s")
    (attempt,) = machine.get("job", "second")["status"]["attempts"]
    assert parse_timestamp(attempt["startTime"]) <= parse_timestamp(told["startBy"])
    usage = counted(machine)
    # The first held the whole device for three seconds and until it was seen; nobody pays for the rest of the hour.
    assert 3_000_000 <= usage["deviceMicroseconds"] < 1_800_000_000


def test_the_tour_works_as_written(machine: Machine, tmp_path: Path) -> None:
    machine.serve()
    machine.ready()
    commands = pages.commands(pages.part(Path(__file__).parents[2] / "docs" / "queues.md", "try"))
    assert len(commands) == 15
    env = {**machine.env, "PATH": f"{Path(sys.executable).parent}:{machine.env['PATH']}"}
    printed = pages.follow(commands, tmp_path, env)
    assert re.search(r"starts? .* at the latest", printed)
    assert re.search(r"^1 +default/tune +default ", printed, re.M)
    assert re.search(r"sweep +Running +0-5 ", printed, re.M)
    assert "\ntuned\n" in printed
