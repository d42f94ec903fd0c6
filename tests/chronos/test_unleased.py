"""Processes without a lease: who is told of, and who may be ended. And the errors that are a GPU's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cumulus.chronos import unleased, xid
from cumulus.chronos.contract import UnleasedProcess
from cumulus.chronos.contract.policy import Policy, PolicyChange, exceptions, from_json, to_json
from cumulus.chronos.unleased import TOLD_SECONDS, UnleasedProcesses
from cumulus.lib.processes import ProcessIdentity
from cumulus.resources.enforcement import Overuse, Unleased

GIB = 2**30
ME = ProcessIdentity(os.getpid(), 1)
END = Policy(unleased=Unleased.END)


def process(uid: int = 1000, user: str = "alice", program: str = "python") -> UnleasedProcess:
    return UnleasedProcess("GPU-a", os.getpid(), uid, user, program, GIB)


def test_who_looks_and_goes_is_not_told_of() -> None:
    known = UnleasedProcesses()
    known.look({("a", ME): GIB}, ["a"], 0)
    known.look({}, ["b"], 1)
    assert known.for_so_long(TOLD_SECONDS, TOLD_SECONDS) == {("a", ME)}
    known.look({}, ["a"], 3)
    known.look({("a", ME): GIB}, ["a"], 4)
    assert known.for_so_long(TOLD_SECONDS, 5) == set()


def test_less_than_a_context_is_not_told_of() -> None:
    assert unleased.told({("a", ME): GIB // 4}) == ()
    (told,) = unleased.told({("a", ME): GIB})
    assert (told.pid, told.uid) == (os.getpid(), os.getuid())


@pytest.mark.parametrize(
    ("policy", "who", "ended"),
    [
        (Policy(), process(), False),
        (END, process(), True),
        (END, process(uid=999), False),
        (END, process(uid=0, user="root"), False),
        (Policy(unleased=Unleased.END, exceptions=("user:alice",)), process(), False),
        (Policy(unleased=Unleased.END, exceptions=("user:1000",)), process(), False),
        (Policy(unleased=Unleased.END, exceptions=("user:bob",)), process(), True),
        # What a process calls itself is no exception: only the file that it was started from is.
        (Policy(unleased=Unleased.END, exceptions=("program:Xorg",)), process(program="Xorg"), True),
    ],
)
def test_only_people_are_ended_and_no_exceptions(policy: Policy, who: UnleasedProcess, ended: bool) -> None:
    assert unleased.may_end(who, policy) is ended


@pytest.mark.skipif(os.stat(sys.executable).st_uid != 0, reason="the program must be root's")
def test_a_program_of_the_system_may_be_an_exception() -> None:
    policy = Policy(unleased=Unleased.END, exceptions=(f"program:{Path(os.readlink('/proc/self/exe')).name}",))
    assert not unleased.may_end(process(), policy)


def test_a_policy_keeps_what_is_not_said() -> None:
    policy = PolicyChange(unleased=Unleased.END, exceptions=exceptions("user:a", "user:a")).applied(Policy())
    after = PolicyChange(overuse=Overuse.REPORT).applied(policy)
    assert after == Policy(Overuse.REPORT, Unleased.END, ("user:a",))
    assert from_json(to_json(after)) == after
    with pytest.raises(ValueError, match="is no exception"):
        exceptions("alice; rm -rf /")


def test_only_what_is_the_gpus_own_fault_counts(tmp_path: Path) -> None:
    assert [bool(xid.fault(number)) for number in (13, 31, 43, 48, 79, 95)] == [False, False, False, True, True, True]
    log = tmp_path / "kmsg"
    said = "1209,5000000,-;NVRM: Xid (PCI:0000:3B:00): 79, pid=1, GPU has fallen off the bus.\n"
    log.write_text(f"4,{said}")
    assert list(xid.in_kernel_log(4.0, str(log))) == [("0000:3b:00", 79)]
    assert list(xid.in_kernel_log(6.0, str(log))) == []
    log.write_text(f"12,{said}")
    assert list(xid.in_kernel_log(4.0, str(log))) == [], "a program wrote it"
    assert list(xid.in_kernel_log(0.0, str(tmp_path / "none"))) == []
