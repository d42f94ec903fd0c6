"""Parking's logic, races and faults, on stand-ins for NVIDIA's libraries: nothing here says what a real driver does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos import cli
from cumulus.chronos.contract import EndReason, LeasedTotal, LeaseRequest, LeaseState, Proof, commands, wire
from cumulus.chronos.contract.policy import PolicyChange
from cumulus.chronos.enforce import account
from cumulus.chronos.enforce.account import Allocates
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.parking import check, memory, mover
from cumulus.chronos.parking.driver import CheckpointState
from cumulus.chronos.parking.evidence import frameworks_of
from cumulus.chronos.parking.parker import RETURNS
from cumulus.chronos.partitioner import Partition, Partitioner
from cumulus.chronos.user_ledger import LedgerCaller, UserLedger
from cumulus.clock import SystemClock
from cumulus.errors import Forbidden, InsufficientShare, NoSuchLease, ParkRefused, StaleToken, UsageError
from cumulus.lib import cgroup, processes
from cumulus.lib.processes import ProcessIdentity
from cumulus.resources.enforcement import Sharing
from cumulus.resources.reasons import ParkingReason
from tests.chronos.conftest import CPU, GPUS, request
from tests.chronos.parking_node import DRIVER, GIB, MIB, ParkingNode, node, proof
from tests.standin_cuda import StandInCuda
from tests.waiting import PATIENCE, eventually

__all__ = ["node"]

RUNNING, LOCKED, CHECKPOINTED = CheckpointState.RUNNING, CheckpointState.LOCKED, CheckpointState.CHECKPOINTED
MANAGED, SHARED, PEER, MAPPED = 1, 2, 4, 8


def limits(node: ParkingNode, id: str = "a") -> tuple[int, float]:
    """Bytes, and seconds that are left, as the counting library reads them."""
    content = (account.directory(node.ledger.home, id) / "limits").read_bytes()
    size, deadline = account._SHARES.unpack_from(content, 8)
    return size, deadline / 1e9 - SystemClock().monotonic()


def test_a_parked_lease_holds_no_share_and_comes_back_with_a_new_token_and_end(node: ParkingNode) -> None:
    lease, pids = node.lease("a", GIB + 7, 2 * GIB, memory_bytes=60 * GIB)
    asked = node.ledger.park("a", 3600)
    assert (asked.state, asked.holds_share, node.ledger.usage(0).memory_bytes) == (LeaseState.PARKING, True, 60 * GIB)
    node.step()
    parked = node.find()
    assert (parked.state, parked.parked_bytes, parked.holds_share) == (LeaseState.PARKED, 3 * GIB + 7, False)
    assert parked.parked_at
    assert 3000 < parked.expires_in <= 3600
    assert node.states(pids) == {CHECKPOINTED}
    assert node.ledger.usage(0) == LeasedTotal(0, 0)
    assert node.set_aside() == 3 * GIB + 7
    assert limits(node)[0] == 0
    assert limits(node)[1] > 3000
    other = node.ledger.grant(request("b", memory_bytes=80 * GIB))
    with pytest.raises(InsufficientShare):
        node.ledger.unpark("a", 60)
    assert node.find().state is LeaseState.PARKED
    node.ledger.release("b")
    asked = node.ledger.unpark("a", 60)
    assert (asked.state, asked.token > other.token > lease.token, asked.parked_at) == (LeaseState.UNPARKING, True, "")
    assert node.ledger.usage(0) == LeasedTotal(60 * GIB, 250)
    node.step()
    back = node.find()
    assert (back.state, back.parked_bytes, back.token) == (LeaseState.ACTIVE, 0, asked.token)
    assert 10 < back.expires_in <= 60
    assert limits(node)[0] == 60 * GIB
    assert 10 < limits(node)[1] <= 60
    assert node.states(pids) == {RUNNING}
    first, second = sorted(pids)
    told = [call for call in node.cuda.calls() if call.split()[0] != "find"]
    assert told == [
        *(f"{call} {pid}" for call in ("lock", "checkpoint", "restore", "unlock") for pid in (first, second))
    ]
    assert node.set_aside() == 0


def test_asking_again_changes_nothing(node: ParkingNode) -> None:
    lease, _ = node.lease()
    assert node.ledger.unpark("a", 60).token == lease.token
    node.park(park_for=1000)
    again = node.ledger.park("a", 5)
    assert (again.state, again.expires_in > 900) == (LeaseState.PARKED, True)
    renewed = node.ledger.renew("a", 5000)
    assert renewed.expires_in > 4000
    node.ledger.unpark("a", 60)
    token = node.find().token
    assert node.ledger.unpark("a", 60).token == token
    with pytest.raises(ParkRefused, match="is being brought back"):
        node.ledger.park("a", 60)
    node.step()
    assert node.ledger.unpark("a", 60).state is LeaseState.ACTIVE


def test_what_is_refused_at_once(node: ParkingNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOS_OFFER_CPU", "1")
    lease, _ = node.lease()
    node.ledger.grant(request("cpu", device=2, memory_bytes=GIB))
    for call in (lambda: node.ledger.park("none", 60), lambda: node.ledger.unpark("none", 60)):
        with pytest.raises(NoSuchLease):
            call()
    with pytest.raises(StaleToken):
        node.ledger.park("a", 60, token=lease.token + 1)
    with pytest.raises(UsageError):
        node.ledger.park("a", 0)
    with pytest.raises(ParkRefused, match="not NVIDIA's GPU") as caught:
        node.ledger.park("cpu", 60)
    assert caught.value.reason is ParkingReason.NOT_SUPPORTED
    node.prove(proof(holds=False))
    with pytest.raises(ParkRefused) as caught:
        node.ledger.park("a", 60)
    assert (caught.value.reason, "park-test" in str(caught.value.hint)) == (ParkingReason.NOT_PROVEN, True)
    node.ledger.set_policy(PolicyChange(parking_memory=0))
    with pytest.raises(ParkRefused) as caught:
        node.ledger.park("a", 60)
    assert caught.value.reason is ParkingReason.NO_MEMORY
    assert node.find().state is LeaseState.ACTIVE


def test_no_program_starts_in_a_parked_lease(node: ParkingNode) -> None:
    node.lease()
    token = node.park().token
    with pytest.raises(NoSuchLease, match="is parked: no program starts in it"):
        node.ledger.attach("a", os.getpid(), token)


def test_users_park_and_unpark_their_own_leases_alone(node: ParkingNode, monkeypatch: pytest.MonkeyPatch) -> None:
    user = UserLedger(node.ledger.home, LedgerCaller(os.getuid(), os.getpid()), may_create=True)
    monkeypatch.setattr(user, "_start_monitor", False)
    mine = LedgerCaller(os.getuid(), 0).name
    for id, fields in {"a": {"user": mine}, "b": {"user": "ada"}, "c": {"user": mine, "owner": "lab"}}.items():
        node.ledger.grant(request(id, **fields))
    for id in ("b", "c"):
        for call in (lambda id=id: user.park(id, 60), lambda id=id: user.unpark(id, 60)):  # type: ignore[misc]
            with pytest.raises(Forbidden):
                call()
        assert node.find(id).state is LeaseState.ACTIVE
    with pytest.raises(Forbidden, match="park what is not proven"):
        user.park("a", 60, unproven=True)
    assert user.park("a", 60).state is LeaseState.PARKING
    user.close()


REFUSALS = {
    ParkingReason.MANAGED_MEMORY: lambda node, lease: node.program(lease, GIB, MANAGED),
    ParkingReason.NOT_CUDA: lambda node, lease: node.program(lease, GIB, cuda=False),
    ParkingReason.MPS_CLIENT: lambda node, lease: node.nvml.say(
        "GPU-a", f"client {node.program(lease, GIB)} {GIB}", *(f"held {pid} {size}" for pid, size in node.held.items())
    ),
    ParkingReason.SEVERAL_DEVICES: lambda node, lease: node.nvml.hold("GPU-b", {node.program(lease, GIB): 1}),
    ParkingReason.NO_MEMORY: lambda node, lease: node.ledger.set_policy(PolicyChange(parking_memory=GIB // 2)),
    ParkingReason.FAILED_BEFORE: lambda node, lease: node.prove(proof(holds=False), proof("torch")),
    ParkingReason.CANNOT_FREEZE: lambda node, lease: _out_of_its_cgroup(node),
}


def _out_of_its_cgroup(node: ParkingNode) -> None:
    here = cgroup.directory_of(os.getpid())
    for pid in node.held:
        if here is not None:
            cgroup.enter(here, pid)


@pytest.mark.parametrize("reason", REFUSALS)
def test_what_cannot_be_parked_is_refused_before_anything_is_touched(node: ParkingNode, reason: ParkingReason) -> None:
    lease, _pids = node.lease(notes=MAPPED)
    REFUSALS[reason](node, lease)
    found = node.park(freeze=reason is ParkingReason.CANNOT_FREEZE)
    assert found.park_refused is not None
    assert (found.state, found.park_refused.reason) == (LeaseState.ACTIVE, reason), found.park_refused.message
    assert (found.parked_bytes, node.set_aside(), node.ledger.usage(0).memory_bytes) == (0, 0, 20 * GIB)
    assert found.token == lease.token
    assert {call.split()[0] for call in node.cuda.calls()} <= {"find"}


GPU = GPUS[0]
A_PROCESS = check.ProcessEvidence(
    ProcessIdentity(7, 1), True, GIB, frameworks=frozenset({"cuda"}), allocates=Allocates(MAPPED)
)


@pytest.mark.parametrize(
    ("changes", "proofs", "reason"),
    [
        ({}, [proof()], None),
        ({}, [proof(driver="570.1")], ParkingReason.NOT_PROVEN),
        ({}, [], ParkingReason.NOT_PROVEN),
        ({"frameworks": frozenset({"torch", "cupy"})}, [proof(), proof("torch")], ParkingReason.NOT_PROVEN),
        ({"frameworks": frozenset({"jax"})}, [proof("jax", holds=False)], ParkingReason.FAILED_BEFORE),
        ({"allocates": None}, [proof()], ParkingReason.NOT_COUNTED),
        ({"allocates": None, "held_bytes": 0}, [proof()], None),
        ({"allocates": Allocates(SHARED)}, [proof()], ParkingReason.SHARED_MEMORY),
        ({"allocates": Allocates(PEER | MAPPED)}, [proof()], ParkingReason.PEER_ACCESS),
        ({"leases": frozenset({"a", "b"})}, [proof()], ParkingReason.SEVERAL_DEVICES),
        ({"cuda": False, "held_bytes": 0, "allocates": None, "mps_client": True}, [], None),
    ],
)
def test_the_decision_by_what_is_known(changes: dict[str, Any], proofs: list[Proof], reason: str | None) -> None:
    found = check.refusal([replace(A_PROCESS, **changes)], GPU, DRIVER, proofs)
    assert (found and found.reason) == reason


def test_the_limits_of_all_cgroups_above_count(tmp_path: Path) -> None:
    inner = tmp_path / "job" / "1"
    inner.mkdir(parents=True)
    for place, most, now in ((inner, "max", 10), (inner.parent, "100", 30), (tmp_path, "1000", 990)):
        (place / "memory.max").write_text(most)
        (place / "memory.current").write_text(str(now))
    assert cgroup.memory_room(str(inner)) == 10
    assert cgroup.memory_room(str(tmp_path / "none")) is None


def test_two_leases_never_get_the_same_main_memory(node: ParkingNode) -> None:
    node.ledger.set_policy(PolicyChange(parking_memory=3 * GIB))
    node.lease("a", 2 * GIB)
    node.lease("b", 2 * GIB)
    node.lease("c", GIB)
    for id in ("a", "b", "c"):
        node.ledger.park(id, 60)
    node.step()
    assert [node.find(id).state for id in ("a", "b", "c")] == [LeaseState.PARKED, LeaseState.ACTIVE, LeaseState.PARKED]
    refused = node.find("b").park_refused
    assert refused is not None
    assert refused.message == "2Gi are needed, and the node has 1Gi of its 3Gi for parked leases left"
    assert node.set_aside() == 3 * GIB


def test_what_is_free_counts_without_the_reserve() -> None:
    assert memory.room(100 * GIB, 40 * GIB, 10 * GIB) == 25 * GIB
    assert memory.room(4 * GIB, GIB, 0) == 0
    refused = check.check_room(2 * GIB, 8 * GIB, 0, GIB, None)
    assert refused is not None
    assert refused.reason is ParkingReason.NO_MEMORY
    refused = check.check_room(2 * GIB, 8 * GIB, 0, 8 * GIB, GIB)
    assert refused is not None
    assert refused.reason is ParkingReason.MEMORY_LIMIT
    assert check.check_room(2 * GIB, 8 * GIB, 6 * GIB, 2 * GIB, 2 * GIB) is None


@pytest.mark.parametrize("call", ["lock", "checkpoint"])
def test_all_or_none(node: ParkingNode, call: str) -> None:
    lease, pids = node.lease("a", GIB, GIB, GIB)
    node.cuda.script(f"code {call} {sorted(pids)[1]} 801")
    found = node.park()
    assert found.park_refused is not None
    assert (found.state, found.park_refused.reason) == (LeaseState.ACTIVE, ParkingReason.DRIVER_REFUSED)
    assert "801 (not supported)" in found.park_refused.message
    assert node.states(pids) == {RUNNING}
    assert (node.set_aside(), node.ledger.usage(0).memory_bytes, found.token) == (0, 20 * GIB, lease.token)
    node.cuda.script()
    again = node.park()
    assert (again.state, again.park_refused) == (LeaseState.PARKED, None)


def test_the_share_is_not_free_before_the_driver_says_so(node: ParkingNode) -> None:
    _, pids = node.lease()
    keeping = threading.Event()

    def keep() -> None:
        # As a driver whose books lag behind for ever.
        while not keeping.is_set():
            (node.nvml.directory / f"parked.{pids[0]}").unlink(missing_ok=True)

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        found = node.park()
    finally:
        keeping.set()
        thread.join()
    assert found.park_refused is not None
    assert (found.state, found.park_refused.reason) == (LeaseState.ACTIVE, ParkingReason.GPU_NOT_FREED)
    assert node.states(pids) == {RUNNING}


@pytest.mark.parametrize("call", ["lock", "checkpoint"])
def test_who_comes_to_cuda_meanwhile_is_parked_too(node: ParkingNode, call: str) -> None:
    lease, [pid] = node.lease()
    late = node.program(lease, 0, cuda=False)
    now, came = node.nvml.directory / "now", node.nvml.directory / "came"
    node.cuda.script(f"touch {call} {pid} {now}", f"wait {call} {pid} {came}")

    def come() -> None:
        eventually(now.exists)
        node.hold(late, MIB)
        node.cuda.uses(late)
        came.touch()

    # What has been moved already is not to be set aside once more.
    node.free = lambda not_moved: GIB // 2 if call == "checkpoint" and came.exists() else 2 * GIB
    thread = threading.Thread(target=come)
    thread.start()
    found = node.park()
    thread.join()
    assert (found.state, found.parked_bytes) == (LeaseState.PARKED, GIB + MIB)
    assert node.states([pid, late]) == {CHECKPOINTED}
    assert node.unpark().state is LeaseState.ACTIVE
    assert node.states([pid, late]) == {RUNNING}


@pytest.mark.parametrize("call", ["lock", "checkpoint"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_ends_meanwhile_is_no_reason_to_stop(node: ParkingNode, call: str, when: str) -> None:
    _, pids = node.lease("a", GIB, 2 * GIB)
    gone = sorted(pids)[0]
    node.cuda.script(f"kill {call} {gone} target {when}")
    node.ledger.park("a", 60)
    node.held.pop(gone)
    node.step()
    found = node.find()
    left = node.held
    if found.state is LeaseState.PARKED:
        node.step()
        node.step()
        assert node.find().parked_bytes == node.set_aside() == sum(left.values())
    else:
        assert (found.state, node.set_aside()) == (LeaseState.ACTIVE, 0)
        assert node.states(list(left)) == {RUNNING}


DEATHS = [
    *((call, when, "parent") for call in ("lock", "checkpoint", "restore", "unlock") for when in ("before", "after")),
    ("lock", "after", "caller"),
    ("checkpoint", "before", "caller"),
    ("restore", "after", "caller"),
    ("unlock", "before", "caller"),
]


@pytest.mark.parametrize(("call", "when", "who"), DEATHS)
def test_whoever_dies_at_a_step_the_next_one_finishes_or_undoes_it(
    node: ParkingNode, call: str, when: str, who: str
) -> None:
    """`caller`: the process that calls the driver; `parent`: the monitor."""
    lease, pids = node.lease("a", GIB, 3 * GIB)
    back = call in ("restore", "unlock")
    if back:
        assert node.park().state is LeaseState.PARKED
        node.ledger.unpark("a", 60)
    else:
        node.ledger.park("a", 3600)
    node.cuda.script(f"kill {call} {sorted(pids)[1]} {who} {when}")
    if who == "parent":
        assert _monitor_in_a_process(node.ledger.home).wait(PATIENCE) == -signal.SIGKILL
        assert node.find().state is (LeaseState.UNPARKING if back else LeaseState.PARKING)
        assert node.set_aside() == 4 * GIB
        assert node.ledger.usage(0).memory_bytes == 20 * GIB
    for _ in range(50):
        node.step()
        if node.find().state not in (LeaseState.PARKING, LeaseState.UNPARKING):
            break
        time.sleep(0.1)
    found = node.find()
    assert (found.state, node.states(pids), node.set_aside()) == (LeaseState.ACTIVE, {RUNNING}, 0)
    assert node.ledger.usage(0) == LeasedTotal(20 * GIB, 250)
    if back:
        assert found.token > lease.token
        assert found.park_refused is None
    else:
        assert found.park_refused is not None
        assert found.park_refused.reason in (ParkingReason.INTERRUPTED, ParkingReason.DRIVER_REFUSED)


def _monitor_in_a_process(home: Path) -> subprocess.Popen[bytes]:
    program = f"""
from pathlib import Path
from cumulus.chronos.database import Database
from cumulus.chronos.parking.parker import Parker
from cumulus.clock import SystemClock
from tests.chronos.parking_node import means
Parker(Database(Path({str(home)!r})), SystemClock(), means=means(), threads=False).step()
"""
    return subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])


def test_a_new_monitor_keeps_what_is_parked(node: ParkingNode) -> None:
    _, pids = node.lease()
    before = node.park()
    node.cuda.calls()
    for _ in range(3):
        node.step()
        node.monitor()
    after = node.find()
    assert (after.state, after.token, after.parked_bytes) == (before.state, before.token, before.parked_bytes)
    assert node.states(pids) == {CHECKPOINTED}
    assert not {"lock", "unlock", "restore"} & {call.split()[0] for call in node.cuda.calls()}


def test_an_unpark_that_comes_while_it_is_parked_undoes_it(node: ParkingNode) -> None:
    _, pids = node.lease()
    node.ledger.park("a", 60)
    assert node.ledger.unpark("a", 60).state is LeaseState.PARKING
    node.step()
    found = node.find()
    assert found.park_refused is not None
    assert (found.state, found.park_refused.reason) == (LeaseState.ACTIVE, ParkingReason.INTERRUPTED)
    assert node.states(pids) == {RUNNING}


def test_the_end_of_a_parking_ends_the_program(node: ParkingNode) -> None:
    _, pids = node.lease()
    node.park(park_for=0.3)
    time.sleep(0.4)
    assert node.find().state is LeaseState.ENDING
    eventually(lambda: node.monitor() or node.find().state is LeaseState.ENDED)
    assert (node.find().end_reason, node.set_aside()) == (EndReason.EXPIRED, 0)
    assert node.ledger.usage(0) == LeasedTotal(0, 0)
    assert processes.is_gone(pids[0])


def test_a_lease_whose_end_comes_while_it_is_parked_ends_by_it(node: ParkingNode) -> None:
    _, [pid] = node.lease(seconds=10.0)
    node.cuda.script(f"slow checkpoint {pid} 10500")
    node.ledger.park("a", 3600)
    node.step()
    found = node.find()
    assert (found.state, found.end_reason, found.holds_share) == (LeaseState.ENDING, EndReason.EXPIRED, True)
    # It may save its work in its grace period.
    assert node.cuda.state(pid) is RUNNING
    eventually(lambda: node.monitor() or node.find().state is LeaseState.ENDED)
    assert (node.ledger.usage(0), node.set_aside()) == (LeasedTotal(0, 0), 0)


def test_a_release_of_a_parked_lease_ends_the_program_and_frees_the_memory_once_it_is_gone(node: ParkingNode) -> None:
    node.lease("a", 2 * GIB, memory_bytes=40 * GIB)
    node.park()
    node.ledger.grant(request("b", memory_bytes=80 * GIB))
    released = node.ledger.release("a")
    assert released is not None
    assert (released.state, released.holds_share, node.set_aside()) == (LeaseState.ENDING, False, 2 * GIB)
    eventually(lambda: node.monitor() or node.find().state is LeaseState.ENDED)
    assert (node.set_aside(), node.ledger.usage(0).memory_bytes) == (0, 80 * GIB)
    ended = node.find()
    assert (ended.parked_at, ended.parked_bytes, ended.moved_in) == ("", 0, 0.0)


def test_a_program_that_does_not_come_back_ends_its_lease_and_disproves_its_framework(node: ParkingNode) -> None:
    _, _pids = node.lease("a", GIB)
    node.lease("b", GIB)
    node.park()
    node.cuda.script("code restore 0 304")
    found = node.unpark()
    assert (found.state, found.end_reason) == (LeaseState.ENDING, EndReason.UNPARK_FAILED)
    eventually(lambda: node.monitor() or node.find().state is LeaseState.ENDED)
    assert (node.set_aside(), node.ledger.usage(0).memory_bytes) == (0, 20 * GIB)
    [disproved] = [each for each in node.ledger.parking().proofs if each.framework == "cuda"]
    assert (disproved.holds, "304" in disproved.message) == (False, True)
    with pytest.raises(ParkRefused):
        node.ledger.park("b", 60)
    assert any("is lost" in line for line in node.said)


def test_a_program_that_dies_while_it_is_brought_back_is_lost_and_disproves_nothing(
    node: ParkingNode, tmp_path: Path
) -> None:
    """Its end alone would be taken for its own failure."""
    _, [pid] = node.lease("a", GIB)
    node.park()
    asked, gone = tmp_path / "asked", tmp_path / "gone"
    node.cuda.script(f"touch restore {pid} {asked}", f"wait restore {pid} {gone}", f"code restore {pid} 304")

    def die() -> None:
        eventually(asked.exists)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: processes.is_gone(pid))
        gone.touch()

    thread = threading.Thread(target=die)
    thread.start()
    found = node.unpark()
    thread.join()
    assert found.end_reason is EndReason.UNPARK_FAILED
    assert all(each.holds for each in node.ledger.parking().proofs)


@pytest.mark.parametrize("back", [False, True])
def test_an_unlock_that_does_not_succeed_yet_loses_nothing(node: ParkingNode, back: bool) -> None:
    """As where the call of a monitor that was killed is still being done."""
    _, [pid] = node.lease()
    if back:
        node.park()
        node.cuda.script("code unlock 0 401")
        node.ledger.unpark("a", 60)
    else:
        node.cuda.script("code checkpoint 0 801", "code unlock 0 401")
        node.ledger.park("a", 60)
    node.step()
    assert node.find().state is (LeaseState.UNPARKING if back else LeaseState.PARKING)
    node.cuda.script()
    node.step()
    assert (node.find().state, node.cuda.state(pid)) == (LeaseState.ACTIVE, RUNNING)


def test_a_gpu_that_is_not_free_yet_is_waited_for(node: ParkingNode) -> None:
    _, pids = node.lease()
    node.park()
    node.cuda.script("code restore 0 2")
    threading.Timer(0.5, node.cuda.script).start()
    assert node.unpark().state is LeaseState.ACTIVE
    assert node.states(pids) == {RUNNING}


def test_what_the_gpu_has_no_room_for_stays_parked_and_disproves_nothing(
    node: ParkingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where processes hold more than they lease."""
    monkeypatch.setattr(mover, "_WAITS_FOR_MEMORY", 2)
    lease, pids = node.lease("a", GIB, 2 * GIB)
    node.park()
    node.cuda.script(f"code restore {max(pids)} 2")
    found = node.unpark()
    assert (found.state, found.parked_bytes, found.holds_share) == (LeaseState.PARKED, 3 * GIB, False)
    assert 3000 < found.expires_in <= 3600
    assert node.states(pids) == {CHECKPOINTED}
    assert node.ledger.usage(0) == LeasedTotal(0, 0)
    assert [each.holds for each in node.ledger.parking().proofs] == [True]
    assert limits(node)[0] == 0
    node.cuda.script()
    back = node.unpark()
    assert (back.state, back.token > found.token > lease.token) == (LeaseState.ACTIVE, True)
    assert node.states(pids) == {RUNNING}


def test_an_interrupted_park_for_which_the_gpu_has_no_room_is_tried_again(
    node: ParkingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mover, "_WAITS_FOR_MEMORY", 2)
    _, pids = node.lease("a", GIB, GIB)
    node.cuda.script(f"code checkpoint {max(pids)} 801", f"code restore {min(pids)} 2")
    assert node.park().state is LeaseState.PARKING
    assert node.ledger.usage(0).memory_bytes == 20 * GIB
    # Asked for once more, it keeps the reason.
    assert node.ledger.unpark("a", 60).state is LeaseState.PARKING
    node.cuda.script()
    node.step()
    found = node.find()
    assert found.park_refused is not None
    assert (found.state, found.park_refused.reason) == (LeaseState.ACTIVE, ParkingReason.DRIVER_REFUSED)
    assert node.states(pids) == {RUNNING}


def test_books_of_the_driver_that_lag_behind_kill_no_parked_program(node: ParkingNode) -> None:
    _, [pid] = node.lease()
    node.park()
    parker = node.parker()
    for _ in range(RETURNS + 1):
        (node.nvml.directory / f"parked.{pid}").unlink(missing_ok=True)
        parker.step()
    parker.close()
    assert not processes.is_gone(pid)
    assert (node.cuda.state(pid), node.find().parked_bytes) == (CHECKPOINTED, GIB)
    assert not any("had come to the GPU" in line for line in node.said)


def test_a_helper_that_dies_while_a_newcomer_is_looked_at_kills_nobody(node: ParkingNode) -> None:
    _, [pid] = node.lease()
    node.park()
    node.cuda.script(f"kill state {pid} caller before")
    (node.nvml.directory / f"parked.{pid}").unlink(missing_ok=True)
    node.step()
    node.cuda.script()
    assert not processes.is_gone(pid)
    assert node.unpark().state is LeaseState.ACTIVE


def test_the_returns_of_one_lease_are_forgotten_with_its_parking_while_another_stays(node: ParkingNode) -> None:
    """As where two take turns: one of them is always parked."""
    _, [pid] = node.lease("a")
    node.lease("b")
    node.park("b")
    parker = node.parker()
    for _ in range(RETURNS + 1):
        node.ledger.park("a", 3600)
        parker.step()
        assert node.find("a").state is LeaseState.PARKED
        (node.nvml.directory / f"state.{pid}").unlink()
        (node.nvml.directory / f"parked.{pid}").unlink()
        parker.step()
        assert node.cuda.state(pid) is CHECKPOINTED
        node.ledger.unpark("a", 60)
        parker.step()
        assert node.find("a").state is LeaseState.ACTIVE
    parker.close()
    assert not processes.is_gone(pid)


def test_a_program_of_which_nobody_sees_what_it_has_loaded_is_not_parked() -> None:
    assert frameworks_of(2**22 + 1) == {"unknown"}
    found = check.refusal([replace(A_PROCESS, frameworks=frozenset({"unknown"}))], GPU, DRIVER, [proof()])
    assert (found and found.reason) == ParkingReason.NOT_PROVEN


def test_a_python_program_that_asks_for_its_partition_goes_on_while_it_is_parked(node: ParkingNode) -> None:
    lease, _ = node.lease()
    partitioner = Partitioner(node.ledger.home)
    partitioner.ledger = node.ledger
    partition = Partition(partitioner, lease, GPU, 60.0)
    node.park(park_for=1000)
    assert partition.is_active()
    assert 500 < partition.time_remaining <= 1000
    assert [each.active for each in partitioner.list()] == [True]


def test_a_driver_that_hangs_is_given_up(node: ParkingNode) -> None:
    # Long enough for the process that asks the driver to start in, on a busy machine.
    node.patience = 5
    _, pids = node.lease()
    node.cuda.script(f"hang lock {pids[0]}")
    found = node.park()
    assert found.park_refused is not None
    assert (found.state, found.park_refused.reason) == (LeaseState.ACTIVE, ParkingReason.DRIVER_REFUSED)


def test_what_comes_to_the_gpu_in_a_parked_lease_is_parked_too_or_killed(node: ParkingNode) -> None:
    lease, _pids = node.lease()
    children = [node.program(lease, 0, cuda=False) for _ in range(2)]
    node.park()
    node.hold(children[0], 64 * MIB)
    node.cuda.uses(children[0])
    node.step()
    assert node.cuda.state(children[0]) is CHECKPOINTED
    assert node.find().parked_bytes == node.set_aside() == GIB + 64 * MIB
    node.hold(children[1], 20 * GIB)
    node.cuda.uses(children[1])
    node.step()
    eventually(lambda: processes.is_gone(children[1]))
    node.held.pop(children[1])
    assert node.find().state is LeaseState.PARKED


def test_a_reboot_is_told(node: ParkingNode) -> None:
    node.lease("a")
    node.park()
    node.lease("b")
    node.ledger.park("b", 60)
    node.ledger.close()
    again = Ledger(node.ledger.home, SystemClock(), lambda: [*GPUS, CPU], start_monitor=False, boot="another")
    told = {lease.id: (lease.state, lease.end_reason) for lease in again.list(ended=True)}
    assert told == dict.fromkeys("ab", (LeaseState.ENDED, EndReason.REBOOTED))
    assert (again.usage(0), again.parking().used_bytes) == (LeasedTotal(0, 0), 0)
    assert [each.framework for each in again.parking().proofs] == ["cuda"]
    again.close()


@pytest.fixture
def cgroups() -> None:
    problem, _ = cgroup.why_unavailable()
    if problem:
        pytest.skip(problem)


def test_frozen_it_stands_still_until_it_is_back(node: ParkingNode, cgroups: None) -> None:
    _, pids = node.lease("a", GIB, GIB)
    assert node.park(freeze=True).state is LeaseState.PARKED
    places = {cgroup.directory_of(pid) for pid in pids}
    assert all(cgroup.is_frozen(str(place)) for place in places)
    assert node.unpark().state is LeaseState.ACTIVE
    assert not any(cgroup.is_frozen(str(place)) for place in places)
    node.park(freeze=True)
    node.ledger.release("a")
    eventually(lambda: node.monitor() or node.find().state is LeaseState.ENDED)


def test_where_one_of_those_that_stand_still_is_gone_the_others_are_let_go_on(node: ParkingNode, cgroups: None) -> None:
    """Who waits for it would never notice, and a container whose program is gone would never end."""
    _, [killed, other] = node.lease("a", GIB, GIB)
    assert node.park(freeze=True).state is LeaseState.PARKED
    place = str(cgroup.directory_of(other))
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: processes.is_gone(killed))
    node.held.pop(killed)
    node.step()
    eventually(lambda: not cgroup.is_frozen(place))
    assert (node.find().state, node.find().parked_bytes) == (LeaseState.PARKED, GIB)


def test_a_containers_processes_are_parked_and_frozen_as_others_are(node: ParkingNode, cgroups: None) -> None:

    lease = node.ledger.grant(request("a", owner="lab"))
    account.open_account(lease, GPUS[0], node.ledger.home)
    pid, place = node.marked(lease, GIB)
    found = node.park(freeze=True)
    assert (found.state, found.parked_bytes) == (LeaseState.PARKED, GIB), found.park_refused
    assert cgroup.is_frozen(place)
    assert node.unpark().state is LeaseState.ACTIVE
    assert node.cuda.state(pid) is RUNNING
    assert not cgroup.is_frozen(place)


def test_a_driver_that_does_not_tell_who_holds_what_parks_nothing(node: ParkingNode) -> None:
    _, [pid] = node.lease()
    node.nvml.say("GPU-a", f"held {pid} {GIB}", "held 1 -")
    refused = node.park().park_refused
    assert refused is not None
    assert refused.reason == ParkingReason.NOT_SUPPORTED


def test_a_program_that_restores_itself_is_parked_again_and_in_the_end_killed(node: ParkingNode) -> None:
    _, [pid] = node.lease()
    node.park()
    parker = node.parker()
    for _ in range(4):
        (node.nvml.directory / f"state.{pid}").unlink(missing_ok=True)
        (node.nvml.directory / f"parked.{pid}").unlink(missing_ok=True)
        parker.step()
    parker.close()
    eventually(lambda: processes.is_gone(pid))
    assert node.find().state is LeaseState.PARKED


def test_what_a_control_plane_asks_is_understood() -> None:
    parser = cli.parser()
    asked = LeaseRequest("a", 0, GIB, 100, 60.0, sharing=Sharing.PARKABLE)
    create = parser.parse_args(list(commands.create(asked, takes={"sharing"})))
    park = parser.parse_args(list(commands.park("a", 90.5, True, 7)))
    unpark = parser.parse_args(list(commands.unpark("a", 60.0, None)))
    policy = parser.parse_args(list(commands.policy(PolicyChange(parking_memory=0))))
    assert create.sharing is Sharing.PARKABLE
    assert "--sharing" not in str(commands.create(asked, takes=()))
    assert (park.partition, park.park_for, park.freeze, park.token) == ("a", 90.5, True, 7)
    assert (unpark.partition, unpark.duration, unpark.token) == ("a", 60.0, None)
    assert policy.parking_memory == 0


def test_a_word_that_is_no_choice_is_answered_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, choices in (("--sharing=Nope", "Concurrent, Parkable"), ("--overuse=Nope", "Report, End")):
        with pytest.raises(SystemExit):
            cli.main(["create", "0", "1Gi", "1h", wrong])
        assert f"'Nope' is none of {choices}" in capsys.readouterr().err


def test_what_a_node_tells_of_parking_is_read_as_it_was_meant(node: ParkingNode) -> None:
    node.lease()
    node.cuda.script("code lock 0 801")
    for lease in (node.park(), node.find()):
        assert wire.read_lease(wire.lease_json(lease)) == replace(lease, expires_in=round(lease.expires_in, 6))
    found = node.ledger.parking()
    assert wire.read_parking(wire.parking_json(found)) == found
    node.prove(proof(holds=False))
    with pytest.raises(ParkRefused) as caught:
        node.ledger.park("a", 60)
    again = wire.read_error(wire.error_json(caught.value))
    assert isinstance(again, ParkRefused)
    assert (again.reason, str(again), again.hint) == (caught.value.reason, str(caught.value), caught.value.hint)


def test_the_framework_is_told_by_what_a_process_has_loaded(tmp_path: Path) -> None:
    library = tmp_path / "cupy" / "core.so"
    library.parent.mkdir()
    StandInCuda(tmp_path / "lib")
    (tmp_path / "lib" / "libcuda.so.1").rename(library)
    program = f"import ctypes, time; ctypes.CDLL({str(library)!r}); print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        assert frameworks_of(process.pid) == {"cupy"}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
