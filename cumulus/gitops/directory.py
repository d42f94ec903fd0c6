"""A directory of this machine. As a program it becomes another user, reads one, and writes what it found to stdout:
`directory.py USER PATH ALSO MORE…`. Standard library only; run by path.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../..")]

from cumulus.lib.unix_user import UnixUser, become

# Files and bytes: of a repository's path too.
MOST_FILES, MOST_FILE_BYTES, MOST_BYTES, MOST_DEPTH = 8_000, 4 * 2**20, 64 * 2**20, 64
MOST_DIRECTORIES = 4_000
SUFFIXES = (".yaml", ".yml", ".json")


class DirectoryContent(NamedTuple):
    """What a directory held: manifests by path within it, and all directories that were looked into, "" for itself."""

    files: dict[str, bytes]
    directories: tuple[str, ...]


def read(path: str, also: str = "", more: tuple[str, ...] = ()) -> DirectoryContent:
    """The manifests below a directory, files whose names end with one of `more`, and the file `also`, whatever it is
    called. Hidden ones (but those named in `more`) and symbolic links are left out. Raises OSError, ValueError for a
    directory that holds too much."""
    found: dict[str, bytes] = {}
    directories: list[str] = []
    total = 0
    # The directory itself may be a link: its user wrote down its name.
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name, data in _walk(top, "", also, (*SUFFIXES, *more), directories):
        total += len(data)
        if len(found) >= MOST_FILES or total > MOST_BYTES:
            raise ValueError(f"holds more than {MOST_FILES:,} manifests or {MOST_BYTES // 2**20} MiB; split it")
        found[name] = data
    return DirectoryContent(found, tuple(directories))


def digest(files: dict[str, bytes]) -> str:
    """Names what a directory held."""
    total = hashlib.sha256()
    for name in sorted(files):
        data = files[name]
        encoded = name.encode("utf-8", "surrogateescape")
        total.update(b"%d %d\n" % (len(encoded), len(data)) + encoded + data)
    return total.hexdigest()[:40]


def _walk(
    directory: int, prefix: str, also: str, suffixes: tuple[str, ...], seen: list[str]
) -> Iterator[tuple[str, bytes]]:
    """Closes the descriptor, and notes in `seen` where it was."""
    try:
        if prefix.count("/") > MOST_DEPTH:
            raise ValueError(f"is more than {MOST_DEPTH} directories deep")
        if len(seen) >= MOST_DIRECTORIES:
            raise ValueError(f"holds more than {MOST_DIRECTORIES:,} directories; name one that holds manifests alone")
        seen.append(prefix.rstrip("/"))
        for name in sorted(os.listdir(directory)):
            if name.startswith(".") and name not in suffixes:
                continue
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    yield from _walk(os.open(name, flags, dir_fd=directory), f"{prefix}{name}/", also, suffixes, seen)
                elif stat.S_ISREG(status.st_mode) and (name.endswith(suffixes) or prefix + name == also):
                    if not f"{prefix}{name}".isprintable():
                        raise ValueError(f"holds the file {prefix + name!r}, whose name has control characters")
                    yield prefix + name, _content(name, directory, prefix)
            except FileNotFoundError:
                continue  # An editor replaced it meanwhile; it is looked at again.
    finally:
        os.close(directory)


def _content(name: str, directory: int, prefix: str) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=directory), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileNotFoundError(errno.ENOENT, "is no regular file", name)
        data = file.read(MOST_FILE_BYTES + 1)
    if len(data) > MOST_FILE_BYTES:
        raise ValueError(f"{prefix}{name} is larger than {MOST_FILE_BYTES // 2**20} MiB; split it")
    return data


def pack(held: DirectoryContent) -> bytes:
    index = [(name, len(data)) for name, data in held.files.items()]
    return json.dumps([index, held.directories]).encode() + b"\n" + b"".join(held.files.values())


def unpack(data: bytes) -> DirectoryContent:
    head, _, rest = data.partition(b"\n")
    index, directories = json.loads(head)
    found, at = {}, 0
    for name, size in index:
        found[name], at = rest[at : at + size], at + size
    return DirectoryContent(found, tuple(directories))


def main(user: str, path: str, also: str, *more: str) -> None:
    found = UnixUser.read(json.loads(user))
    assert found is not None
    try:
        become(found)
        sys.stdout.buffer.write(pack(read(path, also, more)))
    except (OSError, ValueError) as error:
        sys.exit(error.strerror if isinstance(error, OSError) and error.strerror else str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
