"""The client's side of a WebSocket: asks for one, then messages both ways over the same connection, in one thread."""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import ssl
from collections import deque
from collections.abc import Mapping

from cumulus.client.http.errors import ServerUnavailable, error_of
from cumulus.lib import websocket

LARGEST = 2**24
"""Bytes of a message."""
FULL = 2**18
"""Bytes that wait to be sent before nothing more should be added."""
_TURN = 2**22
"""Bytes that one turn takes at most: what comes as fast as it is taken would never be handed on."""
_CHUNK = 2**16
_LONGEST_HEAD = 2**16


class ClientWebSocket:
    """Messages in `received`, `send` for the other way. The socket does not block: `turn` moves what can be moved."""

    def __init__(self, sock: socket.socket, received: bytes) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._messages = websocket.Messages(masked=False, largest=LARGEST)
        self._out = bytearray()
        self._come: deque[bytes] = deque()
        self._more = False
        """There may be more to take at once, of which no select tells."""
        self.ended = False
        """Nothing more comes."""
        self._take(received)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_full(self) -> bool:
        return len(self._out) > FULL

    def send(self, data: bytes) -> None:
        """Add a message to what is to be sent."""
        self._out += websocket.frame(websocket.BINARY, data, mask=True)

    def received(self) -> list[bytes]:
        """The messages that have come."""
        found = list(self._come)
        self._come.clear()
        return found

    def turn(self) -> None:
        """Send and receive what can be at once."""
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            # Nobody takes it any more. What was sent before that is still to be read.
            self._out.clear()
        try:
            # What TLS has decrypted already wakes no select.
            taken, self._more = 0, True
            while not self.ended and taken < _TURN:
                data = self._socket.recv(_CHUNK)
                taken += len(data)
                self._take(data)
                self.ended = self.ended or not data
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._more = False
        except OSError:
            self.ended = True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def wait(self, *others: int, seconds: float | None = None) -> list[int]:
        """Until something can be moved, or one of the other descriptors is readable: which ones are."""
        if self._come or self.ended or self._more:
            seconds = 0.0
        read: list[int] = [self.fileno(), *others]
        write = [self.fileno()] if self._out else []
        readable, _, _ = select.select(read, write, [], seconds)
        return [each for each in readable if each != self.fileno()]

    def _take(self, data: bytes) -> None:
        try:
            for kind, content in self._messages.feed(data):
                if kind == websocket.PING:
                    self._out += websocket.frame(websocket.PONG, content, mask=True)
                elif kind == websocket.CLOSE:
                    self._out += websocket.frame(websocket.CLOSE, content[:2], mask=True)
                    self.ended = True
                elif kind != websocket.PONG:
                    self._come.append(content)
        except websocket.WebSocketError:
            self.ended = True


def opened(sock: socket.socket, path: str, headers: Mapping[str, str], protocol: str, where: str) -> ClientWebSocket:
    """The WebSocket with that subprotocol at the path, over a connection that nothing was asked on yet. Raises the
    CumulusError that the server tells; ServerUnavailable."""
    key = websocket.new_key()
    given = {
        **headers, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Version": websocket.VERSION, "Sec-WebSocket-Protocol": protocol,
    }  # fmt: skip
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    try:
        sock.sendall("\r\n".join(lines).encode("latin-1"))
        head, rest = _head(sock)
        status, fields = _parsed(head)
        if status != 101:
            raise error_of(status, _body(sock, rest, fields))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ServerUnavailable(f"{where} closed the connection: {error}", hint="try again") from None
    answered = fields.get("Sec-WebSocket-Accept"), fields.get("Sec-WebSocket-Protocol")
    if answered != (websocket.accepted(key), protocol):
        raise ServerUnavailable(f"{where} speaks another WebSocket than this client")
    return ClientWebSocket(sock, rest)


def _head(sock: socket.socket) -> tuple[bytes, bytes]:
    """The head of an answer, and what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(_CHUNK)
        if not more or len(data) > _LONGEST_HEAD:
            raise ConnectionError("it answered nothing")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _parsed(head: bytes) -> tuple[int, http.client.HTTPMessage]:
    first, _, fields = head.partition(b"\r\n")
    words = first.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1."):
        raise ConnectionError("it speaks no HTTP")
    return int(words[1]), http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))


def _body(sock: socket.socket, received: bytes, fields: http.client.HTTPMessage) -> bytes:
    size = min(int(fields.get("Content-Length", "0")), 2**20)
    while len(received) < size and (more := sock.recv(_CHUNK)):
        received += more
    return received
