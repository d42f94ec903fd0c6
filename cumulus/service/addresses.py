"""Where the daemon's servers listen: a small file in the state directory for each, which that server writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from cumulus import paths
from cumulus.answers.server import ApiAddress
from cumulus.clock import Clock
from cumulus.lib.files import write_durably

PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.1


class GrpcAddress(NamedTuple):
    """As in `answers.tickets.GrpcTicket`."""

    socket: str
    address: str
    ca: str


class PageAddress(NamedTuple):
    """`http://127.0.0.1:PORT`: the page is served without TLS to browsers of this machine alone."""

    url: str


A = TypeVar("A", ApiAddress, GrpcAddress, PageAddress)


class AddressFile(Generic[A]):
    """That of one server. `path`: where it is in a state directory."""

    def __init__(self, path: Callable[[Path], Path], kind: type[A]) -> None:
        self._path = path
        self._kind: type[A] = kind

    def write(self, home: Path, address: A) -> None:
        """Raises OSError."""
        write_durably(str(self._path(home)), json.dumps(address._asdict(), indent=2).encode() + b"\n")

    def read(self, home: Path) -> A | None:
        """Where a server of the state directory listens, or did last; None where none did."""
        try:
            found = json.loads(self._path(home).read_bytes())
            return self._kind(*(str(found[field]) for field in self._kind._fields))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def wait(self, home: Path, clock: Clock) -> A | None:
        """The same, for a server that may have just started: None only after `PATIENCE_SECONDS`."""
        until = clock.monotonic() + PATIENCE_SECONDS
        while (found := self.read(home)) is None and clock.monotonic() < until:
            clock.sleep(_PAUSE_SECONDS)
        return found


api_address = AddressFile(paths.api_address, ApiAddress)
"""Where the API listens for other users and machines."""
grpc_address = AddressFile(paths.grpc_address, GrpcAddress)
NO_GRPC = GrpcAddress("", "", "")
"""What is told where the daemon was asked to serve none."""
"""Where the gRPC server listens."""
page_address = AddressFile(paths.page_address, PageAddress)
"""Where the page for browsers listens on this machine."""
