"""Cancels calls whose client is silent: it was killed, or lost its network, and nobody waits for the result.

When the client was heard last is kept in memory. After a restart of the server each call's time starts anew, and where
the server itself was stopped or could not keep up, that time does not count: nobody loses a call because of us.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from cumulus.errors import CumulusError, Expired
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.kinds import gpujob
from cumulus.resources.quantity import parse_duration
from cumulus.resources.query import Query
from cumulus.server.api import Api

LOOK_SECONDS, LATE_SECONDS = 1.0, 10.0
"""How often it looks, and after how long without a look it did not listen either."""
_PAUSE_SECONDS = 5.0
_UNATTENDED_SECONDS = 60.0
_log = structlog.get_logger("cumulus.grpc")


class _Call(NamedTuple):
    key: Key
    seconds: float
    heard: float
    """When its client was heard last, or it was first seen."""


class AttendanceBook:
    """`now`: seconds of a clock that never goes back."""

    def __init__(self, api: Api, now: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._now = now
        self._calls: dict[str, _Call] = {}
        """By uid: those that are to be attended, and are not over."""
        self._looked = now()

    def heard(self, job: Document) -> float:
        """The client of this job is alive. Seconds until it is to say so again."""
        seconds = attended(job)
        if not seconds:
            return _UNATTENDED_SECONDS
        uid = job["metadata"]["uid"]
        # The time of one that is not seen yet begins when it is. Of one that is over nothing is kept.
        if (call := self._calls.get(uid)) is not None:
            self._calls[uid] = call._replace(heard=self._now())
        return seconds / 3

    def is_watched(self, uid: str) -> bool:
        """Whether that call would be cancelled."""
        return uid in self._calls

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self._follow()
            except Expired:
                continue
            except CumulusError as error:
                _log.warning("calls whose clients are gone are not noticed for now", error=str(error))
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _follow(self) -> None:
        store = self._api.service.store
        since = await self._api.call(store.revision)
        page = await self._api.call(store.list, Query(gpujob.KIND.name))
        there = {document["metadata"]["uid"] for document in page.items}
        self._calls = {uid: call for uid, call in self._calls.items() if uid in there}
        for document in page.items:
            self._see(document)
        async with self._api.bridge.watch(since=since, kind=gpujob.KIND.name) as watcher:
            while not watcher.closed:
                for event in await watcher.next(timeout=LOOK_SECONDS):
                    self._see(event.document, deleted=event.type == "DELETED")
                await self.look()

    def _see(self, document: Document, *, deleted: bool = False) -> None:
        uid, seconds = document["metadata"]["uid"], attended(document)
        ending = deleted or document["metadata"].get("deletionTimestamp") or gpujob.KIND.over(document)
        if ending or not seconds:
            self._calls.pop(uid, None)
            return
        known = self._calls.get(uid)
        self._calls[uid] = _Call(key_of(document), seconds, self._now() if known is None else known.heard)

    async def look(self) -> None:
        """Cancel those whose client was silent for too long."""
        now = self._now()
        if (away := now - self._looked) > LATE_SECONDS:
            self._calls = {uid: call._replace(heard=call.heard + away) for uid, call in self._calls.items()}
        self._looked = now
        silent = [uid for uid, call in self._calls.items() if now - call.heard > call.seconds]
        for uid in silent:
            call = self._calls.pop(uid)
            await self._api.call(self._api.service.calls.end_unattended, call.key, uid, call.seconds)


def attended(job: Document) -> float:
    """The seconds for which its client may be silent; 0 for ever."""
    given = lookup(job, "spec.call.attended")
    try:
        return parse_duration(given) if given else 0.0
    except (TypeError, ValueError):
        return 0.0
