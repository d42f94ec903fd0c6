"""The manager with its real threads, on the real clock: from start to a drained stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cumulus.backends.fake import FakeBackend, Script
from cumulus.chronos.fake import FakeLeases, fake_device
from cumulus.clock import SystemClock
from cumulus.controllers.agent import NodeAgent
from cumulus.controllers.manager import Manager, Role
from cumulus.errors import NotFound
from cumulus.resources.job import GPUJob, JobPhase
from cumulus.store.client import Client
from cumulus.store.memory import MemoryStore
from tests.controllers.objects import a_job


def until(met: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


class Site:
    """A store and a node, and the managers that were started on them."""

    def __init__(self, script: Script) -> None:
        clock = SystemClock()
        self.store = MemoryStore()
        self.leases = FakeLeases([fake_device()], clock)
        self.backend = FakeBackend(clock, nodes={"node-1": self.leases}, script=lambda workload: script)
        self.client = Client(self.store)
        self.started: list[tuple[Manager, threading.Event, threading.Thread]] = []

    def start(self, roles: list[Role] | None = None) -> Manager:
        agents = [NodeAgent("node-1", self.leases)]
        manager = Manager(self.store, [self.backend], agents, ready=(roles if roles is not None else []).append)
        stop = threading.Event()
        thread = threading.Thread(target=manager.run, args=(stop,))
        thread.start()
        self.started.append((manager, stop, thread))
        return manager

    def stop(self, manager: Manager) -> None:
        for other, stop, thread in self.started:
            if other is manager:
                stop.set()
                thread.join(30)
                assert not thread.is_alive()

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
    roles: list[Role] = []
    manager = site.start(roles)
    until(lambda: manager.role is Role.LEADING)
    site.client.create(a_job())
    until(lambda: site.phase() is JobPhase.SUCCEEDED)
    site.stop(manager)
    assert manager.role is Role.STOPPED
    assert roles == [Role.STANDBY, Role.LEADING]
    assert len(site.backend.started) == 1


def test_a_clean_stop_hands_over_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before the lease of the one that stopped would be over."""
    monkeypatch.setattr("cumulus.controllers.leader.LEASE_SECONDS", 600.0)
    first = site.start()
    until(lambda: first.role is Role.LEADING)
    second = site.start()
    until(lambda: second.role is Role.STANDBY)
    site.client.create(a_job())
    site.stop(first)
    until(lambda: second.role is Role.LEADING)
    until(lambda: site.phase() is JobPhase.SUCCEEDED)
    assert len(site.backend.started) == 1


def test_a_stop_leaves_workloads_running_and_the_next_start_finds_them() -> None:
    site = Site(Script(seconds=2.0))
    try:
        first = site.start()
        site.client.create(a_job())
        until(lambda: site.phase() is JobPhase.RUNNING)
        site.stop(first)
        assert site.backend.running()
        site.start()
        until(lambda: site.phase() is JobPhase.SUCCEEDED)
        assert len(site.backend.started) == 1
        assert site.client.get(GPUJob, "default", "train").status.attempt_count == 1
    finally:
        for manager, _, _ in site.started:
            site.stop(manager)
        site.store.close()


def test_a_deposed_leader_stands_by_and_may_lead_again(site: Site) -> None:
    roles: list[Role] = []
    manager = site.start(roles)
    until(lambda: manager.role is Role.LEADING)
    manager._depose()
    until(lambda: roles.count(Role.LEADING) == 2, seconds=30)
    site.client.create(a_job())
    until(lambda: site.phase() is JobPhase.SUCCEEDED)
