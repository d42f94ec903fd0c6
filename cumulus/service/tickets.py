"""Tickets: what shows the gRPC server who asks, where neither the kernel nor a token does.

gRPC for Python can't tell who is at the other end of a Unix socket, so a client asks the HTTP API, which can, for a
ticket: the user's name and number and an end a few minutes ahead, signed with a key in the state directory that only
the daemon can read (CUMULUS_HOME/api/ticket.key). Nothing is kept of a ticket. One that was asked for with a token ends
with it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from cumulus import paths
from cumulus.answers.tickets import SECONDS, GrpcTicket
from cumulus.clock import Clock, parse_timestamp, timestamp
from cumulus.errors import CumulusError, NotFound, Unauthenticated
from cumulus.lib.files import write_once
from cumulus.service.accounts import Accounts
from cumulus.service.addresses import NO_GRPC, grpc_address
from cumulus.service.identity import Identity
from cumulus.service.tokens import Tokens

_KEY_BYTES = 32
_LONGEST = 8192


class Tickets:
    """Those of a state directory. `served`: whether a daemon runs."""

    def __init__(
        self, home: Path, clock: Clock, tokens: Tokens, served: Callable[[], bool], accounts: Accounts | None = None
    ) -> None:
        self._home = home
        self._clock = clock
        self._tokens = tokens
        self._served = served
        self._accounts = accounts or Accounts()

    def issue(self, identity: Identity) -> GrpcTicket:
        """A ticket for who asks, and where to show it. Raises NotFound where no gRPC server runs."""
        if not self._served():
            raise NotFound("nothing answers over gRPC: no daemon runs", hint="run: cumulus serve")
        server = grpc_address.wait(self._home, self._clock)
        if server is None:
            raise NotFound("the daemon does not answer over gRPC", hint="its log says why")
        if server == NO_GRPC:
            raise NotFound(
                "the daemon serves no gRPC",
                hint="start it without --grpc-listen off, also as grpc.listen in its settings",
            )
        expires = timestamp(self._clock.now() + timedelta(seconds=SECONDS))
        # An account's groups are looked up again, so that the ticket stays short and they are right.
        groups = identity.groups if identity.uid is None else ()
        said = {"user": identity.name, "uid": identity.uid, "groups": groups, "token": identity.token, "ends": expires}
        body = json.dumps(said, separators=(",", ":")).encode()
        ticket = f"{_encoded(body)}.{_encoded(self._signature(body))}"
        return GrpcTicket(ticket, expires, server.socket, server.address, server.ca)

    def authenticate(self, ticket: str) -> Identity:
        """Whose ticket it is. Raises Unauthenticated."""
        body = self._checked(ticket)
        said = json.loads(body)
        if self._clock.now() >= parse_timestamp(said["ends"]):
            raise Unauthenticated("the ticket is over", hint="ask the HTTP API for another one")
        if said["token"]:
            self._tokens.check_valid(said["token"])
        if said["uid"] is None:
            return Identity(said["user"], None, tuple(said["groups"]), said["token"])
        return self._accounts.still(said["uid"], said["user"], "ticket")._replace(token=said["token"])

    def _checked(self, ticket: str) -> bytes:
        """What the ticket says, if we said it."""
        body, dot, signature = ticket.partition(".")
        if dot and len(ticket) <= _LONGEST:
            with contextlib.suppress(ValueError, binascii.Error):
                found = _decoded(body)
                if hmac.compare_digest(_decoded(signature), self._signature(found)):
                    return found
        raise Unauthenticated("the ticket is not one of this server", hint="ask its HTTP API for one")

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self._key(), b"cumulus ticket 1\n" + body, hashlib.sha256)

    def _key(self) -> bytes:
        """Read each time: who deletes the file ends all tickets."""
        path = paths.api_dir(self._home) / "ticket.key"
        try:
            try:
                key = path.read_bytes()
            except FileNotFoundError:
                key = _make_key(path)
        except OSError as error:
            raise CumulusError(f"{path} cannot be used: {error.strerror}") from None
        if len(key) != _KEY_BYTES:
            raise CumulusError(f"{path} is damaged", hint=f"remove it: rm {path}")
        return key


def _make_key(path: Path) -> bytes:
    """The one that is there then: another process may make it at the same time."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_once(str(path), secrets.token_bytes(_KEY_BYTES))
    return path.read_bytes()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii", "strict") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
