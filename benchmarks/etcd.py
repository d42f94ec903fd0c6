"""etcd as a peer: a real server, spoken to over gRPC with the two messages that a put needs, encoded by hand.

Source: etcd API reference v3, service etcdserverpb.KV, rpc Put(PutRequest{bytes key = 1, bytes value = 2}).
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from benchmarks.harness import running, until


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextmanager
def server(directory: Path | None = None) -> Iterator[str]:
    """A single etcd on loopback with its data in `directory` (a temporary one if None); gives its address."""
    with tempfile.TemporaryDirectory(dir=directory) as data:
        client, peer = free_port(), free_port()
        command = [
            "etcd", "--data-dir", f"{data}/etcd", "--name", "bench", "--log-level", "error",
            "--listen-client-urls", f"http://127.0.0.1:{client}", "--advertise-client-urls", f"http://127.0.0.1:{client}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-cluster", f"bench=http://127.0.0.1:{peer}",
        ]  # fmt: skip
        with running(command, log=Path(data) / "log"):
            address = f"127.0.0.1:{client}"
            until(lambda: _answers(address), seconds=20, what="etcd answers")
            yield address


class EtcdClient:
    """One connection."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._put = self._channel.unary_unary("/etcdserverpb.KV/Put")

    def put(self, key: bytes, value: bytes) -> None:
        """Durable when it returns."""
        self._put(_field(1, key) + _field(2, value))

    def close(self) -> None:
        self._channel.close()


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _answers(address: str) -> bool:
    client = EtcdClient(address)
    try:
        client.put(b"ready", b"1")
    except grpc.RpcError:
        return False
    finally:
        client.close()
    return True
