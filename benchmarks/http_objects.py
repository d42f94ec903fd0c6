"""Objects over HTTP on a Unix socket: lists against orjson alone, creates against the service in the same process."""

from __future__ import annotations

import http.client
import os
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
            objects = orjson.loads(connection.ask("GET", _JOBS, accept=accept))
            for _ in range(LIST_ROUNDS):
                start = time.perf_counter()
                size = len(connection.ask("GET", _JOBS, accept=accept))
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

            def over_http(client: int, number: int = number) -> None:
                for made in range(CREATES // CLIENTS):
                    body = orjson.dumps(document(f"job-{number}-{client}-{made}"))
                    connections[client].ask("POST", _JOBS, body)

            def in_process(client: int, number: int = number) -> None:
                for made in range(CREATES // CLIENTS):
                    service.objects.create(ME, document(f"job-{number}-{client}-{made}"))

            for side, work in ((ours, over_http), (inside, in_process)):
                threads = [Thread(target=work, args=(client,)) for client in range(CLIENTS)]
                start = time.perf_counter()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                side.append(CREATES / (time.perf_counter() - start))
    store.close()
    yield in_rounds(
        f"creates over HTTP, {CLIENTS} clients", ours, inside, unit="creates/s",
        peer_name=f"{CLIENTS} threads that call the service in their own process", at_least=0.5,
    )  # fmt: skip


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))

    def ask(self, method: str, url: str, body: bytes | None = None, accept: str = "application/json") -> bytes:
        self.request(method, url, body, {"accept": accept, "content-type": "application/json"})
        response = self.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise RuntimeError(answer.decode())
        return answer


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
