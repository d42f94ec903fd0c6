"""URLs of git repositories: which are taken, and what is in them. Standard library only."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHORT = re.compile(r"(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>[^/].*)")
_PORTS = {"https": 443, "ssh": 22, "file": 0}
_FORMS = "write https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH or file:///PATH"


class GitUrl(NamedTuple):
    """`host` and `user` are "" where there is none."""

    scheme: str
    user: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port != _PORTS[self.scheme] else ""
        return f"{self.scheme}://{user}{self.host}{port}{self.path}"


def parse_url(text: str) -> GitUrl:
    """Raises ValueError for what is no such URL, or holds a password."""
    short = _SHORT.fullmatch(text)
    if short is not None:
        return parse_url(f"ssh://{short['user']}@{short['host']}/{short['path']}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"{text[:80]!r} is not the URL of a repository; {_FORMS}") from None
    if parts.scheme not in _PORTS:
        raise ValueError(f"{text[:80]!r}: git is not asked that way; {_FORMS}")
    if parts.password is not None or (parts.scheme == "https" and parts.username):
        raise ValueError("must hold no user and no password: put them into a secret and name it in credentials")
    if parts.query or parts.fragment or not parts.path.startswith("/") or len(parts.path) < 2:
        raise ValueError(f"{text[:80]!r} is not the URL of a repository; {_FORMS}")
    if any(part.startswith("-") for part in parts.path.split("/")) or ".." in parts.path.split("/"):
        raise ValueError(f"{text[:80]!r} has a path that is not taken: leave '..' and a '-' at the start of names out")
    host = parts.netloc.rpartition("@")[2]
    host = host if host.endswith("]") else host.rpartition(":")[0] if port is not None else host
    if parts.scheme == "file":
        if parts.netloc:
            raise ValueError("file:// takes a path and no host: write file:///PATH")
    elif not _HOST.fullmatch(host):
        raise ValueError(f"{host[:80]!r} is not a host name or address")
    if parts.scheme == "ssh" and not _USER.fullmatch(parts.username or ""):
        raise ValueError("needs the user to log in as: ssh://git@HOST/PATH")
    return GitUrl(parts.scheme, parts.username or "", host, port or _PORTS[parts.scheme], parts.path)


def check_url(text: str) -> str:
    """Raises ValueError."""
    parse_url(text)
    return text
