"""Requests to one server: a connection that is kept for calls, one of its own for each stream."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cumulus.client.http.errors import ServerUnavailable, error_of
from cumulus.errors import CumulusError, StoreUnavailable
from cumulus.lib import unix_socket

if TYPE_CHECKING:
    import ssl

    from cumulus.client.endpoint import Endpoint
    from cumulus.client.http.websocket import ClientWebSocket

T = TypeVar("T")
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
JSON = "application/json"
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 300.0
"""To make a Swarm takes its time; a daemon that hangs must not keep a script for ever."""
RETRY_SECONDS = 60.0
"""How long a server that was there may be away, as while it restarts."""
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Between tries; the last for all further ones."""
_LOST = "see whether it was carried out"


class Cut(Exception):
    """A stream ended before its end: the server stopped, or the network did."""


class ClientConnection:
    """Safe for several threads, which take turns."""

    def __init__(self, endpoint: Endpoint, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self.endpoint = endpoint
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._kept: http.client.HTTPConnection | None = None
        self._tls: ssl.SSLContext | None = None
        self._reached = False
        self._streams: set[Stream] = set()

    def call(
        self, method: Method, path: str, body: bytes | None = None, *, safe: bool, media_type: str = JSON
    ) -> bytes:
        """The body of the answer. Raises the CumulusError that the server tells.

        A `safe` call may be made twice; it is made again while a server that was there restarts. Any other is too where
        it can't have reached the server."""
        with self._lock:
            for _ in self._tries():
                try:
                    connection = self._connected()
                except ServerUnavailable:
                    if not self._reached:
                        raise
                    continue
                try:
                    response = _asked(connection, method, path, body, self._headers(media_type))
                    answer = response.read()
                    if response.will_close:
                        self._drop()
                except (http.client.HTTPException, OSError) as error:
                    self._drop()
                    if safe:
                        continue
                    raise ServerUnavailable(
                        f"{self.where} closed the connection before it answered: {_words(error)}", hint=_LOST
                    ) from None
                except BaseException:
                    # Ctrl-C: what is yet to come on it would be taken for the next answer.
                    self._drop()
                    raise
                self._reached = True
                return _checked(response, answer)
            raise self._away()

    def stream(self, method: Method, path: str, body: bytes | None = None, *, patience: float | None = None) -> Stream:
        """A stream of lines. `patience`: seconds of silence after which it counts as cut. Raises as `call` does."""
        connection = self._connect()
        # A response that closes by itself takes it from the connection.
        sock = connection.sock
        sock.settimeout(patience)
        try:
            response = _asked(connection, method, path, body, self._headers(JSON))
            if response.status >= 300:
                _checked(response, response.read())
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            raise ServerUnavailable(f"{self.where} closed the connection: {_words(error)}", hint=_LOST) from None
        except BaseException:
            connection.close()
            raise
        self._reached = True
        made = Stream(sock, response, self._streams.discard)
        self._streams.add(made)
        return made

    def websocket(self, path: str, protocol: str) -> ClientWebSocket:
        """A WebSocket with that subprotocol, over a connection of its own. Raises as `call` does."""
        from cumulus.client.http.websocket import opened

        connection = self._connect()
        sock = connection.sock
        host = "localhost" if self.endpoint.kind == "unix" else self.endpoint.address.removeprefix("https://")
        try:
            made = opened(sock, path, {"Host": host, **self._headers(JSON)}, protocol, self.where)
        except BaseException:
            connection.close()
            raise
        # The WebSocket closes it.
        connection.sock = None
        self._reached = True
        return made

    def again(self, open: Callable[[], T]) -> T:
        """Open a stream that was cut anew, once the server is there again. Raises ServerUnavailable where it stays
        away, and what `open` raises else."""
        for _ in self._tries():
            with contextlib.suppress(ServerUnavailable, StoreUnavailable):
                return open()
        raise self._away()

    def close(self) -> None:
        """Also of every stream."""
        for stream in list(self._streams):
            stream.close()
        # Without the lock: a call in another thread may hold it for long, and is ended by this.
        self._drop()

    @property
    def where(self) -> str:
        return f"the server at {self.endpoint.address}"

    def _tries(self) -> Iterator[None]:
        until = time.monotonic() + self._retry_seconds
        pauses = iter(PAUSES)
        while True:
            yield
            pause = next(pauses, PAUSES[-1])
            if time.monotonic() + pause > until:
                return
            time.sleep(pause)

    def _away(self) -> ServerUnavailable:
        if not self._retry_seconds:
            return ServerUnavailable(
                f"{self.where} closed the connection before it answered", hint="is that its address?"
            )
        return ServerUnavailable(
            f"{self.where} has not answered for {self._retry_seconds:.0f} s", hint="is it running?"
        )

    def _connected(self) -> http.client.HTTPConnection:
        """The kept connection, where the server has not closed it meanwhile, else a new one."""
        if self._kept is not None and _is_stale(self._kept.sock):
            self._drop()
        if self._kept is None:
            self._kept = self._connect()
        return self._kept

    def _connect(self) -> http.client.HTTPConnection:
        made: http.client.HTTPConnection
        if self.endpoint.kind == "unix":
            made = _UnixConnection(self.endpoint.address)
        else:
            made = http.client.HTTPSConnection(
                *address_of(self.endpoint), timeout=CONNECT_SECONDS, context=self._context()
            )
        try:
            made.connect()
        except OSError as error:
            raise unreachable(self.endpoint, error) from None
        made.sock.settimeout(ANSWER_SECONDS)
        if self.endpoint.kind != "unix":
            _keep_alive(made.sock)
        return made

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            import ssl

            try:
                self._tls = ssl.create_default_context(cadata=self.endpoint.ca or None)
            except (ssl.SSLError, ValueError) as error:
                raise CumulusError(f"the certificates that {self.where} is trusted by can't be read: {error}") from None
        return self._tls

    def _headers(self, media_type: str) -> Mapping[str, str]:
        token = {"Authorization": f"Bearer {self.endpoint.token}"} if self.endpoint.token else {}
        return {"Accept": JSON, "Content-Type": media_type, **token}

    def _drop(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()


class Stream:
    """Lines of JSON from one connection. `close` may be called by any thread."""

    def __init__(
        self, sock: socket.socket, response: http.client.HTTPResponse, closed: Callable[[Stream], None]
    ) -> None:
        self._socket = sock
        self._response = response
        self._closed = closed

    def lines(self) -> Iterator[dict[str, Any]]:
        """Each line. Raises Cut at its end; whoever knows the end of the stream stops before."""
        try:
            while line := self._response.readline():
                if not line.endswith(b"\n"):
                    break
                yield json.loads(line)
        except (http.client.HTTPException, OSError, ValueError, AttributeError):
            # The last where `close` takes away what http.client reads from.
            pass
        raise Cut

    def read(self, size: int) -> bytes:
        """Bytes of what is no lines; b"" at its end. Raises Cut."""
        try:
            return self._response.read(size)
        except (http.client.HTTPException, OSError, ValueError):
            raise Cut from None

    def close(self) -> None:
        self._closed(self)
        # It wakes a thread that reads, which then closes what it reads from.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self._socket.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = unix_socket.connect(self._path, CONNECT_SECONDS)


def address_of(endpoint: Endpoint) -> tuple[str, int]:
    """Host and port of `https://HOST:PORT`; an IPv6 address has no brackets here."""
    host, _, port = endpoint.address.removeprefix("https://").rpartition(":")
    return host.strip("[]"), int(port)


def unreachable(endpoint: Endpoint, error: OSError) -> CumulusError:
    """Why there is no connection, in words."""
    where = endpoint.address
    if endpoint.kind == "unix":
        if isinstance(error, PermissionError):
            return CumulusError(f"you may not use {where}: it is another user's", hint="ask who runs that daemon")
        return ServerUnavailable(f"no daemon answers at {where}: {_words(error)}", hint="start it: cumulus serve")
    if (reason := getattr(error, "verify_message", None)) is not None:
        return CumulusError(
            f"the certificate of {where} is not trusted: {reason}",
            hint=f"trust it with: cumulus login {where}",
        )
    return ServerUnavailable(
        f"{where} can't be reached: {_words(error)}", hint="is it running, and is that its address?"
    )


def _asked(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    connection.request(method, path, body, dict(headers))
    return connection.getresponse()


def _checked(response: http.client.HTTPResponse, answer: bytes) -> bytes:
    if response.status >= 300:
        raise error_of(response.status, answer)
    return answer


def _is_stale(sock: socket.socket | None) -> bool:
    """Whether the server has closed it: between two answers nothing is sent."""
    if sock is None:
        return True
    if not hasattr(select, "poll"):  # On Windows, where select(2) takes any socket.
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # macOS calls the first one TCP_KEEPALIVE.
    idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
    for option, value in ((idle, 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
