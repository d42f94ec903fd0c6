"""The manager with its real threads, on the real clock: from start to a drained stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from cumulus.clock import SystemClock
from cumulus.errors import Conflict, NotFound, StoreReplaced
from cumulus.machinery.manager import ManagerRole
from cumulus.machinery.runner import Runner
from cumulus.nodes.agent import NodeAgent
from cumulus.resources.job import GPUJob
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.kinds.lease import LEADER
from cumulus.resources.lease import Lease
from cumulus.resources.meta import condition
from cumulus.resources.reasons import LeaderCondition
from cumulus.server.control_plane import ControlPlane
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from cumulus.testing.backend import FakeBackend, Script
from cumulus.testing.leases import FakeLeases, fake_device
from tests.controllers.objects import a_job
from tests.waiting import PATIENCE, eventually


class Site:
    """A store and a node, and the managers that were started on them."""

    def __init__(self, script: Script) -> None:
        clock = SystemClock()
        self.store = MemoryStore()
        self.leases = FakeLeases([fake_device()], clock)
        self.backend = FakeBackend(clock, nodes={"node-1": self.leases}, script=lambda workload: script)
        self.client = StoreClient(self.store)
        self.started: list[tuple[ControlPlane, threading.Event, threading.Thread]] = []
        self.failures: list[Exception] = []

    def start(self, roles: list[ManagerRole] | None = None, **options: Any) -> ControlPlane:
        agents = [NodeAgent("node-1", self.leases)]
        ready = (roles if roles is not None else []).append
        manager = ControlPlane(self.store, [self.backend], agents, ready=ready, **options)
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(manager, stop))
        thread.start()
        self.started.append((manager, stop, thread))
        return manager

    def _run(self, manager: ControlPlane, stop: threading.Event) -> None:
        try:
            manager.run(stop)
        except Exception as error:
            self.failures.append(error)

    def stop(self, manager: ControlPlane) -> None:
        for other, stop, thread in self.started:
            if other is manager:
                stop.set()
                thread.join(PATIENCE)
                assert not thread.is_alive()

    def take_and_give_up(self) -> None:
        """As another daemon would that took over and stopped."""
        while True:
            lease = self.client.get(Lease, "", LEADER)
            spec = lease.spec.model_copy(update={"holder_identity": "", "token": lease.spec.token + 1})
            try:
                self.client.update(lease.replace(spec=spec))
            except Conflict:
                continue
            return

    def phase(self, name: str = "train") -> JobPhase | None:
        self.backend.tell()
        try:
            return self.client.get(GPUJob, "default", name).status.phase
        except NotFound:
            return None


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site(Script(seconds=0.2))
    yield made
    for manager, _, _ in made.started:
        made.stop(manager)
    made.store.close()


def test_from_start_to_a_finished_job_to_a_drained_stop(site: Site) -> None:
    roles: list[ManagerRole] = []
    manager = site.start(roles)
    eventually(lambda: manager.role is ManagerRole.LEADING)
    site.client.create(a_job())
    eventually(lambda: site.phase() is JobPhase.SUCCEEDED)
    site.stop(manager)
    assert manager.role is ManagerRole.STOPPED
    assert roles == [ManagerRole.STANDBY, ManagerRole.LEADING]
    assert len(site.backend.started) == 1


def test_a_clean_stop_hands_over_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before the lease of the one that stopped would be over."""
    monkeypatch.setattr("cumulus.machinery.leader.LEASE_SECONDS", 600.0)
    first = site.start()
    eventually(lambda: first.role is ManagerRole.LEADING)
    second = site.start()
    eventually(lambda: second.role is ManagerRole.STANDBY)
    site.client.create(a_job())
    site.stop(first)
    eventually(lambda: second.role is ManagerRole.LEADING)
    eventually(lambda: site.phase() is JobPhase.SUCCEEDED)
    assert len(site.backend.started) == 1


def test_a_stop_leaves_workloads_running_and_the_next_start_finds_them() -> None:
    site = Site(Script(seconds=2.0))
    try:
        first = site.start()
        site.client.create(a_job())
        eventually(lambda: site.phase() is JobPhase.RUNNING)
        site.stop(first)
        assert site.backend.running()
        site.start()
        eventually(lambda: site.phase() is JobPhase.SUCCEEDED)
        assert len(site.backend.started) == 1
        assert site.client.get(GPUJob, "default", "train").status.attempt_count == 1
    finally:
        for manager, _, _ in site.started:
            site.stop(manager)
        site.store.close()


def test_a_deposed_leader_stands_by_and_may_lead_again(site: Site) -> None:
    roles: list[ManagerRole] = []
    manager = site.start(roles)
    eventually(lambda: manager.role is ManagerRole.LEADING)
    site.take_and_give_up()
    eventually(lambda: roles.count(ManagerRole.LEADING) >= 2)
    site.client.create(a_job())
    eventually(lambda: site.phase() is JobPhase.SUCCEEDED)


def test_a_worker_that_leaves_ends_the_term_and_the_next_one_has_all_of_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever made it leave, as long as the leader says that it leads, all its loops are worked on."""
    roles: list[ManagerRole] = []
    manager = site.start(roles)
    eventually(lambda: manager.role is ManagerRole.LEADING)
    died = threading.Event()
    step = Runner.step

    def step_or_die(self: Runner, timeout: float | None = 0) -> bool:
        if self.name == "schedule" and not died.is_set():
            died.set()
            raise MemoryError("no memory for the schedule's only worker")
        return step(self, timeout)

    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    monkeypatch.setattr(Runner, "step", step_or_die)
    site.client.create(a_job())
    eventually(died.is_set)
    eventually(lambda: roles.count(ManagerRole.LEADING) >= 2)
    site.client.create(a_job("after"))
    eventually(lambda: site.phase("after") is JobPhase.SUCCEEDED)
    eventually(lambda: site.phase() is JobPhase.SUCCEEDED)
    assert site.client.get(Lease, "", LEADER).spec.token >= 2


def test_a_renewal_that_comes_too_late_does_not_leave_a_leader_without_workers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writers' lock was held for so long that the term was over before the renewal was written."""
    monkeypatch.setattr("cumulus.machinery.leader.LEASE_SECONDS", 1.5)
    monkeypatch.setattr("cumulus.machinery.leader.RENEW_SECONDS", 0.2)
    roles: list[ManagerRole] = []
    manager = site.start(roles)
    eventually(lambda: manager.role is ManagerRole.LEADING)
    held, update = threading.Event(), StoreClient.update

    def update_late(self: StoreClient, resource: Any) -> Any:
        if isinstance(resource, Lease) and not held.is_set():
            held.set()
            # Longer than the term, and than any worker's pause between two looks.
            time.sleep(3.2)
        return update(self, resource)

    monkeypatch.setattr(StoreClient, "update", update_late)
    eventually(held.is_set)
    eventually(lambda: roles.count(ManagerRole.LEADING) >= 2)
    site.client.create(a_job())
    eventually(lambda: site.phase() is JobPhase.SUCCEEDED)


def test_a_loop_that_makes_no_progress_is_told_and_seen_on_the_lease(site: Site) -> None:
    """The backend hangs: the job loop's workers are at it, and nothing of the loop is finished."""
    problems: list[Sequence[str]] = []
    go_on = threading.Event()
    site.backend.faults.hook = lambda call, subject, when: (
        go_on.wait(PATIENCE) if call == "start" and when == "before" else None
    )
    manager = site.start(on_problems=problems.append, stall_seconds=3.0, workers={"job": 1, "partition": 1, "node": 1})
    eventually(lambda: manager.role is ManagerRole.LEADING)
    site.client.create(a_job())
    try:
        stalled = "the controller job has finished nothing"
        eventually(lambda: problems and any(text.startswith(stalled) for text in problems[-1]))

        def progressing() -> tuple[str, str] | None:
            found = condition(site.client.get(Lease, "", LEADER).status.conditions, LeaderCondition.PROGRESSING)
            return None if found is None else (found.status, found.reason)

        eventually(lambda: progressing() == ("False", "Stalled"))
    finally:
        go_on.set()
    eventually(lambda: problems[-1] == ())
    eventually(lambda: progressing() == ("True", "Works"))
    eventually(lambda: site.phase() is JobPhase.SUCCEEDED)


@pytest.mark.parametrize("call", ["get", "revision"])
def test_a_daemon_whose_store_was_replaced_ends_and_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    manager = site.start()
    eventually(lambda: manager.role is ManagerRole.LEADING)

    def replaced(*arguments: object, **options: object) -> None:
        raise StoreReplaced("the store was replaced while it was in use")

    monkeypatch.setattr(site.store, call, replaced)
    if call == "revision":
        monkeypatch.setattr("cumulus.store.watch.LogWatch.next", replaced)
    eventually(lambda: site.failures)
    assert isinstance(site.failures[0], StoreReplaced)
    assert manager.role is ManagerRole.STOPPED
