"""What the service tells a client that wants to ask over gRPC."""

from __future__ import annotations

from typing import NamedTuple

SECONDS = 300.0
"""How long a ticket lasts."""


class GrpcTicket(NamedTuple):
    """Shows the gRPC server who asks, for a few minutes; sent in the metadata as `cumulus-ticket`."""

    ticket: str
    expires: str
    """A time as in objects."""
    socket: str
    """The path of its Unix socket on the daemon's machine."""
    address: str
    """`HOST:PORT` over TLS; "" where it does not listen there."""
    ca: str
    """The certificates, as PEM, that the server's is signed by; "": an authority that the system trusts."""
