"""What a program changed in a directory that was carried to its node, as `cumulus run --sync` does. Standard library
only.

LIST came with the directory and says what it held:

    {"files": {path: [size, seconds of the epoch]}, "skip": [names of files and directories that do not come back]}

What differs from it is told and sent: a line of JSON with how much that is, then one for each file, followed by its
bytes where all of it is not more than was asked for, and at last one for each file that is gone, or stays here.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

LIST = ".cumulus-sync"
_LONGEST_LIST = 2**26
_CHUNK = 2**20
_SECOND = 10**9


class _File(NamedTuple):
    path: str
    size: int
    mode: int
    changed: int
    """Nanoseconds of the epoch."""


def send(root: str, most: int, say: Callable[[Mapping[str, Any]], None], write: Callable[[bytes], None]) -> None:
    """Raises OSError, ValueError where the directory was not carried here."""
    held, skip = _list(root)
    there, left_out = _files(root, skip)
    changed = [file for file in there if not _same(file, held.get(file.path))]
    size = sum(file.size for file in changed)
    say({"files": len(changed), "size": size, "sent": size <= most})
    for file in changed:
        before = held.get(file.path)
        say({"path": file.path, "size": file.size, "mode": file.mode, "changed": file.changed, "before": before})
        if size <= most:
            for chunk in _content(os.path.join(root, file.path), file.size):
                write(chunk)
    for path in sorted(held.keys() - {file.path for file in there}):
        say({"gone": path})
    for path in left_out:
        say({"stays": path})


def _list(root: str) -> tuple[dict[str, list[int]], Sequence[str]]:
    try:
        descriptor = os.open(os.path.join(root, LIST), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ValueError("no directory was carried to it") from None
    with open(descriptor, "rb") as file:
        try:
            said = json.loads(file.read(_LONGEST_LIST))
            files = {str(path): [int(size), int(at)] for path, (size, at) in said["files"].items()}
            return files, [str(name) for name in said["skip"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError("its program wrote over the list of what was carried to it") from None


def _files(root: str, skip: Sequence[str]) -> tuple[list[_File], list[str]]:
    """Sorted; and what is no file, or has a name that cannot be told."""
    found, others = [], []
    for path, entry in _walked(root, "", skip):
        status = entry.stat(follow_symlinks=False)
        try:
            path.encode()
        except UnicodeEncodeError:
            others.append(path.encode(errors="replace").decode())
            continue
        if not stat.S_ISREG(status.st_mode):
            others.append(path)
        elif path != LIST:
            found.append(_File(path, status.st_size, status.st_mode & 0o777, status.st_mtime_ns))
    return sorted(found), sorted(others)


def _walked(root: str, below: str, skip: Sequence[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            path = os.path.join(below, entry.name)
            if any(fnmatch.fnmatchcase(entry.name, each) for each in skip):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walked(root, path, skip)
            else:
                yield path, entry


def _same(file: _File, before: Sequence[int] | None) -> bool:
    """What was unpacked has whole seconds; what was written since has others, or another size."""
    return before is not None and (file.size, file.changed) == (before[0], before[1] * _SECOND)


def _content(path: str, size: int) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while size:
            data = os.read(descriptor, min(_CHUNK, size))
            if not data:
                raise OSError(errno.EIO, "became shorter while it was sent", path)
            size -= len(data)
            yield data
    finally:
        os.close(descriptor)
