"""Follows git repositories: asks each server now and then whether something is new, once for all Sources that want the
same of it, and says which of them see another tree.

    following.follow(request, where, path="team-a", interval=60.0)      # for each Source, as often as it is looked at
    following.step()                                                    # tests; a daemon runs `run` in threads
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import structlog

from cumulus.clock import Clock
from cumulus.errors import CumulusError
from cumulus.gitops.errors import SourceUnreadable
from cumulus.gitops.git import Credentials, Repository
from cumulus.gitops.programs import Limits
from cumulus.lib.printable import one_line
from cumulus.lib.truncate import truncate
from cumulus.lib.unix_user import UnixUser
from cumulus.resources.git_url import GitUrl
from cumulus.resources.reasons import SourceReason
from cumulus.resources.source import GitSource, Revision

_log = structlog.get_logger("cumulus.sources")

MOST_OF_A_USER = 3
"""Servers that are asked at once for one user."""
LEAST_SECONDS = 5.0
"""No server is asked more often, unless somebody asks for it."""
_PATIENCE = 2.0
TIDY_SECONDS = 3600.0
"""How often clones that nobody uses are deleted."""
_LONGEST_WAIT = 60.0
SPREAD = 0.1
"""Of an interval: not all servers are asked at the same moment."""


class Busy(CumulusError):
    """The clone is in use for now."""


class Where(NamedTuple):
    """What is followed of which repository, as whom, with which secret."""

    user: UnixUser | None
    url: GitUrl
    wanted: tuple[tuple[str, str], ...]
    """branch, tag, commit or semver."""
    namespace: str
    secret: str

    @property
    def git(self) -> GitSource:
        return GitSource(url=str(self.url), **dict(self.wanted))


class SeenRevision(NamedTuple):
    """What a Source sees. `tree` is "" where the revision has no such path; `object` the tag object, or the commit."""

    revision: Revision
    tree: str
    object: str


@dataclass(slots=True)
class _Follow:
    where: Where
    interval: float
    due: float
    members: dict[tuple[str, str], tuple[str, bool]] = field(default_factory=dict)
    """By Source: its path, and whether it is told of commits that leave its tree as it is."""
    revision: Revision | None = None
    object: str = ""
    trees: dict[str, str] = field(default_factory=dict)
    error: SourceUnreadable | None = None
    running: bool = False
    again: bool = False
    """Asked for while it was running: what came in between must not be missed."""
    asked_by: set[tuple[str, str]] = field(default_factory=set)
    """Sources that asked, and wait for the next question."""
    answering: set[tuple[str, str]] = field(default_factory=set)
    """Those that wait for the one that runs."""


class SourceFollowing:
    """Safe for use by several threads. `credentials` reads a secret, and raises SourceUnreadable; `changed` is called
    with namespace and name of each Source that sees something new."""

    def __init__(
        self, home: Path, clock: Clock, credentials: Callable[[str, str], Credentials], *, limits: Limits = Limits()
    ) -> None:
        self._home = home
        self._clock = clock
        self._credentials = credentials
        self._limits = limits
        self._changed: Callable[[str, str], None] = lambda namespace, name: None
        self._follows: dict[Where, _Follow] = {}
        self._of: dict[tuple[str, str], Where] = {}
        self._locks: dict[Path, threading.RLock] = {}
        self._news = threading.Condition()
        self._closed = False
        self._next_tidy = clock.monotonic() + TIDY_SECONDS
        self.asked = 0
        """How often a server was asked."""

    def begin(self, changed: Callable[[str, str], None]) -> None:
        """Follow nothing yet, and tell `changed` from now on."""
        with self._news:
            self._follows.clear()
            self._of.clear()
            self._changed = changed

    def follow(
        self, source: tuple[str, str], where: Where, path: str, interval: float, *, every: bool = False
    ) -> SeenRevision | None:
        """What the Source sees now; None until it was looked at. `every`: it wants to be told of each commit, not only
        of those that change its tree. Raises SourceUnreadable for what went wrong last."""
        with self._news:
            if self._of.get(source) != where:
                self._leave(source)
                self._of[source] = where
            found = self._follows.get(where)
            if found is None:
                found = self._follows[where] = _Follow(where, interval, self._clock.monotonic())
                self._news.notify_all()
            found.members[source] = (path, every)
            found.interval = max(LEAST_SECONDS, min(found.interval, interval))
            if found.error is not None:
                raise found.error
            if found.revision is None:
                return None
            revision, object, tree = found.revision, found.object, found.trees.get(path)
        if tree is None:
            with self.reading(where) as repository:
                tree = repository.trees(revision.revision, [path])[path]
            with self._news:
                if found.revision is revision:
                    found.trees[path] = tree
        return SeenRevision(revision, tree, object)

    def now(self, source: tuple[str, str]) -> None:
        """Ask the Source's server at once, or once more where it is being asked. It is told also if nothing is new."""
        with self._news:
            where = self._of.get(source)
            found = None if where is None else self._follows.get(where)
            if found is None:
                return
            found.asked_by.add(source)
            if found.running:
                found.again = True
            else:
                found.due = self._clock.monotonic()
            self._news.notify_all()

    def waits(self, source: tuple[str, str]) -> bool:
        """Whether its server was not asked yet since `now`."""
        with self._news:
            where = self._of.get(source)
            found = None if where is None else self._follows.get(where)
            return found is not None and (source in found.asked_by or source in found.answering)

    def forget(self, source: tuple[str, str]) -> None:
        with self._news:
            self._leave(source)

    def repository(self, where: Where) -> Repository:
        return Repository(self._directory(where), where.url, where.user, self._limits)

    @contextmanager
    def reading(self, where: Where) -> Iterator[Repository]:
        """The clone, while nobody fetches into it or makes it anew. Raises Busy where somebody does for long."""
        lock = self._lock(where)
        if not lock.acquire(timeout=_PATIENCE):
            raise Busy(f"{where.url} is being fetched")
        try:
            yield self.repository(where)
        finally:
            lock.release()

    def _lock(self, where: Where) -> threading.RLock:
        with self._news:
            return self._locks.setdefault(self._directory(where), threading.RLock())

    def credentials(self, where: Where) -> Credentials:
        return self._credentials(where.namespace, where.secret) if where.secret else Credentials()

    def step(self) -> bool:
        """Ask one server that is due. False where none is."""
        with self._news:
            found = self._next()
            if found is None or found.due > self._clock.monotonic():
                return False
            found.running = True
            found.answering, found.asked_by = found.asked_by, set()
        self._ask(found)
        return True

    def run(self) -> None:
        """Ask whichever server is due, until `close`. Several threads may run it."""
        while not self._closed:
            if self.step():
                continue
            with self._news:
                idle = self._clock.monotonic() >= self._next_tidy
                if idle:
                    self._next_tidy = self._clock.monotonic() + TIDY_SECONDS
            if idle:
                self.tidy()
            with self._news:
                found = self._next()
                wait = _LONGEST_WAIT if found is None else found.due - self._clock.monotonic()
                if wait > 0 and not self._closed:
                    self._news.wait(min(wait, _LONGEST_WAIT))

    def close(self) -> None:
        """Ask nobody any more, and tell nobody."""
        with self._news:
            self._closed = True
            self._changed = lambda namespace, name: None
            self._news.notify_all()

    def tidy(self) -> None:
        """Delete clones that no Source uses any more. One that is missed is made anew."""
        for user in self._home.iterdir() if self._home.is_dir() else ():
            for clone in user.iterdir() if user.is_dir() and not user.is_symlink() else ():
                with self._news:
                    lock = self._locks.setdefault(clone, threading.RLock())
                with lock:
                    with self._news:
                        used = any(self._directory(where) == clone for where in self._follows)
                    if not used:
                        shutil.rmtree(clone, ignore_errors=True)

    def _next(self) -> _Follow | None:
        """The one that is due first. Servers that one user's Sources ask, and that take their time, keep no other user
        waiting."""
        running = Counter(found.where.user for found in self._follows.values() if found.running)
        waiting = (f for f in self._follows.values() if not f.running and running[f.where.user] < MOST_OF_A_USER)
        return min(waiting, key=lambda found: found.due, default=None)

    def _leave(self, source: tuple[str, str]) -> None:
        where = self._of.pop(source, None)
        found = None if where is None else self._follows.get(where)
        if found is not None and where is not None:
            found.members.pop(source, None)
            if not found.members:
                del self._follows[where]

    def _ask(self, found: _Follow) -> None:
        where, before = found.where, found.revision
        error: SourceUnreadable | None = None
        revision, object, trees = before, found.object, found.trees
        self.asked += 1
        try:
            credentials = self.credentials(where)
            with self._lock(where):
                repository = self.repository(where)
                ref, object = repository.look(where.git, credentials)
                if before is None or object != found.object or found.error is not None:
                    commit = repository.fetch(ref, object, credentials)
                    if before is None or commit != before.revision:
                        revision = repository.describe(commit)
                        with self._news:
                            paths = sorted({path for path, _ in found.members.values()})
                        trees = repository.trees(commit, paths)
                        new = [tree for path, tree in trees.items() if tree and tree != found.trees.get(path)]
                        repository.have(new, credentials)
        except SourceUnreadable as raised:
            error = raised
        except Exception as raised:
            # Whatever one repository holds, this thread goes on to the next.
            _log.exception("a repository cannot be read", url=str(where.url))
            said = f"{where.url} cannot be read: {truncate(one_line(str(raised)) or type(raised).__name__)}"
            error = SourceUnreadable(SourceReason.FETCH_FAILED, said)
        with self._news:
            told = self._told(found, revision, trees, error)
            found.error = error
            if error is None:
                found.revision, found.object, found.trees = revision, object, trees
            spread = 1 + SPREAD * (random.random() - 0.5)
            found.due = self._clock.monotonic() + (0.0 if found.again else found.interval * spread)
            found.running = found.again = False
            told = sorted({*told, *(found.answering & found.members.keys())})
            found.answering = set()
            changed = self._changed
            self._news.notify_all()
        for source in told:
            changed(*source)

    def _told(
        self, found: _Follow, revision: Revision | None, trees: dict[str, str], error: SourceUnreadable | None
    ) -> list[tuple[str, str]]:
        """The Sources that see something else than before."""
        if str(error or "") != str(found.error or "") or found.revision is None:
            return list(found.members)
        if error is not None or revision is found.revision:
            return []
        return [
            source
            for source, (path, every) in found.members.items()
            if every or trees.get(path, "") != found.trees.get(path)
        ]

    def _directory(self, where: Where) -> Path:
        uid = os.geteuid() if where.user is None else where.user.uid
        name = hashlib.sha256(f"{where.url}\n{where.namespace}\n{where.secret}".encode()).hexdigest()[:32]
        return self._home / str(uid) / f"{name}.git"
