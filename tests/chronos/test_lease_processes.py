"""Which processes a lease has: what is its own, and what must never be taken for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from cumulus.chronos.contract.variables import PARTITION_ID
from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.snapshot import ProcessSnapshot
from cumulus.lib import cgroup
from tests.chronos.conftest import SLEEP, request, up

Run = Callable[..., subprocess.Popen[bytes]]

PARENT = "import os, time; child = os.fork() or os.setsid(); print('up', flush=True); time.sleep(60)"


def load(ledger: Ledger, id: str = "a") -> LeaseProcesses:
    with ledger.database.read() as db:
        return LeaseProcesses.load(db, id)


def test_descendants_and_marked_processes_are_members_and_nobody_else(ledger: Ledger, run: Run) -> None:
    id = f"lease-{os.getpid()}"  # Other tests run processes of a lease "a" meanwhile.
    root, marked, stranger = up(run(PARENT)), up(run(SLEEP, **{PARTITION_ID: id})), up(run(SLEEP))
    ledger.attach(id, root.pid, ledger.grant(request(id)).token)
    snapshot = ProcessSnapshot()
    members = load(ledger, id).members(snapshot)
    assert members == {root, marked} | snapshot.identities(snapshot.below(root.pid))
    assert len(members) == 3
    assert stranger not in members


def test_the_session_in_which_a_process_was_started_is_not_the_leases(ledger: Ledger, run: Run) -> None:
    process = up(run(SLEEP))
    ledger.attach("a", process.pid, ledger.grant(request()).token)
    assert load(ledger).new_sessions(ProcessSnapshot()) == set()


def test_the_sessions_that_it_made_are(ledger: Ledger, run: Run) -> None:
    process, leader = run(PARENT), up(run(SLEEP, session=True))
    up(process)
    up(process)
    token = ledger.grant(request()).token
    ledger.attach("a", process.pid, token)
    ledger.attach("a", leader.pid, token)
    snapshot = ProcessSnapshot()
    made = load(ledger).new_sessions(snapshot)
    assert made == {leader} | snapshot.identities(snapshot.below(process.pid))
    assert len(made) == 2


def test_the_terminals_session_is_not_the_leases_when_its_process_has_left_it(ledger: Ledger, run: Run) -> None:
    """It forked in the session of whoever started it, and made one of its own then."""
    process = run("import os, time; child = os.fork(); child and os.setsid(); print('up', flush=True); time.sleep(60)")
    up(process)
    leader = up(process)
    ledger.attach("a", process.pid, ledger.grant(request()).token)
    assert load(ledger).new_sessions(ProcessSnapshot()) == {leader}


def test_neither_this_process_nor_a_supervisor_is_a_member(
    ledger: Ledger, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "enclose", lambda pid, name: None)
    supervisor = up(run(SLEEP, **{PARTITION_ID: "a"}))
    token = ledger.grant(request()).token
    ledger.attach("a", supervisor.pid, token, role="supervisor")
    ledger.attach("a", os.getpid(), token)
    membership = load(ledger)
    assert {member.pid for member in membership.members(ProcessSnapshot())} & {supervisor.pid, os.getpid()} == set()
    assert {member.pid for member in membership.at_hand()} & {supervisor.pid, os.getpid()} == set()


def test_a_pid_that_means_another_process_now_is_not_a_member(
    ledger: Ledger, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "enclose", lambda pid, name: None)
    process, id = up(run(SLEEP)), f"lease-{os.getpid()}"  # See above.
    ledger.attach(id, process.pid, ledger.grant(request(id)).token)
    with ledger.database.write() as tx:
        tx.execute("UPDATE process SET start = start - 1")
    membership = load(ledger, id)
    assert membership.members(ProcessSnapshot()) == set()
    assert membership.at_hand() == set()


def test_a_group_is_the_leases_only_where_nobody_else_is_in_it(run: Run) -> None:
    process = run("import os, time; os.fork(); print('up', flush=True); time.sleep(60)", session=True)
    up(process)
    root = up(process)
    snapshot = ProcessSnapshot()
    assert snapshot.groups_of({root}) == set()
    assert snapshot.groups_of({root} | snapshot.identities(snapshot.below(root.pid))) == {root.pid}
    assert snapshot.groups_of(snapshot.identities({os.getpid()})) == set()
