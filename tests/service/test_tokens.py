"""Tokens: whose they are, who makes and ends them, and until when they open anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import AlreadyExists, Forbidden, InvalidObject, NotFound, Unauthenticated
from cumulus.service.access.access import Access
from cumulus.service.accounts import Accounts
from cumulus.service.certificates import Certificates, id_of
from cumulus.service.identity import Identity
from cumulus.service.tokens import PREFIX, Tokens
from cumulus.store.memory import MemoryStore
from tests.documents import NOW

ROOT, ANN, BOB = Identity("root", 0), Identity("ann", 4711), Identity("bob", 4712)
HOUR = 3600.0


class Known(Accounts):
    """The accounts of a test."""

    def __init__(self) -> None:
        super().__init__()
        self.all = {0: ROOT, 4711: ANN._replace(groups=("labs",)), 4712: BOB}

    def of_uid(self, uid: int) -> Identity:
        return self.all.get(uid, Identity(str(uid), uid))

    def of_name(self, name: str) -> Identity | None:
        return next((each for each in self.all.values() if each.name == name), None)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def accounts() -> Known:
    return Known()


@pytest.fixture
def tokens(tmp_path: Path, clock: FakeClock, accounts: Known) -> Tokens:
    return Tokens(tmp_path, Access(lambda: MemoryStore(clock), owner=0), clock, accounts)


def test_a_token_is_shown_once_and_kept_as_a_hash(tokens: Tokens, tmp_path: Path) -> None:
    made = tokens.create(ANN, "laptop")
    assert made.token.startswith(PREFIX)
    (file,) = (tmp_path / "api" / "tokens").iterdir()
    assert made.token not in file.name + file.read_text()
    assert made.token.removeprefix(PREFIX) not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    known = tokens.authenticate(made.token)
    assert (known.name, known.uid, known.groups) == ("ann", 4711, ("labs",))
    (shown,) = tokens.list(ANN)
    assert made.info == shown
    assert made.token not in repr(shown)


def test_it_ends_with_time(tokens: Tokens, clock: FakeClock, tmp_path: Path) -> None:
    made = tokens.create(ANN, "short", seconds=HOUR)
    clock.advance(HOUR - 1)
    tokens.authenticate(made.token)
    clock.advance(1)
    with pytest.raises(Unauthenticated):
        tokens.authenticate(made.token)
    assert not tokens.list(ANN)
    tokens.create(ANN, "short")
    assert len(os.listdir(tmp_path / "api" / "tokens")) == 1, "what is over goes"
    for seconds in (1.0, 1e10):
        with pytest.raises(InvalidObject, match="lasts from"):
            tokens.create(ANN, seconds=seconds)


def test_only_its_user_or_an_admin_makes_sees_and_revokes_it(tokens: Tokens) -> None:
    made = tokens.create(ANN, "laptop")
    with pytest.raises(Forbidden):
        tokens.create(BOB, user="ann")
    with pytest.raises(Forbidden):
        tokens.list(BOB, everybody=True)
    with pytest.raises(Forbidden):
        tokens.revoke(BOB, "laptop", user="ann")
    with pytest.raises(NotFound):
        tokens.revoke(BOB, "laptop")
    assert not tokens.list(BOB)
    # Who has the same name and is no Unix user is another.
    assert not tokens.list(Identity("ann"))
    with pytest.raises(NotFound):
        tokens.revoke(Identity("ann"), "laptop")
    by_root = tokens.create(ROOT, "from-root", user="ann")
    assert tokens.authenticate(by_root.token).uid == 4711
    assert [(each.name, each.created_by) for each in tokens.list(ROOT, everybody=True)] == [
        ("from-root", "root"), ("laptop", "ann"),
    ]  # fmt: skip
    tokens.revoke(ROOT, "laptop", user="ann")
    with pytest.raises(Unauthenticated):
        tokens.authenticate(made.token)


def test_a_user_without_an_account_has_the_groups_that_an_admin_says(tokens: Tokens) -> None:
    made = tokens.create(ROOT, "ci", user="ci-bot", groups=["labs"])
    known = tokens.authenticate(made.token)
    assert (known.name, known.uid, known.groups) == ("ci-bot", None, ("labs",))
    with pytest.raises(Forbidden):
        tokens.create(ANN, groups=["cumulus-admin"])
    with pytest.raises(InvalidObject):
        tokens.create(ROOT, user="bob", groups=["cumulus-admin"])
    for bad in ("4711", "a b", "a\nb", "x" * 200, "\x1b[2J"):
        with pytest.raises(InvalidObject):
            tokens.create(ROOT, user=bad)
    with pytest.raises(InvalidObject):
        tokens.create(ROOT, "../../up")


def test_a_users_number_that_went_to_another_opens_nothing(tokens: Tokens, accounts: Known) -> None:
    made = tokens.create(ANN)
    accounts.all[4711] = Identity("eve", 4711)
    with pytest.raises(Unauthenticated):
        tokens.authenticate(made.token)
    del accounts.all[4711]
    with pytest.raises(Unauthenticated):
        tokens.authenticate(made.token)


def test_what_a_token_makes_ends_with_it(tokens: Tokens, clock: FakeClock) -> None:
    first = tokens.create(ANN, "first", seconds=HOUR)
    with_it = tokens.authenticate(first.token)
    second = tokens.create(with_it, "second", seconds=2 * HOUR)
    assert second.info.expires == first.info.expires
    tokens.authenticate(second.token)
    tokens.revoke(ANN, "first")
    with pytest.raises(Unauthenticated):
        tokens.authenticate(second.token)
    with pytest.raises(Unauthenticated):
        tokens.create(with_it, "third")


def test_groups_of_a_certificate_do_not_outlive_it(tokens: Tokens) -> None:
    made = tokens.create(Identity("carol", None, ("cumulus-admin",)), "c")
    assert tokens.authenticate(made.token).groups == ()


def test_what_a_certificate_makes_ends_with_it(tokens: Tokens, tmp_path: Path, clock: FakeClock) -> None:
    certificates = Certificates(tmp_path, Access(lambda: MemoryStore(clock), owner=0), clock)
    with_it = Identity("carol", None, ("cumulus-admin",), id_of("4A1F"))
    made = tokens.create(with_it, "c")
    tokens.check_valid(id_of("4A1F"))
    assert tokens.authenticate(made.token).groups == ()
    certificates.revoke(ROOT, "4a:1f")
    for opens in (
        lambda: tokens.authenticate(made.token), lambda: tokens.check_valid(id_of("4A1F")),
        lambda: tokens.create(with_it, "d"),
    ):  # fmt: skip
        with pytest.raises(Unauthenticated):
            opens()


def test_a_name_is_a_users_once(tokens: Tokens) -> None:
    tokens.create(ANN, "x")
    tokens.create(BOB, "x")
    with pytest.raises(AlreadyExists):
        tokens.create(ANN, "x")


@pytest.mark.parametrize("text", ["{", "{}", '{"name": 1}', "[]"])
def test_a_damaged_file_opens_nothing(tokens: Tokens, tmp_path: Path, text: str) -> None:
    made = tokens.create(ANN)
    (file,) = (tmp_path / "api" / "tokens").iterdir()
    file.write_text(text)
    with pytest.raises(Unauthenticated):
        tokens.authenticate(made.token)
    assert tokens.list(ANN) == []
