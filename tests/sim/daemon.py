"""One daemon of the simulation: real informer, elector and loops, stepped one thing at a time, on faulty surroundings.

What it sees of the world are views: its store, its watch and its backend pass each call to the simulation, which may
strike there. A crash drops everything here; the next life has another identity.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cumulus.chronos.contract import NodeFacts
from cumulus.controllers.composition import context_maker, declared
from cumulus.controllers.context import ControllerContext
from cumulus.errors import Conflict, CumulusError, Expired, Fenced
from cumulus.gitops.room import SourceRoom
from cumulus.machinery.group import ControllerGroup, begin, informer_for
from cumulus.machinery.leader import Elector, Term
from cumulus.machinery.runner import Runner
from cumulus.machinery.workqueue import WorkQueue
from cumulus.nodes.agent import Agents, NodeAgent
from cumulus.resources.key import Document, Key
from cumulus.resources.submitter import Submitter
from cumulus.store.base import Documents, Fence, Page, Query, WatchEvent, Write
from cumulus.store.single import SingleWrites
from tests.sim.parts import Skewed
from tests.sim.translated import Translated
from tests.sim.truth import Violation

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

CONTROLLERS = declared()

WITH_TEMPLATES = tuple(each for each in CONTROLLERS if each.name != "source")
"""Where there are arrays and cron jobs. Nothing in the simulation is a Source."""

THREADS = {"job": 4, "partition": 4, "node": 2}
"""As in the manager: how many reconciles of a loop may be under way at once."""

LOOK_SECONDS = 0.5
"""How often the manager's own thread looks whether its term goes on."""


TORN = 0.3
"""How likely a late informer gets only the first part of what is new."""


class Anybody:
    """Makes what arrays and cron jobs make, for whoever made those: everybody may."""

    def __init__(self, store: View) -> None:
        self._store = store

    def commit(
        self, submitter: Submitter, writes: Sequence[Write], own: Sequence[Write], *, fence: Fence | None,
        owner: Document | None = None,
    ) -> Documents:  # fmt: skip
        made = []
        for write in writes:
            assert write.document is not None
            annotations = (write.document["metadata"].get("annotations") or {}) | submitter.annotations
            metadata = write.document["metadata"] | {"ownerReferences": [owner], "annotations": annotations}
            made.append(replace(write, document=write.document | {"metadata": metadata}))
        return self._store.transact([*made, *own], fence=fence)


class Crash(BaseException):
    """The daemon's process is gone: nothing of its memory is left."""


class OneAtATime:
    """The lock that a loop's threads have around a call of the store. In one thread nobody can wait for what goes on
    further down the stack: who would have to comes again a moment later, as after a conflict."""

    def __init__(self) -> None:
        self._taken = False

    def __enter__(self) -> None:
        if self._taken:
            raise Conflict("another thread of this daemon has the lock")
        self._taken = True

    def __exit__(self, *_: object) -> None:
        self._taken = False


class View(SingleWrites):
    """The world's store as one daemon reaches it."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._store = sim.store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def transact(self, writes: Sequence[Write], *, fence: Fence | None = None) -> Documents:
        first = writes[-1]
        call = f"store.write {first.verb} {first.key.kind if first.key else (first.document or {}).get('kind')}"
        self._sim.call(call, "", "before")
        answers = self._store.transact(writes, fence=fence)
        self._sim.call(call, "", "after")
        return answers

    def get(self, key: Key) -> Document:
        call = f"store.read {key.kind}"
        self._sim.call(call, key.name, "before")
        found: Document = self._store.get(key)
        self._sim.call(call, key.name, "after")
        return found

    def list(self, query: Query) -> Page:
        call = f"store.read {query.kind}"
        self._sim.call(call, "", "before")
        page: Page = self._store.list(query)
        self._sim.call(call, "", "after")
        return page

    def watch(self, *, since: int, kinds: frozenset[str] | None = None) -> LaggingWatch:
        return LaggingWatch(self._sim, since, kinds)


class LaggingWatch:
    """A watch on the real log that may be late, cut into pieces, repeated, reordered among objects, or ended."""

    def __init__(self, sim: Simulation, since: int, kinds: frozenset[str] | None) -> None:
        self._sim = sim
        self._position = since
        self._kinds = kinds
        self._last: list[WatchEvent] = []
        self._hold = -1.0
        self.closed = False

    def next(self, timeout: float | None = None) -> list[WatchEvent]:
        lag, sim = self._sim.lag, self._sim
        behind = sim.store.newest() - self._position
        if not behind and (lag is None or not lag.expire):
            return []
        if self._held_back():
            return []
        if lag is None:
            torn = sim.schedule.sluggish and sim.rng.random() < TORN
            events, self._position = sim.store.read(self._position, sim.rng.randint(1, behind) if torn else behind)
            return self._chosen(events)
        if lag.until > sim.now():
            return []
        if lag.expire:
            lag.expire = False
            raise Expired("the watch's revision was compacted")
        limit = sim.rng.randint(1, behind) if sim.rng.random() < lag.torn else behind
        events, self._position = sim.store.read(self._position, limit)
        events = self._chosen(events)
        if sim.rng.random() < lag.torn:
            events = _shuffled(sim.rng, self._last[-2:] + events)
        self._last = events
        return events

    def close(self) -> None:
        self.closed = True

    def _held_back(self) -> bool:
        """Whether what is new comes a moment later, as it may at any time."""
        sim = self._sim
        now = sim.now()
        if self._hold < 0 and sim.rng.random() < sim.schedule.sluggish:
            self._hold = now + sim.rng.choice((0.002, 0.02, 0.1, 0.6))
            sim.at(self._hold, lambda: None)
        if now < self._hold:
            return True
        self._hold = -1.0
        return False

    def _chosen(self, events: list[WatchEvent]) -> list[WatchEvent]:
        return [event for event in events if self._kinds is None or event.key.kind in self._kinds]


def _shuffled(rng: random.Random, events: list[WatchEvent]) -> list[WatchEvent]:
    """In another order, but each object's own events in theirs."""
    places = [event.key for event in events]
    rng.shuffle(places)
    queues: dict[Key, list[WatchEvent]] = {}
    for event in events:
        queues.setdefault(event.key, []).append(event)
    return [queues[key].pop(0) for key in places]


class BackendView:
    """The world's backend as one daemon reaches it: its notices are the daemon's own."""

    runtime = "process"

    def __init__(self, sim: Simulation) -> None:
        self._backend = sim.backend
        self.subscribers: list[Callable[[str, str], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        self.subscribers.append(changed)


class Daemon:
    """One host's daemon, through all its lives."""

    def __init__(self, sim: Simulation, number: int, clock: Skewed) -> None:
        self.sim = sim
        self.number = number
        self.clock = clock
        self.lives = 0
        self.down_until = 0.0
        self.paused = False
        self.interrupted = False
        """Held up in the middle of the step that is under way: what it looked at may not be so any more."""
        self.up = False
        self.start()

    @property
    def name(self) -> str:
        return f"daemon-{self.number}.{self.lives}"

    def start(self) -> None:
        """A new process: it knows nothing."""
        self.lives += 1
        self.up = True
        store: Any = View(self.sim)
        self.backend = BackendView(self.sim)
        self.informer = informer_for(store, CONTROLLERS)
        self.elector = Elector(store, self.name, self.clock)
        self.store = store
        self.loops: ControllerGroup[ControllerContext] | None = None
        self.term: Term | None = None
        """That for which the loops were built."""
        self._gone: set[str] = set()
        """The loops whose workers have seen that the term was over, and left."""
        self._lapsed = False
        self._next_look = 0.0
        self._next_election = self._next_poll = self.sim.now()
        self._at_work: set[str] = set()
        self._reconciles: dict[str, int] = {}

    def die(self, down: float) -> None:
        self.up = False
        self.loops = None
        self.down_until = self.sim.now() + down

    def step(self) -> bool:
        """Do one thing that is due; False when nothing is."""
        now = self.sim.now()
        if not self.up:
            if now < self.down_until:
                return False
            self.start()
            self.sim.note("starts")
        if now >= self._next_election and self._alone("elector", self._elect):
            return True
        if now >= self._next_poll and self._alone("informer", self._poll):
            return True
        self._follow()
        if self.loops is None:
            return False
        return self._reconcile(self.loops) or self._alone("tick", self._tick)

    def next_due(self) -> float:
        """When this daemon next has something to do."""
        if not self.up:
            return self.down_until
        soonest = math.inf if "elector" in self._at_work else self._next_election
        if self._next_poll > self.sim.now():
            soonest = min(soonest, self._next_poll)
        if self.loops is not None:
            soonest = min(soonest, self._next_due(self.loops))
        return soonest

    def _next_due(self, loops: ControllerGroup[ControllerContext]) -> float:
        """`ControllerGroup.next_due` without its locks, since it is asked at every step and there is one thread; and
        when the threads have something to look at. What a loop is to do waits while all its threads are held up."""
        queues = [
            _queue_due(runner.queue)
            for name, runner in loops.runners.items()
            if name not in self._gone and not self._is_busy(name)
        ]
        resync = math.inf if "tick" in self._at_work else loops.next_resync
        soonest = min([*queues, resync]) - self.sim.started_at
        return min(soonest, self._next_look if self._lapsed else self.elector.deadline - self.sim.started_at)

    def notify(self, namespace: str, job: str) -> None:
        for changed in self.backend.subscribers:
            changed(namespace, job)

    def _alone(self, thread: str, work: Callable[[], bool]) -> bool:
        """Let that thread do its work, unless it is under way already, further down the stack."""
        if thread in self._at_work:
            return False
        self._at_work.add(thread)
        try:
            return work()
        finally:
            self._at_work.discard(thread)

    def _elect(self) -> bool:
        self.elector.step()
        self._next_election = self.sim.now() + self.elector.interval
        self._follow()
        return True

    def _poll(self) -> bool:
        try:
            changed = self.informer.poll(0) > 0
        except CumulusError:
            self._next_poll = self.sim.now() + 1.0
            return True
        if changed:
            self._follow()
        return changed

    def _tick(self) -> bool:
        assert self.loops is not None
        try:
            return self.loops.tick() > 0
        except Fenced:
            self.elector.depose(self.term)
            return True

    def _reconcile(self, loops: ControllerGroup[ControllerContext]) -> bool:
        now = self.sim.clock.monotonic()
        runners = [
            runner
            for name, runner in loops.runners.items()
            if _queue_due(runner.queue) <= now and name not in self._gone and self._works(name)
        ]
        if len(runners) > 1:
            self.sim.rng.shuffle(runners)
        return any(self._run(runner) for runner in runners)

    def _run(self, runner: Runner) -> bool:
        name = runner.name
        if self._is_busy(name):
            return False
        self._reconciles[name] = self._reconciles.get(name, 0) + 1
        try:
            return runner.step(0)
        finally:
            self._reconciles[name] -= 1

    def _is_busy(self, loop: str) -> bool:
        return self._reconciles.get(loop, 0) >= THREADS.get(loop, 1)

    def _works(self, loop: str) -> bool:
        """Whether the loop's workers go on, as each looks before it takes a key. Who leaves ends the term."""
        assert self.term is not None
        if self.elector.holds(self.term):
            return True
        self._gone.add(loop)
        self.elector.depose(self.term)
        return False

    def _follow(self) -> None:
        """Build or drop the loops as leadership comes and goes, as the manager's own thread does."""
        if self.loops is not None:
            self._look(self.loops)
            return
        term = self.elector.term
        if term is not None and self.informer.synced and self.informer.cache.revision >= term.revision:
            shared = self.sim.schedule.shared
            agents = [
                NodeAgent(name, Translated(leases, self.clock), facts=leases.facts if shared else NodeFacts)
                for name, leases in self.sim.leases.items()
            ]
            backend: Any = self.backend
            nothing: Any = None
            room = SourceRoom(Anybody(self.store), nothing, nothing, nothing) if shared else None  # type: ignore[arg-type]
            self.term, self._gone, self._lapsed = term, set(), False
            self.loops = begin(
                self.store, self.informer, WITH_TEMPLATES if shared else CONTROLLERS,
                context_maker([backend], Agents(self.informer.cache, agents), sources=room),
                self.clock, term, fenced=lambda: self.elector.depose(term), rng=self.sim.rng,
            )  # fmt: skip
            partitions: Any = self.loops.runners["partition"].reconciler
            assert not partitions._counting.locked()
            partitions._counting = OneAtATime()
            self.loops.start()
            self.sim.note(f"leads with token {term.fence.token}")

    def _look(self, loops: ControllerGroup[ControllerContext]) -> None:
        """When the term is over, some workers may see it at once and leave; the others do when they are to take a key,
        and the manager's own thread at its next look, when it drops the loops."""
        assert self.term is not None
        now, over = self.sim.now(), not self.elector.holds(self.term)
        if self._lapsed and not over:
            raise Violation("revived", f"the term of token {self.term.fence.token} was over, and goes on")
        if over and not self._lapsed:
            self._lapsed, self._next_look = True, now + self.sim.rng.uniform(0, LOOK_SECONDS)
            leaving = self.sim.rng.choice((0.0, 0.5))
            for name in loops.runners:
                if self.sim.rng.random() < leaving:
                    self._works(name)
        if over and now >= self._next_look:
            loops.close()
            self.loops = None


def _queue_due(queue: WorkQueue) -> float:
    if queue._ready:
        return 0.0
    return queue._heap[0][0] if queue._heap else math.inf
