"""Where a git server is, and that it is none of the addresses that only machines themselves should ask."""

from __future__ import annotations

import ipaddress
import socket

from cumulus.gitops.errors import SourceUnreadable
from cumulus.lib.printable import one_line
from cumulus.resources.reasons import SourceReason

_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192")
)
"""Of clouds: who asks them gets the machine's own credentials."""
_TRANSLATED = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))


def resolve(host: str, port: int) -> str:
    """The address to connect to. Raises SourceUnreadable where there is none, or one of them is link-local or a
    cloud's metadata server: a name that has a good address and a bad one is a trap."""
    name = host.strip("[]")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SourceUnreadable(SourceReason.FETCH_FAILED, f"{one_line(name)} has no address: {said}") from None
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    for address in addresses:
        if refused(address):
            raise SourceUnreadable(
                SourceReason.ADDRESS_REFUSED,
                f"{one_line(name)} is at {address}, where only machines ask: no repository is read there",
            )
    return addresses[0]


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a translator (NAT64) or an old system makes of it."""
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if any(address in net for net in _TRANSLATED) else None


def refused(address: str) -> bool:
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or _embedded(found)
        if inner is not None:
            return refused(str(inner))
    return found in _METADATA or found.is_link_local or found.is_multicast or found.is_unspecified
