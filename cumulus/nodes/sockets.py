"""The TCP connection under SSH: made within a deadline, and ended by the kernel when the other side falls silent."""

from __future__ import annotations

import socket

from cumulus.errors import NodeUnreachable
from cumulus.nodes.address import WorkerHost

SILENT_SECONDS = 12.0


def open_socket(address: WorkerHost, seconds: float, silent: float = SILENT_SECONDS) -> socket.socket:
    """A connection that was made within `seconds`. What is sent there and not acknowledged for `silent` seconds ends it
    (TCP_USER_TIMEOUT, RFC 5482): SSH's own keep-alive only sends, so that a half-open connection would otherwise live
    for a quarter of an hour.

    Raises `NodeUnreachable`."""
    where = f"{address.host}, port {address.port},"
    try:
        made = socket.create_connection((address.host, address.port), timeout=seconds)
    except socket.gaierror as error:
        raise NodeUnreachable(f"the host name {address.host} is not known: {error.strerror}") from None
    except TimeoutError:
        raise NodeUnreachable(f"{where} does not answer within {seconds:g}s") from None
    except OSError as error:
        raise NodeUnreachable(f"{where} cannot be reached: {error.strerror or error}") from None
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silent * 1000))
    return made
