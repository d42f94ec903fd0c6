"""All controllers of one term of leadership: their queues, what wakes them, and one step of it all.

There are no threads here. The manager steps the runners from threads, tests and the simulation step them one by one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic

import structlog

from cumulus.clock import Clock
from cumulus.machinery.cache import Index
from cumulus.machinery.controller import BaseContext, C, Controller, WatchedKind
from cumulus.machinery.informer import MALFORMED, Change, Informer
from cumulus.machinery.instruments import Instruments
from cumulus.machinery.leader import Term
from cumulus.machinery.reconcile import Request
from cumulus.machinery.recorder import EventRecorder
from cumulus.machinery.runner import Runner
from cumulus.machinery.workqueue import WorkQueue
from cumulus.resources.lease import Lease
from cumulus.store.base import Store
from cumulus.store.client import StoreClient

log = structlog.get_logger("cumulus.controllers")

RESYNC_SECONDS = 600.0
"""How often everything is looked at once more."""


def informer_for(store: Store, controllers: Iterable[Controller[Any, Any]]) -> Informer:
    """The informer that tells these controllers of all that they watch.

    It watches the leader's Lease too, so that the view's revision moves with each renewal and a new leader can wait
    until it has seen all that its predecessor wrote."""
    kinds: dict[str, None] = {}
    indexes: dict[Index, None] = {}
    for controller in controllers:
        kinds.update(dict.fromkeys(sorted(controller.kinds)))
        indexes.update(dict.fromkeys(controller.indexes))
    return Informer(store, (*kinds, Lease.KIND), indexes)


def begin(
    store: Store,
    informer: Informer,
    controllers: Sequence[Controller[C, Any]],
    context: Callable[[BaseContext, Term], C],
    clock: Clock,
    term: Term,
    *,
    fenced: Callable[[], None],
    rng: random.Random | None = None,
    instruments: Instruments | None = None,
) -> ControllerGroup[C]:
    """The controllers of a term that has just begun, not started yet."""
    client = StoreClient(store, term.fence)
    base = BaseContext(cache=informer.cache, client=client, clock=clock, recorder=EventRecorder(client, clock))
    return ControllerGroup(controllers, context(base, term), informer, fenced=fenced, rng=rng, instruments=instruments)


class ControllerGroup(Generic[C]):
    """Built when leadership begins, from what is in the informer's cache then; closed when it ends."""

    def __init__(
        self,
        controllers: Sequence[Controller[C, Any]],
        context: C,
        informer: Informer,
        *,
        fenced: Callable[[], None],
        rng: random.Random | None = None,
        instruments: Instruments | None = None,
    ) -> None:
        """`fenced` is called when a write shows that another daemon leads. Raises ValueError where two controllers have
        one name."""
        self.context = context
        self.recorder = context.recorder
        self.informer = informer
        self.runners: dict[str, Runner] = {}
        self._clock = context.clock
        self._controllers = tuple(controller for controller in controllers if controller.enabled(context))
        self._watches: defaultdict[str, list[tuple[WatchedKind[Any], Runner]]] = defaultdict(list)
        self._next_resync = self._clock.monotonic() + RESYNC_SECONDS
        rng = rng or random.Random()
        for controller in self._controllers:
            if controller.name in self.runners:
                raise ValueError(f"two controllers are named {controller.name}")
            queue = WorkQueue(controller.name, self._clock, rng=rng, instruments=instruments)
            runner = Runner(controller.build(context), queue, fenced=fenced, instruments=instruments)
            self.runners[controller.name] = runner
            for watch in controller.watches:
                self._watches[watch.kind].append((watch, runner))

    @property
    def workers(self) -> dict[str, int]:
        """How many threads each controller wants, by name."""
        return {controller.name: controller.workers for controller in self._controllers}

    def start(self) -> None:
        """Queue everything there is, and listen to the informer and the sources from now on."""
        self.informer.add_handler(self._route)
        for controller in self._controllers:
            for source in controller.sources:
                source(self.context, self.runners[controller.name].queue.add)
        self.resync()

    def resync(self) -> None:
        """Look at everything once more: what makes up for a notice that was lost."""
        for controller in self._controllers:
            queue = self.runners[controller.name].queue
            for name in self.informer.cache.keys(controller.kind) if controller.kind else ():
                queue.add(Request(*name))
            for request in controller.resync(self.context):
                queue.add(request)

    def tick(self) -> int:
        """To be called now and then, by one thread: resyncs when it is time, and writes recorded events.

        Returns how many events were written. Raises Fenced.
        """
        if self._clock.monotonic() >= self._next_resync:
            self._next_resync += RESYNC_SECONDS
            self.resync()
        for controller in self._controllers:
            if controller.tick is not None:
                controller.tick(self.context)
        return self.recorder.flush()

    def close(self) -> None:
        """Take nothing more from the queues. What the controllers started goes on."""
        self.informer.remove_handler(self._route)
        for runner in self.runners.values():
            runner.queue.shut_down()

    def drain(self, timeout: float) -> bool:
        """After `close`: wait for the reconciles that run, in all at most `timeout` seconds."""
        deadline = self._clock.monotonic() + timeout
        return all(runner.queue.drain(max(0.0, deadline - self._clock.monotonic())) for runner in self.runners.values())

    def stalled(self, seconds: float) -> dict[str, float]:
        """The controllers that finished nothing for so many seconds though there was something to do: for how long, by
        name."""
        found = {name: runner.queue.stalled() for name, runner in self.runners.items()}
        return {name: since for name, since in found.items() if since >= seconds}

    def next_due(self) -> float:
        """When, on the monotonic clock, some controller next has something to do."""
        times = [runner.queue.next_due() for runner in self.runners.values()]
        return min((time for time in times if time is not None), default=self._next_resync)

    @property
    def next_resync(self) -> float:
        """On the monotonic clock."""
        return self._next_resync

    def _route(self, change: Change) -> None:
        # Several controllers ask the same of a change, and some questions compare whole objects.
        answers: dict[Callable[[Change], bool], bool] = {}
        for watch, runner in self._watches.get(change.key.kind, ()):
            try:
                if watch.when not in answers:
                    answers[watch.when] = watch.when(change)
                if answers[watch.when]:
                    self._wake(watch, runner, change)
            except MALFORMED as error:
                # It keeps no other controller from being told.
                log.error(
                    "cannot tell what a change concerns", loop=runner.name, object=str(change.key), error=repr(error)
                )

    def _wake(self, watch: WatchedKind[Any], runner: Runner, change: Change) -> None:
        for request in watch.keys(change, self.informer.cache):
            after = watch.after if isinstance(watch.after, float) else watch.after(runner.reconciler, request)
            runner.queue.add_after(request, after)
