"""One connection: who is at its other end, and how long it may keep us waiting.

uvicorn's protocol, with the limits that it leaves to a proxy in front: headers that never end, bodies that drip, a
reader that does not read, more connections than there is room for.
"""

from __future__ import annotations

import resource
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cumulus.lib import listeners, unix_socket
from cumulus.lib.unix_socket import Peer
from cumulus.server.http.tunnel import TAKE_OVER, Tunnel

if TYPE_CHECKING:
    from asyncio import TimerHandle, Transport

PEER, CERTIFICATE = "cumulus.peer", "cumulus.certificate"
"""Where in a request's `state` the one or the other is found."""
LOCAL_USER = "cumulus.local-user"
"""The same of a connection without TLS: the uid of the process at its other end, None where the kernel tells none."""


class ClientCertificate(NamedTuple):
    """What a client's certificate names, after it was found to be signed by our CA."""

    user: str
    groups: tuple[str, ...]
    serial: str
    """Its serial number, as hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a connection may take. Seconds and bytes."""

    handshake_seconds: float = 10.0
    handshakes: int = 256
    """Connections at once that have not shown that they speak TLS."""
    headers_seconds: float = 10.0
    """From the first byte of a request, or the connection, to the end of its headers."""
    headers_bytes: int = 64 * 2**10
    body_seconds: float = 30.0
    """For a request's body, and beyond that a second for each `body_bytes_per_second`."""
    body_bytes_per_second: int = 16 * 2**10
    stalled_seconds: float = 60.0
    """How long a client may leave an answer unread."""
    idle_seconds: float = 120.0
    """Between two requests. Clients of Go keep theirs for 90 seconds, and should be the first to close it."""
    most: int = 4096
    """Connections of one listener. At a socket at most half of them are one user's, unless that is root."""

    def within_open_files(self) -> ConnectionLimits:
        """With no more connections than leave this process files to open for its other work."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return self if most == resource.RLIM_INFINITY else replace(self, most=min(self.most, most // 4))


@dataclass
class ServedConnections:
    """Those that are open, counted by where they come from. One for each listener; the event loop's alone."""

    limits: ConnectionLimits
    open: Counter[object] = field(default_factory=Counter)

    @property
    def is_full(self) -> bool:
        return self.open.total() >= self.limits.most

    def take(self, source: object, *, share: bool) -> bool:
        """Count one more, unless there are too many. `share`: a source that must leave others their half."""
        if self.is_full or (share and self.open[source] >= self.limits.most // 2):
            return False
        self.open[source] += 1
        return True

    def give_back(self, source: object) -> None:
        self.open[source] -= 1
        if not self.open[source]:
            del self.open[source]


class ServedConnection(HttpToolsProtocol):
    """Made by the listener, with the `ServedConnections` that it belongs to."""

    def __init__(self, *args: Any, connections: ServedConnections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all = connections
        self._limits = connections.limits
        self._source: object | None = None
        self._header_bytes = 0
        self._body_bytes = 0
        self._in_headers = False
        self._timers: dict[str, TimerHandle] = {}
        self._tunnel: Tunnel | None = None
        """Of a request that asks for an upgrade: what comes after it is no HTTP."""
        self.timeout_keep_alive = self._limits.idle_seconds  # type: ignore[assignment]

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        found = _other_end(transport)
        peer = found.get(PEER)
        source = peer.uid if isinstance(peer, Peer) else "tcp"
        if not self._all.take(source, share=source not in (0, "tcp")):
            transport.abort()
            return
        self._source = source
        self.app_state = {**self.app_state, **found}
        self._arm("headers", self._limits.headers_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for name in list(self._timers):
            self._disarm(name)
        if self._source is not None:
            self._all.give_back(self._source)
            self._source = None
        if self._tunnel is not None:
            self._tunnel.end()

    def eof_received(self) -> None:
        super().eof_received()
        if self._tunnel is not None:
            self._tunnel.end()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._tunnel is not None:
            self._tunnel.feed(data)
            return
        self._header_bytes += len(data)
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete or self._in_headers:
            # Also bytes before a request, which the parser leaves out.
            self._arm("headers", self._limits.headers_seconds, again=False)
            if self._header_bytes > self._limits.headers_bytes:
                self._refuse_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._header_bytes = self._body_bytes = 0
        self._disarm("headers")
        upgrades = self.parser.should_upgrade() and self._get_upgrade() == b"websocket"
        if upgrades:
            self._tunnel = Tunnel(self.transport, self.flow)
            self.scope[TAKE_OVER] = self._take_over  # type: ignore[literal-required]
        super().on_headers_complete()
        if upgrades:
            # Also where it is refused: what follows cannot be told from what belongs to it.
            self.cycle.keep_alive = False
        self._arm("body", self._limits.body_seconds)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._header_bytes = 0
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._header_bytes = 0
        self._disarm("body")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm("stalled", self._limits.stalled_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._disarm("stalled")

    def _take_over(self, head: bytes) -> Tunnel:
        """Answer the request that asks for an upgrade with this, and leave the connection to its handler."""
        assert self._tunnel is not None
        self.cycle.response_started = self.cycle.response_complete = True
        self._disarm("body")
        self.flow.resume_reading()
        self.transport.write(head)
        return self._tunnel

    def _arm(self, name: str, seconds: float, *, again: bool = True) -> None:
        if again or name not in self._timers:
            self._disarm(name)
            self._timers[name] = self.loop.call_later(seconds, self._time_is_up, name, self.loop.time())

    def _disarm(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()

    def _time_is_up(self, name: str, began: float) -> None:
        self._timers.pop(name, None)
        if name == "body":
            allowed = self._limits.body_seconds + self._body_bytes / self._limits.body_bytes_per_second
            left = began + allowed - self.loop.time()
            # We ourselves do not read while the request waits for its turn.
            if self.flow.read_paused:
                left = self._limits.body_seconds
            if left > 0:
                self._timers[name] = self.loop.call_later(left, self._time_is_up, name, began)
                return
        if self.transport is not None:
            self.transport.abort()

    def _refuse_headers(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        self.transport.close()


def _other_end(transport: Transport) -> Mapping[str, Peer | ClientCertificate | int | None]:
    ends: socket.socket = transport.get_extra_info("socket")
    if ends.family == socket.AF_UNIX:
        return {PEER: unix_socket.peer(ends)}
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return {LOCAL_USER: listeners.user_of(ends)}
    certificate = tls.getpeercert()
    return {CERTIFICATE: _named(certificate)} if certificate else {}


def _named(certificate: Mapping[str, Any]) -> ClientCertificate:
    names = [pair for part in certificate.get("subject", ()) for pair in part]
    users = [text for name, text in names if name == "commonName"]
    groups = tuple(text for name, text in names if name == "organizationName")
    # More than one user is nobody.
    return ClientCertificate(users[0] if len(users) == 1 else "", groups, str(certificate.get("serialNumber") or ""))
