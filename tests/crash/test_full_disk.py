"""The disk fills up in the middle of the daemon's life, and has room again: nothing acknowledged is lost."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.commands import CHRONOS_CLI, CUMULUS
from tests.crash.jobs import API, read_records
from tests.crash.world import World, world
from tests.waiting import PATIENCE, poll


@pytest.fixture
def small() -> Iterator[World]:
    """A world whose state is on a disk of 8 MiB; what its jobs record is elsewhere."""
    with world() as outer:
        disk = outer.directory / "disk"
        disk.mkdir()
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], capture_output=True, text=True, check=False
        )
        if mount.returncode:
            pytest.skip(f"LEFT OUT: a really full disk needs root to mount one ({mount.stderr.strip()})")
        try:
            inner = World(disk)
            inner.records = outer.records
            yield inner
        finally:
            outer.end_everything()
            subprocess.run(["umount", "-l", disk], check=True)


def job(world: World, name: str, script: str, seconds: str = "10m") -> str:
    say = f'read -r up _ </proc/uptime; echo "$what {name} $CUMULUS_ATTEMPT 0 lease $up $code" >>{world.records}'
    body = f"what=start; {say}; {script}; what=end; code=0; {say}"
    spec = {"command": ["/bin/sh", "-c", body], "gpu": {"memory": "4%", "duration": seconds}}
    return json.dumps({"apiVersion": API, "kind": "GPUJob", "metadata": {"name": name}, "spec": spec})


@pytest.mark.daemon
@pytest.mark.timeout(1800)
def test_a_disk_that_fills_up_and_empties_amid_the_daemons_life(small: World) -> None:
    gate = small.records.with_name("gate")
    wait = f"while [ ! -e {gate} ]; do sleep 0.1; done"
    daemon = small.start(CUMULUS, "serve", log="../serve.log")
    acknowledged = []
    for name, script, seconds in (("long", wait, "10m"), ("late", "sleep 1000", "6s"), ("short", "true", "10m")):
        small.ok(CUMULUS, "apply", "-f", "-", input=job(small, name, script, seconds))
        acknowledged.append(name)
    assert poll(lambda: {"long", "late"} <= {r.job for r in read_records(small.records)}, PATIENCE)

    ballast = small.directory / "ballast"
    fill(ballast)
    refused = 0
    for number in range(4):
        code, _, err = small.run(CUMULUS, "apply", "-f", "-", input=job(small, f"full-{number}", "true"))
        if code == 0:
            acknowledged.append(f"full-{number}")
            fill(ballast)
            continue
        refused += 1
        assert code == 1, err
        assert "full" in err, err
        assert "Traceback" not in err
    assert refused, "the disk was never full"
    code, out, err = small.run(CUMULUS, "get", "jobs", "-A")
    assert code == 0, err
    assert "long" in out
    # The lease ends and the gate opens while there is no room to write either down.

    late, long = b"CUMULUS_JOB=late", b"CUMULUS_JOB=long"
    assert poll(lambda: not living(late), PATIENCE), "the lease was not ended on a full disk"
    gate.touch()
    assert poll(lambda: not living(long), PATIENCE)
    fill(ballast)

    ballast.unlink()
    if daemon.poll() is not None:
        log = (small.directory.parent / "serve.log").read_text()
        assert "full" in log.splitlines()[-1] + log.splitlines()[-2], log[-2000:]
        daemon = small.start(CUMULUS, "serve", log="../serve.log")
    small.ok(CUMULUS, "apply", "-f", "-", input=job(small, "after", "true"))
    ends = dict.fromkeys([*acknowledged, "after"], "Succeeded") | {"late": "Failed"}
    for name, end in ends.items():
        small.ok(CUMULUS, "wait", f"gpujob/{name}", f"--for=condition={end}", "--timeout=150s")
    starts = Counter((r.job, r.attempt) for r in read_records(small.records) if r.what == "start")
    assert set(starts.values()) == {1}, starts
    assert {name for name, _ in starts} >= ends.keys()
    assert poll(lambda: not json.loads(small.ok(CHRONOS_CLI, "list", "--json"))["leases"], PATIENCE)


def fill(ballast: Path) -> None:
    """Until not a byte more goes."""
    with open(ballast, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def living(mark: bytes) -> bool:
    """Whether a process runs whose environment holds the mark."""
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with suppress(OSError):
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    return True
    return False
