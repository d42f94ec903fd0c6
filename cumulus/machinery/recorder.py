"""Event recorder: records who did what to which object and why. It never fails, and floods nobody.

Controllers record into memory; `flush`, stepped by the manager, writes what gathered as one transaction. An event is
named by a digest of what it says of whom, so that repetitions raise a count, and each object has a token bucket
(as client-go's spam filter), so that a job that crashes in a loop cannot fill the store.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from cumulus.clock import Clock, timestamp
from cumulus.errors import AlreadyExists, CumulusError, Fenced, InvalidObject, NotFound
from cumulus.lib.truncate import LONGEST_WORD, truncate
from cumulus.resources.event import Event, EventSource, ObjectReference
from cumulus.resources.meta import ObjectMeta, Resource
from cumulus.store.base import Key, Store, Write
from cumulus.store.client import StoreClient, decode

log = structlog.get_logger("cumulus.controllers")

BURST = 25
"""Events of one object before its bucket is empty."""
REFILL_SECONDS = 60.0
"""An empty bucket gains one event in this time."""
REMEMBERED = 4096
"""Objects whose buckets are kept, and events that are remembered to be in the store."""

EventType = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class EventToWrite:
    about: ObjectReference
    type: EventType
    reason: str
    message: str
    component: str
    times: int
    first: str
    last: str


class EventRecorder:
    """Safe for use by several threads."""

    def __init__(self, client: StoreClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._host = socket.gethostname()
        self._pending: OrderedDict[str, EventToWrite] = OrderedDict()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Namespaces and names of events that may be in the store. Of most it need not be asked whether they are."""
        self._lock = threading.Lock()
        self._recorded = threading.Event()

    def record(self, about: Resource, type: EventType, reason: str, message: str, *, component: str) -> None:
        """Say once more that `reason` befell the object. `flush` writes it, unless the object's bucket is empty."""
        name, new = self._draft(about, type, reason, message, component)
        with self._lock:
            if not self._spend(new.about.uid or name):
                return
            draft = self._pending.get(name)
            self._pending[name] = new if draft is None else replace(draft, times=draft.times + 1, last=new.last)
            self._recorded.set()

    def event(self, about: Resource, type: EventType, reason: str, message: str, *, component: str) -> Write:
        """The write of an event that is to be in the same transaction as what it tells of, whatever was said of the
        object before. `AlreadyExists` says that it was told before."""
        name, draft = self._draft(about, type, reason, message, component)
        return Write("create", self._event(_namespace(draft), name, draft).to_json())

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until there is something for `flush` to write. False where there is not."""
        return self._recorded.wait(timeout)

    def flush(self) -> int:
        """Write what gathered. Returns how many events were written; what cannot be written is dropped and logged.

        Raises `Fenced` alone: the one thing its caller must know.
        """
        with self._lock:
            pending, self._pending = self._pending, OrderedDict()
            self._recorded.clear()
        if not pending:
            return 0
        try:
            self._flush(pending)
        except Fenced:
            raise
        except InvalidObject as error:
            # One that cannot be stored takes no others with it.
            log.warning("an event was dropped", error=str(error))
            return self._flush_each(pending)
        except CumulusError as error:
            log.info("events were dropped", count=len(pending), error=str(error))
            return 0
        return len(pending)

    def _flush_each(self, pending: Mapping[str, EventToWrite]) -> int:
        written = 0
        for name, draft in pending.items():
            with suppress(InvalidObject):
                self._flush({name: draft})
                written += 1
        return written

    def _flush(self, pending: Mapping[str, EventToWrite]) -> None:
        store, fence = self._client.store, self._client.fence
        try:
            store.transact([self._write(store, name, draft) for name, draft in pending.items()], fence=fence)
        except AlreadyExists:
            # Said before this daemon led, or too long ago to be remembered.
            store.transact(
                [self._write(store, name, draft, look_up=True) for name, draft in pending.items()], fence=fence
            )
        for name, draft in pending.items():
            self._known[_namespace(draft), name] = None
            self._known.move_to_end((_namespace(draft), name))
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _write(self, store: Store, name: str, draft: EventToWrite, *, look_up: bool = False) -> Write:
        namespace = _namespace(draft)
        if look_up or (namespace, name) in self._known:
            with suppress(NotFound):
                old = decode(Event, store.get(Key(Event.KIND, namespace, name)))
                return Write("update", old.replace(count=old.count + draft.times, last_timestamp=draft.last).to_json())
        return Write("create", self._event(namespace, name, draft).to_json())

    def _draft(
        self, about: Resource, type: EventType, reason: str, message: str, component: str
    ) -> tuple[str, EventToWrite]:
        reference = ObjectReference(
            api_version=about.api_version, kind=about.kind, namespace=about.metadata.namespace or "",
            name=about.metadata.name, uid=about.metadata.uid or "",
        )  # fmt: skip
        reason, message, now = truncate(reason, LONGEST_WORD), truncate(message), timestamp(self._clock.now())
        name = _name(reference, type, reason, message, component)
        return name, EventToWrite(reference, type, reason, message, component, 1, now, now)

    def _event(self, namespace: str, name: str, draft: EventToWrite) -> Event:
        return Event(
            metadata=ObjectMeta(name=name, namespace=namespace), involved_object=draft.about, reason=draft.reason,
            message=draft.message, type=draft.type, source=EventSource(component=draft.component, host=self._host),
            count=draft.times, first_timestamp=draft.first, last_timestamp=draft.last,
        )  # fmt: skip

    def _spend(self, uid: str) -> bool:
        """Take one token of the object's bucket."""
        now = self._clock.monotonic()
        tokens, since = self._buckets.pop(uid, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - since) / REFILL_SECONDS)
        enough = tokens >= 1
        self._buckets[uid] = (tokens - 1 if enough else tokens, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return enough


def _namespace(draft: EventToWrite) -> str:
    return draft.about.namespace or "default"


def _name(about: ObjectReference, type: str, reason: str, message: str, component: str) -> str:
    """Object's name (what fits) and a digest: unique for what is said of that very object."""
    text = "\0".join((about.kind, about.namespace, about.name, about.uid, type, reason, message, component))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{about.name[:200].rstrip('.-')}.{digest}"
