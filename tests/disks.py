"""Disks that are really full, and such as refuse what is asked of them."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 8 MiB."""
    with tempfile.TemporaryDirectory() as directory:
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "none", directory], capture_output=True, text=True, check=False
        )
        if mount.returncode:
            pytest.skip(f"LEFT OUT: a really full disk needs root to mount one ({mount.stderr.strip()})")
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", "-l", directory], check=True)


_CALLS = {"x86_64": {"write": 1, "pwrite64": 18, "fsync": 74}, "aarch64": {"write": 64, "pwrite64": 68, "fsync": 82}}
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _THIRD = 0, 32
"""Where the filter finds a call's number, and its third argument: of a write, how many bytes."""
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
LARGE = 64 * 1024


def refuse_all(call: str, error: int) -> bool:
    """From now on this thread's calls of that name fail so, as on a disk that does (seccomp(2)), and those of threads
    that it starts; of writes only those of `LARGE` and more: pipes go on. False where this machine has no such filters.
    There is no way back: fork before."""
    number = _CALLS.get(platform.machine(), {}).get(call)
    if number is None:
        return False
    least = 0 if call == "fsync" else LARGE
    program = b"".join(
        struct.pack("HBBI", *each)
        for each in (
            (_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, 3, number), (_LOAD, 0, 0, _THIRD), (_AT_LEAST, 0, 1, least),
            (_RETURN, 0, 0, _FAIL | error), (_RETURN, 0, 0, _ALLOW),
        )
    )  # fmt: skip
    held = ctypes.create_string_buffer(program)
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(_PR_SET_SECCOMP, 2, filters) == 0)


def in_child(action: Callable[[], str]) -> str:
    """What `action` says in a child of this process, which has one thread; what it raises is in it."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writable, action().encode())
        except BaseException as error:
            os.write(writable, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writable)
    with open(readable, encoding="utf-8") as said:
        answer = said.read()
    os.waitpid(child, 0)
    return answer
