"""Watches of the store that show less than all: one namespace, or of each object what its reader may see."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from cumulus.resources.query import Watch, WatchEvent
from cumulus.service.redaction import Redact


class _Narrowed:
    """Ends with the watch that it shows a part of."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    @property
    def closed(self) -> bool:
        return self._watch.closed

    def close(self) -> None:
        self._watch.close()


class OfNamespace(_Narrowed):
    """Without the events of other namespaces."""

    def __init__(self, watch: Watch, namespace: str) -> None:
        super().__init__(watch)
        self._wanted = ("", namespace)

    def next(self, timeout: float | None = None) -> list[WatchEvent]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            events = self._watch.next(left)
            found = [event for event in events if event.key.namespace in self._wanted]
            if found or not events:
                return found


class Redacted(_Narrowed):
    """Objects of some kinds are shown as their reader may see them."""

    def __init__(self, watch: Watch, redact: Mapping[str, Redact]) -> None:
        super().__init__(watch)
        self._redact = redact

    def next(self, timeout: float | None = None) -> list[WatchEvent]:
        return [self._shown(event) for event in self._watch.next(timeout)]

    def _shown(self, event: WatchEvent) -> WatchEvent:
        redact = self._redact.get(event.key.kind)
        return event if redact is None else replace(event, document=redact(event.document))
