"""What the ledger promises, on a fake clock."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from cumulus.checkpoint.lease import LeaseEnd, now
from cumulus.chronos import records
from cumulus.chronos.contract import EndReason, Lease, LeasedTotal, LeaseState
from cumulus.chronos.enforce import account
from cumulus.chronos.ledger import Ledger
from cumulus.clock import FakeClock
from cumulus.errors import ChronosError, InsufficientShare, NoSuchDevice, NoSuchLease, StaleToken, UsageError
from tests.chronos.conftest import CPU, GIB, GPUS, open_ledger, request

Run = Callable[..., subprocess.Popen[bytes]]


def test_grant_returns_the_share_that_was_asked_for(ledger: Ledger, clock: FakeClock) -> None:
    lease = ledger.grant(request("a", user="ada", owner="lab"))
    assert (lease.device, lease.device_id, lease.memory_bytes, lease.compute) == (0, "GPU-a", 20 * GIB, 250)
    assert (lease.user, lease.owner, lease.state, lease.expires_in) == ("ada", "lab", LeaseState.ACTIVE, 60)
    assert (lease.granted_at, lease.expires_at) == ("2030-01-01T00:00:00.000000Z", "2030-01-01T00:01:00.000000Z")
    clock.advance(20)
    assert ledger.get("a") == replace(lease, expires_in=40)
    assert ledger.list() == [replace(lease, expires_in=40)]
    assert ledger.usage(0) == LeasedTotal(20 * GIB, 250)


def test_grant_is_idempotent_by_id(ledger: Ledger) -> None:
    first = ledger.grant(request("a"))
    assert ledger.grant(request("a")) == first
    assert ledger.usage(0) == LeasedTotal(20 * GIB, 250)
    with pytest.raises(ChronosError, match="lives with another share: device 0, 20Gi, 25% compute"):
        ledger.grant(request("a", memory_bytes=GIB))


def test_an_id_that_ended_is_not_granted_again(ledger: Ledger, clock: FakeClock) -> None:
    ledger.grant(request("a"))
    ledger.release("a")
    clock.advance(86000)
    again = ledger.grant(request("a", memory_bytes=GIB))
    assert (again.state, again.end_reason) == (LeaseState.ENDED, EndReason.RELEASED)
    assert ledger.usage(0) == LeasedTotal(0, 0)


def test_no_device_is_leased_beyond_its_memory(ledger: Ledger) -> None:
    for number in range(4):
        ledger.grant(request(f"a{number}", compute=1))
    with pytest.raises(InsufficientShare, match="device 0 has 0 of 80Gi memory free; 1 asked for"):
        ledger.grant(request("more", memory_bytes=1, compute=1))
    ledger.grant(request("other", device=1))


def test_no_device_is_leased_beyond_its_compute(ledger: Ledger) -> None:
    ledger.grant(request("a", compute=900))
    with pytest.raises(InsufficientShare, match=r"device 0 has 10% compute free; 10\.1% asked for"):
        ledger.grant(request("b", compute=101))
    ledger.grant(request("c", compute=100))


def test_the_schema_itself_refuses_more_than_all(ledger: Ledger) -> None:
    ledger.grant(request("a", memory_bytes=80 * GIB))
    with pytest.raises(ChronosError, match="CHECK constraint failed"), ledger.database.write() as tx:
        tx.execute("UPDATE device SET used_memory = used_memory + 1")
    assert ledger.usage(0).memory_bytes == 80 * GIB


def test_a_device_that_is_not_there_is_refused_with_those_that_are(ledger: Ledger) -> None:
    with pytest.raises(NoSuchDevice, match=r"there is no device 7; there is 0 \(H100\), 1 \(H100\)"):
        ledger.grant(request(device=7))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": ""}, "'' is not a lease id"),
        ({"id": "a,b"}, "'a,b' is not a lease id"),
        ({"id": "../a"}, "is not a lease id"),
        ({"id": "a" * 128}, "is not a lease id"),
        ({"memory_bytes": 0}, "0 bytes of memory"),
        ({"compute": 0}, "0% compute is out of range"),
        ({"compute": 1001}, r"100\.1% compute is out of range"),
        ({"seconds": 0.0}, "a lease of 0.0s is out of range"),
        ({"seconds": float("nan")}, "a lease of nans is out of range"),
        ({"seconds": float("inf")}, "a lease of infs is out of range"),
        ({"grace": -1.0}, "a grace period of -1.0s is out of range"),
    ],
)
def test_a_malformed_request_is_refused(ledger: Ledger, fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ledger.grant(request(**({"id": "a"} | fields)))  # type: ignore[arg-type]
    assert ledger.list() == []


def test_tokens_only_grow_on_a_device(ledger: Ledger) -> None:
    tokens = []
    for number in range(3):
        tokens.append(ledger.grant(request(f"a{number}")).token)
        ledger.release(f"a{number}")
    assert tokens == [1, 2, 3]
    assert ledger.grant(request("b", device=1)).token == 1


def test_release_frees_the_share_at_once_where_no_process_is_attached(ledger: Ledger) -> None:
    ledger.grant(request("a", memory_bytes=80 * GIB))
    released = ledger.release("a")
    assert released is not None
    assert (released.state, released.end_reason) == (LeaseState.ENDED, EndReason.RELEASED)
    assert ledger.release("a") == released
    ledger.grant(request("b", memory_bytes=80 * GIB))
    assert [x.id for x in ledger.list()] == ["b"]
    assert [x.id for x in ledger.list(ended=True)] == ["a", "b"]


def test_release_of_an_unknown_lease_is_none(ledger: Ledger) -> None:
    assert ledger.release("never") is None
    assert ledger.get("never") is None


def test_the_share_stays_taken_while_a_process_is_attached(ledger: Ledger, run: Run) -> None:
    lease = ledger.grant(request("a"))
    ledger.attach("a", run("import time; time.sleep(60)").pid, lease.token)
    released = ledger.release("a")
    assert released is not None
    assert (released.state, released.end_reason) == (LeaseState.ENDING, EndReason.RELEASED)
    assert ledger.usage(0) == LeasedTotal(20 * GIB, 250)


def test_an_expired_lease_is_ending_before_the_monitor_comes_to_it(ledger: Ledger, clock: FakeClock) -> None:
    lease = ledger.grant(request("a"))
    clock.advance(60)
    found = ledger.get("a")
    assert found is not None
    assert (found.state, found.end_reason, found.expires_in) == (LeaseState.ENDING, EndReason.EXPIRED, 0)
    assert ledger.usage(0) == LeasedTotal(20 * GIB, 250)
    with pytest.raises(NoSuchLease, match="lease a has ended: expired"):
        ledger.renew("a", 60)
    with pytest.raises(NoSuchLease):
        ledger.attach("a", os.getpid(), lease.token)


def test_the_time_of_a_lease_counts_from_its_begin(ledger: Ledger, clock: FakeClock) -> None:
    granted = ledger.grant(request("a", start_within=30))
    assert (granted.expires_in, granted.expires_at) == (90, "2030-01-01T00:01:30.000000Z")
    assert ledger.grant(request("a", start_within=30)) == granted
    clock.advance(10)
    begun = ledger.begin("a")
    assert begun is not None
    assert (begun.expires_in, begun.expires_at) == (60, "2030-01-01T00:01:10.000000Z")
    clock.advance(5)
    assert ledger.begin("a") == replace(begun, expires_in=55)
    clock.advance(55)
    assert ledger.begin("a") == ledger.get("a")
    assert ledger.list()[0].state is LeaseState.ENDING


def test_a_lease_whose_program_starts_late_gets_what_is_left(ledger: Ledger, clock: FakeClock) -> None:
    """The difference is capped: who waits is promised an end at the grant."""
    ledger.grant(request("a", start_within=30))
    clock.advance(50)
    begun = ledger.begin("a")
    assert begun is not None
    assert begun.expires_in == 40
    assert ledger.begin("nobody") is None
    plain = ledger.grant(request("b", device=1))
    assert ledger.begin("b") == plain


def test_programs_learn_when_their_lease_ends_from_its_account(home: Path, clock: FakeClock) -> None:
    with closing(open_ledger(home)) as ledger:
        lease = ledger.grant(request("a", seconds=60.0, start_within=600.0))
        place = account.open_account(lease, GPUS[0], home)
        ends = LeaseEnd(None, accounts=[str(place)])
        before = ends.read()
        ledger.begin("a")
        assert ends.read() == pytest.approx(before - 600, abs=10)
        ledger.renew("a", 1000)
        assert ends.read() == pytest.approx(now() + 1000, abs=10)


def test_renew_moves_the_end_later_and_never_earlier(ledger: Ledger, clock: FakeClock) -> None:
    lease = ledger.grant(request("a"))
    assert ledger.renew("a", 30) == lease
    clock.advance(10)
    renewed = ledger.renew("a", 90)
    assert (renewed.expires_in, renewed.expires_at) == (90, "2030-01-01T00:01:40.000000Z")
    assert ledger.get("a") == renewed
    with pytest.raises(NoSuchLease, match="there is no lease b"):
        ledger.renew("b", 60)


def test_a_stale_token_is_refused(ledger: Ledger) -> None:
    ledger.grant(request("old"))
    ledger.release("old")
    lease = ledger.grant(request("a"))
    acts: tuple[Callable[[int], object], ...] = (
        lambda token: ledger.attach("a", os.getpid(), token),
        lambda token: ledger.renew("a", 600, token=token),
        lambda token: ledger.release("a", token=token),
    )
    for act in acts:
        with pytest.raises(StaleToken, match="token 1 is not that of lease a, which is 2"):
            act(lease.token - 1)
    assert ledger.get("a") == lease


def test_a_process_that_does_not_run_cannot_be_attached(ledger: Ledger, run: Run) -> None:
    lease = ledger.grant(request("a"))
    process = run("")
    process.wait()
    with pytest.raises(ChronosError, match=f"process {process.pid} cannot be attached to lease a: no job runs as it"):
        ledger.attach("a", process.pid, lease.token)
    with pytest.raises(ChronosError, match="process 1 cannot be attached"):
        ledger.attach("a", 1, lease.token)


def test_setting_the_wall_clock_moves_no_end(ledger: Ledger, clock: FakeClock) -> None:
    ledger.grant(request("a"))
    clock.jump(-86400 * 365)
    clock.advance(30)
    clock.jump(86400 * 700)
    found = ledger.get("a")
    assert found is not None
    assert (found.state, found.expires_in) == (LeaseState.ACTIVE, 30)


def test_everything_is_there_when_another_opens_the_ledger(ledger: Ledger, home: Path, clock: FakeClock) -> None:
    lease = ledger.grant(request("a"))
    other = open_ledger(home, clock)
    assert other.list() == [lease]
    other.release("a")
    assert ledger.list() == []
    other.close()


def test_a_forked_child_uses_a_connection_of_its_own(ledger: Ledger) -> None:
    ledger.grant(request("parent"))
    inherited = ledger.database._connection
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ledger.grant(request("child"))
            code = 0 if len(ledger.list()) == 2 and ledger.database._connection is not inherited else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert [x.id for x in ledger.list()] == ["parent", "child"]
    ledger.grant(request("after"))


def test_a_list_is_read_once_and_anew_after_any_change(
    ledger: Ledger, home: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = records.live

    def counted(db: sqlite3.Connection) -> list[tuple[Lease, float]]:
        reads.append(db)
        return read(db)

    monkeypatch.setattr(records, "live", counted)
    other = open_ledger(home, clock)
    other.grant(request("a"))
    assert [ledger.list(), ledger.list()] == [[other.get("a")]] * 2
    assert len(reads) == 1
    clock.advance(1)
    assert ledger.list()[0].expires_in == 59
    clock.advance(59)
    assert (ledger.list()[0].state, ledger.list()[0].end_reason) == ("Ending", "expired")
    assert len(reads) == 1
    other.grant(request("b"))
    assert [lease.id for lease in ledger.list()] == ["a", "b"]
    other.close()
    ledger.close()
    assert [lease.id for lease in ledger.list()] == ["a", "b"]


def test_a_list_is_not_kept_where_a_writer_died_at_its_commit(ledger: Ledger, home: Path, clock: FakeClock) -> None:
    ledger.grant(request("a"))
    ledger.list()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            other = open_ledger(home, clock)
            with other.database.write() as tx:
                tx.execute("DELETE FROM lease")
                # It commits, and is gone before it can say so.
                other.database._changes.done = lambda: os._exit(0)  # type: ignore[union-attr, method-assign]
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert ledger.database.version() is None
    assert ledger.list() == []
    ledger.grant(request("b"))
    assert ledger.database.version() is not None
    assert [lease.id for lease in ledger.list()] == ["b"]


def test_threads_share_a_ledger(ledger: Ledger) -> None:
    refused = []

    def grab(number: int) -> None:
        for turn in range(10):
            try:
                ledger.grant(request(f"{number}-{turn}", memory_bytes=4 * GIB, compute=1))
            except InsufficientShare:
                refused.append(number)

    threads = [threading.Thread(target=grab, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 30
    assert len(ledger.list()) == 20
    assert ledger.usage(0).memory_bytes == 80 * GIB


# --- devices


def test_the_cpu_is_not_offered_beside_a_gpu(
    ledger: Ledger, home: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [d.id for d in ledger.devices()] == ["GPU-a", "GPU-b"]
    with pytest.raises(NoSuchDevice):
        ledger.grant(request(device=2))
    monkeypatch.setenv("CHRONOS_OFFER_CPU", "1")
    assert [d.id for d in ledger.devices()] == ["GPU-a", "GPU-b", "cpu"]
    assert ledger.grant(request(device=2, memory_bytes=GIB)).device_id == "cpu"


def test_the_cpu_is_offered_where_there_is_no_gpu(home: Path, clock: FakeClock) -> None:
    ledger = Ledger(home, clock, lambda: [replace(CPU, index=0)])
    assert [(d.index, d.id) for d in ledger.devices()] == [(0, "cpu")]


def test_an_index_keeps_its_device_when_another_is_lost(home: Path, clock: FakeClock) -> None:
    found = [list(GPUS), [GPUS[1]], [GPUS[1], replace(GPUS[0], id="GPU-c")], list(GPUS)]
    ledger = Ledger(home, clock, lambda: found.pop(0))
    seen = [[(d.index, d.id) for d in ledger.rediscover()] for _ in range(4)]
    assert seen == [
        [(0, "GPU-a"), (1, "GPU-b")],
        [(1, "GPU-b")],
        [(1, "GPU-b"), (2, "GPU-c")],
        [(0, "GPU-a"), (1, "GPU-b")],
    ]


def test_a_gpu_found_later_goes_before_the_cpu(home: Path, clock: FakeClock) -> None:
    found = [[CPU], [*GPUS, CPU]]
    ledger = Ledger(home, clock, lambda: found.pop(0))
    assert [(d.index, d.id) for d in ledger.devices()] == [(0, "cpu")]
    assert [(d.index, d.id) for d in ledger.rediscover()] == [(0, "GPU-a"), (1, "GPU-b")]


def test_a_leased_device_keeps_its_index_when_a_gpu_is_found(home: Path, clock: FakeClock) -> None:
    found = [[CPU], [*GPUS, CPU]]
    ledger = Ledger(home, clock, lambda: found.pop(0))
    ledger.grant(request("a", memory_bytes=GIB))
    assert [(d.index, d.id) for d in ledger.rediscover()] == [(1, "GPU-a"), (2, "GPU-b")]
    lease = ledger.get("a")
    assert lease is not None
    assert (lease.device, lease.device_id) == (0, "cpu")


def test_without_a_device_the_error_says_what_to_do(home: Path, clock: FakeClock) -> None:
    ledger = Ledger(home, clock, list)
    with pytest.raises(NoSuchDevice, match="this machine offers no device") as caught:
        ledger.grant(request())
    assert caught.value.hint is not None
    assert "pyopencl[pocl]" in caught.value.hint


# --- another boot


def test_the_drivers_are_asked_once_in_each_boot(home: Path, clock: FakeClock) -> None:
    found = [[CPU], [*GPUS, CPU]]
    for boot, ids in (("one", ["cpu"]), ("one", ["cpu"]), ("two", ["GPU-a", "GPU-b"])):
        ledger = Ledger(home, clock, lambda: found.pop(0), boot=boot)
        assert [d.id for d in ledger.devices()] == ids
        assert [d.id for d in ledger.devices()] == ids
        ledger.close()


def test_after_a_reboot_a_lease_lasts_until_its_wall_clock_end(home: Path, clock: FakeClock) -> None:
    before = open_ledger(home, clock, boot="one")
    before.grant(request("a", seconds=600))
    before.grant(request("b", seconds=30))
    before.close()
    rebooted = FakeClock(clock.now())
    rebooted.jump(100)
    after = open_ledger(home, rebooted, boot="two")
    a, b = after.get("a"), after.get("b")
    assert a is not None
    assert b is not None
    assert (a.state, a.expires_in) == (LeaseState.ACTIVE, 500)
    assert (b.state, b.end_reason) == (LeaseState.ENDED, EndReason.EXPIRED)
    assert after.usage(0) == LeasedTotal(20 * GIB, 250)


@pytest.mark.parametrize("jump", [-86400 * 3650, -60, 0])
def test_no_reboot_extends_a_lease_beyond_what_was_granted(home: Path, clock: FakeClock, jump: float) -> None:
    before = open_ledger(home, clock, boot="one")
    before.grant(request("a", seconds=600))
    before.close()
    rebooted = FakeClock(clock.now())
    rebooted.jump(jump)
    lease = open_ledger(home, rebooted, boot="two").get("a")
    assert lease is not None
    assert lease.expires_in == 600


def test_a_reboot_ends_what_was_ending_and_forgets_processes(home: Path, clock: FakeClock, run: Run) -> None:
    before = open_ledger(home, clock, boot="one")
    for id in ("ending", "attached"):
        before.attach(id, run("import time; time.sleep(60)").pid, before.grant(request(id)).token)
    before.attach("held", os.getpid(), before.grant(request("held")).token, role="holder")
    before.release("ending")
    before.close()
    after = open_ledger(home, clock, boot="two")
    found = {x.id: (x.state, x.end_reason) for x in after.list(ended=True)}
    assert found == {
        "ending": (LeaseState.ENDED, EndReason.RELEASED),
        "attached": (LeaseState.ACTIVE, None),
        "held": (LeaseState.ENDED, EndReason.RELEASED),
    }
    released = after.release("attached")
    assert released is not None
    assert released.state is LeaseState.ENDED
    assert after.usage(0) == LeasedTotal(0, 0)
