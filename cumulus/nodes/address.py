"""Where a worker is: user@host[:port], with IPv6 addresses in brackets when a port follows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cumulus.errors import UsageError

SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class WorkerHost:
    """A worker's sshd and the user to be there."""

    host: str
    user: str
    port: int = SSH_PORT

    @classmethod
    def parse(cls, text: str) -> WorkerHost:
        """Raises `UsageError`."""
        user, at, place = text.rpartition("@")
        match = _PLACE.fullmatch(place)
        if not at or not match or not _USER.fullmatch(user):
            raise UsageError(
                f"{text!r} is not an SSH address", hint="write user@host or user@host:port, and user@[::1]:22 for IPv6"
            )
        host, port = match["v6"] or match["host"], int(match["port"] or SSH_PORT)
        if not 1 <= port <= 65535:
            raise UsageError(f"{port} is not a port; ports are 1 to 65535")
        return cls(host, user, port)

    @property
    def known_as(self) -> str:
        """The host as known_hosts names it: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""
        return self.host if self.port == SSH_PORT else f"[{self.host}]:{self.port}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" if self.port == SSH_PORT else f"{self.user}@{host}:{self.port}"


_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?")
_PLACE = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?))(?::(?P<port>[0-9]{1,5}))?"
)
