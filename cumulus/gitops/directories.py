"""Notices changes below the directories of Sources, with watchfiles, and reads them as their users."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from cumulus.gitops import directory
from cumulus.gitops.directory import DirectoryContent
from cumulus.gitops.errors import SourceUnreadable
from cumulus.gitops.programs import Limits, OverLimit, run
from cumulus.lib.printable import one_line
from cumulus.lib.truncate import truncate
from cumulus.lib.unix_user import UnixUser
from cumulus.resources.reasons import SourceReason

_log = structlog.get_logger("cumulus.sources")
_PATIENCE = 30.0
_RETRY_SECONDS = 10.0
_LOOK_MILLISECONDS = 500
"""How often it is looked whether other directories are to be watched."""
_SETTLE_MILLISECONDS = 100
"""An editor writes a file in several steps."""


def read(path: str, user: UnixUser | None, also: str = "", more: tuple[str, ...] = ()) -> DirectoryContent:
    """The manifests below a directory, files whose names end with one of `more`, and the file `also`, read as `user`.
    Raises SourceUnreadable."""
    try:
        if user is None or user.uid == os.geteuid():
            return directory.read(path, also, more)
        # It begins as root, since another user may not be able to start this Python, and gives that up for good.
        program = [sys.executable, "-I", directory.__file__, json.dumps(user), path, also, *more]
        limits = Limits(_PATIENCE, output=2 * directory.MOST_BYTES)
        finished = run(program, user=None, environment={}, limits=limits)
    except (OverLimit, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    if finished.code:
        raise _unreadable(path, finished.said.splitlines()[-1] if finished.said else "no reason was given")
    return directory.unpack(finished.output)


def _unreadable(path: str, why: str) -> SourceUnreadable:
    return SourceUnreadable(SourceReason.FETCH_FAILED, f"{one_line(path)} cannot be read: {truncate(one_line(why))}")


class Watched(NamedTuple):
    """The directory of a Source, and those within it that its user could read."""

    path: str
    within: tuple[str, ...]


class DirectoryWatch:
    """Calls `changed` with namespace and name of each Source below whose directory something changed.

    Each directory is watched by itself: a watch that descends would follow the symbolic links in it, as this process's
    own user and not as the Source's.
    """

    def __init__(self) -> None:
        self._changed: Callable[[str, str], None] = lambda namespace, name: None
        self._watched: dict[tuple[str, str], Watched] = {}
        self._again = threading.Event()
        self._lock = threading.Lock()
        self._closed = False

    def begin(self, changed: Callable[[str, str], None]) -> None:
        """Watch nothing yet, and tell `changed` from now on."""
        with self._lock:
            self._watched, self._changed = {}, changed
        self._again.set()

    def watch(self, source: tuple[str, str], path: str, within: tuple[str, ...] = ("",)) -> None:
        """`within`: the directories below `path`, "" for itself."""
        wanted = Watched(path, within)
        with self._lock:
            if self._watched.get(source) == wanted:
                return
            self._watched = {**self._watched, source: wanted}
        self._again.set()

    def forget(self, source: tuple[str, str]) -> None:
        with self._lock:
            if source not in self._watched:
                return
            self._watched = {key: watched for key, watched in self._watched.items() if key != source}
        self._again.set()

    def run(self) -> None:
        """Until `close`."""
        while not self._closed:
            self._again.clear()
            with self._lock:
                watched = dict(self._watched)
            there = {each.path for each in watched.values() if os.path.isdir(each.path)}
            if not there:
                self._again.wait(_RETRY_SECONDS if watched else None)
                continue
            try:
                self._until_others(watched, there)
            except Exception as error:
                # Sources are looked at now and then in any case.
                _log.warning("directories are not watched", error=str(error))
                self._again.wait(_RETRY_SECONDS)

    def close(self) -> None:
        """Watch nothing any more, and tell nobody."""
        self._closed = True
        self.begin(lambda namespace, name: None)

    def _until_others(self, watched: Mapping[tuple[str, str], Watched], there: set[str]) -> None:
        """Watch until other directories are to be watched, or one of these is gone or has come."""
        import watchfiles

        sources: dict[str, set[tuple[str, str]]] = {}
        for source, each in watched.items():
            for name in each.within if each.path in there else ():
                real = os.path.realpath(os.path.join(each.path, name))
                if os.path.isdir(real):
                    sources.setdefault(real, set()).add(source)
        # What changed before the watch began.
        for source, each in watched.items():
            if each.path in there:
                self._changed(*source)
        for changes in watchfiles.watch(
            *sorted(sources), debounce=_SETTLE_MILLISECONDS, step=50, rust_timeout=_LOOK_MILLISECONDS,
            yield_on_timeout=True, watch_filter=None, raise_interrupt=False, ignore_permission_denied=True,
            recursive=False, stop_event=self._again,
        ):  # fmt: skip
            touched = {path for _, path in changes}
            nobody: set[tuple[str, str]] = set()
            for source in sorted(nobody.union(*(sources.get(place, nobody) for path in touched
                                                for place in (path, os.path.dirname(path))))):  # fmt: skip
                self._changed(*source)
            # A directory that is made anew under the same name is another one.
            others = any(os.path.isdir(each.path) != (each.path in there) for each in watched.values())
            if others or not touched.isdisjoint(sources):
                return
