"""Objects over HTTP on a Unix socket: lists against orjson alone, creates against the service in the same process.

The goals are the server's. So the client is as cheap as it can be written: requests are made before the time begins,
and one thread sends them on bare sockets and reads of an answer its length alone.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import orjson

from benchmarks.harness import Result, in_rounds
from benchmarks.store import document
from cumulus import log
from cumulus.clock import SystemClock
from cumulus.resources.key import Document
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.sqlite import SqliteStore

OBJECTS, LIST_ROUNDS = 10_000, 9
CLIENTS, CREATES, CREATE_ROUNDS = 16, 320, 9
ME = Identity("bench", 0)
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
_JOBS = "/apis/cumulus.dev/v1alpha1/namespaces/default/gpujobs"


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as directory:
        yield from _lists(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        yield from _creates(Path(directory))


def _lists(directory: Path) -> Iterator[Result]:
    store = SqliteStore(directory / "store")
    for number in range(OBJECTS):
        store.create(document(f"job-{number:05}"))
    store.close()
    with _served(directory) as path:
        connection = _Connection(path)
        for what, accept in (("JSON", "application/json"), ("a Table", TABLE)):
            ours, bare = [], []
            request = _request("GET", _JOBS, accept=accept)
            objects = orjson.loads(connection.ask(request))
            for _ in range(LIST_ROUNDS):
                start = time.perf_counter()
                size = len(connection.ask(request))
                ours.append(size / 1e6 / (time.perf_counter() - start))
                start = time.perf_counter()
                size = len(orjson.dumps(objects))
                bare.append(size / 1e6 / (time.perf_counter() - start))
            yield in_rounds(
                f"{OBJECTS:,} objects listed over HTTP as {what}", ours, bare, unit="MB/s",
                peer_name="orjson.dumps of the same, in memory", at_least=0.3,
            )  # fmt: skip


def _creates(directory: Path) -> Iterator[Result]:
    ours, inside = [], []
    store = SqliteStore(directory / "inside" / "store")
    service = Service(lambda: store, directory / "inside", SystemClock())
    with _served(directory) as path:
        connections = [_Connection(path) for _ in range(CLIENTS)]
        for number in range(CREATE_ROUNDS):
            given = [[document(f"job-{number}-{n}-{m}") for m in range(CREATES // CLIENTS)] for n in range(CLIENTS)]
            requests = [[_request("POST", _JOBS, orjson.dumps(each)) for each in one] for one in given]

            def in_process(client: int, given: list[list[Document]] = given) -> None:
                for each in given[client]:
                    service.objects.create(ME, each)

            start = time.perf_counter()
            _ask_all(connections, requests)
            ours.append(CREATES / (time.perf_counter() - start))
            threads = [Thread(target=in_process, args=(client,)) for client in range(CLIENTS)]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            inside.append(CREATES / (time.perf_counter() - start))
    store.close()
    yield in_rounds(
        f"creates over HTTP, {CLIENTS} clients", ours, inside, unit="creates/s",
        peer_name=f"{CLIENTS} threads that call the service in their own process", at_least=0.5,
    )  # fmt: skip


def _request(method: str, url: str, body: bytes = b"", accept: str = "application/json") -> bytes:
    head = f"{method} {url} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def _ask_all(connections: list[_Connection], requests: list[list[bytes]]) -> None:
    """Each connection asks for its part, one after another; all at once."""
    poll, asking = select.epoll(), {}
    for connection, given in zip(connections, requests, strict=True):
        asking[connection.socket.fileno()] = connection, iter(given)
        poll.register(connection.socket, select.EPOLLIN)
        connection.socket.sendall(given[0])
        next(asking[connection.socket.fileno()][1])
    while asking:
        for descriptor, _ in poll.poll():
            connection, rest = asking[descriptor]
            connection.answer()
            following = next(rest, None)
            if following is None:
                poll.unregister(descriptor)
                del asking[descriptor]
            else:
                connection.socket.sendall(following)


class _Connection:
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))

    def ask(self, request: bytes) -> bytearray:
        self.socket.sendall(request)
        return self.answer()

    def answer(self) -> bytearray:
        """The body. Raises RuntimeError for what is no success."""
        head, _, begun = self._head().partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = bytearray(length)
        body[: len(begun)] = begun
        rest = memoryview(body)[len(begun) :]
        while rest:
            rest = rest[self.socket.recv_into(rest) :]
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(body.decode())
        return body

    def _head(self) -> bytes:
        """What has come once the head is whole."""
        found = b""
        while b"\r\n\r\n" not in found:
            more = self.socket.recv(2**16)
            if not more:
                raise ConnectionError("the server has closed the connection")
            found += more
        return found


@contextmanager
def _served(directory: Path) -> Iterator[Path]:
    """A server in a process of its own over the store in the directory."""
    path = directory / "socket"
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.http_objects", str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    try:
        child.stdout.readline()
        yield path
    finally:
        child.kill()
        child.wait()


def _serve(directory: Path) -> None:
    from cumulus.lib import unix_socket
    from cumulus.server.api import Api
    from cumulus.server.http.app import make_app
    from cumulus.server.http.listener import Listener
    from cumulus.server.watches import WatchBridge

    log.configure(format="json", stream=os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))

    async def authenticate(scope: object) -> Identity:
        return ME

    store = SqliteStore(directory / "store")
    api = Api(Service(lambda: store, directory, SystemClock()), WatchBridge(store))
    Listener(make_app(api, authenticate), [unix_socket.listen(str(directory / "socket"))]).start()
    print("listening", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
