"""Where the gRPC server listens: a small file in the state directory, which that server writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from cumulus import paths
from cumulus.clock import Clock
from cumulus.lib.files import write_durably

PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.1


class GrpcAddress(NamedTuple):
    """As in `answers.tickets.GrpcTicket`."""

    socket: str
    address: str
    ca: str


def write(home: Path, address: GrpcAddress) -> None:
    """Raises OSError."""
    write_durably(str(paths.grpc_address(home)), json.dumps(address._asdict(), indent=2).encode() + b"\n")


def read(home: Path) -> GrpcAddress | None:
    """Where a server of the state directory listens, or did last; None where none did."""
    try:
        found = json.loads(paths.grpc_address(home).read_bytes())
        return GrpcAddress(str(found["socket"]), str(found["address"]), str(found["ca"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def wait(home: Path, clock: Clock) -> GrpcAddress | None:
    """The same, for a server that may have just started: None only after `PATIENCE_SECONDS`."""
    until = clock.monotonic() + PATIENCE_SECONDS
    while (found := read(home)) is None and clock.monotonic() < until:
        clock.sleep(_PAUSE_SECONDS)
    return found
