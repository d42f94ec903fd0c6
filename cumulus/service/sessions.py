"""Sessions of browsers: who is signed in to the page, and the one-time links that sign in.

A session is 32 random bytes in a cookie. Kept is its SHA-256, as the name of a file that its owner alone can read:
CUMULUS_HOME/api/sessions/SHA256.json. So a session outlives the daemon, and ends at once where its file goes. It opens
the page and not the API. One that was begun with a token ends with that token. It is good where it began: over TLS, or
for one Unix user's browser on this machine, so that a stolen cookie opens nothing by another way in.

Links are kept in memory: they last two minutes, and no longer than the daemon.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cumulus import paths
from cumulus.answers.sessions import LINK_SECONDS, PageLink
from cumulus.clock import Clock, parse_timestamp, timestamp
from cumulus.errors import CumulusError, NotFound, TooManyRequests, Unauthenticated
from cumulus.service.accounts import Accounts
from cumulus.service.addresses import api_address, page_address
from cumulus.service.identity import Identity
from cumulus.service.record_files import RecordFiles
from cumulus.service.tokens import Tokens

SECONDS = 12 * 3600.0
"""How long a session lasts."""
MOST = 50
"""Sessions of one user. The oldest ends where there is one more."""
MOST_LINKS = 1000
_SECRET = 64
"""Characters that a secret has at most."""


class BrowserSession(NamedTuple):
    """A browser that is signed in. `csrf`: what each form of its pages must send back. `browser`: as in `begin`."""

    identity: Identity
    expires: datetime
    csrf: str
    browser: int | None


class _Record(NamedTuple):
    """What is kept of a session."""

    user: str
    uid: int | None
    groups: tuple[str, ...]
    token: str
    created: datetime
    expires: datetime
    browser: int | None

    @classmethod
    def of(cls, identity: Identity, now: datetime, browser: int | None) -> _Record:
        # An account's groups are looked up each time. Those that a certificate says end with it.
        groups = identity.groups if identity.uid is None and identity.token else ()
        ends = now + timedelta(seconds=SECONDS)
        return cls(identity.name, identity.uid, groups, identity.token, now, ends, browser)

    @property
    def identity(self) -> Identity:
        return Identity(self.user, self.uid, self.groups, self.token)


class _Link(NamedTuple):
    """`here`: the kernel said who asked for it, and it leads to the page of this machine: it is good nowhere else."""

    identity: Identity
    ends: datetime
    here: bool


class Sessions:
    """Those of a state directory. `served`: whether a daemon runs. Methods raise CumulusError where files cannot be
    used."""

    def __init__(
        self, home: Path, clock: Clock, tokens: Tokens, served: Callable[[], bool], accounts: Accounts | None = None
    ) -> None:
        self._home = home
        self._clock = clock
        self._tokens = tokens
        self._served = served
        self._accounts = accounts or Accounts()
        self._files = RecordFiles(paths.api_dir(home) / "sessions")
        self._links: dict[str, _Link] = {}
        """By the hash of the code, the oldest first."""
        self._lock = threading.Lock()

    def link(self, identity: Identity) -> PageLink:
        """What signs a browser in as who asks. Raises NotFound where no daemon serves the page."""
        if not self._served():
            raise NotFound("nothing serves the page: no daemon runs", hint="run: cumulus serve")
        page = page_address.read(self._home)
        found = page or api_address.wait(self._home, self._clock)
        if found is None:
            raise NotFound("the daemon serves no page yet", hint="its log says why")
        code = secrets.token_urlsafe(24)
        now = self._clock.now()
        ends = now + timedelta(seconds=LINK_SECONDS)
        with self._lock:
            self._links = {name: kept for name, kept in self._links.items() if now < kept.ends}
            if len(self._links) >= MOST_LINKS:
                raise TooManyRequests("too many links wait to be opened", seconds=LINK_SECONDS)
            self._links[_hash(code)] = _Link(identity, ends, here=page is not None and not identity.token)
        return PageLink(found.url, code, timestamp(ends))

    def user_of_link(self, code: str, browser: int | None) -> Identity:
        """As whom a link would sign in; it stays good. Raises Unauthenticated."""
        return self._linked(code, browser, take=False)

    def open_link(self, code: str, browser: int | None) -> str:
        """The secret of a session that the link begins; the link is over. Raises Unauthenticated."""
        return self.begin(self._linked(code, browser, take=True), browser)

    def begin(self, identity: Identity, browser: int | None) -> str:
        """The secret of a new session of who asks. `browser`: the uid of the process at the other end of its
        connection, None over TLS."""
        secret = secrets.token_urlsafe(32)
        record = _Record.of(identity, self._clock.now(), browser)
        with self._lock:
            self._make_room(record)
            self._write(secret, record)
        return secret

    def find(self, secret: str) -> BrowserSession:
        """Who is signed in by it, as they are now. Raises Unauthenticated."""
        record = self._read(_hash(secret)) if 0 < len(secret) <= _SECRET else None
        if record is None or self._clock.now() >= record.expires:
            raise Unauthenticated("you are not signed in, or no longer")
        if record.token:
            self._tokens.check_valid(record.token)
        csrf = hmac.new(secret.encode(), b"cumulus page", hashlib.sha256).hexdigest()
        return BrowserSession(self._known(record), record.expires, csrf, record.browser)

    def end(self, secret: str) -> None:
        """Sign out. What is no session is none afterwards either."""
        if 0 < len(secret) <= _SECRET:
            self._files.remove(_hash(secret))

    def end_all(self, identity: Identity) -> None:
        """Sign out of every browser. Links that nobody opened are over too."""
        with self._lock:
            self._links = {name: kept for name, kept in self._links.items() if kept.identity[:2] != identity[:2]}
            for id, record in self._all():
                if record.identity[:2] == identity[:2]:
                    self._files.remove(id)

    def _linked(self, code: str, browser: int | None, *, take: bool) -> Identity:
        name = _hash(code)
        with self._lock:
            kept = self._links.get(name)
            if kept is None or self._clock.now() >= kept.ends:
                raise Unauthenticated("the link is over, or was opened already", hint="make another one: cumulus ui")
            if kept.here and browser is None:
                raise Unauthenticated(
                    "the link is good at the address that it was made for, on the server's own machine",
                    hint="for another machine: cumulus ui with a context of the server's address over TLS, or a token",
                )
            if take:
                del self._links[name]
        return kept.identity

    def _known(self, record: _Record) -> Identity:
        if record.uid is None:
            return record.identity
        return self._accounts.still(record.uid, record.user, "session")._replace(token=record.token)

    def _make_room(self, record: _Record) -> None:
        """Files of sessions that are over go, and the oldest of a user who has many."""
        now, own = record.created, []
        for id, each in self._all():
            if now >= each.expires:
                self._files.remove(id)
            elif each.identity[:2] == record.identity[:2]:
                own.append((each.created, id))
        for _, id in sorted(own)[: max(0, len(own) - MOST + 1)]:
            self._files.remove(id)

    def _all(self) -> Iterator[tuple[str, _Record]]:
        try:
            ids = self._files.ids()
        except CumulusError:
            return
        for id in ids:
            if (record := self._read(id)) is not None:
                yield id, record

    def _read(self, id: str) -> _Record | None:
        """None where there is none; what is damaged opens nothing."""
        try:
            found = self._files.read(id)
            return _Record(
                found["user"], found["uid"], tuple(found["groups"]), found["token"], parse_timestamp(found["created"]),
                parse_timestamp(found["expires"]), found["browser"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, secret: str, record: _Record) -> None:
        kept = record._asdict() | {"created": timestamp(record.created), "expires": timestamp(record.expires)}
        self._files.write(_hash(secret), kept)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
