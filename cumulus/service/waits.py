"""Waits until objects meet a condition: lists them, then follows their changes.

It needs no more than reading and watching, so a transport may run it on either side of a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from cumulus.answers.objects import ConditionMet, StillWaiting, WaitStep
from cumulus.answers.server import ServerState
from cumulus.clock import Clock
from cumulus.errors import ConditionUnreachable, Expired, NotFound, WaitTimedOut
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.query import Page, Query, Watch
from cumulus.resources.registry import BY_NAME
from cumulus.resources.selectors import Matcher
from cumulus.service.wait_conditions import (
    Created,
    Deleted,
    Finished,
    HasCondition,
    WaitCondition,
    parse_condition,
    summary,
)

STEP_SECONDS = 2.0
"""A caller hears at least so often that the wait goes on."""
_LOOK_SECONDS = 0.2
"""How often it is looked whether a daemon answers by now, where what a stopped one wrote does not count."""


class ListerWatcher(Protocol):
    """What a wait needs of a store, a service or a client."""

    def get(self, key: Key) -> Document: ...

    def list(self, query: Query) -> Page: ...

    def watch(self, *, since: int, kinds: frozenset[str], namespace: str | None = None) -> Watch: ...

    def revision(self) -> int: ...

    def server_state(self) -> ServerState: ...


def wait(
    reader: ListerWatcher, targets: Sequence[Key | Query], condition: str, seconds: float, clock: Clock,
    uids: Mapping[Key, str] = MappingProxyType({}),
) -> Iterator[WaitStep]:  # fmt: skip
    """Each object as it meets the condition, and how the others are meanwhile; ends when all have met it once.

    `targets`: objects by their keys, or all that a query finds, of which there must be one at least (unless their
    deletion is waited for). `condition`: see `parse_condition`; that of a node counts once the daemon that runs has
    reported it. `uids`: of objects whose deletion is waited for, where they are known; else those that are there at the
    first look. Another object of the same name is not what was meant.

    Raises UsageError for a bad condition or selector, before it waits. The iterator raises WaitTimedOut,
    ConditionUnreachable, and NotFound for a named object that is not there.
    """
    conditions = {target.kind: parse_condition(condition, BY_NAME[target.kind]) for target in targets}
    return _Wait(reader, targets, conditions, clock, uids).run(seconds)


class _Wait:
    def __init__(
        self, reader: ListerWatcher, targets: Sequence[Key | Query], conditions: Mapping[str, WaitCondition],
        clock: Clock, uids: Mapping[Key, str],
    ) -> None:  # fmt: skip
        self._reader = reader
        self._targets = targets
        self._conditions = conditions
        self._clock = clock
        self._matchers = [Matcher(target) for target in targets if isinstance(target, Query)]
        self._open: dict[Key, Document | None] = {}
        self._unsure: dict[Key, str] = {}
        """Why what an object says does not count."""
        self._met: set[Key] = set()
        self._uids = dict(uids)
        self._looked = False

    def run(self, seconds: float) -> Iterator[WaitStep]:
        deadline = self._clock.monotonic() + seconds
        while True:
            since = self._reader.revision()
            yield from self._look()
            try:
                yield from self._follow(since, deadline)
                return
            except Expired:
                continue

    def _look(self) -> Iterator[WaitStep]:
        """Read every object as it is now."""
        self._open.clear()
        self._unsure.clear()
        for target in self._targets:
            if isinstance(target, Query):
                for document in self._reader.list(target).items:
                    yield from self._see(key_of(document), document)
                continue
            try:
                found: Document | None = self._reader.get(target)
            except NotFound:
                if target not in self._met and not isinstance(self._conditions[target.kind], Deleted | Created):
                    raise
                found = None
            yield from self._see(target, found)
        self._looked = True

    def _follow(self, since: int, deadline: float) -> Iterator[WaitStep]:
        if self._done():
            return
        namespaces = {target.namespace for target in self._targets if BY_NAME[target.kind].namespaced}
        only = namespaces.pop() if len(namespaces) == 1 else None
        watch = self._reader.watch(since=since, kinds=frozenset(self._conditions), namespace=only)
        try:
            while not self._done():
                waiting = self._waiting()
                yield waiting
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise WaitTimedOut(f"timed out: {waiting}")
                for event in watch.next(timeout=min(left, _LOOK_SECONDS if self._unsure else STEP_SECONDS)):
                    if self._wanted(event.key, event.document):
                        yield from self._see(event.key, None if event.type == "DELETED" else event.document)
                for key in list(self._unsure):
                    yield from self._see(key, self._open[key])
        finally:
            watch.close()

    def _wanted(self, key: Key, document: Document) -> bool:
        return key in self._open or any(matches(document) for matches in self._matchers)

    def _see(self, key: Key, document: Document | None) -> Iterator[WaitStep]:
        if key in self._met:
            return
        condition = self._conditions[key.kind]
        deletion = isinstance(condition, Deleted)
        if deletion and document is not None:
            uid = document["metadata"]["uid"]
            if self._looked and key not in self._uids:
                # Made since: nobody meant it.
                return
            if self._uids.setdefault(key, uid) != uid:
                document = None
        self._unsure.pop(key, None)
        met = condition.met(document, self._clock.now())
        if met and document is not None and (why := self._doubt(document, condition)):
            self._unsure[key] = why
        elif met:
            self._open.pop(key, None)
            self._met.add(key)
            ended = document if isinstance(condition, Finished) else None
            yield ConditionMet(
                key, deletion, ended=summary(ended, self._clock.now()) if ended is not None else "",
                failed=ended is not None and BY_NAME[key.kind].failed(ended),
            )  # fmt: skip
            return
        reason = condition.unreachable(document)
        if reason:
            raise ConditionUnreachable(f"{key.kind.lower()}/{key.name} can't meet {condition} any more: {reason}")
        self._open[key] = document

    def _doubt(self, document: Document, condition: WaitCondition) -> str:
        """Why what the object says does not count, "" where it does."""
        reported_in = BY_NAME[document["kind"]].reported_in
        if reported_in is None or not isinstance(condition, HasCondition) or not condition.claims_knowledge:
            return ""
        server = self._reader.server_state()
        if server.term == reported_in(document):
            return ""
        state = summary(document, self._clock.now())
        if server.pid is None:
            return f"no daemon runs, and the last one left it {state}"
        if server.term is None:
            return f"the daemon that runs is still starting, and what is stored says {state}"
        return f"the daemon that runs has not reported it yet, and the last one left it {state}"

    def _done(self) -> bool:
        """None is left; where all of a kind were meant, there must have been one (or deletion is waited for)."""
        if self._open:
            return False
        return bool(self._met) or all(isinstance(condition, Deleted) for condition in self._conditions.values())

    def _waiting(self) -> StillWaiting:
        if not self._open:
            kinds = ", ".join(BY_NAME[target.kind].plural for target in self._targets)
            return StillWaiting(kinds, "there is none yet")
        key, document = next(iter(self._open.items()))
        state = summary(document, self._clock.now()) if document is not None else "not there"
        state = self._unsure.get(key, state)
        return StillWaiting(f"{key.kind.lower()}/{key.name}", state, len(self._open) - 1)
