"""Another Unix user of this machine: who that is, and a process that becomes them for good. Standard library only.

What a user named, or can rename, is opened, made and deleted as that user alone: then a symbolic link, a hard link or a
mount of theirs leads to nothing that they could not reach themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import os
import platform
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

LOGIN_PATH = "/usr/local/bin:/usr/bin:/bin"
"""A user's PATH where /etc/login.defs names none."""

_UMASK = 0o022
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_JOIN_SESSION_KEYRING = 1


class UnixUser(NamedTuple):
    """A user as the system's list of users has them, with all groups, and what /etc/login.defs gives those who log
    in."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str
    shell: str
    path: str = LOGIN_PATH
    umask: int = _UMASK

    @staticmethod
    def find(uid: int, login_defs: str = "/etc/login.defs") -> UnixUser:
        """Raises KeyError where the system knows no such user."""
        import pwd

        found = pwd.getpwuid(uid)
        login = _settings(login_defs)
        path = login.get("ENV_PATH", "").removeprefix("PATH=")
        umask = login.get("UMASK", "")
        return UnixUser(
            uid, found.pw_gid, tuple(os.getgrouplist(found.pw_name, found.pw_gid)), found.pw_name,
            found.pw_dir or "/", found.pw_shell or "/bin/sh", path or LOGIN_PATH,
            int(umask, 8) & 0o777 if umask and not set(umask) - set("01234567") else _UMASK,
        )  # fmt: skip

    @staticmethod
    def read(given: Any) -> UnixUser | None:
        """What was written to a document; None where nobody was."""
        if given is None:
            return None
        user = UnixUser(*given)
        return user._replace(groups=tuple(user.groups))

    @property
    def variables(self) -> dict[str, str]:
        """What a login gives them."""
        return {
            "PATH": self.path, "HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell,
        }  # fmt: skip


def name_of(uid: int) -> str:
    """The user's name; the number where this machine knows no such user."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def become(user: UnixUser) -> None:
    """Make this process, which has one thread, that user's for good. Raises OSError.

    Until its next exec no process of the user's may trace it or read its memory: the kernel sees to that."""
    _leave_keyring()
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    # One that could come back would be no protection.
    if os.getresuid() != (user.uid,) * 3 or os.getresgid() != (user.gid,) * 3 or (user.uid and _can_come_back()):
        os._exit(126)


def call(user: UnixUser, action: Callable[[], str], seconds: float | None = None) -> str:
    """What `action` returns in a child of this process that is `user`. This process has one thread. Raises OSError
    where the child does not answer, or not within `seconds`: it is the user's, who may have stopped it."""
    readable, writable = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            os.close(readable)
            become(user)
            with open(writable, "wb") as answer:
                answer.write(b"=" + action().encode("utf-8", "surrogateescape"))
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)
    os.close(writable)
    said, whole = _read(readable, seconds)
    with contextlib.suppress(ProcessLookupError):
        # It has said all. Its user may have stopped it after that.
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0 if whole else os.WNOHANG)
    if not whole:
        raise OSError(errno.ETIMEDOUT, f"a process of {user.name}'s does not answer")
    if not said:
        raise OSError(0, f"a process of {user.name}'s ended without a word")
    return said[1:].decode("utf-8", "surrogateescape")


def _read(descriptor: int, seconds: float | None) -> tuple[bytes, bool]:
    """What comes, and whether that was all of it."""
    until = None if seconds is None else time.monotonic() + seconds
    said = b""
    with open(descriptor, "rb", buffering=0) as file:
        poll = select.poll()  # Not lib.readable: on a worker this file lies without the rest.
        poll.register(file, select.POLLIN)
        while poll.poll(None if until is None else math.ceil(1000 * max(0.0, until - time.monotonic()))):
            part = file.read(65536)
            if not part:
                return said, True
            said += part
    return said, False


def _can_come_back() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True


def _leave_keyring() -> None:
    """A process holds the keys of its session, whoever it becomes: take a new, empty one."""
    number = _KEYCTL.get(platform.machine())
    if number is not None:
        # Where the kernel has no keys there are none to be taken along.
        ctypes.CDLL(None).syscall(number, _JOIN_SESSION_KEYRING, None)


def _settings(file: str) -> dict[str, str]:
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            pairs = [line.split(maxsplit=1) for line in lines if not line.lstrip().startswith("#")]
    except OSError:
        return {}
    return {pair[0]: pair[1].strip().strip('"') for pair in pairs if len(pair) == 2}
