"""Tokens: what shows a server who asks, where the kernel can't say it.

A token is 32 random bytes. Kept is its SHA-256, as the name of a file in the state directory, readable by its owner
alone: CUMULUS_HOME/api/tokens/SHA256.json. To look one up is to open that file, so revoking works at once, in every
process, and no comparison takes time that tells something: nobody can choose what the hash of a guess is.

They are no objects of the store, so no list, watch or backup holds them, and a backup brings no revoked one back.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cumulus import paths
from cumulus.answers.tokens import DEFAULT_SECONDS, NewToken, TokenInfo
from cumulus.clock import Clock, parse_timestamp, timestamp
from cumulus.errors import (
    AlreadyExists,
    CumulusError,
    Forbidden,
    InvalidObject,
    NotFound,
    TooManyRequests,
    Unauthenticated,
)
from cumulus.lib import locks
from cumulus.lib.files import sync_directory
from cumulus.lib.printable import one_line
from cumulus.resources.quantity import format_duration
from cumulus.service.access.access import Access
from cumulus.service.accounts import Accounts
from cumulus.service.certificates import Certificates, is_of_certificate
from cumulus.service.identity import Identity
from cumulus.service.record_files import RecordFiles

PREFIX = "cumulus_"
"""What scanners for leaked secrets know ours by."""
MOST = 500
"""Tokens of one user that are not over."""
LEAST_SECONDS, MOST_SECONDS = 60.0, 10 * 365 * 86400.0
_LOCK_SECONDS = 10.0
_ID = re.compile("[0-9a-f]{64}")


class _Record(NamedTuple):
    """What is kept of a token. `id` is its hash, and `parent` the id of the token or certificate by which it was asked
    for."""

    id: str
    name: str
    user: str
    uid: int | None
    groups: tuple[str, ...]
    created: datetime
    expires: datetime
    created_by: str
    parent: str

    @property
    def info(self) -> TokenInfo:
        created, expires = timestamp(self.created), timestamp(self.expires)
        return TokenInfo(self.name, self.user, self.groups, created, expires, self.created_by)

    def is_of(self, identity: Identity) -> bool:
        return (self.user, self.uid) == (identity.name, identity.uid)


class Tokens:
    """Those of a state directory. Every method raises CumulusError."""

    def __init__(
        self, home: Path, access: Access, clock: Clock, accounts: Accounts | None = None,
        certificates: Certificates | None = None,
    ) -> None:  # fmt: skip
        self._certificates = certificates or Certificates(home, access, clock)
        self._files = RecordFiles(paths.api_dir(home) / "tokens")
        self._access = access
        self._clock = clock
        self._accounts = accounts or Accounts()

    def create(
        self, identity: Identity, name: str = "", *, user: str = "", groups: Sequence[str] = (),
        seconds: float | None = None,
    ) -> NewToken:  # fmt: skip
        """A token of `user`, by default of who asks. A Unix user has the groups of their account; for one without an
        account an admin says them. What was asked for with a token ends with that, at the latest.

        Raises Forbidden, InvalidObject, AlreadyExists for a name that the user's tokens have, TooManyRequests."""
        owner = self._owner(identity, user, tuple(groups))
        now = self._clock.now()
        parent = self._parent(identity.token)
        expires = _expires(now, seconds, parent)
        name = _checked_name(name or f"token-{secrets.token_hex(3)}")
        token = PREFIX + secrets.token_urlsafe(32)
        made = _Record(
            _hash(token), name, owner.name, owner.uid, owner.groups, now, expires, identity.name, identity.token
        )
        with self._alone():
            held = [each for each in self._swept(now) if each.is_of(owner)]
            if any(each.name == name for each in held):
                raise AlreadyExists(f"{made.user} has a token {name} already", hint="revoke it, or choose another name")
            if len(held) >= MOST:
                raise TooManyRequests(f"{made.user} has {len(held)} tokens", hint="revoke those that nobody needs")
            self._write(made)
        self._access.audit.tell(identity, "create", "tokens", "", f"{made.user}/{made.name}", "done")
        return NewToken(token, made.info)

    def list(self, identity: Identity, *, everybody: bool = False) -> Sequence[TokenInfo]:
        """Their own, or everybody's: those that still open something, by user and name. Raises Forbidden."""
        if everybody:
            self._access.check(identity, "list", "tokens")
        now = self._clock.now()
        found = [each for each in self._all() if now < each.expires and (everybody or each.is_of(identity))]
        return [each.info for each in sorted(found, key=lambda each: (each.user, each.name))]

    def _whose(self, identity: Identity, name: str) -> str:
        """For who asked for a token that there is not: who has one of that name, if they may know."""
        if not self._access.may(identity, "list", "tokens").allowed:
            return "see: cumulus token list"
        users = sorted({each.user for each in self._all() if each.name == name and not each.is_of(identity)})
        if not users:
            return "see: cumulus token list --all-users"
        return f"{one_line(users[0])} has one: cumulus token revoke {one_line(name)} --user {one_line(users[0])}"

    def revoke(self, identity: Identity, name: str, *, user: str = "") -> TokenInfo:
        """End a token, and those that were asked for with it, at once. Raises NotFound, Forbidden."""
        others = bool(user) and user != identity.name
        if others:
            self._access.check(identity, "delete", "tokens")
        with self._alone():
            found = [
                each
                for each in self._all()
                if each.name == name and (each.user == user if others else each.is_of(identity))
            ]
            if not found:
                whose = user if others else identity.name
                raise NotFound(f"{one_line(whose)} has no token {one_line(name)}", hint=self._whose(identity, name))
            for each in found:
                self._files.remove(each.id)
            sync_directory(self._files.directory)
        self._access.audit.tell(identity, "delete", "tokens", "", f"{found[0].user}/{found[0].name}", "done")
        return found[0].info

    def authenticate(self, token: str) -> Identity:
        """Whose token it is. Raises Unauthenticated."""
        record = self._read(_hash(token)) if token.startswith(PREFIX) and len(token) < 100 else None
        if record is None or not self._holds(record):
            raise Unauthenticated("the token is not valid, or no longer", hint="make one: cumulus token create")
        if record.uid is None:
            return Identity(record.user, None, record.groups, record.id)
        return self._accounts.still(record.uid, record.user, "token")._replace(token=record.id)

    def check_valid(self, id: str) -> None:
        """Raises Unauthenticated where the token with this id is over or was revoked, or the certificate."""
        if is_of_certificate(id):
            self._certificates.check_valid(id)
            return
        record = self._read(id) if _ID.fullmatch(id) else None
        if record is None or not self._holds(record):
            raise Unauthenticated("the token that this was asked for with is not valid any more")

    def _parent(self, id: str) -> _Record | None:
        """The token that was asked with, None where there was none. Raises Unauthenticated where it, or the certificate
        that was asked with, was revoked a moment ago."""
        if not id:
            return None
        if is_of_certificate(id):
            self._certificates.check_valid(id)
            return None
        found = self._read(id)
        if found is None:
            raise Unauthenticated("the token that you ask with was revoked")
        return found

    def _owner(self, identity: Identity, user: str, groups: tuple[str, ...]) -> Identity:
        if not user or user == identity.name:
            if groups:
                raise Forbidden("a token of your own has your own groups", hint="leave the groups out")
            # Those of an account are looked up each time, and those of a certificate end with it.
            by_token = identity.token and not is_of_certificate(identity.token)
            kept = identity.groups if by_token and identity.uid is None else ()
            return identity._replace(groups=kept)
        self._access.check(identity, "create", "tokens", name=user)
        account = self._accounts.of_name(user)
        if account is not None:
            if groups:
                raise InvalidObject(f"{user} is a user of this machine, who has groups", field="groups")
            return account._replace(groups=())
        return Identity(_checked_user(user), None, tuple(_checked_user(each, "group") for each in groups))

    def _holds(self, record: _Record) -> bool:
        """Whether it is not over, nor what it was asked for with."""
        now = self._clock.now()
        if now >= record.expires:
            return False
        if not record.parent:
            return True
        if is_of_certificate(record.parent):
            try:
                self._certificates.check_valid(record.parent)
            except Unauthenticated:
                return False
            return True
        parent = self._read(record.parent)
        return parent is not None and self._holds(parent)

    def _read(self, id: str) -> _Record | None:
        try:
            found = self._files.read(id)
            return _Record(
                id, found["name"], found["user"], found["uid"], tuple(found["groups"]),
                parse_timestamp(found["created"]), parse_timestamp(found["expires"]), found["createdBy"],
                found["parent"],
            )  # fmt: skip
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            # Damaged: it opens nothing.
            return None

    def _write(self, record: _Record) -> None:
        kept = {
            "name": record.name, "user": record.user, "uid": record.uid, "groups": record.groups,
            "created": timestamp(record.created), "expires": timestamp(record.expires),
            "createdBy": record.created_by, "parent": record.parent,
        }  # fmt: skip
        self._files.write(record.id, kept)

    def _all(self) -> Sequence[_Record]:
        return [each for each in map(self._read, self._files.ids()) if each is not None]

    def _swept(self, now: datetime) -> Sequence[_Record]:
        """All that are not over. The files of the others go."""
        live = []
        for each in self._all():
            if now < each.expires:
                live.append(each)
            else:
                self._files.remove(each.id)
        return live

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process changes tokens meanwhile."""
        try:
            self._files.make()
            descriptor = os.open(self._files.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CumulusError(f"{self._files.directory} cannot be used: {error.strerror}") from None
        try:
            if not locks.acquire(descriptor, _LOCK_SECONDS):
                raise CumulusError(f"another process holds {self._files.directory} for too long")
            yield
        finally:
            os.close(descriptor)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _expires(now: datetime, seconds: float | None, parent: _Record | None) -> datetime:
    wanted = DEFAULT_SECONDS if seconds is None else seconds
    if not LEAST_SECONDS <= wanted <= MOST_SECONDS:
        least, most = format_duration(LEAST_SECONDS), format_duration(MOST_SECONDS)
        raise InvalidObject(f"a token lasts from {least} to {most}, not {format_duration(wanted)}", field="seconds")
    expires = now + timedelta(seconds=wanted)
    return expires if parent is None else min(expires, parent.expires)


def _checked_name(name: str) -> str:
    from cumulus.resources.fields import check_name

    try:
        return check_name(name)
    except ValueError as error:
        raise InvalidObject(f"the token's name {one_line(name)!r}: {error}", field="name") from None


def _checked_user(name: str, what: str = "user") -> str:
    if not name or len(name) > 128 or not name.isprintable() or any(c.isspace() for c in name) or name.isdigit():
        raise InvalidObject(
            f"{one_line(name)!r} is no name of a {what}: it has up to 128 characters, no blanks, and is no number",
            field=what,
        )
    return name
