"""The directory in which built environments lie, each under its key: whole or not at all, built by one at a time.

    KEY/              an environment: bin/python, environment.json
    KEY.lock          who holds its lock builds it, and its time is when the environment was last used
    .building-KEY-…   not whole: deleted by the next who has the lock

An environment is built in a directory beside its place and renamed. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cumulus.errors import EnvironmentFailed
from cumulus.lib import locks
from cumulus.lib.delete_tree import delete_tree

FACTS = "environment.json"
DOWNLOADS = ".downloads"
KEEP_SECONDS = 30 * 86400.0
"""An environment that nobody used for so long is deleted, unless a process runs in it."""
KEEP_DOWNLOADS = 20 << 30
"""Downloaded packages are kept until they take this many bytes; then all are deleted."""

_TELL, _PAUSE = 10.0, 0.1
_LOCK = re.compile(r"([0-9a-f]{32})\.lock")
_LEFT = re.compile(r"\.(?:building|old)-([0-9a-f]{32})-.*")


class EnvironmentCache:
    """The environments below `root`, which is made where it is missing; `shared` ones are readable by all."""

    def __init__(self, root: str, shared: bool) -> None:
        self.root, self.shared = os.path.abspath(root), shared
        os.makedirs(self.root, mode=0o755 if shared else 0o700, exist_ok=True)

    def place(self, key: str) -> str:
        return os.path.join(self.root, key)

    def find(self, key: str) -> str | None:
        """The interpreter of the environment, which counts as used now; None where it is not whole."""
        place = self.place(key)
        python = os.path.join(place, "bin", "python")
        if not os.path.isfile(os.path.join(place, FACTS)) or not os.access(python, os.X_OK):
            return None
        with contextlib.suppress(OSError):
            os.utime(self._lock(key))
        return python

    @contextmanager
    def building(self, key: str, patience: float, say: Callable[[str], None]) -> Iterator[int]:
        """Be the one who builds this environment, and delete what another left unfinished. Yields the lock's
        descriptor: a child that inherits it holds the lock too. Raises `EnvironmentFailed` where another builds for
        longer than `patience` seconds."""
        descriptor = self._locked(key, patience, say)
        try:
            self._clean(key)
            yield descriptor
        finally:
            os.close(descriptor)

    def begin(self, key: str) -> str:
        """A new directory to build in."""
        return tempfile.mkdtemp(prefix=f".building-{key}-", dir=self.root)

    def publish(self, building: str, key: str, facts: dict[str, object]) -> str:
        """Put what was built in its place. Returns the interpreter."""
        place = self.place(key)
        with open(os.path.join(building, FACTS), "w", encoding="utf-8") as file:
            json.dump(facts, file)
        _rewrite(os.path.join(building, "bin"), building, place)
        if self.shared:
            _make_read_only(building)
        # What is there has lost its Python, or was damaged.
        self._set_aside(key)
        os.rename(building, place)
        self._clean(key)
        return os.path.join(place, "bin", "python")

    def collect(self, now: float | None = None, keep: float = KEEP_SECONDS) -> list[str]:
        """Delete the environments that nobody used for `keep` seconds, and what dead processes left. Returns their
        keys. One that is being built, or that a process runs in, stays."""
        now = time.time() if now is None else now
        names = os.listdir(self.root)
        deleted = []
        for key in {match[1] for name in names if (match := _LEFT.fullmatch(name))}:
            self._if_free(key, self._clean)
        running = _command_lines()
        for key in (match[1] for name in names if (match := _LOCK.fullmatch(name))):
            place = self.place(key)
            with contextlib.suppress(OSError):
                if now - os.stat(self._lock(key)).st_mtime >= keep and f"{place}/" not in running:
                    self._if_free(key, self._delete)
                    deleted += [] if os.path.lexists(place) else [key]
        downloads = os.path.join(self.root, DOWNLOADS)
        if _size(downloads) > KEEP_DOWNLOADS:
            delete_tree(downloads)
        return deleted

    def _locked(self, key: str, patience: float, say: Callable[[str], None]) -> int:
        start = told = time.monotonic()
        while True:
            descriptor = os.open(self._lock(key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            while not locks.acquire(descriptor, _PAUSE, pause=_PAUSE):
                waited = time.monotonic() - start
                if waited >= patience:
                    os.close(descriptor)
                    who, what = locks.blame(self._lock(key))
                    raise EnvironmentFailed(f"{who} has been building this environment for {waited:.0f} s", hint=what)
                if told == start or time.monotonic() - told >= _TELL:
                    told = time.monotonic()
                    who = locks.described(locks.holders(self._lock(key)))
                    say(f"{who} builds this environment: waiting ({waited:.0f} s)")
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self._lock(key))):
                    return descriptor
            os.close(descriptor)  # It was deleted between the two steps.

    def _if_free(self, key: str, action: Callable[[str], None]) -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(self._lock(key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if locks.try_lock(descriptor):
                    action(key)
            finally:
                os.close(descriptor)

    def _delete(self, key: str) -> None:
        self._set_aside(key)
        self._clean(key)
        os.unlink(self._lock(key))

    def _set_aside(self, key: str) -> None:
        if os.path.lexists(self.place(key)):
            os.rename(self.place(key), tempfile.mkdtemp(prefix=f".old-{key}-", dir=self.root))

    def _clean(self, key: str) -> None:
        for name in os.listdir(self.root):
            match = _LEFT.fullmatch(name)
            if match and match[1] == key:
                path = os.path.join(self.root, name)
                # A shared one is read-only, for its owner too.
                os.chmod(path, 0o700)
                delete_tree(path)

    def _lock(self, key: str) -> str:
        return os.path.join(self.root, f"{key}.lock")


def _rewrite(programs: str, building: str, place: str) -> None:
    """Programs name their environment's directory in their first lines: make that the one where it will be."""
    for name in os.listdir(programs):
        path = os.path.join(programs, name)
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            content = file.read()
        if building.encode() in content and b"\0" not in content:
            with open(path, "wb") as file:
                file.write(content.replace(building.encode(), place.encode()))


def _make_read_only(directory: str) -> None:
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                executable = os.stat(path).st_mode & 0o111
                os.chmod(path, 0o555 if executable else 0o444)
        # The directory itself is renamed, within its parent: that needs no right on it.
        os.chmod(parent, 0o555)


def _command_lines() -> str:
    """Of all processes that can be seen: who runs in an environment names its interpreter."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                    found.append(file.read().decode("utf-8", "surrogateescape"))
    return "\n".join(found)


def _size(directory: str) -> int:
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
