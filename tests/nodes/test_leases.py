"""RemoteLeases against a real sshd and a real ledger."""

from __future__ import annotations

import os
import subprocess
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from cumulus.chronos import device_records
from cumulus.chronos.contract import EndReason, Health, Lease, LeaseRequest, LeaseState
from cumulus.chronos.database import Database
from cumulus.errors import (
    ChronosError,
    InsufficientShare,
    LedgerUnavailable,
    NodeUnreachable,
    NoSuchDevice,
    NoSuchLease,
    StaleToken,
    UsageError,
)
from cumulus.nodes.host_keys import KnownHosts, fetch
from cumulus.nodes.leases import RemoteLeases
from tests.nodes.conftest import Worker, connect, one_by_one
from tests.waiting import PATIENCE

pytestmark = pytest.mark.ssh


@pytest.fixture(params=["served", "one by one"])
def leases(worker: Worker, known_hosts: KnownHosts, request: pytest.FixtureRequest) -> Iterator[RemoteLeases]:
    """By a server, and by commands as of a Chronos that has none."""
    known_hosts.add(worker.address, fetch(worker.address, 5))
    leases = connect(worker, known_hosts, one_by_one(worker.command) if request.param == "one by one" else "")
    yield leases
    leases.close()


@pytest.fixture
def served(worker: Worker, known_hosts: KnownHosts) -> Iterator[RemoteLeases]:
    known_hosts.add(worker.address, fetch(worker.address, 5))
    with closing(connect(worker, known_hosts)) as leases:
        yield leases


def request(id: str = "", **fields: object) -> LeaseRequest:
    defaults: dict[str, object] = {"device": 0, "memory_bytes": 2**20 + 1, "compute": 333, "seconds": 60.0}
    # Processes are found by the id of their lease: no two tests on a machine may share one.
    return LeaseRequest(id=id or str(uuid.uuid4()), **(defaults | fields))  # type: ignore[arg-type]


def test_a_lease_from_grant_to_end(leases: RemoteLeases) -> None:
    [device, *_] = leases.devices()
    assert device.memory_bytes > 0
    asked = request(user="team/x y", owner="cumulus:1", grace=0.5, name="vision/train")
    granted = leases.grant(asked)
    assert (granted.state, granted.memory_bytes, granted.compute) == (LeaseState.ACTIVE, 2**20 + 1, 333)
    assert (granted.user, granted.owner, granted.name) == ("team/x y", "cumulus:1", "vision/train")
    assert granted.grace == 0.5
    assert 20 < granted.expires_in <= 60
    assert [lease.id for lease in leases.list()] == [asked.id]
    assert leases.renew(asked.id, 120).expires_in > 80
    released = leases.release(asked.id)
    assert released is not None
    assert (released.state, released.end_reason) == (LeaseState.ENDED, EndReason.RELEASED)
    assert leases.list() == []
    assert [lease.state for lease in leases.list(ended=True)] == [LeaseState.ENDED]


def test_facts_are_known_with_the_devices(leases: RemoteLeases) -> None:
    leases.devices()
    # The first time drivers were waited for, and how long the answer itself took is not known well.
    leases.devices()
    assert leases.facts.boot_id
    assert leases.facts.chronos_version
    assert leases.facts.clock_skew is not None
    assert abs(leases.facts.clock_skew) < 2
    assert leases.facts.checkpoint_places == ("file", "s3")


def test_conditions_of_the_node_are_among_its_facts(leases: RemoteLeases, worker: Worker) -> None:
    trouble = Health("MPSReady", False, "Faulted", "A job faulted; it says 'ö'.")
    with closing(Database(worker.ledger)) as database, database.write() as tx:
        device_records.record_health(tx, [trouble])
    leases.devices()
    assert leases.facts.conditions == (trouble,)


def test_asking_again_with_the_id_gives_the_same_lease(leases: RemoteLeases) -> None:
    leases.devices()
    asked = request()
    first, again = leases.grant(asked), leases.grant(asked)
    assert (first.token, first.granted_at) == (again.token, again.granted_at)
    leases.release(asked.id)
    assert leases.grant(asked).state is LeaseState.ENDED
    assert leases.list() == []


def test_what_the_ledger_raises_is_raised_here(leases: RemoteLeases) -> None:
    [device, *_] = leases.devices()
    held = leases.grant(request())
    for refused, call in (
        (InsufficientShare, lambda: leases.grant(request(memory_bytes=device.memory_bytes))),
        (NoSuchDevice, lambda: leases.grant(request(device=99))),
        (NoSuchLease, lambda: leases.renew("nothing", 60)),
        (ChronosError, lambda: leases.grant(request(held.id, compute=1))),
        (UsageError, lambda: leases.grant(request("a/b"))),
    ):
        with pytest.raises(refused) as raised:
            call()  # type: ignore[no-untyped-call]
        assert type(raised.value) is refused
        assert raised.value.hint
    assert leases.get("nothing") is None
    assert leases.release("nothing") is None


def test_a_stale_token_is_refused(leases: RemoteLeases) -> None:
    leases.devices()
    held = leases.grant(request())
    with pytest.raises(StaleToken):
        leases.release(held.id, token=held.token - 1)
    with pytest.raises(StaleToken):
        leases.renew(held.id, 60, token=held.token + 1)
    assert leases.renew(held.id, 90, token=held.token).expires_in > 80
    released = leases.release(held.id, token=held.token)
    assert released is not None
    assert released.state is LeaseState.ENDED


@pytest.mark.parametrize(
    ("command", "error", "said"),
    [
        ("no_such_chronos", LedgerUnavailable, "cannot be run on gpu-1"),
        ("echo '{\"version\": 2}' #", LedgerUnavailable, "speaks version 2 of the protocol"),
        ("echo hello #", LedgerUnavailable, "does not answer in JSON: hello"),
        ('echo \'{"version": 1, "time": "2030-01-01T00:00:00Z"}\' #', LedgerUnavailable, "in a way unknown here"),
        ("echo 'sudo: a password is required' >&2; exit 1 #", LedgerUnavailable, "may not be run on gpu-1"),
        ("kill -9 $$ #", NodeUnreachable, "ended before it answered"),
    ],
)
def test_who_answers_but_is_no_chronos_of_this_protocol(
    worker: Worker, served: RemoteLeases, command: str, error: type[ChronosError], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        connect(worker, served.connection.known_hosts, command).list()
    assert type(raised.value) is error


def test_a_greeting_before_the_answer_is_passed_over(worker: Worker, served: RemoteLeases) -> None:
    greeting = connect(worker, served.connection.known_hosts, f"echo 'Welcome to gpu-1!'; {worker.command}")
    assert greeting.list() == []


def test_two_controllers_never_hold_one_share(worker: Worker, served: RemoteLeases) -> None:
    [device, *_] = served.devices()
    here, there = served, connect(worker, served.connection.known_hosts)
    begin = threading.Barrier(6)

    def grab(number: int) -> Lease | None:
        side = (here, there)[number % 2]
        begin.wait(PATIENCE)
        try:
            return side.grant(request(compute=400, owner=f"cumulus:{number % 2}"))
        except InsufficientShare:
            return None

    with ThreadPoolExecutor(6) as pool:
        granted = [lease for lease in pool.map(grab, range(6)) if lease is not None]
    assert len(granted) == 2
    assert len({lease.token for lease in granted}) == 2
    assert (
        {lease.id for lease in here.list()} == {lease.id for lease in granted} == {lease.id for lease in there.list()}
    )
    there.close()
    assert device.index == 0


def test_two_controllers_with_one_id_hold_one_lease(worker: Worker, served: RemoteLeases) -> None:
    served.devices()
    there, asked = connect(worker, served.connection.known_hosts), request()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda side: side.grant(asked), (served, there))
    assert first.token == second.token
    assert len(served.list()) == 1
    there.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_is_told_and_leases_come_again_once_there_is_room(
    worker: Worker, served: RemoteLeases, small_disk: Path
) -> None:
    worker.ledger = small_disk / "chronos"
    small = connect(worker, served.connection.known_hosts)
    try:
        small.devices()
        held = small.grant(request())
        filler = small_disk / "filler"
        fill(filler)
        with pytest.raises(LedgerUnavailable, match="on gpu-1: "):
            small.grant(request())
        filler.unlink()
        assert [lease.id for lease in small.list()] == [held.id]
        small.grant(request())
    finally:
        small.close()
        worker.close()


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(4096))
        except OSError:
            return
