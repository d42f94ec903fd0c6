"""Which of some processes listen on a TCP port, as /proc tells. Linux only, standard library only."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cumulus.errors import NotRunning
from cumulus.lib import processes

_LISTENS = b"0A"
_SECONDS = 10.0


class ListeningSocket(NamedTuple):
    """A socket that listens: its address family, its address, and the inode by which processes hold it."""

    family: int
    address: str
    inode: int

    @property
    def is_wildcard(self) -> bool:
        return self.address in ("0.0.0.0", "::")


def connected(pids: Callable[[], Iterable[int]], port: int) -> socket.socket:
    """A connection to the port. Raises NotRunning where none of the processes listens there.

    They are asked for before and after: who listens may have changed meanwhile."""
    found = addresses_of(pids(), port)
    if not found:
        raise NotRunning(f"no process of the job listens on port {port}")
    problem = ""
    for family, address in found:
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.settimeout(_SECONDS)
            made.connect((address, port))
            if (family, address) in addresses_of(pids(), port):
                return made
            problem = f"no process of the job listens on port {port} any more"
        except OSError as error:
            problem = f"port {port} of the job takes no connection: {error.strerror or 'time-out'}"
        except BaseException:
            made.close()
            raise
        made.close()
    raise NotRunning(problem)


def addresses_of(pids: Iterable[int], port: int) -> list[tuple[int, str]]:
    """Families and addresses by which the port of these processes can be reached from this one, the likeliest first.
    None by which another process, which listens beside them, might be reached."""
    found = listeners(port)
    held = _sockets(pids) if found else set()
    ours = [each for each in found if each.inode in held]
    ways = [way for each in sorted(ours, key=_rank) for way in _ways(each)]
    return [
        (family, address)
        for family, address in dict.fromkeys(ways)
        if not any(other not in ours and _takes(other, family, address) for other in found)
    ]


def _ways(listener: ListeningSocket) -> list[tuple[int, str]]:
    """One of IPv6 for all addresses is reached by IPv4 too, as a rule; in a container often by that alone."""
    ways = [(listener.family, _LOOPBACK.get(listener.address, listener.address))]
    return [*ways, (int(socket.AF_INET), "127.0.0.1")] if listener.address == "::" else ways


def listeners(port: int) -> list[ListeningSocket]:
    """All that listen on the port in this process's network namespace."""
    found = []
    for file, family in (("/proc/self/net/tcp", socket.AF_INET), ("/proc/self/net/tcp6", socket.AF_INET6)):
        for line in processes.content(file).splitlines()[1:]:
            words = line.split()
            if words[3] != _LISTENS:
                continue
            address, _, number = words[1].partition(b":")
            if int(number, 16) == port:
                found.append(ListeningSocket(family, _text(family, address), int(words[9])))
    return found


def user_of(connection: socket.socket) -> int | None:
    """Whose process is at the other end of a TCP connection within this machine; None where nobody's is, and where
    there is no /proc that tells."""
    here, there = _end(connection.getsockname()), _end(connection.getpeername())
    # A socket for IPv6 may be used for IPv4 too.
    for file, before in (("/proc/self/net/tcp", b""), ("/proc/self/net/tcp6", _MAPPED)):
        for line in processes.content(file).splitlines()[1:]:
            words = line.split()
            # A socket that no process holds any more has no inode, and root for its user.
            if words[1] == before + there and words[2] == before + here and words[9] != b"0":
                return int(words[7])
    return None


_MAPPED = b"0000000000000000FFFF0000"


def _end(address: tuple[str, int]) -> bytes:
    """As the kernel writes it."""
    return f"{socket.inet_aton(address[0])[::-1].hex()}:{address[1]:04x}".upper().encode()


_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def _rank(listener: ListeningSocket) -> int:
    order = ("127.0.0.1", "0.0.0.0", "::1", "::")
    return order.index(listener.address) if listener.address in order else len(order)


def _takes(listener: ListeningSocket, family: int, address: str) -> bool:
    """Whether it might be who takes a connection to the address."""
    if listener.address == address or (listener.is_wildcard and listener.family == family):
        return True
    # One of IPv6 for all addresses takes IPv4 too, unless it was told not to.
    return listener.address == "::" or listener.address == f"::ffff:{address}"


def _sockets(pids: Iterable[int]) -> set[int]:
    """Inodes of the sockets that the processes have open, those that are in this process's network namespace."""
    here, found = os.readlink("/proc/self/ns/net"), set()
    for pid in pids:
        try:
            if os.readlink(f"/proc/{pid}/ns/net") != here:
                continue
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                try:
                    link = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                except OSError:
                    continue
                if link.startswith("socket:["):
                    found.add(int(link[8:-1]))
        except OSError:
            continue
    return found


def _text(family: int, address: bytes) -> str:
    """The kernel writes words of four bytes, each as the machine has them."""
    data = bytes.fromhex(address.decode())
    words = (data[at : at + 4][::-1] for at in range(0, len(data), 4))
    return socket.inet_ntop(family, b"".join(words))
