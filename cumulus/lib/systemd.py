"""Tells systemd the state of the daemon, by the protocol of sd_notify(3): datagrams to $NOTIFY_SOCKET."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(**fields: str) -> bool:
    """Send `READY="1"`, `STATUS="…"` and the like; whether there was a service manager to hear it.

    A service manager that does not listen is no reason to fail.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(f"{name}={' '.join(value.splitlines())}" for name, value in fields.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.settimeout(1.0)
        sender.sendto(message.encode(), address)
        return True
    return False
