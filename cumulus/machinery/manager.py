"""The manager: a whole control plane in one process, from election to shutdown.

It keeps an informer warm while standing by, builds the controllers when it leads, steps them from a few threads, and
tears them down when leadership passes on or it is told to stop. It knows no kind: what there is to do, the declarations
that it is given say.

What says that it leads is what does the work: a worker that leaves ends the term, and `liveness` measures the progress
of each controller. A thread that ends for any other reason than a stop ends the daemon.
"""

from __future__ import annotations

import gc
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Generic

import structlog

from cumulus.clock import Clock, SystemClock
from cumulus.errors import CumulusError, Fenced, StoreReplaced
from cumulus.lib import process_identity
from cumulus.machinery.controller import BaseContext, C, Controller
from cumulus.machinery.group import ControllerGroup, begin
from cumulus.machinery.informer import Informer
from cumulus.machinery.instruments import Instruments
from cumulus.machinery.leader import Elector, Term
from cumulus.machinery.liveness import Liveness
from cumulus.machinery.runner import Runner
from cumulus.machinery.throttle import Throttle
from cumulus.store.base import Store

log = structlog.get_logger("cumulus.controllers")

TICK_SECONDS = 0.5
"""How often, at least, the controllers' ticks are called, and, at most, events are written where many are recorded."""
EVENTS_SETTLE_SECONDS, EVENTS_BURST = 0.03, 4
"""After a quiet time, events are written this soon, in so many writes, before they are gathered for longer."""
DRAIN_SECONDS = 20.0
"""How long a stop waits for the reconciles that run."""
YOUNG_OBJECTS = 20_000
"""How many new objects there are before Python looks for cycles among them: nearly all go without that, by count of
references, and at its own 700 the looking takes a tenth of a busy daemon's time."""
STALL_SECONDS = 30.0
"""A controller that finished nothing for so long though keys are due is stalled. A slow node times out sooner."""
POLL_SECONDS = 1.0
"""The longest wait of a thread before it looks whether it is to stop."""


class ManagerRole(StrEnum):
    STARTING = "starting"
    STANDBY = "standby"
    LEADING = "leading"
    STOPPED = "stopped"


def unique_identity() -> str:
    """A name for this daemon that no other and no earlier one has: host, process id, chance."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Manager(Generic[C]):
    """`informer` is that of `controllers`; `context` makes what they are built from, once for each term.

    `ready` is called, from the manager's thread, each time the role changes to standby or leading: the daemon answers
    from then on. `on_problems` is told what keeps it from its work each time that changes: a sentence for each part
    that made no progress for `stall_seconds` though it had something to do; nothing once all is well. `workers`:
    threads of the controllers named there, instead of what they declare."""

    def __init__(
        self,
        store: Store,
        informer: Informer,
        controllers: Sequence[Controller[C, Any]],
        context: Callable[[BaseContext, Term], C],
        *,
        clock: Clock | None = None,
        identity: str | None = None,
        ready: Callable[[ManagerRole], None] = lambda role: None,
        on_problems: Callable[[Sequence[str]], None] = lambda problems: None,
        workers: Mapping[str, int] | None = None,
        stall_seconds: float = STALL_SECONDS,
        instruments: Instruments | None = None,
    ) -> None:
        self.role = ManagerRole.STARTING
        self._instruments = instruments or Instruments()
        self._store = store
        self._informer = informer
        self._controllers = tuple(controllers)
        self._context = context
        self._clock = clock or SystemClock()
        self._ready = ready
        self._workers = workers or {}
        self._elector = Elector(
            store, identity or unique_identity(), self._clock,
            process=process_identity.this_process(), is_gone=process_identity.is_gone,
        )  # fmt: skip
        self._liveness = Liveness(self._clock, stall_seconds, on_problems)
        self._stop = threading.Event()
        self._failure: BaseException | None = None

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
                self._become(ManagerRole.STANDBY)
                term = self._wait_for_term()
                if term is not None:
                    self._lead(term)
        finally:
            gc.set_threshold(*thresholds)
            stop.set()
            for thread in threads:
                thread.join(POLL_SECONDS * 3)
            self._elector.release()
            self._informer.close()
            self._become(ManagerRole.STOPPED)
        if self._failure is not None:
            raise self._failure

    def _wait_for_term(self) -> Term | None:
        """The term, once this daemon leads and its view holds all that earlier leaders wrote."""
        while not self._stop.is_set():
            self._liveness.look()
            term = self._elector.term
            if term is not None and self._informer.synced:
                if self._informer.cache.wait_for(term.revision, POLL_SECONDS):
                    return term
            else:
                self._stop.wait(0.05)
        return None

    def _lead(self, term: Term) -> None:
        group = begin(
            self._store, self._informer, self._controllers, self._context, self._clock, term,
            fenced=lambda: self._elector.depose(term), instruments=self._instruments,
        )  # fmt: skip
        workers = {**group.workers, **self._workers}
        threads = [
            threading.Thread(target=self._work, args=(runner, term), name=f"{name}-{number}", daemon=True)
            for name, runner in group.runners.items()
            for number in range(workers[name])
        ]
        self._instruments.leads({name: runner.queue for name, runner in group.runners.items()}, workers)
        group.start()
        for thread in threads:
            thread.start()
        self._become(ManagerRole.LEADING)
        try:
            with self._liveness.watching(group.stalled):
                self._tick_while_leading(group, term)
        finally:
            self._instruments.leads({}, {})
            group.close()
            if not group.drain(DRAIN_SECONDS):
                log.warning("some reconciles did not finish in time", seconds=DRAIN_SECONDS)
            self._tick(group, term)

    def _tick_while_leading(self, group: ControllerGroup[C], term: Term) -> None:
        """What the term's own thread does: events, resync, and watching whether the term goes on."""
        pace = Throttle(soon=EVENTS_SETTLE_SECONDS, interval=TICK_SECONDS, burst=EVENTS_BURST)
        while self._elector.holds(term):
            if group.recorder.wait(TICK_SECONDS):
                now = self._clock.monotonic()
                self._stop.wait(pace.due(now) - now)
            if self._stop.is_set():
                return
            self._tick(group, term)
            self._liveness.beat("events")
            self._liveness.look()

    def _tick(self, group: ControllerGroup[C], term: Term) -> None:
        try:
            group.tick()
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
                self._liveness.beat("informer")
            except StoreReplaced:
                raise
            except CumulusError as error:
                log.warning("cannot watch the store", error=str(error))
                self._stop.wait(POLL_SECONDS)

    def _elect(self) -> None:
        while not self._stop.is_set():
            self._elector.step()
            self._liveness.beat("election")
            self._elector.report(self._liveness.look())
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

    def _become(self, role: ManagerRole) -> None:
        if role is self.role:
            return
        self.role = role
        log.info("role", role=role.value, identity=self._elector.identity)
        if role in (ManagerRole.STANDBY, ManagerRole.LEADING):
            self._ready(role)
