"""Runs code of Cumulus as if this were macOS or Windows, as far as that can be shown on Linux.

    python tests/laptop.py darwin|win32 < script.py

Modules of `cumulus` and of the package `sdk` that are imported here see no module and no attribute that the platform
does not have, nor a library that is installed on Linux alone; other libraries see the machine as it is. Nobody may open
what is below /proc.
"""

from __future__ import annotations

import builtins
import errno
import os
import re
import sys
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_OURS = ("cumulus", "sdk", "__main__")

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"
_MODULES = {"grpcio-health-checking": "grpc_health", "grpcio-reflection": "grpc_reflection"}
"""Of distributions that are not called as their modules are."""

# What Linux alone has.
_LINUX = {
    "os": (
        "O_PATH O_TMPFILE pipe2 sched_getaffinity sched_setaffinity pidfd_open memfd_create eventfd getresuid "
        "getresgid setresuid setresgid getxattr setxattr listxattr removexattr copy_file_range splice posix_fadvise "
        "posix_fallocate getrandom unshare setns fdatasync"
    ),
    "socket": "SO_PEERCRED SCM_CREDENTIALS AF_NETLINK TCP_USER_TIMEOUT TCP_KEEPIDLE SOCK_CLOEXEC SOCK_NONBLOCK",
    "signal": "SIGRTMIN SIGRTMAX SIGPWR SIGPOLL sigtimedwait sigwaitinfo pidfd_send_signal",
    "select": "epoll EPOLLIN",
    "time": "CLOCK_BOOTTIME CLOCK_TAI CLOCK_UPTIME",
    "_socket": "SO_PEERCRED TCP_KEEPIDLE",
}
_UNIX_MODULES = {
    "fcntl", "pwd", "grp", "termios", "tty", "pty", "resource", "syslog", "readline", "curses", "posix",
    "_posixsubprocess", "crypt", "nis",
}  # fmt: skip
_UNIX = {
    "os": (
        "fork forkpty getuid geteuid getgid getegid getgroups getgrouplist initgroups getpgid getpgrp getsid killpg "
        "setuid seteuid setgid setegid setreuid setregid setgroups setpgid setsid setpriority getpriority chown lchown "
        "fchown fchmod chroot fchdir mkfifo mknod nice openpty posix_spawn posix_spawnp pread preadv pwrite pwritev "
        "readv writev sendfile sched_yield sched_get_priority_max set_blocking get_blocking statvfs fstatvfs sysconf "
        "sysconf_names confstr pathconf fpathconf tcgetpgrp tcsetpgrp uname wait wait3 wait4 waitid register_at_fork "
        "getloadavg ttyname ctermid environb getenvb fsyncdata lockf sync WNOHANG WIFEXITED WIFSIGNALED WIFSTOPPED "
        "WEXITSTATUS WTERMSIG WSTOPSIG O_CLOEXEC O_NOFOLLOW O_DIRECTORY O_NONBLOCK O_SYNC O_DSYNC O_NOCTTY O_NDELAY "
        "O_ASYNC EX_OK EX_USAGE"
    ),
    "socket": "AF_UNIX SCM_RIGHTS CMSG_LEN CMSG_SPACE sethostname send_fds recv_fds TCP_KEEPALIVE",
    "_socket": "AF_UNIX SCM_RIGHTS",
    "signal": (
        "SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE SIGALRM SIGSTOP SIGCONT SIGTSTP SIGTTIN SIGTTOU "
        "SIGWINCH SIGURG SIGIO SIGXCPU pthread_sigmask pthread_kill sigpending sigwait setitimer getitimer alarm pause "
        "siginterrupt SIG_BLOCK SIG_UNBLOCK SIG_SETMASK"
    ),
    "select": "poll POLLIN kqueue",
    "time": (
        "clock_gettime clock_gettime_ns clock_settime clock_getres CLOCK_MONOTONIC CLOCK_MONOTONIC_RAW CLOCK_REALTIME"
    ),
}  # fmt: skip


class _Restricted(types.ModuleType):
    """A module as the platform has it."""

    def __init__(self, real: types.ModuleType, absent: frozenset[str], other: Mapping[str, object]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(_real=real, _absent=absent, _other=other, __path__=getattr(real, "__path__", []))

    def __getattr__(self, name: str) -> Any:
        if name in self._absent:
            raise AttributeError(f"module {self._real.__name__!r} has no attribute {name!r} on this platform")
        if name in self._other:
            return self._other[name]
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._real, name, value)


def pretend(platform: str) -> None:
    """From now on, modules of Cumulus that are imported believe to be on that platform."""
    windows = platform == "win32"
    modules = {"spwd", *_installed_on_linux_alone()} | (_UNIX_MODULES if windows else set())
    other: dict[str, dict[str, object]] = {"sys": {"platform": platform}, "os": {"name": "nt" if windows else "posix"}}
    restricted: dict[str, types.ModuleType] = {}
    real_import = builtins.__import__

    def absent(name: str) -> frozenset[str]:
        return frozenset(f"{_LINUX.get(name, '')} {_UNIX.get(name, '') if windows else ''}".split())

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        importer = str((globals or {}).get("__name__", "")).partition(".")[0]
        if importer not in _OURS or level:
            return real_import(name, globals, locals, fromlist, level)
        top = name.partition(".")[0]
        if top in modules:
            raise ModuleNotFoundError(f"No module named {top!r} on {platform}", name=top)
        found = real_import(name, globals, locals, fromlist, level)
        if found.__name__ in {*_LINUX, *_UNIX, "sys"}:
            key = found.__name__
            if key not in restricted:
                restricted[key] = _Restricted(found, absent(key), other.get(key, {}))
            return restricted[key]
        return found

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, "there is no /proc", arguments[0])
        if event in {"os.fork", "os.forkpty"}:
            raise OSError(errno.ENOSYS, "there is no fork")

    builtins.__import__ = import_
    sys.addaudithook(audit)


def _installed_on_linux_alone() -> set[str]:
    """The modules of the libraries that the installation leaves out elsewhere."""
    found = [each.partition(";") for each in tomllib.loads(_PROJECT.read_text())["project"]["dependencies"]]
    names = {re.split(r"[<>=[]", name)[0] for name, _, marker in found if "sys_platform == 'linux'" in marker}
    return {_MODULES.get(name, name.replace("-", "_")) for name in names}


def main() -> None:
    script = sys.stdin.read()
    assert not [name for name in sys.modules if name.partition(".")[0] in ("cumulus", "sdk")]
    pretend(sys.argv[1])
    exec(compile(script, "<script>", "exec"), sys.modules["__main__"].__dict__)


if __name__ == "__main__":
    # Its own folder holds tests, not what the script imports.
    sys.path[0:1] = [os.path.abspath(__file__ + "/../..")]
    main()
