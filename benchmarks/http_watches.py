"""1,000 watches over HTTP on a Unix socket against a bare asyncio server that writes the same bytes to as many clients.

Each event carries the moment in which it was committed; all clients are in this process, the server in one of its own.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import orjson

from benchmarks.harness import Result, in_rounds, limit, percentile
from benchmarks.store import document

WATCHERS, EVENTS, ROUNDS = 1000, 20, 7
APART_SECONDS = 0.25
"""Between two events: more than delivering one takes."""
SENT = "sent"
MOST_MB = 300
_URL = "/apis/cumulus.dev/v1alpha1/gpujobs?watch=true"


def run() -> Iterator[Result]:
    _lift_limit()
    ours, bare, resident = [], [], []
    for _ in range(ROUNDS):
        delay, memory = asyncio.run(_round("cumulus"))
        ours.append(delay)
        resident.append(memory)
        bare.append(asyncio.run(_round("bare"))[0])
    yield in_rounds(
        f"from commit to client over HTTP, {WATCHERS:,} watchers, p99", ours, bare, unit="ms",
        peer_name="a bare asyncio server that writes the same bytes", at_most=3,
    )  # fmt: skip
    yield limit(f"memory of a server with {WATCHERS:,} idle watches", max(resident) / 1e6, MOST_MB, unit="MB")


async def _round(kind: str) -> tuple[float, float]:
    """p99 in milliseconds, and what memory the server holds with all watches idle, in bytes."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "socket"
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.http_watches", kind, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert child.stdin
        assert child.stdout
        try:
            await asyncio.to_thread(child.stdout.readline)
            delays: list[float] = []
            clients = [asyncio.create_task(_client(path, delays)) for _ in range(WATCHERS)]
            await asyncio.to_thread(_until_all_watch, child.stdin, child.stdout)
            memory = _resident(child.pid)
            child.stdin.write(b"go\n")
            child.stdin.flush()
            await asyncio.gather(*clients)
        finally:
            child.kill()
            child.wait()
    return percentile(delays, 0.99) * 1e3, memory


def _until_all_watch(to: IO[bytes], back: IO[bytes]) -> None:
    """The server says when it has so many watchers."""
    to.write(b"wait\n")
    to.flush()
    back.readline()


async def _client(path: Path, delays: list[float]) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(f"GET {_URL} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    left = EVENTS
    while left and (line := await reader.readline()):
        now = time.monotonic()
        _, found, rest = line.partition(b'"sent":"')
        if found:
            delays.append(now - float(rest.partition(b'"')[0]))
            left -= 1
    writer.close()


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _lift_limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _event(number: int) -> dict[str, object]:
    made = document(f"job-{number}")
    made["metadata"]["annotations"] = {SENT: f"{time.monotonic():.6f}"}
    return made


def _commanded(ready: threading.Event) -> None:
    """Wait until all watch, say so, and return when events are wanted."""
    print("listening", flush=True)
    sys.stdin.readline()
    ready.wait()
    # What the last of them did to begin is over.
    time.sleep(1)
    print("ready", flush=True)
    sys.stdin.readline()


def _serve_cumulus(path: Path) -> None:
    from cumulus.clock import SystemClock
    from cumulus.lib import unix_socket
    from cumulus.server.api import Api
    from cumulus.server.http.app import make_app
    from cumulus.server.http.listener import Listener
    from cumulus.server.watches import WatchBridge
    from cumulus.service.identity import Identity
    from cumulus.service.service import Service
    from cumulus.store.memory import MemoryStore

    watching = 0
    ready = threading.Event()

    class Counting(WatchBridge):
        def watch(self, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal watching
            watching += 1
            if watching == WATCHERS:
                ready.set()
            return super().watch(**kwargs)

    async def authenticate(scope: object) -> Identity:
        return Identity("bench", 0)

    store = MemoryStore()
    api = Api(Service(lambda: store, path.parent, SystemClock()), Counting(store))
    Listener(make_app(api, authenticate), [unix_socket.listen(str(path))]).start()
    _commanded(ready)
    for number in range(EVENTS):
        store.create(_event(number))
        time.sleep(APART_SECONDS)
    threading.Event().wait()


def _serve_bare(path: Path) -> None:
    ready = threading.Event()
    writers: list[asyncio.StreamWriter] = []

    async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writers.append(writer)
        if len(writers) == WATCHERS:
            ready.set()

    async def serve() -> None:
        async with await asyncio.start_unix_server(on_client, str(path), backlog=WATCHERS):
            await asyncio.to_thread(_commanded, ready)
            for number in range(EVENTS):
                line = orjson.dumps({"type": "ADDED", "object": _event(number)}) + b"\n"
                chunk = b"%x\r\n%b\r\n" % (len(line), line)
                for writer in writers:
                    writer.write(chunk)
                await asyncio.sleep(APART_SECONDS)
            await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    _lift_limit()
    {"cumulus": _serve_cumulus, "bare": _serve_bare}[sys.argv[1]](Path(sys.argv[2]))
