"""The addresses of this machine. Standard library only; nothing is asked over the network."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket


def split(text: str) -> tuple[str, int]:
    """`HOST:PORT`, an IPv6 address in brackets, as its two parts. Raises ValueError, which says what is wrong."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address is written in brackets: [::1]:6443")
    if not colon or not host or any(c.isspace() or not c.isprintable() or c in "[]/@" for c in host):
        raise ValueError("must be HOST:PORT, as 0.0.0.0:6443")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError("the port is a number from 0, for any that is free, to 65535")
    return host, int(port)


def join(host: str, port: int) -> str:
    """`HOST:PORT`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local() -> set[str]:
    """Those of its interfaces. Where the system does not tell, fewer."""
    found: set[str] = set()
    with contextlib.suppress(OSError), open("/proc/net/fib_trie") as file:
        # Each address of this machine is a leaf that says "host LOCAL" in its next line.
        found.update(re.findall(r"\|-- ([0-9.]+)\n[^\n]*/32 host LOCAL", file.read()))
    with contextlib.suppress(OSError), open("/proc/net/if_inet6") as file:
        for line in file:
            address = ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))
            if not address.is_link_local:
                found.add(str(address))
    return found


def primary() -> str | None:
    """The one that other machines most likely know it by: that of its default route."""
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Nothing is sent: the kernel looks up the route.
            probe.connect((far, 9))
            return str(probe.getsockname()[0])
    return None
