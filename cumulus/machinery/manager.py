"""The manager: a whole control plane in one process, from election to shutdown.

It keeps an informer warm while standing by, builds the loops when it leads, steps them from a few threads, and
tears them down when leadership passes on or it is told to stop. Workloads and leases never depend on it.

What says that it leads is what does the work: a worker that leaves ends the term, and `vitals` measures the progress of
each loop. A thread that ends for any other reason than a stop ends the daemon.
"""

from __future__ import annotations

import gc
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

import structlog

from cumulus.backends.base import Backend
from cumulus.clock import Clock, SystemClock
from cumulus.controllers.loops import KINDS, Loops
from cumulus.controllers.swarm.controller import Cluster, is_member
from cumulus.errors import CumulusError, Fenced, StoreReplaced
from cumulus.machinery import process_identity
from cumulus.machinery.informer import Informer
from cumulus.machinery.leader import Elector, Term
from cumulus.machinery.liveness import Vitals
from cumulus.machinery.runner import Runner
from cumulus.machinery.throttle import Throttle
from cumulus.nodes.agent import Agents, Connect, NodeAgent
from cumulus.resources.node import GPUNode
from cumulus.store.base import Store

log = structlog.get_logger("cumulus.controllers")

WORKERS = {"job": 4, "partition": 12, "node": 8}
"""Threads of each loop; one where nothing is said. They mostly wait for nodes and backends, and one slow node must
not keep all of them."""

ATTEND_SECONDS = 0.5
"""How often, at least, it is looked whether backends found something, and, at most, events are written where many are
recorded."""
EVENTS_SETTLE_SECONDS, EVENTS_BURST = 0.03, 4
"""After a quiet time, events are written this soon, in so many writes, before they are gathered for longer."""
DRAIN_SECONDS = 20.0
"""How long a stop waits for the reconciles that run."""
YOUNG_OBJECTS = 20_000
"""How many new objects there are before Python looks for cycles among them: nearly all go without that, by count of
references, and at its own 700 the looking takes a tenth of a busy daemon's time."""
STALL_SECONDS = 30.0
"""A loop that finished nothing for so long though keys are due is stalled. A slow node's time-outs are shorter."""
POLL_SECONDS = 1.0
"""The longest wait of a thread before it looks whether it is to stop."""


class Role(StrEnum):
    STARTING = "starting"
    STANDBY = "standby"
    LEADING = "leading"
    STOPPED = "stopped"


def unique_identity() -> str:
    """A name for this daemon that no other and no earlier one has: host, process id, chance."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Manager:
    """`ready` is called, from the manager's thread, each time the role changes to standby or leading: the daemon
    answers from then on. `troubled` is told what keeps it from its work each time that changes: a sentence for each
    part that made no progress for `stall_seconds` though it had something to do; nothing once all is well. `connect`
    makes the agents of nodes with an SSH address. `workers`: threads of each loop, instead of `WORKERS`."""

    def __init__(
        self,
        store: Store,
        backends: Sequence[Backend],
        agents: Sequence[NodeAgent],
        *,
        connect: Connect | None = None,
        cluster: Cluster | None = None,
        cluster_user: str = "root",
        clock: Clock | None = None,
        identity: str | None = None,
        ready: Callable[[Role], None] = lambda role: None,
        troubled: Callable[[Sequence[str]], None] = lambda troubles: None,
        workers: Mapping[str, int] | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.role = Role.STARTING
        self._store = store
        self._backends = tuple(backends)
        self._clock = clock or SystemClock()
        self._ready = ready
        self._workers = WORKERS if workers is None else workers
        self._informer = Informer(store, KINDS)
        self._cluster = cluster
        self._cluster_user = cluster_user
        self._agents = Agents(self._informer.cache, agents, connect, closed=self._is_anothers)
        self._elector = Elector(
            store,
            identity or unique_identity(),
            self._clock,
            process=process_identity.this_process(),
            is_gone=process_identity.is_gone,
        )
        self._vitals = Vitals(self._clock, stall_seconds, troubled)
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    def _is_anothers(self, node: GPUNode) -> bool:
        """Whether the node is a machine of a cluster that is, as far as is known, not ours: its leases are neither."""
        return self._cluster is not None and is_member(node) and not self._cluster.confirmed

    @property
    def agents(self) -> Mapping[str, NodeAgent]:
        """One for each node that this daemon looks after."""
        return self._agents

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set; then finish the reconciles that run and give leadership up.

        Raises StoreReplaced where the store is not the one any more that it began with, and whatever ended one of its
        threads: it does not go on without."""
        self._stop = stop
        thresholds = gc.get_threshold()
        gc.set_threshold(YOUNG_OBJECTS, *thresholds[1:])
        threads = [
            threading.Thread(target=self._vital, args=(self._feed,), name="informer", daemon=True),
            threading.Thread(target=self._vital, args=(self._elect,), name="election", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            while not stop.is_set():
                self._become(Role.STANDBY)
                term = self._wait_for_term()
                if term is not None:
                    self._lead(term)
        finally:
            gc.set_threshold(*thresholds)
            stop.set()
            for thread in threads:
                thread.join(POLL_SECONDS * 3)
            self._elector.release()
            self._agents.close()
            self._informer.close()
            self._become(Role.STOPPED)
        if self._failure is not None:
            raise self._failure

    def _wait_for_term(self) -> Term | None:
        """The term, once this daemon leads and its view holds all that earlier leaders wrote."""
        while not self._stop.is_set():
            self._vitals.look()
            term = self._elector.term
            if term is not None and self._informer.synced:
                if self._informer.cache.wait_for(term.revision, POLL_SECONDS):
                    return term
            else:
                self._stop.wait(0.05)
        return None

    def _lead(self, term: Term) -> None:
        loops = Loops(
            self._store, self._informer, self._backends, self._agents, self._clock, term,
            fenced=lambda: self._elector.depose(term), cluster=self._cluster, cluster_user=self._cluster_user,
        )  # fmt: skip
        threads = [
            threading.Thread(target=self._work, args=(runner, term), name=f"{name}-{number}", daemon=True)
            for name, runner in loops.runners.items()
            for number in range(self._workers.get(name, 1))
        ]
        loops.start()
        for thread in threads:
            thread.start()
        self._become(Role.LEADING)
        try:
            with self._vitals.watching(loops.stalled):
                self._attend(loops, term)
        finally:
            loops.close()
            if not loops.drain(DRAIN_SECONDS):
                log.warning("some reconciles did not finish in time", seconds=DRAIN_SECONDS)
            self._once(loops, term)

    def _attend(self, loops: Loops, term: Term) -> None:
        """What the term's own thread does: events, resync, and watching whether the term goes on."""
        pace = Throttle(soon=EVENTS_SETTLE_SECONDS, interval=ATTEND_SECONDS, burst=EVENTS_BURST)
        while self._elector.holds(term):
            if loops.recorder.wait(ATTEND_SECONDS):
                now = self._clock.monotonic()
                self._stop.wait(pace.due(now) - now)
            if self._stop.is_set():
                return
            self._once(loops, term)
            self._vitals.beat("events")
            self._vitals.look()

    def _once(self, loops: Loops, term: Term) -> None:
        try:
            loops.attend()
        except Fenced:
            self._elector.depose(term)

    def _work(self, runner: Runner, term: Term) -> None:
        try:
            while self._elector.holds(term) and not runner.queue.stopped:
                runner.step(POLL_SECONDS)
        finally:
            if not runner.queue.stopped:
                # Whatever made it leave: this daemon leads with all its workers or not at all.
                self._elector.depose(term)

    def _feed(self) -> None:
        while not self._stop.is_set():
            try:
                self._informer.poll(POLL_SECONDS)
                self._vitals.beat("informer")
            except StoreReplaced:
                raise
            except CumulusError as error:
                log.warning("cannot watch the store", error=str(error))
                self._stop.wait(POLL_SECONDS)

    def _elect(self) -> None:
        while not self._stop.is_set():
            self._elector.step()
            self._vitals.beat("election")
            self._elector.report(self._vitals.look())
            self._stop.wait(self._elector.interval)

    def _vital(self, work: Callable[[], None]) -> None:
        """A thread without which the daemon is none: with it ends the whole."""
        try:
            work()
        except BaseException as error:
            log.error("the daemon ends", thread=threading.current_thread().name, error=str(error))
            self._failure = error
        finally:
            self._stop.set()

    def _become(self, role: Role) -> None:
        if role is self.role:
            return
        self.role = role
        log.info("role", role=role.value, identity=self._elector.identity)
        if role in (Role.STANDBY, Role.LEADING):
            self._ready(role)
