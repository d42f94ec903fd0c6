"""`cumulus wait`: until something is true, or time is up, or it can't come true any more."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import typer

from cumulus.cli import context, options, targets
from cumulus.cli.progress import Progress
from cumulus.cli.targets import Selection, Target
from cumulus.clock import Clock, SystemClock
from cumulus.errors import CumulusError, Expired, NotFound, UsageError
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.quantity import parse_duration
from cumulus.resources.registry import BY_NAME
from cumulus.service.wait_conditions import Created, Deleted, Goal, parse_goal, summary
from cumulus.store.base import Store

_LONGEST = 3600.0
_PATIENCE = 2.0
"""Seconds of waiting after which a missing daemon is worth a word: one may just be starting."""


class TimedOut(CumulusError):
    """Time was up first."""


class Hopeless(CumulusError):
    """It can't come true any more."""


def wait(
    words: options.Words = None,
    goal: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="GOAL",
            show_default=False,
            help="condition=NAME[=STATUS], jsonpath='{.path}'[=VALUE], create or delete.",
        ),
    ] = "",
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="How long at most; 0 looks once.")] = "30s",
    selector: options.Labels = "",
    field_selector: options.Fields = "",
    all: Annotated[bool, typer.Option("--all", help="All objects of the kind, and at least one.")] = False,
    namespace: options.Namespace = "default",
    all_namespaces: options.AllNamespaces = False,
) -> None:
    """Wait until something is true of objects.

    Ends with 0 when it is true of all of them; with 1 when time is up, and at once when it can't come true any
    more, as for a job that failed.

    \b
    Examples:
      cumulus wait gpujob/train --for=condition=Succeeded --timeout=1h
      cumulus wait node --all --for=condition=Ready
      cumulus wait jobs -l team=vision --for=jsonpath='{.status.phase}'=Running
      cumulus wait job/train --for=delete --timeout=60s
    """  # fmt: skip
    found = targets.parse(words or ())
    several = bool(all or selector or field_selector)
    if any(target.name is None for target in found) and not several:
        raise UsageError("name an object, or give --all or a selector", hint="as in: cumulus wait job/train …")
    if any(target.name is not None for target in found) and several:
        raise UsageError("names cannot be given together with --all or a selector")
    if not goal:
        raise UsageError("say what to wait for", hint="as in --for=condition=Succeeded or --for=delete")
    goals = {target.kind.name: parse_goal(goal, target.kind) for target in found}
    seconds = seconds_of(timeout, "--timeout")
    selection = Selection(None if all_namespaces else namespace, selector, field_selector)
    with context.open_store(create=True) as store, Progress() as progress:
        Waiter(store, found, selection, goals, progress, SystemClock()).run(seconds)


def seconds_of(text: str, option: str) -> float:
    """A duration that was given to `option`. Raises UsageError."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


class Waiter:
    """Follows the objects until each has met its goal once."""

    def __init__(
        self,
        store: Store,
        found: list[Target],
        selection: Selection,
        goals: dict[str, Goal],
        progress: Progress,
        clock: Clock,
        uids: Mapping[Key, str] = MappingProxyType({}),
    ) -> None:
        """`uids`: of objects whose deletion is waited for, where they are known; else those that are there at the first
        look. Another object of the same name is not what was meant. Raises UsageError for a bad selector."""
        self._store = store
        self._targets = found
        self._selection = selection
        self._goals = goals
        self._progress = progress
        self._clock = clock
        self._matchers = {t.kind.name: selection.matcher(t.kind) for t in found}
        self._open: dict[Key, Document | None] = {}
        self._met: set[Key] = set()
        self._ask_at = 0.0
        self._uids = dict(uids)
        self._looked = False

    def run(self, seconds: float) -> None:
        """Print a line for each object as it gets there. Raises TimedOut, Hopeless, NotFound."""
        deadline = self._clock.monotonic() + seconds
        self._ask_at = min(self._clock.monotonic() + _PATIENCE, deadline)
        while True:
            since = self._store.revision()
            self._look()
            if self._done():
                return
            try:
                self._follow(since, deadline)
                return
            except Expired:
                continue

    def _look(self) -> None:
        """Read every object as it is now."""
        self._open.clear()
        for target in self._targets:
            goal = self._goals[target.kind.name]
            if target.name is None:
                for document in targets.documents(self._store, target, self._selection):
                    self._see(key_of(document), document)
                continue
            key = targets.key(target, self._selection.namespace or "default")
            try:
                self._see(key, self._store.get(key))
            except NotFound:
                if key not in self._met and not isinstance(goal, Deleted | Created):
                    raise targets.not_found(target, key.namespace) from None
                self._see(key, None)
        self._looked = True

    def _follow(self, since: int, deadline: float) -> None:
        watch = self._store.watch(since=since, kinds=frozenset(self._goals))
        try:
            while not self._done():
                self._progress.say(self._waiting())
                now = self._clock.monotonic()
                left = deadline - now
                if now >= self._ask_at:
                    context.note_if_no_daemon("things change")
                    self._ask_at = float("inf")
                if left <= 0:
                    raise TimedOut(f"timed out: {self._waiting()}")
                for event in watch.next(timeout=min(left, max(0.0, self._ask_at - now), _LONGEST)):
                    if self._wanted(event.key, event.document):
                        self._see(event.key, None if event.type == "DELETED" else event.document)
        finally:
            watch.close()

    def _wanted(self, key: Key, document: Document) -> bool:
        if key in self._open:
            return True
        everything = any(t.name is None and t.kind.name == key.kind for t in self._targets)
        return everything and self._matchers[key.kind](document)

    def _see(self, key: Key, document: Document | None) -> None:
        if key in self._met:
            return
        goal = self._goals[key.kind]
        if isinstance(goal, Deleted) and document is not None:
            uid = document["metadata"]["uid"]
            if self._looked and key not in self._uids:
                # Made since: nobody meant it.
                return
            if self._uids.setdefault(key, uid) != uid:
                document = None
        if goal.met(document):
            self._open.pop(key, None)
            self._met.add(key)
            word = "deleted" if isinstance(goal, Deleted) else "condition met"
            print(f"{BY_NAME[key.kind].qualified}/{key.name} {word}", flush=True)
            return
        reason = goal.hopeless(document)
        if reason:
            raise Hopeless(f"{key.kind.lower()}/{key.name} can't meet {goal} any more: {reason}")
        self._open[key] = document

    def _done(self) -> bool:
        """None is left; where all of a kind were meant, there must have been one (or the goal is deletion)."""
        if self._open:
            return False
        return bool(self._met) or all(isinstance(goal, Deleted) for goal in self._goals.values())

    def _waiting(self) -> str:
        if not self._open:
            return f"waiting for {', '.join(str(t) for t in self._targets)}: there is none yet"
        key, document = next(iter(self._open.items()))
        state = summary(document) if document is not None else "not there"
        more = f", and {len(self._open) - 1} more" if len(self._open) > 1 else ""
        return f"waiting for {key.kind.lower()}/{key.name}: {state}{more}"
