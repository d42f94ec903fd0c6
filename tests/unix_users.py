"""Unix users of this machine, made for the tests and removed after them, with all their processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.waiting import PATIENCE

PREFIX = "cumulus-t"
"""Of the names of all users that tests make."""
_NAME = re.compile(PREFIX + r"(\d+)-\d+")
_NUMBERS = itertools.count(1)
"""Of this process: the users of one test may live beside those of another."""
_HOMES = "cumulus-users-"
_TRIES = 100
"""Another test process may be at the system's list of users."""


class User(NamedTuple):
    name: str
    uid: int
    gid: int
    home: Path

    def sh(self, script: str, *arguments: str, directory: Path | str = "/") -> subprocess.CompletedProcess[str]:
        """What a shell of the user's prints and returns."""
        groups = os.getgrouplist(self.name, self.gid)
        return subprocess.run(
            ["sh", "-c", script, "sh", *arguments], user=self.uid, group=self.gid, extra_groups=groups, cwd=directory,
            env={"HOME": str(self.home), "PATH": os.environ["PATH"], "USER": self.name}, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip


def missing() -> str:
    """Why no users can be made here, "" where they can."""
    if os.geteuid() != 0:
        return "it takes root"
    absent = [name for name in ("useradd", "userdel") if shutil.which(name) is None]
    return f"there is no {', '.join(absent)}" if absent else ""


@contextmanager
def two_users() -> Iterator[tuple[User, User]]:
    with unix_users(2) as (one, other):
        yield one, other


@contextmanager
def unix_users(count: int) -> Iterator[list[User]]:
    _remove_those_of_dead_processes()
    names = [f"{PREFIX}{os.getpid()}-{next(_NUMBERS)}" for _ in range(count)]
    with tempfile.TemporaryDirectory(prefix=_HOMES) as directory:
        os.chmod(directory, 0o711)
        try:
            yield [_add(name, Path(directory)) for name in names]
        finally:
            for name in names:
                _remove(name)


@contextmanager
def open_directory(prefix: str = "cumulus-open-") -> Iterator[Path]:
    """A temporary directory through which every user of the machine may pass, as through /var/lib."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        directory.chmod(0o711)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _add(name: str, homes: Path) -> User:
    home = homes / name
    _patiently(["useradd", "--create-home", "--home-dir", str(home), "--shell", "/bin/sh", "--user-group", name])
    home.chmod(0o700)
    found = pwd.getpwnam(name)
    return User(name, found.pw_uid, found.pw_gid, home)


def _remove(name: str) -> None:
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return
    while pids := _processes_of(uid):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    _patiently(["userdel", name])


def _remove_those_of_dead_processes() -> None:
    for user in pwd.getpwall():
        match = _NAME.fullmatch(user.pw_name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            _remove(user.pw_name)
            homes = Path(user.pw_dir).parent
            if homes.name.startswith(_HOMES):
                shutil.rmtree(homes, ignore_errors=True)


def _processes_of(uid: int) -> Sequence[int]:
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, StopIteration):
            if name.isdigit():
                lines = Path(f"/proc/{name}/status").read_text().splitlines()
                words = next(line for line in lines if line.startswith("Uid:")).split()
                state = next(line for line in lines if line.startswith("State:")).split()[1]
                if str(uid) in words[1:] and state != "Z":
                    found.append(int(name))
    return found


def _patiently(command: Sequence[str]) -> None:
    for _ in range(_TRIES):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if "lock" not in done.stderr:
            break
        time.sleep(0.1)
    raise AssertionError(f"{command}: {done.stderr}")
