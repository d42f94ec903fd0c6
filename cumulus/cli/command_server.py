"""The command server: runs short verbs in forks of one process that has imported what they need.

`cumulus serve` keeps one beside it (`cumulus.server.command_server_process`), a process of its own that holds nothing
of the daemon's. `cumulus.cli.command_client` is its client and describes the protocol. The server only moves bytes and
forks: it opens no store, starts no thread, and sleeps in poll(2) while nobody asks. In the fork, `cumulus.cli.main`
runs as if the caller had started it.

It ends with the daemon, once the commands that run have ended: a `wait` goes on over a daemon's restart.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pkgutil
import selectors
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cumulus.cli import command_client, rehearsal
from cumulus.cli import main as command
from cumulus.lib import collector, spare_fork
from cumulus.lib.spare_fork import SpareFork
from cumulus.resources import registry, schema
from cumulus.resources.fields import Model

_DAEMON = 0
"""The descriptor of a pipe from the daemon, in which nothing is ever written: it ends as the daemon does."""
_MOST_BYTES = 8 * 2**20
"""Of a request. Linux allows 6 MiB to arguments and variables together."""
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGSTOP, signal.SIGCONT)
_LATER = (
    "cumulus.apply.apply", "cumulus.cli.left_out", "cumulus.infrastructure",
    "cumulus.manifest", "cumulus.resources.explain", "cumulus.resources.jsonpath", "cumulus.service.descriptions",
    "cumulus.service.objects", "cumulus.service.server_state", "cumulus.service.waits", "cumulus.service.why",
    "cumulus.store.memory", "cumulus.store.sqlite", "cumulus.stores", "encodings.utf_8_sig", "pydantic.type_adapter",
)  # fmt: skip
"""What verbs import only where they need it."""
_WHOLE = ("cumulus.answers", "cumulus.client")
"""Packages of which they may need any module: one that is loaded in a fork is loaded again for each command."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_DESCRIPTORS = 4
_QUIET = 0.2
"""Seconds without a request after which the next one's fork is made."""


class CommandRequest(NamedTuple):
    """One command line, and what of its caller's process it runs with."""

    identity: str
    mask: int
    stdio_errors: str
    arguments: list[str]
    """With the program's name."""
    variables: dict[bytes, bytes]

    @staticmethod
    def read(text: bytes) -> CommandRequest:
        """What `cumulus.cli.command_client` wrote. Raises ValueError."""
        count, identity, mask, errors, *words = text.split(b"\0")
        arguments, variables = words[: 1 + int(count)], words[1 + int(count) :]
        return CommandRequest(
            os.fsdecode(identity), int(mask), os.fsdecode(errors), [os.fsdecode(word) for word in arguments],
            {name: value for name, _, value in (pair.partition(b"=") for pair in variables)},
        )  # fmt: skip


def main() -> int:
    """Serve the state directory that the command line names; in a fork, run one command."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        # The daemon ignores some of them, and that is inherited.
        signal.signal(number, signal.SIG_DFL)
    collector.begin()
    load_all()
    server = _Server(_listen(sys.argv[1]))
    gc.collect()
    gc.freeze()
    taken = server.run()
    if taken is None:
        return 0
    request, descriptors, caller = taken
    _become(request, descriptors)
    code = command.main()
    if threading.active_count() == 1 and _flushed():
        # To take the fork of a large interpreter down takes longer than most commands, so the caller does not wait for
        # that either.
        with contextlib.suppress(OSError):
            caller.send(((code & 0xFF) << 8).to_bytes(4, "big"))
        os._exit(code)
    return code


def load_all() -> None:
    """All that a command would otherwise import and make for itself."""
    for verb in command_client.SERVED:
        _build_validators(command.load(verb))
    # First, for the sake of what it keeps others from loading.
    importlib.import_module("cumulus.log")
    for name in (*_LATER, *(each for package in _WHOLE for each in _modules(package))):
        importlib.import_module(name)
    for kind in registry.KINDS:
        if kind.work:
            schema.root(kind)
    for model in _below(Model):
        model.model_rebuild()
    # Typer imports some of its own only when a command runs.
    command.main(["version", "--client"])


def _modules(package: str) -> Iterator[str]:
    """All below a package, by name."""
    for each in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        yield each.name


def _build_validators(verb: Any) -> None:
    """Those of its options that are more than text and flags. With them typer imports what makes them."""
    for each in (verb, *getattr(verb, "commands", {}).values()):
        for param in each.params:
            if hasattr(param, "get_runtime_param"):
                param.get_runtime_param()


def _below(model: type[Model]) -> Iterator[type[Model]]:
    for each in model.__subclasses__():
        yield each
        yield from _below(each)


def _listen(home: str) -> socket.socket:
    """A socket in the state directory for its owner alone, in the place of the one of an earlier server."""
    directory = os.open(home, os.O_PATH | os.O_DIRECTORY)
    made = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        final = command_client.address(directory)
        made.bind(f"{final}.{os.getpid()}")
        made.listen(128)
        made.setblocking(False)
        os.rename(f"{final}.{os.getpid()}", final)
    finally:
        os.umask(mask)
        os.close(directory)
    return made


class Taken(NamedTuple):
    """What a fork is to run, where, and for whom: the caller is told how the command ended by the fork itself, as far
    as it comes to its end, else by the server, which sees that."""

    request: CommandRequest
    descriptors: list[int]
    caller: socket.socket


class _Connection:
    """A client: what it sent so far, and the command that runs for it."""

    def __init__(self, made: socket.socket) -> None:
        self.socket = made
        self.received = bytearray()
        self.descriptors: list[int] = []
        self.request: CommandRequest | None = None
        self.text = b""
        """The request as it came."""
        self.pid = 0
        self.heard = False
        """The client knows how the command ended."""

    def close(self) -> None:
        self.socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


class _Server:
    """Accepts, forks, passes signals on, and reports how commands end."""

    def __init__(self, accepting: socket.socket) -> None:
        self._listener = accepting
        self._identity = command_client.identity()
        self._files = _signatures(_package())
        self._connections: set[_Connection] = set()
        self._commands: dict[int, _Connection] = {}
        self._selector = selectors.PollSelector()
        self._woken, self._wake = socket.socketpair()
        self._open = True
        self._pid = os.getpid()
        self._name = ""
        self._spare: SpareFork | None = None
        self._wants_spare = True
        """A command has come since the last spare fork was made: who makes none costs nothing."""

    def run(self) -> Taken | None:
        """Until the daemon and the last command have ended: None then. In a fork: what it is to run, and where."""
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for source in (_DAEMON, self._listener, self._woken):
            self._selector.register(source, selectors.EVENT_READ)
        while self._open or self._connections or self._commands:
            ready = self._selector.select(_QUIET if self._open and self._wants_spare else None)
            if not ready and (given := self._make_spare()) is not None:
                return self._awaited(given)
            for key, _ in ready:
                if key.fileobj == _DAEMON:
                    self._stop()
                elif key.fileobj is self._woken:
                    self._woken.recv(4096)
                    self._reap()
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.data in self._connections and (taken := self._read(key.data)):
                    return taken
        return None

    def _accept(self) -> None:
        try:
            made, _ = self._listener.accept()
        except OSError:
            # Closed meanwhile, or out of descriptors: commands that end give some back.
            time.sleep(0.05)
            return
        made.setblocking(False)
        connection = _Connection(made)
        if command_client.peer(made) != os.getuid():
            connection.close()
            return
        self._connections.add(connection)
        self._selector.register(made, selectors.EVENT_READ, connection)

    def _stop(self) -> None:
        """The daemon has ended, or the package is another one now: take no more."""
        if self._open:
            self._open = False
            self._selector.unregister(_DAEMON)
            self._selector.unregister(self._listener)
            self._listener.close()
            self._drop_spare()

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        self._connections.discard(connection)
        connection.close()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._spare is not None and pid == self._spare.pid:
                self._drop_spare()
            connection = self._commands.pop(pid, None)
            if connection is not None and connection in self._connections:
                _say(connection, status.to_bytes(4, "big"))
                self._drop(connection)

    def _read(self, connection: _Connection) -> Taken | None:
        try:
            data, received, _, _ = socket.recv_fds(connection.socket, 2**16, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError:
            data, received = b"", []
        connection.descriptors += received
        if not data:
            # The client is gone, and its command must not go on without it.
            if connection.pid and not connection.heard:
                _signal(connection.pid, signal.SIGKILL)
            self._drop(connection)
        elif connection.pid:
            connection.heard = connection.heard or command_client.HEARD in data
            for number in data:
                if number in _PASSED_ON:
                    _signal(connection.pid, number)
        elif connection.request is not None and len(connection.descriptors) == _DESCRIPTORS:
            return self._begin(connection, connection.request)
        elif connection.request is not None or not self._received(connection, data):
            self._drop(connection)
        return None

    def _received(self, connection: _Connection, data: bytes) -> bool:
        """Add to a request, and say that it is taken once it is whole. False where it is not taken."""
        text = connection.received
        text += data
        length = int.from_bytes(text[:4], "big")
        if len(text) < 4 or len(text) < 4 + length <= _MOST_BYTES:
            return True
        if _signatures(self._files) != self._files:
            self._stop()
            return False
        try:
            request = CommandRequest.read(bytes(text[4 : 4 + length]))
        except ValueError:
            return False
        if request.identity != self._identity:
            return False
        connection.request, connection.text = request, bytes(text[4 : 4 + length])
        return _say(connection, command_client.READY)

    def _begin(self, connection: _Connection, request: CommandRequest) -> Taken | None:
        """In the spare fork, or in a new one: there, what it is to run."""
        self._wants_spare = True
        descriptors, connection.descriptors = connection.descriptors, []
        pid = self._hand(connection, descriptors)
        try:
            pid = pid or os.fork()
        except OSError:
            connection.descriptors = descriptors
            self._drop(connection)
            return None
        if pid == 0:
            self._leave(connection)
            return Taken(request, descriptors, connection.socket)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.pid = pid
        self._commands[pid] = connection
        return None

    def _hand(self, connection: _Connection, descriptors: list[int]) -> int:
        """Give a command to the spare fork: its pid, 0 where there is none that takes it."""
        spare, self._spare = self._spare, None
        return 0 if spare is None else spare.hand(connection.text, [*descriptors, connection.socket.fileno()])

    def _make_spare(self) -> socket.socket | None:
        """In the fork: where its command comes from."""
        self._wants_spare = False
        # Before the fork: who looks at the list of processes never takes it for a command.
        own = spare_fork.called(rehearsal.NAME)
        made = spare_fork.make()
        if isinstance(made, socket.socket):
            self._name = own
            return made
        spare_fork.called(own)
        self._spare = made
        return None

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _awaited(self, given: socket.socket) -> Taken:
        """In the spare fork."""
        self._leave(None)
        with contextlib.suppress(Exception):
            rehearsal.rehearse()
        handed = spare_fork.wait(given)
        if handed is None:
            os._exit(0)
        spare_fork.called(self._name)
        *descriptors, caller = handed.descriptors
        return Taken(CommandRequest.read(handed.request), descriptors, socket.socket(fileno=caller))

    def _leave(self, kept: _Connection | None) -> None:
        """In a fork: end with the server, and hold nothing of it but one connection."""
        _die_with(self._pid)
        signal.set_wakeup_fd(-1)
        for each in self._connections - {kept}:
            each.close()
        self._drop_spare()
        for owned in (self._listener, self._woken, self._wake):
            owned.close()


def _say(connection: _Connection, text: bytes) -> bool:
    """Whether the client is still there to hear it."""
    try:
        return connection.socket.send(text) == len(text)
    except OSError:
        return False


def _signal(pid: int, number: int) -> None:
    """To a command and what it has started, as the terminal does. Not yet waited for, it has its id for itself."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        # It has not come as far as to make its group.
        os.kill(pid, number)


def _package() -> list[str]:
    """The files that commands are made of; of what others wrote, the directories that an installation changes."""
    root = Path(command_client.__file__).parents[1]
    return [*map(str, root.rglob("*.py")), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]


def _signatures(files: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """What changes when a file does."""
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            status = os.stat(file)
            found[file] = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            found[file] = ()
    return found


def _become(request: CommandRequest, descriptors: list[int]) -> None:
    """Make this fork what the caller's own process would be."""
    # Not a session: its leader could take a terminal that it opens away from the caller.
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.fchdir(descriptors[3])
    for descriptor in descriptors:
        os.close(descriptor)
    os.umask(request.mask)
    os.environb.clear()
    os.environb.update(request.variables)
    time.tzset()
    sys.argv = request.arguments
    sys.stdin = _stream(0, "r", request.stdio_errors)
    sys.stdout = _stream(1, "w", request.stdio_errors)
    sys.stderr = _stream(2, "w", "backslashreplace")


def _stream(descriptor: int, mode: str, errors: str) -> Any:
    """As the interpreter makes them at its start."""
    lines = 1 if descriptor == 2 else -1
    return open(descriptor, mode, lines, encoding="utf-8", errors=errors, newline="\n", closefd=False)


def _flushed() -> bool:
    """Where it fails, the interpreter says so as it ends."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return False
    return True


def _die_with(parent: int) -> None:
    """Where the server is killed nobody passes signals on, or tells the client how the command ended."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
