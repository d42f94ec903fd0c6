"""Starts a run's command: environment with secrets, limits, directory, then exec. Used by the supervisor only.

The child waits at a gate until the supervisor has made its start durable. It may be one that was there before its
command: see `waiting_child`. Standard library only.
"""

from __future__ import annotations

import _socket
import array
import contextlib
import errno
import importlib
import json
import os
import signal
import stat
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn

from cumulus.backends.process import rlimits
from cumulus.backends.rundir.documents import NO_ROOM
from cumulus.lib import terminals
from cumulus.lib.descriptors import close_all_but
from cumulus.lib.unix_user import UnixUser, become, call
from cumulus.secrets import SecretStore, SecretUnavailable

_OOM_SCORE_ADJUST = b"500"
"""When the machine runs out of memory, the kernel takes the job before its supervisor or the daemon."""

_TERM = "xterm"
"""Of a program at a terminal whose environment does not say."""
_STEPS = ("limits", "directory", "exec")
EXEC_STEP = 2


_VERDICT = struct.Struct("ii")
"""The step that failed, and the error's number."""
_LARGEST = 2**17
"""Bytes of what a child that waits is told, in one message."""


class StartFailed(Exception):
    """The command could not be started; the message is for a person."""


class StartUnreachable(Exception):
    """What the start needs does not answer: another try may help. The message is for a person."""


def resolve_secrets(spec: dict[str, Any]) -> dict[str, str]:
    """Variable -> value of those that come from secrets. Raises StartFailed, which names the secret only."""
    store = SecretStore(spec["secrets_root"])
    values = {}
    for variable, name, key in spec["secrets"]:
        try:
            values[variable] = store.get(name, key)
        except SecretUnavailable as error:
            hint = f" ({error.hint})" if error.hint else ""
            raise StartFailed(f"environment variable {variable}: {error}{hint}") from None
    return values


class Launched(NamedTuple):
    """A command that waits before its exec: its pid, the readable end of its output, its environment, what lets it go,
    and the writable end of its input, -1 where that is empty. What lets it go returns "" once it runs, else why it
    could not, and raises ConnectionError where its process was killed before."""

    pid: int
    output: int
    environment: dict[str, str]
    release: Callable[[], str]
    input: int = -1


def launch(
    spec: dict[str, Any], secrets: dict[str, str], enforcement: dict[str, str], waiting: Child | None = None
) -> Launched:
    """Fork the command's process, with the variables by which its leases are enforced, and hold it before exec.
    `waiting` is it, where there is one that can be.

    Raises StartFailed where it cannot be started at all, and OSError where the disk is full.
    """
    user = UnixUser.read(spec.get("user"))
    directory = _prepare_directory(spec) if user is None else _prepare_directory_as(user, spec)
    environment = {**spec["env"], **secrets, **spec["fixed_env"], **enforcement}
    output, child_output = os.openpty() if spec.get("terminal") else os.pipe2(os.O_CLOEXEC)
    if spec.get("terminal"):
        terminals.set_size(output, *(spec.get("terminal_size") or terminals.USUAL_SIZE))
    child_input, given = os.pipe2(os.O_CLOEXEC) if spec.get("stdin") else (-1, -1)
    if child_input >= 0 and user is not None:
        # As with a terminal: the program may open it by its name, /dev/stdin.
        os.fchown(child_input, user.uid, -1)
    task = _Task(
        {name: spec.get(name) for name in _CHILD_NEEDS}, spec.get("user"), directory, spec["command"], environment
    )  # fmt: skip
    streams = [child_output] if child_input < 0 else [child_output, child_input]
    if waiting is None or not waiting.hand(task, streams):
        waiting = _fork(partial(_become, task, streams))
    pid, gate = waiting.pid, waiting.channel
    if not spec.get("terminal"):
        os.setpgid(pid, pid)
    for stream in streams:
        os.close(stream)
    os.set_blocking(output, False)

    def release() -> str:
        os.write(gate.fileno(), b"x")
        try:
            answer = os.read(gate.fileno(), _VERDICT.size)
        except ConnectionResetError:
            answer = b""  # It was killed a moment ago: how it ended is seen by whoever waits for it.
        gate.close()
        shown = {**environment, **dict.fromkeys(secrets, "from a secret")}
        if not answer:
            return ""
        step, number = _VERDICT.unpack(answer)
        return explain(step, number, spec["command"][0], directory, shown)

    return Launched(pid, output, environment, release, given)


class _Task(NamedTuple):
    """What a child needs to become the command."""

    spec: dict[str, Any]
    """Of it what the child needs."""
    user: Any
    directory: str
    command: list[str]
    environment: dict[str, str]


_CHILD_NEEDS = ("terminal", "umask", "cpus")


class Child:
    """A process that becomes the command, and the socket that is its gate: it goes on once it gets a byte there, and
    says there why it could not."""

    def __init__(self, pid: int, channel: _socket.socket) -> None:
        self.pid = pid
        self.channel = channel

    def hand(self, task: _Task, streams: list[int]) -> bool:
        """Tell one that has waited what it is to become. Where that cannot be, it ends, and this is False."""
        words = json.dumps(task).encode()
        carried = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", streams))]
        if len(words) <= _LARGEST:
            with contextlib.suppress(OSError):
                self.channel.sendmsg([words], carried)
                return True
        self.dismiss()
        return False

    def dismiss(self) -> None:
        """End it: nothing is wanted of it. Harmless where it was ended before."""
        pid, self.pid = self.pid, 0
        self.channel.close()
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def waiting_child(rehearse: Callable[[], None]) -> Child:
    """One that is there before its command, and rehearses meanwhile. It ends with this process. Raises OSError."""
    return _fork(partial(_wait_for_task, rehearse))


def _fork(then: Callable[[_socket.socket], NoReturn]) -> Child:
    near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        near.close()
        then(far)
    far.close()
    return Child(pid, near)


def _wait_for_task(rehearse: Callable[[], None], channel: _socket.socket) -> NoReturn:
    """In the child. Only ever leaves by exec or _exit."""
    try:
        # It holds nothing of the one that forked it, whose own channel must end with that one.
        close_all_but(channel.fileno())
        for number in CAUGHT:
            signal.signal(number, lambda *_: None)
        with contextlib.suppress(Exception):
            rehearse()
        room = _socket.CMSG_SPACE(2 * array.array("i").itemsize)
        words, carried, _, _ = channel.recvmsg(_LARGEST, room, _socket.MSG_CMSG_CLOEXEC)
        streams = array.array("i")
        for _, _, content in carried:
            streams.frombytes(content)
        if words:
            _become(_Task(*json.loads(words)), list(streams), channel)
    finally:
        os._exit(127)


def _prepare_directory(spec: dict[str, Any]) -> str:
    """The working directory, made where it is the run's own, with its mounts linked into it."""
    directory: str = spec["cwd"]
    try:
        if spec["fresh"]:
            os.makedirs(directory, mode=0o755, exist_ok=True)
        for shared in spec["make"]:
            os.makedirs(shared, mode=0o755, exist_ok=True)
        if spec.get("hostfile"):
            _write(*spec["hostfile"])
        if not _is_directory(directory):
            raise StartFailed(f"working directory {directory} is not a directory on this node")
        if after := _after(spec):
            # Loaded by the few jobs that go on from another's work.
            from cumulus.backends.process.takeover import take_over

            take_over(after, os.path.join(directory, spec["checkpoint"]["path"]))
        for source, target in spec["links"]:
            _link(source, os.path.join(directory, target), directory)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise StartFailed(f"working directory {directory}: {error.strerror}: {error.filename}") from None
    return directory


def _is_directory(path: str) -> bool:
    """Raises OSError where that cannot be told, as below a directory which the user may not enter."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o644), "w", encoding="utf-8") as file:
        file.write(text)


def _after(spec: dict[str, Any]) -> str:
    """Where the checkpoints are that it goes on from, "" for nowhere."""
    return str((spec.get("checkpoint") or {}).get("after") or "")


def _prepare_directory_as(user: UnixUser, spec: dict[str, Any]) -> str:
    """The same as the user: the paths are theirs, and lead wherever they have made them lead."""
    if _after(spec):
        # Once it is the user's, a process may not be able to read the library.
        importlib.import_module("cumulus.backends.process.takeover")
    said = call(user, partial(_why_not_prepared, spec))
    number, _, text = said.partition(" ")
    if number != "0":
        raise OSError(int(number), text)
    if text:
        raise StartFailed(text)
    return str(spec["cwd"])


def _why_not_prepared(spec: dict[str, Any]) -> str:
    try:
        _prepare_directory(spec)
    except OSError as error:
        return f"{error.errno or errno.EIO} {error.strerror}"
    except StartFailed as error:
        return f"0 {error}"
    return "0 "


def _link(source: str, target: str, directory: str) -> None:
    if not f"{os.path.realpath(os.path.dirname(target))}/".startswith(f"{os.path.realpath(directory)}/"):
        raise StartFailed(
            f"mount target {target} lies behind a symbolic link, outside {directory}; choose another target"
        )
    if not os.path.exists(source):
        raise StartFailed(f"mount source {source} is not on this node")
    if os.path.islink(target) and os.readlink(target) == source:
        return
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    try:
        os.symlink(source, target)
    except FileExistsError:
        raise StartFailed(f"mount target {target} is taken by something else; choose another target") from None


def _become(task: _Task, streams: list[int], channel: _socket.socket) -> NoReturn:
    """In the child: wait at the gate. Only ever leaves by exec or _exit."""
    output, environment = streams[0], task.environment

    def failed(step: int, number: int) -> None:
        channel.send(_VERDICT.pack(step, number))

    try:
        user = UnixUser.read(task.user)
        if task.spec["terminal"]:
            os.setsid()
        else:
            os.setpgid(0, 0)
        if not channel.recv(1):
            os._exit(127)  # The supervisor died before the start was durable: nothing was started.
        if task.spec["terminal"]:
            terminals.take(output, user)
            environment = {"TERM": _TERM, **environment}
            given = output
        else:
            given = streams[1] if len(streams) > 1 else os.open(os.devnull, os.O_RDONLY)
        become_program(task.spec, user, task.directory, task.command, environment, (given, output, output), failed)
    finally:
        os._exit(127)


def become_program(
    spec: dict[str, Any], user: UnixUser | None, directory: str, command: list[str], environment: dict[str, str],
    streams: tuple[int, int, int], failed: Callable[[int, int], None],
) -> None:  # fmt: skip
    """Make this process, a fork, that program of the run: everything up to exec. Returns only where that fails, after
    it called `failed` with the step and the error's number."""
    step = 0
    try:
        _limit(spec)
        # After the limits, which root sets, and before anything that the user named. No no_new_privs: a job may do what
        # its user may do in a shell, as with cron and Slurm, and a setuid program stays in the job's cgroup.
        if user is not None:
            become(user)
        step = 1
        os.chdir(directory)
        own = 0o022 if user is None else user.umask
        os.umask(own if spec.get("umask") is None else spec["umask"])
        step = EXEC_STEP
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        for number in (*CAUGHT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(command[0], command, environment)
    except BaseException as error:
        failed(step, error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL)


CAUGHT = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals for which a supervisor has a handler, and a child until it becomes the command."""


def _limit(spec: dict[str, Any]) -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(_OOM_SCORE_ADJUST)
    rlimits.apply()
    if spec["cpus"]:
        os.sched_setaffinity(0, spec["cpus"])


def explain(step: int, number: int, program: str, directory: str, environment: dict[str, str]) -> str:
    """Why the program could not be started, by where it failed and the error's number."""
    reason = os.strerror(number)
    if _STEPS[step] == "limits":
        return f"its limits could not be set: {reason}"
    if _STEPS[step] == "directory":
        return f"working directory {directory}: {reason}"
    if number == errno.ENOENT and "/" not in program:
        path = environment.get("PATH", os.defpath)
        return f"command not found: {program}; give its full path, or a program on PATH ({path})"
    full = os.path.join(directory, program)
    if number == errno.ENOENT and os.path.exists(full):
        return f"{program}: its interpreter (the first line of the file) is not on this node"
    if number == errno.ENOENT:
        return f"command not found: {full}; give a program that is on this node"
    if number == errno.EACCES:
        return f"{program} is not executable; make it so with chmod +x, or name its interpreter in the command"
    if number == errno.ENOEXEC:
        return f"{program} is not a program for this machine and has no #! line; name its interpreter in the command"
    if number == errno.E2BIG:
        return "the command's arguments and environment are too long for this system"
    return f"{program} could not be started: {reason}"
