"""Real S3 servers for tests: SeaweedFS, started once a session, and moto for a second opinion."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cumulus.blob.s3.bucket import Bucket, Keys
from cumulus.blob.s3.client import S3Client
from tests.processes import die_with_parent
from tests.waiting import poll

PREFIX = "cumulus-weed-"
KEYS = Keys("test-access", "test-secret")


@dataclass
class Server:
    endpoint: str
    process: subprocess.Popen[bytes]

    def client(self) -> Any:
        """boto3's own."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=KEYS.access_key, aws_secret_access_key=KEYS.secret_key,
        )  # fmt: skip

    def bucket(self) -> Bucket:
        """A new, empty one."""
        name = f"cumulus-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return Bucket(name, "us-east-1", self.endpoint, KEYS)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def seaweedfs_server() -> Iterator[Server]:
    """In memory where possible."""
    parent = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
    _remove_leftovers(parent)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=parent) as directory:
        config = Path(directory, "s3.json")
        keys = {"accessKey": KEYS.access_key, "secretKey": KEYS.secret_key}
        config.write_text(json.dumps({"identities": [{"name": "test", "credentials": [keys], "actions": ["Admin"]}]}))
        names = (
            "master.port master.port.grpc volume.port volume.port.grpc filer.port filer.port.grpc s3.port s3.port.grpc"
        )
        ports = dict(zip(names.split(), free_ports(8), strict=True))
        weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
        command = [
            weed, "server", "-dir", directory, "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
            f"-s3.config={config}", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            # More volumes than the buckets of a whole run take: seven each.
            "-volume.max=5000", "-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=1",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]  # fmt: skip
        with _running(command, ports["s3.port"], directory) as server:
            yield server


@contextmanager
def moto_server() -> Iterator[Server]:
    (port,) = free_ports(1)
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port) as server:
        yield server


@contextmanager
def _running(command: Sequence[str], port: int, directory: str | None = None) -> Iterator[Server]:
    """The server of the command, once it works. It is killed at the end: stopping SeaweedFS takes ten seconds."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory, preexec_fn=die_with_parent
    )
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        poll(lambda: process.poll() is None and _works(server), within=60)
        yield server
    finally:
        process.kill()
        process.wait()


def _remove_leftovers(parent: Path) -> None:
    """Directories of test runs that were killed."""
    for path in parent.glob(f"{PREFIX}*"):
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _works(server: Server) -> bool:
    try:
        S3Client(server.bucket(), patience=0).put("probe", b"x")
    except Exception:
        return False
    return True


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[Server]:
    with seaweedfs_server() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    with moto_server() as server:
        yield server


class Proxy:
    """A way to a server that can be cut, and can be slow; `close` ends it."""

    def __init__(self, endpoint: str) -> None:
        self._target = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.up = threading.Event()
        self.up.set()
        self.bytes_per_second = 0.0
        """Towards the server; 0: as fast as it gets."""
        self.sent = 0
        """Bytes towards the server."""
        self.limit: int | None = None
        """Cut when so many have been sent."""
        self.answer_after_limit: bytes | None = None
        """What it answers from then on; None: it is away."""
        self.answer: bytes | None = None
        """What each request is answered, instead of the server; None: the server answers."""
        self.answered = 0
        self._open: set[socket.socket] = set()
        self._mutex = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Refuse connections, and end those that are there."""
        with self._mutex:
            self.up.clear()
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def refuse(self, answer: bytes) -> None:
        """Answer so from now on, instead of the server, until `answer` is None."""
        self.cut()
        self.answer = answer
        self.up.set()

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self.up.is_set():
                client.close()
                continue
            if self.answer is not None:
                threading.Thread(target=self._say, args=(client, self.answer), daemon=True).start()
                continue
            server = socket.create_connection(self._target)
            with self._mutex:
                # It may have been cut since: then this connection must not outlive that.
                goes_on = self.up.is_set() and self.answer is None
                if goes_on:
                    self._open |= {client, server}
            if not goes_on:
                client.close()
                server.close()
                continue
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _say(self, client: socket.socket, answer: bytes) -> None:
        """Once what was asked has come, which may be large: a connection that ends before that looks like another
        problem."""
        with suppress(OSError), client:
            head, _, body = self._until_blank(client).partition(b"\r\n\r\n")
            length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n")
                           if line.startswith(b"content-length:")), 0)  # fmt: skip
            if b"100-continue" in head.lower():
                length = 0  # It waits for a word before it sends that.
            while len(body) < length and (data := client.recv(65536)):
                body += data
            client.sendall(answer)
            with self._mutex:
                self.answered += 1

    def _until_blank(self, client: socket.socket) -> bytes:
        said = b""
        while b"\r\n\r\n" not in said and (data := client.recv(65536)):
            said += data
        return said

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if counted:
                    with self._mutex:
                        self.sent += len(data)
                    if self.limit is not None and self.sent > self.limit:
                        self.limit = None
                        self.cut()
                        if self.answer_after_limit is not None:
                            self.refuse(self.answer_after_limit)
                        break
                    if self.bytes_per_second:
                        time.sleep(len(data) / self.bytes_per_second)
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def refusal(status: int, code: str) -> bytes:
    """An answer of S3's that says no. One to HEAD has no body, and neither is one read."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said the test</Message></Error>".encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


@pytest.fixture
def proxy(seaweedfs: Server) -> Iterator[Proxy]:
    made = Proxy(seaweedfs.endpoint)
    yield made
    made.close()
