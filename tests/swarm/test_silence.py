"""What is said of an engine that does not answer: the cause, without what libraries wrap around it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cumulus.backends.swarm.engine import Engine, EngineUnavailable
from tests.waiting import PATIENCE

VERSION = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n{"ApiVersion":"1.41"}'


@contextmanager
def silent(path: Path) -> Iterator[str]:
    """An engine that tells its version, and takes every other request without an answer."""
    taken: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            taken.append(connection)
            if b"/version " in connection.recv(65536):
                connection.sendall(VERSION)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"unix://{path}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
    for connection in taken:
        connection.close()


def said(engine: Engine) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        engine.nodes()
    return str(caught.value)


def test_one_that_takes_too_long(tmp_path: Path) -> None:
    with silent(tmp_path / "s") as url:
        assert said(Engine([url], seconds=1)) == f"the Docker engine {url} took too long to answer"


def test_one_that_is_not_there(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none"
    assert said(Engine([url])) == f"the Docker engine {url} cannot be reached: No such file or directory"


def test_one_that_refuses() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert said(Engine([url])) == f"the Docker engine {url} cannot be reached: Connection refused"
