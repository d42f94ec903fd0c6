"""The few calls of Docker's Engine API that a node makes of its own engine. Standard library only."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import quote, urlencode

from cumulus.chronos import settings
from cumulus.errors import BackendError, CumulusError, NotRunning

_SECONDS = 20.0
_LONGEST_HEAD = 2**16


class EngineApi:
    """`path`: the engine's socket; "" for the one that this process's environment names."""

    def __init__(self, path: str = "") -> None:
        self._path = path or settings.engine_socket()

    def get(self, path: str, *words: str, **query: str) -> Any:
        """What the engine answers. Raises NotRunning where there is no such thing, BackendError."""
        return self._call("GET", _place(path, words, query), None)

    def text(self, path: str, *words: str, **query: str) -> bytes:
        """What the engine answers, as it is."""
        return self._answer("GET", _place(path, words, query), None)

    def post(self, path: str, *words: str, body: Any = None, **query: str) -> Any:
        return self._call("POST", _place(path, words, query), body)

    def opened(self, path: str, *words: str, body: Any = None, **query: str) -> socket.socket:
        """The connection, from where the engine has answered on: the streams of a program."""
        data = json.dumps(body or {}).encode()
        connection = self._connected()
        try:
            connection.sendall(
                f"POST {_place(path, words, query)} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
                f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                + data
            )
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                # Not a byte more: what follows is the program's.
                more = connection.recv(1)
                if not more or len(head) > _LONGEST_HEAD:
                    raise BackendError("the engine closed the connection")
                head += more
            status = int(head.split(None, 2)[1])
            if status not in (101, 200):
                raise _problem(status, connection.recv(_LONGEST_HEAD))
            connection.settimeout(None)
            return connection
        except OSError as error:
            connection.close()
            raise _silent(error) from None
        except BaseException:
            connection.close()
            raise

    def _call(self, method: str, place: str, body: Any) -> Any:
        data = self._answer(method, place, body)
        try:
            return json.loads(data) if data.strip() else None
        except ValueError as error:
            raise _silent(error) from None

    def _answer(self, method: str, place: str, body: Any) -> bytes:
        connection = http.client.HTTPConnection("engine")
        try:
            connection.sock = self._connected()
            headers = {"Content-Type": "application/json"}
            connection.request(method, place, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status >= 300:
                raise _problem(answer.status, data)
            return data
        except (OSError, http.client.HTTPException) as error:
            raise _silent(error) from None
        finally:
            connection.close()

    def _connected(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(_SECONDS)
        try:
            made.connect(self._path)
        except OSError as error:
            made.close()
            raise _silent(error) from None
        return made


def _place(path: str, words: tuple[str, ...], query: dict[str, str]) -> str:
    # Without a version: the engine's own.
    place = path.format(*(quote(word, safe="") for word in words))
    return f"{place}?{urlencode(query)}" if query else place


def _problem(status: int, data: bytes) -> CumulusError:
    try:
        said = str(json.loads(data.partition(b"\r\n\r\n")[2] or data)["message"])
    except (ValueError, KeyError, TypeError):
        said = f"status {status}"
    if status == 404:
        return NotRunning("its program has ended")
    # As of one that is paused, or has just ended.
    return (NotRunning if status == 409 else BackendError)(f"its engine: {said[:300]}")


def _silent(error: Exception) -> BackendError:
    what = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return BackendError(f"the engine of its node does not answer: {what}")
