"""A watch as Kubernetes' clients expect it: one JSON object a line, from a revision on, with bookmarks.

An object that begins to match the selectors is ADDED. One that no longer does is DELETED, and shown as it was before.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import orjson

from cumulus.errors import CumulusError, StoreUnavailable
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.query import Query, WatchEvent
from cumulus.resources.selectors import Matcher
from cumulus.server.http.kubernetes.tables import META
from cumulus.server.http.status import status_of

if TYPE_CHECKING:
    from cumulus.server.api import Api
    from cumulus.server.http.kubernetes.reading import ObjectReader
    from cumulus.server.http.kubernetes.tables import Shown

BOOKMARK_SECONDS = 60.0
BATCH = 200
"""Objects that a watch begins with which are sent at once."""
MAX_KNOWN_BYTES = 2 * 2**20
"""Of the objects that one watch with a selector keeps as it told of them. Beyond that an object that no longer matches
is told of as it is then."""
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class KubernetesWatch:
    """One watch. `since`: the revision to go on from; None: from a list of what there is now, told as ADDED."""

    def __init__(
        self, api: Api, source: ObjectReader, query: Query, shown: Shown, *,
        since: int | None, bookmarks: bool, initial: bool, seconds: float,
    ) -> None:  # fmt: skip
        self._api = api
        self._source = source
        self._query = query
        self._shown = shown
        self._since = since
        self._bookmarks = bookmarks or initial
        self._initial = initial
        self._ends = time.monotonic() + seconds
        self._matcher = Matcher(query)
        self._known = _Known()
        """Objects that the client was told of. Only needed, and kept, where there is a selector."""
        self._headed = False

    async def prepare(self) -> Sequence[Document]:
        """What the client is told first. Raises what a list raises, before anything is answered."""
        if self._since is not None and not self._selects:
            return ()
        listing = replace(self._query, revision=self._since)
        page = await self._api.call(self._source.page, listing)
        if self._selects:
            for item in page.items:
                self._known.put(item)
        if self._since is not None:
            return ()
        self._since = page.revision
        return page.items

    async def lines(self, first: Sequence[Document]) -> AsyncIterator[bytes]:
        for start in range(0, len(first), BATCH):
            yield await self._rendered(partial(self._all_added, first[start : start + BATCH]))
        if self._initial:
            yield self._bookmark({INITIAL_EVENTS_END: "true"})
        assert self._since is not None
        try:
            kind, namespace = self._source.watched, self._query.namespace
            async with self._api.bridge.watch(since=self._since, kind=kind, namespace=namespace) as watcher:
                while (left := self._ends - time.monotonic()) > 0:
                    events = await watcher.next(timeout=min(left, BOOKMARK_SECONDS))
                    self._since = max(self._since, watcher.revision)
                    # What is computed may be many objects for one that is stored.
                    for some in [[event] for event in events] if self._source.computed else [events]:
                        if out := await self._rendered(partial(self._all_told, some)):
                            yield out
                    if not events and self._bookmarks:
                        yield self._bookmark({})
                    if watcher.closed:
                        return
        except StoreUnavailable:
            # The daemon ends, and the watch with it: the client goes on where it was, at the next one.
            return
        except CumulusError as error:
            yield orjson.dumps({"type": "ERROR", "object": status_of(error)}) + b"\n"

    async def _rendered(self, lines: Callable[[], Sequence[bytes]]) -> bytes:
        """The lines, one after another. Those of a table are made in a thread: their cells may ask the service. So are
        those of what is computed, which takes long."""
        in_thread = self._source.computed or self._shown.form.kind == "Table"
        return b"".join(await self._api.call(lines) if in_thread else lines())

    def _all_added(self, items: Sequence[Document]) -> Sequence[bytes]:
        return [self._line("ADDED", item) for item in items]

    def _all_told(self, events: Sequence[WatchEvent]) -> Sequence[bytes]:
        return [
            line
            for event in events
            for type, document in self._source.told(event.type, event.document)
            if (line := self._told(type, document, event))
        ]

    @property
    def _selects(self) -> bool:
        return bool(self._query.labels or self._query.fields)

    def _told(self, type: str, document: Document, event: WatchEvent) -> bytes | None:
        if not self._selects:
            # Whoever may see all of it is told the same.
            as_stored = document is event.document and type == event.type and not self._shown.form.kind
            return self._shared(event) if as_stored else self._line(type, document)
        key = key_of(document)
        was, matches = key in self._known, type != "DELETED" and self._matcher(document)
        if matches:
            self._known.put(document)
            return self._line("MODIFIED" if was else "ADDED", document)
        if not was:
            return None
        before = self._known.take(key)
        return self._line("DELETED", document if type == "DELETED" or before is None else _moved(before, document))

    def _shared(self, event: WatchEvent) -> bytes:
        lines = self._api.event_lines
        line = lines.get(event.revision)
        if line is None:
            line = _encoded(event.type, event.document)
            lines.put(event.revision, line, len(line))
        return line

    def _line(self, type: str, document: Document) -> bytes:
        shown = self._shown.one(document, heading=not self._headed)
        self._headed = True
        return _encoded(type, shown)

    def _bookmark(self, annotations: Document) -> bytes:
        metadata: Document = {
            "resourceVersion": str(self._since),
            **({"annotations": annotations} if annotations else {}),
        }
        document: Document = {"kind": self._query.kind, "apiVersion": self._shown.api_version, "metadata": metadata}
        if self._shown.form.kind == "PartialObjectMetadata":
            document |= {"kind": "PartialObjectMetadata", "apiVersion": META}
        elif self._shown.form.kind:
            document = {
                "kind": "Table", "apiVersion": META, "metadata": metadata, "columnDefinitions": None,
                "rows": [{"cells": [], "object": document}],
            }  # fmt: skip
        return _encoded("BOOKMARK", document)


class _Known:
    """Objects as a client was told of them last, packed, as long as there are not too many."""

    def __init__(self) -> None:
        self._packed: dict[Key, bytes] = {}
        self._bytes = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._packed

    def put(self, document: Document) -> None:
        key, packed = key_of(document), orjson.dumps(document)
        self._bytes -= len(self._packed.get(key, b""))
        if self._bytes + len(packed) > MAX_KNOWN_BYTES:
            packed = b""
        self._packed[key] = packed
        self._bytes += len(packed)

    def take(self, key: Key) -> Document | None:
        """None where there was no room for it."""
        packed = self._packed.pop(key)
        self._bytes -= len(packed)
        return orjson.loads(packed) if packed else None


def _encoded(type: str, shown: Document) -> bytes:
    return orjson.dumps({"type": type, "object": shown}) + b"\n"


def _moved(before: Document, after: Document) -> Document:
    """The object as it was, at the revision at which it ceased to match."""
    version = after["metadata"]["resourceVersion"]
    return {**before, "metadata": {**before["metadata"], "resourceVersion": version}}
