"""How a controller declares itself: its name, what wakes it, and how it is made. The manager composes a list of these.

A declaration is written once, for all terms of leadership; `build` makes the reconciler of one term from that term's
context. It reads like controller-runtime's builder:

    CONTROLLER = Controller[Context, NodeReconciler](
        name="node", kind=GPUNode.KIND, workers=8, build=...,
        watches=(WatchedKind(GPUNode.KIND, itself, when=fields_changed),),
    )
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cumulus.clock import Clock
from cumulus.machinery.cache import Cache, Index
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Reconciler, Request
from cumulus.machinery.recorder import EventRecorder
from cumulus.resources.documents import owners_of
from cumulus.store.client import StoreClient


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseContext:
    """What every controller of one term may use. Those who compose controllers add what theirs need."""

    cache: Cache
    client: StoreClient
    """Its writes are refused once another daemon leads."""
    clock: Clock
    recorder: EventRecorder


C = TypeVar("C", bound=BaseContext)
R = TypeVar("R", bound=Reconciler)

Push = Callable[[Request], None]
"""Has the controller look at a key. Any thread may call it."""

WakeSource = Callable[[C, Push], None]
"""Pushes keys for as long as the term lasts, from what is no object of the store. Called once, when the term begins."""


def always(change: Change) -> bool:
    return True


@dataclass(frozen=True)
class WatchedKind(Generic[R]):
    """Which changes of which kind wake the controller, for which of its keys."""

    kind: str
    keys: Callable[[Change, Cache], Iterable[Request]]
    """Asked after the cache has the change."""
    when: Callable[[Change], bool] = always
    """Changes for which this is false wake nobody."""
    after: float | Callable[[R, Request], float] = 0.0
    """Seconds until the key is due, for what is best looked at once after several changes."""


@dataclass(frozen=True, kw_only=True)
class Controller(Generic[C, R]):
    """One controller: what it reconciles, and what wakes it."""

    name: str
    """Unique. Log lines, threads and what the leader says of a stalled controller name it so."""
    build: Callable[[C], R]
    """Makes the reconciler of a term."""
    kind: str = ""
    """The kind whose objects it reconciles: at the start and at each resync all of them are looked at."""
    resync: Callable[[C], Iterable[Request]] = lambda context: ()
    """More keys to look at then: the only key of a controller that has one."""
    watches: tuple[WatchedKind[R], ...] = ()
    sources: tuple[WakeSource[C], ...] = ()
    indexes: tuple[Index, ...] = ()
    """What it asks the cache by."""
    workers: int = 1
    """Threads. They mostly wait for others, and one slow node must not keep all of them."""
    tick: Callable[[C], None] | None = None
    """Called a few times a second by the term's own thread: for what cannot be waited for. It must not wait."""
    enabled: Callable[[C], bool] = lambda context: True

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of which it must be told."""
        return frozenset({self.kind, *(watch.kind for watch in self.watches)} - {""})


class Channel:
    """Requests that one controller, or a part outside the store, has for another one: controller-runtime's Channel."""

    def __init__(self) -> None:
        self._subscribers: list[Push] = []
        self._lock = threading.Lock()

    def subscribe(self, push: Push) -> None:
        with self._lock:
            self._subscribers = [*self._subscribers, push]

    def push(self, request: Request) -> None:
        for push in self._subscribers:
            push(request)


def itself(change: Change, cache: Cache) -> Iterable[Request]:
    """The object that changed."""
    return (Request(change.key.namespace, change.key.name),)


def owner(kind: str) -> Callable[[Change, Cache], Iterable[Request]]:
    """The owner of that kind of the object that changed."""

    def keys(change: Change, cache: Cache) -> Iterable[Request]:
        for reference in owners_of(change.new, kind):
            return (Request(change.key.namespace, reference["name"]),)
        return ()

    return keys


def owned(kind: str) -> Callable[[Change, Cache], Iterable[Request]]:
    """The objects of that kind that the object which changed owns."""

    def keys(change: Change, cache: Cache) -> Iterable[Request]:
        return [Request(*name) for name in cache.keys(kind, owner=change.new["metadata"]["uid"])]

    return keys


def exists(change: Change) -> bool:
    return change.type != "DELETED"


def respecified(change: Change) -> bool:
    """As `Change.respecified` says."""
    return change.respecified


def deleted(change: Change) -> bool:
    return change.type == "DELETED"
