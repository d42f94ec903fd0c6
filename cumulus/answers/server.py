"""What is told of the server."""

from __future__ import annotations

from typing import NamedTuple


class ServerState(NamedTuple):
    """Who keeps the objects of a state directory up to date. `home`: that directory."""

    home: str
    pid: int | None
    """Of the daemon that runs now, None where none does."""
    silent_seconds: float | None
    """Since a daemon last renewed its leadership; None where none ever led."""
    term: int | None = 0
    """The token of the leader, once its API answers too; None where none leads. 0 where the server does not say."""


class ApiAddress(NamedTuple):
    """Where the API is asked over TLS."""

    url: str
    """`https://HOST:PORT`"""
    ca: str
    """The certificates, as PEM, that the server's is signed by; "": an authority that the system trusts."""
