"""A directory of this machine. As a program it becomes another user, reads one, and writes what it found to stdout:
`directory.py USER PATH ALSO`. Standard library only; run by path.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator

if __name__ == "__main__":
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../..")]

from cumulus.lib.unix_user import UnixUser, become

MOST_FILES, MOST_FILE_BYTES, MOST_BYTES, MOST_DEPTH = 8_000, 4 * 2**20, 64 * 2**20, 64
SUFFIXES = (".yaml", ".yml", ".json")


def read(path: str, also: str = "") -> dict[str, bytes]:
    """The manifests below a directory, by path within it, and the file `also`, whatever it is called. Hidden ones and
    symbolic links are left out. Raises OSError, ValueError for a directory that holds too much."""
    found: dict[str, bytes] = {}
    total = 0
    # The directory itself may be a link: its user wrote down its name.
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name, data in _walk(top, "", 0, also):
        total += len(data)
        if len(found) >= MOST_FILES or total > MOST_BYTES:
            raise ValueError(f"holds more than {MOST_FILES:,} manifests or {MOST_BYTES // 2**20} MiB; split it")
        found[name] = data
    return found


def digest(files: dict[str, bytes]) -> str:
    """Names what a directory held."""
    total = hashlib.sha256()
    for name in sorted(files):
        data = files[name]
        encoded = name.encode("utf-8", "surrogateescape")
        total.update(b"%d %d\n" % (len(encoded), len(data)) + encoded + data)
    return total.hexdigest()[:40]


def _walk(directory: int, prefix: str, depth: int, also: str) -> Iterator[tuple[str, bytes]]:
    """Closes the descriptor."""
    try:
        if depth > MOST_DEPTH:
            raise ValueError(f"is more than {MOST_DEPTH} directories deep")
        for name in sorted(os.listdir(directory)):
            if name.startswith("."):
                continue
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    yield from _walk(os.open(name, flags, dir_fd=directory), f"{prefix}{name}/", depth + 1, also)
                elif stat.S_ISREG(status.st_mode) and (name.endswith(SUFFIXES) or prefix + name == also):
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


def pack(files: dict[str, bytes]) -> bytes:
    index = [(name, len(data)) for name, data in files.items()]
    return json.dumps(index).encode() + b"\n" + b"".join(files.values())


def unpack(data: bytes) -> dict[str, bytes]:
    head, _, rest = data.partition(b"\n")
    found, at = {}, 0
    for name, size in json.loads(head):
        found[name], at = rest[at : at + size], at + size
    return found


def main(user: str, path: str, also: str) -> None:
    found = UnixUser.read(json.loads(user))
    assert found is not None
    try:
        become(found)
        sys.stdout.buffer.write(pack(read(path, also)))
    except (OSError, ValueError) as error:
        sys.exit(error.strerror if isinstance(error, OSError) and error.strerror else str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
