"""A program on a node, over Kubernetes' channels in a WebSocket (see `cumulus.server.http.kubernetes.channels`)."""

from __future__ import annotations

import json
import os

from cumulus.client.http.errors import ServerUnavailable, error_in
from cumulus.client.http.websocket import ClientWebSocket
from cumulus.client.programs import Streams
from cumulus.errors import CumulusError
from cumulus.lib.remotecommand import CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT

_CHUNK = 2**15
_LOOK = 0.3
"""Seconds between two looks at the size of the terminal."""


class HttpProgram:
    """See `client.programs.RemoteProgram`."""

    def __init__(self, made: ClientWebSocket, where: str) -> None:
        self._websocket = made
        self._where = where
        self._code: int | None = None

    def run(self, streams: Streams) -> int:
        stdin, size = streams.stdin, (0, 0)
        while True:
            self._websocket.turn()
            for message in self._websocket.received():
                self._take(message, streams)
            if self._code is not None:
                return self._code
            if self._websocket.ended:
                raise ServerUnavailable(
                    f"{self._where} went away, so the program was ended", hint="see whether the job still runs"
                )
            if (now := streams.size()) != size:
                size = now
                self._send(RESIZE, json.dumps({"Width": size[0], "Height": size[1]}).encode())
            others = [] if stdin is None or self._websocket.is_full else [stdin]
            seconds = _LOOK if size != (0, 0) else None
            if self._websocket.wait(*others, seconds=seconds) and stdin is not None:
                stdin = self._read(stdin, streams)

    def close(self) -> None:
        self._websocket.close()

    def _read(self, stdin: int, streams: Streams) -> int | None:
        """Send what can be read; None once that was all."""
        data = os.read(stdin, _CHUNK)
        if not data:
            self._websocket.send(bytes([CLOSE, STDIN]))
            return None
        self._send(STDIN, data)
        streams.typed(data)
        return stdin

    def _send(self, channel: int, data: bytes) -> None:
        if data:
            self._websocket.send(bytes([channel]) + data)

    def _take(self, message: bytes, streams: Streams) -> None:
        channel, data = message[:1], message[1:]
        if channel == bytes([ERROR]) and data:
            self._code = _code(data)
        elif channel == bytes([STDOUT]) and data:
            streams.stdout(data)
        elif channel == bytes([STDERR]) and data:
            streams.stderr(data)


def _code(said: bytes) -> int:
    """Of a Status. Raises the CumulusError that it tells of."""
    try:
        status = json.loads(said)
        if status["status"] == "Success":
            return 0
        if status.get("reason") == "NonZeroExitCode":
            causes = status["details"]["causes"]
            return next(int(each["message"]) for each in causes if each["reason"] == "ExitCode")
    except (ValueError, KeyError, TypeError, StopIteration):
        raise CumulusError("the server does not say how the program ended") from None
    raise error_in(status)
