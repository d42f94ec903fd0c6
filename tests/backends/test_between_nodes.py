"""Jobs without an image that go on where they were not before: their checkpoints come over SSH, from and to a real
sshd, between the daemon's own machine and a node."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends import preparing
from cumulus.backends.base import Checkpointing, Prefetched, Workload, WorkloadState
from cumulus.backends.programs import ProgramBackend
from cumulus.backends.swarm import backend, here
from cumulus.backends.swarm.backend import SwarmBackend
from cumulus.backends.swarm.checkpoint_programs import CheckpointPrograms
from cumulus.backends.swarm.here import LocalRuns
from cumulus.backends.swarm.node_engine import ShellEngine
from cumulus.backends.swarm.uploading import noted
from cumulus.checkpoint import layout
from cumulus.errors import BackendError, BackendRefused
from cumulus.nodes.connection import NodeConnection
from cumulus.nodes.host_keys import KnownHosts, fetch
from cumulus.nodes.workers import ConnectionShell
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.upload import Journal, Upload
from tests.backends.process.test_checkpoints import SAVE
from tests.backends.process_bed import NODE, ProcessBed
from tests.nodes.conftest import PATIENT, Worker, client_key, known_hosts, worker
from tests.uploader.saves import contents, loaded, save
from tests.waiting import PATIENCE, eventually

__all__ = ["client_key", "known_hosts", "worker"]

pytestmark = pytest.mark.ssh

LIST = "print(sorted(name for name in os.listdir(PATH) if name[0] != '.') if os.path.isdir(PATH) else [], flush=True)\n"


class Two:
    """This machine, and a node called gpu-1 whose programs' checkpoints are in `there`."""

    def __init__(self, bed: ProcessBed, worker: Worker, connection: NodeConnection, directory: Path) -> None:
        self.bed = bed
        self.worker = worker
        self.there = directory / "there" / "saved"
        self.there.parent.mkdir()
        engine = ShellEngine(ConnectionShell(connection), worker.command)
        self.swarm = SwarmBackend(
            str(directory / "swarm"), None, bed.job_secrets,  # type: ignore[arg-type]
            store_id=lambda: "s", node_engine=lambda node: engine if node == "gpu-1" else None,
            here=LocalRuns(NODE, bed.backend.specifications),
        )  # fmt: skip
        self.backend = ProgramBackend(bed.backend, NODE, self.swarm)

    def work(self, script: str, attempt: int, node: str, **more: Any) -> Workload:
        user = pwd.getpwuid(os.geteuid())
        return self.bed.work(
            sys.executable, "-c", f"{SAVE}TOKEN = {attempt}\n{script}", attempt=attempt, node=node,
            checkpoint_path="saved", checkpointing=Checkpointing(keep=2), submitter=user.pw_name,
            submitter_uid=user.pw_uid, submitter_admin=True, **more,
        )  # fmt: skip

    def ran_there(self, attempt: int, node: str = "gpu-1") -> None:
        """An attempt of the job was on the node."""
        work = self.work("", attempt, node)
        assert self.swarm._records.create(work, {**noted(work), "place": str(self.there)}) is not None

    def fetch_there(self, attempt: int, uri: str = "") -> None:
        """What happens before a service of that attempt is made."""
        work = self.work("", attempt, "gpu-1")
        record = self.swarm._records.create(work, {**noted(work), "place": str(self.there), "uri": uri})
        assert record is not None
        earlier = [run for run in self.swarm._runs(work.job_uid) if run.start["attempt"] < attempt]
        assert self.swarm._uploading.fetches(record, earlier)
        self.swarm._uploading.fetch(record, earlier, threading.Event())

    def said(self, work: Workload) -> str:
        eventually(lambda: (found := self.backend.get(work.name)) is not None and found.state.finished)
        log = b"".join(self.bed.backend.logs(work.job_uid, work.attempt, 0)).decode()
        found = self.backend.get(work.name)
        assert found is not None
        assert found.state is WorkloadState.SUCCEEDED, (found, log)
        return log


@pytest.fixture
def two(
    bed: ProcessBed, worker: Worker, known_hosts: KnownHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Two]:
    # However busy the machine is, a start tells what came of it.
    monkeypatch.setattr(preparing, "WAIT_SECONDS", PATIENCE)
    # The tests of the Swarm make the directory of a user's programs on a node of their own.
    monkeypatch.setattr(ShellEngine, "make_place", lambda self, uid: None)
    known_hosts.add(worker.address, fetch(worker.address, 5))
    connection = NodeConnection("gpu-1", worker.address, known_hosts, key_path=worker.key_path, waits=PATIENT)
    yield Two(bed, worker, connection, tmp_path)
    connection.close()


def test_an_attempt_here_after_one_on_a_node_goes_on_from_that_nodes(two: Two) -> None:
    save(two.there, 5, token=1)
    save(two.there, 6, token=1)
    two.ran_there(1)
    two.backend.start(work := two.work(LIST, 2, NODE))
    # Also while it is on its way, nobody takes it for gone.
    assert two.backend.get(work.name) is not None
    assert "['step-000000000006']" in two.said(work)
    # Nothing newer is there now: a third attempt here asks this disk alone, and the node may be away.
    two.worker.stop()
    two.backend.start(third := two.work(LIST, 3, NODE))
    assert "['step-000000000006']" in two.said(third)


def test_an_attempt_on_a_node_after_one_here_goes_on_from_this_disk(two: Two) -> None:
    two.backend.start(first := two.work("save(5)\n", 1, NODE))
    two.said(first)
    two.fetch_there(2)
    assert layout.verify(str(two.there), 5).manifest.token == 1
    # What the node saved then comes back.
    save(two.there, 7, token=2)
    two.backend.start(third := two.work(LIST, 3, NODE))
    assert "['step-000000000005', 'step-000000000007']" in two.said(third)


def test_one_that_is_damaged_is_not_taken_but_the_one_before(two: Two) -> None:
    for step in (4, 5):
        save(two.there, step, token=1)
    two.ran_there(1)
    (two.there / "step-000000000005" / "model.bin").write_bytes(b"other")
    two.backend.start(work := two.work(LIST, 2, NODE))
    assert "['step-000000000004']" in two.said(work)


def test_where_none_is_whole_it_begins_anew(two: Two) -> None:
    save(two.there, 5, token=1)
    two.ran_there(1)
    (two.there / "step-000000000005" / "model.bin").write_bytes(b"other")
    two.backend.start(work := two.work(LIST, 2, NODE))
    assert "[]" in two.said(work)


def test_no_attempt_begins_anew_while_the_node_with_all_its_work_is_away(two: Two) -> None:
    save(two.there, 5, token=1)
    two.ran_there(1)
    two.worker.stop()
    work = two.work(LIST, 2, NODE)
    with pytest.raises(BackendError):
        two.backend.start(work)
    assert two.backend.get(work.name) is None
    two.worker.start()

    def begins() -> bool:
        # The connection is not tried again at once.
        with contextlib.suppress(BackendError):
            two.backend.start(work)
            return True
        return False

    eventually(begins)
    assert "['step-000000000005']" in two.said(work)
    place, _ = two.bed.backend.make_place(work)
    assert loaded(Path(place), 5) == contents(5)


@pytest.mark.parametrize("copied", [True, False])
def test_of_a_node_that_is_lost_the_newest_that_was_copied_is_taken(two: Two, tmp_path: Path, copied: bool) -> None:
    save(tmp_path / "saved", 5, token=1)
    beyond = DirectoryPlace(str(tmp_path / "beyond"))
    if copied:
        Upload(beyond, Journal(str(tmp_path / "notes"))).run(str(tmp_path / "saved"), 5, 2)
    # Nobody reaches that one.
    two.ran_there(1, "gpu-2")
    if copied:
        two.fetch_there(2, beyond.uri)
        assert loaded(two.there, 5) == contents(5)
        return
    # It began there, and would begin anew.
    with pytest.raises(BackendError, match="gpu-2"):
        two.fetch_there(2, beyond.uri)


def test_a_stop_while_it_is_on_its_way_starts_nothing(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    save(two.there, 5, token=1)
    two.ran_there(1)
    work = two.work(LIST, 2, NODE)
    bring = two.swarm.bring

    def stopped(*arguments: Any) -> bool:
        came = bring(*arguments)
        two.backend.stop(work.name, 1.0)
        return came

    monkeypatch.setattr(two.swarm, "bring", stopped)
    two.backend.start(work)
    eventually(lambda: two.backend.get(work.name) is None)
    assert two.bed.backend.get(work.name) is None


def test_a_job_without_checkpoints_waits_for_nobody(two: Two) -> None:
    two.ran_there(1)
    two.worker.stop()
    work = replace(two.work("print('runs')\n", 2, NODE), checkpointing=None)
    work = replace(work, command=("echo", "runs"))
    two.backend.start(work)
    assert "runs" in two.said(work)


def ahead(two: Two, attempt: int, node: str, saved: str = "t") -> Prefetched:
    """What is asked before there is a lease. The node's directory is that of the test."""
    found = two.backend.prefetch(two.work("", attempt, node), saved)
    assert found is not None
    return found


def test_it_comes_ahead_to_the_node_that_the_queue_chose(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(two.there)
    monkeypatch.setattr(backend, "noted", lambda work: {**noted(work), "place": place})
    two.backend.start(first := two.work("save(5)\n", 1, NODE))
    two.said(first)
    eventually(lambda: ahead(two, 2, "gpu-1") == Prefetched("gpu-1", 5, done=True))
    assert layout.verify(place, 5).manifest.token == 1
    # The start finds it there, and this machine is not asked for the files.
    monkeypatch.setattr(CheckpointPrograms, "receive", lambda *_: pytest.fail("it was there"))
    two.fetch_there(2)
    assert two.swarm._records.ahead(first.job_uid) == [("gpu-1", os.geteuid())]


def test_what_came_ahead_to_a_node_goes_with_the_job_though_that_never_ran_there(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, gone = str(two.there), list[tuple[int, str]]()
    monkeypatch.setattr(backend, "noted", lambda work: {**noted(work), "place": place})
    monkeypatch.setattr(ShellEngine, "remove_program", lambda self, uid, job: gone.append((uid, job)))
    two.backend.start(first := two.work("save(5)\n", 1, NODE))
    two.said(first)
    eventually(lambda: ahead(two, 2, "gpu-1").done)
    two.backend.purge(first.job_uid)
    assert gone == [(os.geteuid(), first.job_uid)]
    assert two.swarm._records.ahead(first.job_uid) == []


def test_it_comes_ahead_to_this_machine_too(two: Two) -> None:
    save(two.there, 6, token=1)
    two.ran_there(1)
    eventually(lambda: ahead(two, 2, NODE) == Prefetched(NODE, 6, done=True))
    two.worker.stop()
    place, _ = two.bed.backend.make_place(two.work("", 2, NODE))
    assert loaded(Path(place), 6) == contents(6)


class Slow:
    """Checkpoints whose sending stops after the first bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        sent = CheckpointPrograms.read

        def slowly(programs: CheckpointPrograms, user: Any, *words: str) -> Iterator[bytes]:
            for chunk in sent(programs, user, *words):
                yield chunk
                if words[0] == "send":
                    self.begun.set()
                    self.go.wait(PATIENCE)

        monkeypatch.setattr(CheckpointPrograms, "read", slowly)


def test_what_is_given_up_on_its_way_leaves_nothing(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    save(two.there, 5, token=1)
    two.ran_there(1)
    slow = Slow(monkeypatch)
    ahead(two, 2, NODE)
    assert slow.begun.wait(PATIENCE)
    uid = two.work("", 2, NODE).job_uid
    two.backend.give_up(uid)
    slow.go.set()
    assert two.swarm._prefetching.end(uid, PATIENCE)
    place, _ = two.bed.backend.make_place(two.work("", 2, NODE))
    assert not os.path.isdir(place) or os.listdir(place) == []


@pytest.mark.parametrize("starts", [False, True])
def test_nothing_arrives_once_the_job_is_purged(two: Two, monkeypatch: pytest.MonkeyPatch, starts: bool) -> None:
    save(two.there, 5, token=1)
    two.ran_there(1)
    slow, work = Slow(monkeypatch), two.work(LIST, 2, NODE)
    monkeypatch.setattr(backend, "_LAST_PATIENCE", 0.0)
    if starts:
        monkeypatch.setattr(preparing, "WAIT_SECONDS", 0.0)
        two.backend.start(work)
    else:
        ahead(two, 2, NODE)
    assert slow.begun.wait(PATIENCE)
    two.backend.stop(work.name, 1.0)
    job = two.bed.root / "jobs" / work.job_uid
    assert job.exists()
    # The job is there until that has ended.
    with pytest.raises(BackendError, match="still on its way"):
        two.backend.purge(work.job_uid)
    slow.go.set()
    assert two.swarm._prefetching.end(work.job_uid, PATIENCE)
    # Its run on the node never was a service: there is no Swarm here.
    monkeypatch.setattr(two.swarm, "_finished", lambda record: True)
    monkeypatch.setattr(two.swarm.ownership, "instance", lambda: "")
    monkeypatch.setattr(two.swarm._services, "remove", lambda record: None)
    two.backend.purge(work.job_uid)
    assert not job.exists()
    with pytest.raises(BackendRefused, match="deleted"):
        two.bed.backend.make_place(work)


def test_a_disk_that_gives_nothing_back_does_not_make_a_checkpoint_damaged(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(two.there, 5, token=1)
    two.ran_there(1)
    sent = CheckpointPrograms.read

    def fails(programs: CheckpointPrograms, user: Any, *words: str) -> Iterator[bytes]:
        if words[0] != "send":
            yield from sent(programs, user, *words)
        else:
            yield b'   {"error": "/d: Input/output error"}\n'

    monkeypatch.setattr(CheckpointPrograms, "read", fails)
    # It would begin anew.
    with pytest.raises(BackendError, match="Input/output error"):
        two.backend.start(two.work(LIST, 2, NODE))


class TestTheProgramsOfThisMachine:
    def test_one_that_ends_before_it_has_all_says_why(self) -> None:
        # As where the disk is full: it does not read on, and what is left is more than a pipe holds.
        chunks = iter([b"x", b"y" * 2**20, b"z"])
        assert here._OwnShell().feed("sh -c 'echo {}; exit 3'", chunks) == (3, "{}\n", "")

    def test_one_that_does_nothing_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(here, "STALL_SECONDS", 0.01)
        for asks in (
            lambda: list(here._OwnShell().read("sleep 600", b"")),
            lambda: here._OwnShell().feed("sleep 600", iter([b"x" * 2**20])),
        ):
            with pytest.raises(BackendError, match="did nothing"):
                asks()
