"""Where the daemon's log goes: to stderr, and to a file where stderr is a terminal that belongs to other commands."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, TextIO

from cumulus.errors import UsageError

MOST_BYTES = 16 * 2**20
"""Of a file; the one before it is kept as FILE.1."""


def in_background() -> bool:
    """Whether stderr is a terminal, and others have it: `cumulus serve &` in a shell with job control."""
    try:
        return os.tcgetpgrp(2) != os.getpgrp()
    except OSError:
        return False


class LogFile(io.TextIOBase):
    """Appends lines, for its owner alone. Made with the first line; several processes may write to one."""

    def __init__(self, path: Path, most: int = MOST_BYTES) -> None:
        self._path = path
        self._most = most
        self._file: io.FileIO | None = None

    def write(self, text: str) -> int:
        """A log that cannot be written (full disk) must not end what it tells of."""
        try:
            self._opened().write(text.encode("utf-8", "backslashreplace"))
        except OSError:
            self.close()
        return len(text)

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> io.FileIO:
        """The file that is at the path now, while it has room."""
        if self._file is not None:
            held = os.fstat(self._file.fileno())
            if held.st_size >= self._most and self._is_there(held):
                os.replace(self._path, f"{self._path}.1")
            if not self._is_there(held):
                self.close()
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = io.FileIO(os.open(self._path, flags, 0o600), "a")
        return self._file

    def _is_there(self, held: os.stat_result) -> bool:
        try:
            return os.path.samestat(held, os.stat(self._path))
        except FileNotFoundError:
            return False


def chosen(given: str, home: Path) -> TextIO | None:
    """The file that `given` names, or one in `home` for a daemon in the background; None is stderr, as "-" asks.
    Raises UsageError where the directory of the file that is named is not there."""
    if given == "-":
        return None
    if given:
        path = Path(given)
        if not path.parent.is_dir():
            missing = next(each for each in reversed([path.parent, *path.parent.parents]) if not each.is_dir())
            raise UsageError(
                f"the log file {path} cannot be made: there is no directory {missing}",
                hint="make it, or name another file with --log-file",
            )
        return _file(path)
    return _file(home / "serve.log") if in_background() else None


def _file(path: Path) -> TextIO:
    made: Any = LogFile(path)
    return made  # type: ignore[no-any-return]
