"""The client's side of a WebSocket."""

from __future__ import annotations

import socket
from typing import Any, cast

from cumulus.client.http.websocket import ClientWebSocket
from cumulus.lib import websocket


class Endless:
    """A connection from which more comes than anybody takes."""

    frame = websocket.frame(websocket.BINARY, bytes(60_000))

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._near, name)

    def recv(self, _: int) -> bytes:
        return self.frame


def test_what_comes_without_end_is_handed_on() -> None:
    made = ClientWebSocket(cast(socket.socket, Endless()), b"")
    for _ in range(3):
        made.turn()
        assert 10 < len(made.received()) < 200
        # Nothing has come in the socket, and it is not waited for.
        assert made.wait() == []
    assert not made.ended
    made.close()


def test_what_came_before_the_other_side_went_is_read() -> None:
    near, far = socket.socketpair()
    made = ClientWebSocket(near, b"")
    with far:
        far.sendall(websocket.frame(websocket.BINARY, b"last words"))
    made.send(b"typed meanwhile")
    made.turn()
    assert (made.received(), made.ended) == ([b"last words"], True)
    made.close()
