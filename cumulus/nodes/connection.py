"""One node's connection: kept open, made again with back-off when it breaks, every wait with a deadline.

What may be asked twice is: when a connection, or a server on it, that was there for a while turns out to be dead, it
is asked once more on a new one.
"""

from __future__ import annotations

import io
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import fabric
import paramiko

from cumulus.clock import Clock, SystemClock
from cumulus.errors import ChronosError, CumulusError, NodeUnreachable
from cumulus.lib.backoff import Backoff
from cumulus.nodes.address import WorkerHost
from cumulus.nodes.host_keys import KnownHosts
from cumulus.nodes.session import Ended, Late, LeaseServerSession
from cumulus.nodes.sockets import SILENT_SECONDS, open_socket

SESSIONS = 4
"""Commands at once on one connection; sshd allows ten (MaxSessions)."""

MOST_OUTPUT = 64 * 2**20


_RECONNECT = Backoff(first=0.6, longest=12.0, jitter=1 / 3)
_ONE_BY_ONE = Backoff(first=1.0, longest=60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """For how many seconds a connection waits."""

    connect: float = 5.0
    """For the TCP connection, for the key exchange, and for the log-in, each."""
    keepalive: float = 4.0
    """Between two signs of life."""
    silent: float = SILENT_SECONDS
    """For what was sent to be acknowledged: see `open_socket`."""
    turn: float = 2.0
    """For one of the sessions to be free: a slow node must not keep all threads of who serves many."""
    reconnect: Backoff = _RECONNECT
    """Between attempts to connect. Meanwhile calls fail at once."""
    one_by_one: Backoff = _ONE_BY_ONE
    """For so long a node that could not start a server is asked by commands alone: it may have been out of memory for a
    moment, or have a Chronos that cannot serve."""


KeySource = Callable[[], str | None]
"""The private key as text, asked for with each connection; None: `key_path`, else the agent and ~/.ssh."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command wrote, its exit status (-1: ended by a signal), and the wall clock here around it."""

    status: int
    output: str
    errors: str
    sent: datetime
    received: datetime


class _Broken(Exception):
    """The connection went away under the command."""


class NodeBusy(ChronosError):
    """The node answers slowly, and as many commands as may be are under way: ask again later."""


class NodeConnection:
    """Safe for use by several threads. Every method raises `NodeUnreachable` for any kind of silence."""

    def __init__(
        self,
        node: str,
        address: WorkerHost,
        known_hosts: KnownHosts,
        key: KeySource = lambda: None,
        clock: Clock | None = None,
        key_path: str = "",
        waits: Waits = Waits(),
    ) -> None:
        self.node = node
        self._waits = waits
        self.address = address
        self.known_hosts = known_hosts
        self._key = key
        self._key_path = key_path
        self._clock = clock or SystemClock()
        self._turns = threading.BoundedSemaphore(SESSIONS)
        self._connecting = threading.Lock()
        self._connection: fabric.Connection | None = None
        self._serving = threading.Lock()
        self._session: LeaseServerSession | None = None
        self._one_by_one_until = float("-inf")
        self._starts_failed = 0
        self._closed = False
        self._failures = 0
        self._last_answer = 0.0
        self._pause_until = 0.0
        self._last_error = NodeUnreachable(f"{node} was never reached")

    def run(self, command: str, seconds: float, *, input: bytes = b"", again: bool = True) -> CommandResult:
        """Run a shell command and wait for its end, for at most `seconds` and the time to connect.

        `again`: the command does no harm when it runs twice. Raises `NodeBusy` too.
        """
        deadline = self._clock.monotonic() + seconds
        with self._turn():
            answer = self._twice(lambda connection: self._execute(connection, command, input, deadline), again)
        assert answer is not None
        return answer

    def call(self, server: str, words: Sequence[str], seconds: float) -> CommandResult | None:
        """Ask the `chronos_cli serve` that the command `server` starts there, and that stays with the connection; what
        is asked does no harm when it is asked twice. None where no server that we know comes up. Raises as `run`."""
        deadline = self._clock.monotonic() + seconds
        if self._clock.monotonic() < self._one_by_one_until:
            return None
        with self._turn():
            return self._twice(lambda connection: self._converse(connection, server, words, deadline))

    @contextmanager
    def channel(self, command: str) -> Iterator[paramiko.Channel]:
        """A session in which the command was begun, for who feeds it and minds the time (`upload`). Raises as `run`."""
        with self._turn():
            connection, _ = self._connected()
            try:
                channel = connection.transport.open_session(timeout=self._waits.connect)
                channel.exec_command(command)
            except (paramiko.SSHException, EOFError, OSError) as error:
                self._drop(connection)
                raise self._failed(f"{self.node} broke the connection: {error or type(error).__name__}") from None
            with channel:
                yield channel

    def close(self) -> None:
        """Commands that run fail, and so does every later one."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.client.close()

    def _twice(
        self, attempt: Callable[[fabric.Connection], CommandResult | None], again: bool = True
    ) -> CommandResult | None:
        """`attempt` on the open connection, and once more where that, or the server on it, turned out to be gone."""
        connection, fresh = self._connected()
        try:
            return attempt(connection)
        except _Broken as error:
            self._drop(connection)
            if fresh or not again:
                raise self._failed(f"{self.node} broke the connection: {error}") from None
        except Ended:
            if not again:
                raise
        connection, _ = self._connected()
        try:
            return attempt(connection)
        except _Broken as error:
            self._drop(connection)
            raise self._failed(f"{self.node} broke the connection: {error}") from None
        except Ended:
            raise NodeUnreachable(f"chronos_cli on {self.node} was ended before it answered") from None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(timeout=self._waits.turn):
            raise NodeBusy(f"{self.node} has not yet answered the {SESSIONS} commands before this one")
        try:
            yield
        finally:
            self._turns.release()

    def _connected(self) -> tuple[fabric.Connection, bool]:
        """The open connection, and whether it was made just now."""
        connection = self._connection
        if connection is not None and connection.is_connected:
            return connection, False
        # Who finds another at it waits for the first attempt, and not for one after a failure.
        if not self._connecting.acquire(timeout=0 if self._failures else self._waits.turn):
            raise self._same_error() if self._failures else NodeUnreachable(f"{self.node} is slow to let us in")
        try:
            connection = self._connection
            if connection is not None and connection.is_connected:
                return connection, False
            if self._closed:
                raise NodeUnreachable(f"{self.node} is no longer managed")
            if self._clock.monotonic() < self._pause_until:
                raise self._same_error()
            connection = self._connect()
            self._connection, self._failures = connection, 0
            if self._closed:
                connection.client.close()
            return connection, True
        finally:
            self._connecting.release()

    def _connect(self) -> fabric.Connection:
        try:
            return self._open()
        except paramiko.BadHostKeyException as error:
            refused = self.known_hosts.changed(self.address, error.key)
            raise self._failed(str(refused), refused.hint, type(refused)) from None
        except paramiko.AuthenticationException:
            raise self._failed(
                f"{self.node} refuses the login as {self.address.user}: no key fits",
                f"put the public key into ~{self.address.user}/.ssh/authorized_keys there; the private key is named by"
                " spec.ssh.keySecret or SSH_KEY_PATH, or is in the agent or ~/.ssh here",
            ) from None
        except NodeUnreachable as error:
            raise self._failed(str(error), error.hint, type(error)) from None
        except CumulusError as error:
            raise self._failed(f"{self.node}: {error}", error.hint) from None
        except (paramiko.SSHException, EOFError, OSError, ValueError) as error:
            raise self._failed(f"{self.node} cannot be reached: {error or type(error).__name__}") from None

    def _open(self) -> fabric.Connection:
        # Neither fabric's own configuration files nor ~/.ssh/config: what is reached is what the node's spec says.
        config = fabric.Config(lazy=True, ssh_config=paramiko.SSHConfig())
        connection = fabric.Connection(
            self.address.host,
            user=self.address.user,
            port=self.address.port,
            config=config,
            connect_timeout=int(self._waits.connect),
            connect_kwargs={
                "banner_timeout": self._waits.connect,
                "auth_timeout": self._waits.connect,
                "channel_timeout": self._waits.connect,
                **self._credentials(),
            },
        )
        self.known_hosts.trust(connection.client, self.address)
        connection.connect_kwargs["sock"] = open_socket(self.address, self._waits.connect, self._waits.silent)
        try:
            connection.open()
            connection.transport.set_keepalive(self._waits.keepalive)
        except BaseException:
            connection.client.close()
            connection.connect_kwargs["sock"].close()
            raise
        return connection

    def _credentials(self) -> dict[str, Any]:
        """For `SSHClient.connect`. Where a key is named no other is tried: servers count failures."""
        text = self._key()
        if text is not None:
            return {"pkey": private_key(text), "allow_agent": False, "look_for_keys": False}
        if self._key_path:
            return {"key_filename": os.path.expanduser(self._key_path), "allow_agent": False, "look_for_keys": False}
        return {}

    def _execute(self, connection: fabric.Connection, command: str, input: bytes, deadline: float) -> CommandResult:
        sessions: list[paramiko.Channel] = []
        with self._deadline(connection, deadline, sessions) as late:
            answer = self._talk(connection.transport, command, input, sessions)
        if answer.status == -1 and late.is_set():
            raise NodeUnreachable(f"{self.node} did not answer in time")
        self._last_answer = self._clock.monotonic()
        return answer

    def _converse(
        self, connection: fabric.Connection, server: str, words: Sequence[str], deadline: float
    ) -> CommandResult | None:
        begun = self._clock.monotonic()
        try:
            session = self._served(connection, server, deadline)
            if session is None:
                return None
            line, sent, received = session.call(words, deadline)
        except Ended:
            if not connection.is_connected:
                raise _Broken("it was cut") from None
            raise
        except Late:
            if self._last_answer <= begun:
                self._drop(connection)
                raise self._failed(f"{self.node} did not answer in time") from None
            raise NodeUnreachable(f"{self.node} did not answer in time") from None
        self._last_answer = self._clock.monotonic()
        return CommandResult(0, line, "", sent, received)

    def _served(self, connection: fabric.Connection, server: str, deadline: float) -> LeaseServerSession | None:
        """The connection's server, started where it has none; None where none comes up. Raises `Ended` where the
        connection went away meanwhile, `Late`."""
        if not self._serving.acquire(timeout=self._waits.turn):
            raise NodeBusy(f"{self.node} is slow to start a server of leases")
        try:
            known = self._session
            if known is not None and known.channel.get_transport() is connection.transport and not known.ended:
                return known
            if self._clock.monotonic() < self._one_by_one_until:
                return None
            started: list[paramiko.Channel] = []
            with self._deadline(connection, deadline, started):
                channel = connection.transport.open_session(timeout=self._waits.connect)
                started.append(channel)
                channel.set_combine_stderr(True)
                channel.exec_command(server)
            session = LeaseServerSession(channel, self._clock)
            try:
                if session.wait_for_greeting(deadline):
                    self._session, self._starts_failed = session, 0
                    return session
            except Late:
                session.close()
                raise
            if not connection.is_connected:
                raise Ended
            self._one_by_one_until = self._clock.monotonic() + self._waits.one_by_one.seconds(self._starts_failed)
            self._starts_failed += 1
            return None
        finally:
            self._serving.release()

    @contextmanager
    def _deadline(
        self, connection: fabric.Connection, deadline: float, sessions: Sequence[paramiko.Channel]
    ) -> Iterator[threading.Event]:
        """Paramiko has waits without a time-out: at the deadline the session is taken from under them, and with it
        the connection, unless something else was answered on it meanwhile. The event tells that this was done."""
        late = threading.Event()
        begun = self._clock.monotonic()

        def give_up() -> None:
            late.set()
            if self._last_answer > begun and sessions:
                sessions[0].close()
            else:
                self._drop(connection)

        timer = threading.Timer(max(0.0, deadline - begun), give_up)
        timer.daemon = True
        timer.start()
        try:
            yield late
        except paramiko.ChannelException as error:
            raise NodeUnreachable(f"{self.node} refuses another session: {error}") from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            if not late.is_set():
                raise _Broken(str(error) or type(error).__name__) from None
            raise self._failed(f"{self.node} did not answer in time") from None
        finally:
            timer.cancel()

    def _talk(
        self, transport: paramiko.Transport, command: str, input: bytes, sessions: list[paramiko.Channel]
    ) -> CommandResult:
        sent = self._clock.now()
        channel = transport.open_session(timeout=self._waits.connect)
        sessions.append(channel)
        with channel:
            channel.exec_command(command)
            if input:
                # Beside the reading: a command may answer before it has read everything.
                threading.Thread(target=_send, args=(channel, input), daemon=True).start()
            else:
                channel.shutdown_write()
            output = _read(channel.recv)
            errors = _read(channel.recv_stderr)
            status = channel.recv_exit_status()
            if status == -1 and not transport.is_active():
                raise EOFError("it was cut")
        return CommandResult(status, output, errors, sent, self._clock.now())

    def _same_error(self) -> NodeUnreachable:
        return type(self._last_error)(str(self._last_error), hint=self._last_error.hint)

    def _drop(self, connection: fabric.Connection) -> None:
        if self._connection is connection:
            self._connection = None
        connection.client.close()

    def _failed(
        self, message: str, hint: str | None = None, kind: type[NodeUnreachable] = NodeUnreachable
    ) -> NodeUnreachable:
        """Remember the error, and let nobody try again for a while."""
        pause = self._waits.reconnect.seconds(self._failures, random.random())
        self._failures += 1
        self._pause_until = self._clock.monotonic() + pause
        self._last_error = kind(message, hint=hint)
        return self._last_error


def private_key(text: str) -> paramiko.PKey:
    """Raises `CumulusError`, which never shows the key."""
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(text.rstrip() + "\n"))
        except (paramiko.SSHException, ValueError, TypeError, IndexError):
            continue
    raise CumulusError(
        "the secret's value is not a private key that can be used",
        hint="it must be an Ed25519, ECDSA or RSA key without a passphrase, as ssh-keygen -N '' makes it",
    )


def _send(channel: paramiko.Channel, input: bytes) -> None:
    with suppress(OSError, EOFError, paramiko.SSHException):
        channel.sendall(input)
        channel.shutdown_write()


def _read(receive: Callable[[int], bytes]) -> str:
    parts, size = [], 0
    while chunk := receive(65536):
        parts.append(chunk)
        size += len(chunk)
        if size > MOST_OUTPUT:
            raise EOFError("it wrote without end")
    return b"".join(parts).decode(errors="replace")
