"""Notices changes below the directories of Sources, with watchfiles, and reads them as their users."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping

import structlog

from cumulus.gitops import directory
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


def read(path: str, user: UnixUser | None, also: str = "") -> dict[str, bytes]:
    """The manifests below a directory and the file `also`, read as `user`. Raises SourceUnreadable."""
    try:
        if user is None or user.uid == os.geteuid():
            return directory.read(path, also)
        # It begins as root, since another user may not be able to start this Python, and gives that up for good.
        program = [sys.executable, "-I", directory.__file__, json.dumps(user), path, also]
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


class DirectoryWatch:
    """Calls `changed` with namespace and name of each Source below whose directory something changed."""

    def __init__(self) -> None:
        self._changed: Callable[[str, str], None] = lambda namespace, name: None
        self._paths: dict[tuple[str, str], str] = {}
        self._again = threading.Event()
        self._lock = threading.Lock()
        self._closed = False

    def begin(self, changed: Callable[[str, str], None]) -> None:
        """Watch nothing yet, and tell `changed` from now on."""
        with self._lock:
            self._paths, self._changed = {}, changed
        self._again.set()

    def watch(self, source: tuple[str, str], path: str) -> None:
        with self._lock:
            if self._paths.get(source) == path:
                return
            self._paths = {**self._paths, source: path}
        self._again.set()

    def forget(self, source: tuple[str, str]) -> None:
        with self._lock:
            if source not in self._paths:
                return
            self._paths = {key: path for key, path in self._paths.items() if key != source}
        self._again.set()

    def run(self) -> None:
        """Until `close`."""
        while not self._closed:
            self._again.clear()
            with self._lock:
                paths = dict(self._paths)
            there = {path for path in paths.values() if os.path.isdir(path)}
            if not there:
                self._again.wait(_RETRY_SECONDS if paths else None)
                continue
            try:
                self._until_others(paths, there)
            except Exception as error:
                # Sources are looked at now and then in any case.
                _log.warning("directories are not watched", error=str(error))
                self._again.wait(_RETRY_SECONDS)

    def close(self) -> None:
        """Watch nothing any more, and tell nobody."""
        self._closed = True
        self.begin(lambda namespace, name: None)

    def _until_others(self, paths: Mapping[tuple[str, str], str], there: set[str]) -> None:
        """Watch until other directories are to be watched, or one of these is gone or has come."""
        import watchfiles

        real = {path: os.path.realpath(path) for path in there}
        # What changed before the watch began.
        for source, path in paths.items():
            if path in there:
                self._changed(*source)
        for changes in watchfiles.watch(
            *sorted(there), debounce=_SETTLE_MILLISECONDS, step=50, rust_timeout=_LOOK_MILLISECONDS,
            yield_on_timeout=True, watch_filter=None, raise_interrupt=False, ignore_permission_denied=True,
        ):  # fmt: skip
            touched = [os.path.realpath(path) for _, path in changes]
            for source, path in paths.items():
                if path in real and any(f"{each}/".startswith(f"{real[path]}/") for each in touched):
                    self._changed(*source)
            others = any(os.path.isdir(path) != (path in there) for path in paths.values())
            if others or self._again.is_set():
                return
