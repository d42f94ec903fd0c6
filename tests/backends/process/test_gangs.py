"""Replicas of one node find each other."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from cumulus.backends import gang
from cumulus.backends.base import EnvVar, GangMember, Workload, WorkloadState
from cumulus.backends.process import ports
from cumulus.backends.process.ports import GangPorts
from cumulus.errors import BackendError
from tests.backends.process_bed import NODE, ProcessBed

HERE = (GangMember(NODE, "gpu1"),) * 2
MEET = """
import json, os, socket
address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if os.environ["RANK"] == "0":
    with socket.create_server(address) as server:
        said = server.accept()[0].makefile().readline()
else:
    while True:
        try:
            with socket.create_connection(address) as other:
                said = "I am " + os.environ["RANK"]
                other.sendall(said.encode())
                break
        except ConnectionRefusedError:
            continue
print(json.dumps([said, address[1], open(os.environ["CUMULUS_HOSTFILE"]).read()]))
"""


def replicas(bed: ProcessBed, *command: str, **more: object) -> list[Workload]:
    work = [bed.work(*command, replica=replica, replicas=2, gang=HERE, **more) for replica in range(2)]
    for one in work:
        bed.backend.start(one)
    return work


def test_they_meet_at_a_port_of_this_machine(bed: ProcessBed) -> None:
    both = replicas(bed, sys.executable, "-S", "-c", MEET)
    assert [bed.finish(work).state for work in both] == [WorkloadState.SUCCEEDED] * 2
    first, second = (json.loads(bed.log(work)) for work in both)
    assert first == second == ["I am 1", first[1], "127.0.0.1 slots=2\n"]


def test_what_the_job_sets_itself_stays(bed: ProcessBed) -> None:
    work, _ = replicas(bed, "sh", "-c", "echo $MASTER_PORT $RANK", env=(EnvVar("MASTER_PORT", "7"),))
    bed.finish(work)
    assert bed.log(work) == b"7 0\n"


def test_a_job_of_one_replica_has_none_of_it(bed: ProcessBed) -> None:
    work, _ = bed.run("sh", "-c", "env | grep -c -e RANK -e MASTER -e HOSTFILE; true")
    assert bed.log(work) == b"0\n"


def test_a_daemon_that_was_killed_amid_the_starts_agrees_with_the_next(bed: ProcessBed) -> None:
    works = [bed.work("sh", "-c", "echo $MASTER_PORT", replica=r, replicas=2, gang=HERE) for r in range(2)]
    for work in works:
        bed.backend.start(work)
        bed.reopen()
    assert [bed.finish(work).state for work in works] == [WorkloadState.SUCCEEDED] * 2
    assert len({bed.log(work) for work in works}) == 1
    bed.backend.remove(works[0].name)
    bed.backend.remove(works[1].name)
    bed.backend.purge("uid-job")
    assert os.listdir(bed.root / ports.DIRECTORY) == []


def test_gangs_have_ports_of_their_own_and_none_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for job in "abc":
            (tmp_path / "jobs" / job).mkdir(parents=True)
        chosen = GangPorts(str(tmp_path), taken.getsockname()[1] - 2, 3)
        first = chosen.of("a", 1)
        assert chosen.of("a", 1) == first
        assert chosen.of("b", 1) not in (first, taken.getsockname()[1])
        with pytest.raises(BackendError, match="no port from"):
            chosen.of("c", 1)
        (tmp_path / "jobs" / "a").rmdir()
        assert chosen.of("c", 1) == first, "the port of a job that is gone"


def test_a_port_has_no_listener_on_any_address() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        assert not ports.is_free(other.getsockname()[1])
    assert gang.FIRST_PORT + gang.PORTS <= 30_000
