"""A deterministic control plane for tests and the simulation: real store and loops, fake nodes, one step at a time.

Nothing here has a thread or waits: `drive` steps whatever is due, and when nothing is, moves the clock to the
next moment at which something will be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cumulus.admission import door
from cumulus.backends.base import Workload
from cumulus.blob.base import BlobStore
from cumulus.clock import FakeClock
from cumulus.controllers.composition import Declared, context_maker, declared
from cumulus.controllers.context import ControllerContext, Removals
from cumulus.errors import Fenced
from cumulus.gitops.room import SourceRoom
from cumulus.history.follower import HistoryFollower
from cumulus.machinery.group import ControllerGroup, begin, informer_for
from cumulus.machinery.leader import Elector
from cumulus.nodes.agent import Agents, NodeAgent
from cumulus.resources.job import GPUJob
from cumulus.resources.key import Document
from cumulus.resources.meta import Resource
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.store.base import Store
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from cumulus.testing.backend import FakeBackend, Script
from cumulus.testing.leases import FakeLeases, fake_device
from tests.controllers.exact import ExactStore

STEPS = 20_000
"""More steps than this without the condition coming true means the loops chase their own tail."""


class Door:
    """The store's admission; a test leaves it open to store what is damaged or older than a rule."""

    def __init__(self) -> None:
        self._open = False

    def __call__(self, old: Document | None, new: Document) -> None:
        if not self._open:
            door.check(old, new)

    @contextmanager
    def left_open(self) -> Iterator[None]:
        self._open = True
        yield
        self._open = False


class World:
    """What outlives a daemon: the store, the nodes with their leases, and the workloads on them."""

    def __init__(
        self,
        nodes: Sequence[str] = ("node-1",),
        *,
        devices: int = 1,
        store: Store | None = None,
        script: Callable[[Workload], Script] = lambda workload: Script(),
        blobs: BlobStore | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.blobs = blobs
        self.door = Door()
        self.store: Store = store or MemoryStore(clock=self.clock, admission=self.door)
        self.leases: Mapping[str, FakeLeases] = {
            name: FakeLeases([fake_device(index) for index in range(devices)], self.clock) for name in nodes
        }
        self.backend = FakeBackend(self.clock, nodes=self.leases, script=script)
        self.agents = [NodeAgent(name, leases) for name, leases in self.leases.items()]
        self.client = StoreClient(self.store)

    def job(self, name: str) -> GPUJob:
        return self.client.get(GPUJob, "default", name)

    def partition(self, name: str) -> GPUPartition:
        return self.client.get(GPUPartition, "default", name)

    def partitions(self) -> list[GPUPartition]:
        return self.client.list(GPUPartition)

    def node(self, name: str = "node-1") -> GPUNode:
        return self.client.get(GPUNode, "", name)

    def apply(self, resource: Resource) -> None:
        self.client.create(resource)

    def change_spec(self, name: str, **fields: Any) -> None:
        """As a user's apply would change the job's spec."""
        job = self.job(name)
        self.client.update(job.replace(spec=job.spec.model_copy(update=fields)))


class Daemon:
    """One daemon on a world, stepped by hand. Crash it by dropping it; what it did stays."""

    def __init__(
        self,
        world: World,
        identity: str = "a",
        *,
        seed: int = 0,
        store: Store | None = None,
        controllers: Sequence[Declared] | None = None,
        sources: SourceRoom | None = None,
        removals: Removals | None = None,
        history: HistoryFollower | None = None,
    ) -> None:
        """`store` is what the daemon sees of the world's store, where that is not the store itself. `controllers`:
        all that are declared, unless given."""
        self.world = world
        self.store: Store = ExactStore(store or world.store)  # type: ignore[assignment]
        self._controllers = declared() if controllers is None else controllers
        self.informer = informer_for(self.store, self._controllers)
        self.sources = sources
        self.removals = removals
        self.history = history
        self.elector = Elector(self.store, identity, world.clock)
        self.loops: ControllerGroup[ControllerContext] | None = None
        self._rng = random.Random(seed)
        self._next_election = world.clock.monotonic()

    def step(self) -> bool:
        """Do one thing that is due; False when nothing is."""
        clock = self.world.clock
        if clock.monotonic() >= self._next_election:
            self.elector.step()
            self._next_election = clock.monotonic() + self.elector.interval
            self._follow()
            return True
        if self.informer.poll(0):
            self._follow()
            return True
        self._follow()
        if self.loops is None:
            return False
        try:
            return any(runner.step(0) for runner in self._shuffled(self.loops)) or self.loops.tick() > 0
        except Fenced:
            self.elector.depose()
            return True

    def next_due(self) -> float:
        """When, on the monotonic clock, this daemon next has something to do."""
        return self._next_election if self.loops is None else min(self.loops.next_due(), self._next_election)

    def _follow(self) -> None:
        """Build or drop the loops as leadership comes and goes."""
        term = self.elector.term
        if term is None:
            if self.loops is not None:
                self.loops.close()
                self.loops = None
        elif self.loops is None and self.informer.synced and self.informer.cache.revision >= term.revision:
            world = self.world
            self.loops = begin(
                self.store, self.informer, self._controllers,
                context_maker(
                    [world.backend], Agents(self.informer.cache, world.agents), sources=self.sources, blobs=world.blobs,
                    removals=self.removals, history=self.history,
                ),
                world.clock, term,
                fenced=self.elector.depose, rng=self._rng,
            )  # fmt: skip
            self.loops.start()

    def _shuffled(self, loops: ControllerGroup[ControllerContext]) -> list[Any]:
        runners = list(loops.runners.values())
        self._rng.shuffle(runners)
        return runners


def drive(
    world: World,
    *daemons: Daemon,
    until: Callable[[], bool],
    within: float = 3600.0,
    steps: int = STEPS,
) -> None:
    """Step the daemons and let time pass until the condition holds. Fails after `within` seconds of the fake clock."""
    deadline = world.clock.monotonic() + within
    for _ in range(steps):
        if until():
            return
        world.backend.tell()
        if sum(daemon.step() for daemon in daemons):
            continue
        now = world.clock.monotonic()
        assert now < deadline, f"the condition did not come true within {within} s"
        world.clock.advance(max(0.001, min(next_moment(world, daemons), deadline) - now))
    raise AssertionError(f"the condition did not come true in {steps} steps")


def settle(world: World, *daemons: Daemon, seconds: float = 0.0) -> None:
    """Let `seconds` pass, doing all that falls due, and then step until nothing more is due."""
    end = world.clock.monotonic() + seconds
    for _ in range(STEPS):
        world.backend.tell()
        if sum(daemon.step() for daemon in daemons):
            continue
        now = world.clock.monotonic()
        if now >= end:
            return
        world.clock.advance(max(0.001, min(next_moment(world, daemons), end) - now))
    raise AssertionError(f"the loops did not settle in {STEPS} steps")


def next_moment(world: World, daemons: Sequence[Daemon]) -> float:
    """When, on the monotonic clock, something next happens by itself."""
    times = [daemon.next_due() for daemon in daemons]
    times += [leases.next_change() for leases in world.leases.values()]
    times.append(world.backend.next_change())
    return min((time for time in times if time is not None), default=world.clock.monotonic() + 1.0)
