"""Queries for objects and watches of changes: terms that the store, the service and every client share.

All of it is data that can travel, but for `Watch`, the protocol of a stream of events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from cumulus.resources.key import Document, Key, key_of


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One revision as a watch tells it. For DELETED `document` is the last state, at the deleting revision."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    revision: int
    document: Document

    @property
    def key(self) -> Key:
        return key_of(self.document)


@dataclass(frozen=True, slots=True)
class Query:
    """Which objects of a kind to list. Selectors are parsed by `resources.selectors`.

    `labels`: Kubernetes label selector text (`a=b,c!=d,e in (f,g),h,!i`).
    `fields`: field selector text (`metadata.name=x,status.phase!=Running`). Of a kind of ours only fields that it has.
    `owner_uid`: only objects with an ownerReference of that uid.
    """

    kind: str
    namespace: str | None = None
    labels: str = ""
    fields: str = ""
    owner_uid: str | None = None
    limit: int | None = None
    continue_token: str = ""
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: documents sorted by (namespace, name), all as they were at `revision`.

    `continue_token` is "" on the last page. Hand it back to go on at the same revision.
    """

    items: list[Document]
    revision: int
    continue_token: str = ""


class Watch(Protocol):
    """A stream of events from one revision on. Not for use by several threads at once, except `close`."""

    def next(self, timeout: float | None = None) -> list[WatchEvent]:
        """The events since the last call, oldest first; waits up to `timeout` seconds (None: for ever).

        An empty list means the time-out passed, or that the watch was closed (`closed` tells).
        Raises `Expired` when revisions it had yet to deliver were compacted.
        """
        ...

    @property
    def closed(self) -> bool: ...

    def close(self) -> None:
        """End the watch and wake a waiting `next`."""
        ...
