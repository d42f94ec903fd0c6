"""Tickets for gRPC, over each transport."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.client.base import Client
from cumulus.clock import FakeClock
from cumulus.daemon_lock import DaemonLock
from cumulus.errors import NotFound
from cumulus.service.addresses import NO_GRPC, GrpcAddress, grpc_address
from tests.documents import ahead


def test_a_ticket_says_where_and_until_when(client: Client, home: Path, clock: FakeClock) -> None:
    with pytest.raises(NotFound, match="no daemon runs"):
        client.grpc_ticket()
    lock = DaemonLock(home)
    try:
        grpc_address.write(home, GrpcAddress("/a/grpc.sock", "gpu.example.org:50051", "PEM"))
        ticket = client.grpc_ticket()
        assert ticket[2:] == ("/a/grpc.sock", "gpu.example.org:50051", "PEM")
        assert ticket.expires == ahead(minutes=5)
        assert client.grpc_ticket().ticket == ticket.ticket, "it is made of what it says alone"
        grpc_address.write(home, NO_GRPC)
        with pytest.raises(NotFound, match="serves no gRPC"):
            client.grpc_ticket()
        (home / "grpc.json").write_text("{")
        with pytest.raises(NotFound, match="does not answer over gRPC"):
            client.grpc_ticket()
    finally:
        lock.close()
