"""Every call of the service takes the identity of who asks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from tests.service.conftest import FakeInfrastructure

WITHOUT = {
    "Access.bindings_changed": "the daemon tells it what changed",
    "Calls.session": "of a job that `own` gave for an identity",
    "Calls.end_unattended": "the daemon ends a call whose client is silent",
    "Certificates.check_valid": "says who asks",
    "Objects.create_each": "each of what it is asked for has one",
    "Sessions.end": "who has the secret ends its session",
    "Sessions.find": "says who asks",
    "Sessions.open_link": "the same, of who opens a link",
    "Sessions.user_of_link": "the same",
    "Sources.called": "a webhook: its signature is checked instead",
    "Sources.request": "the second half of `called`",
    "Submissions.sweep": "the daemon clears up",
    "Tickets.authenticate": "says who asks",
    "Tokens.authenticate": "the same",
    "Tokens.check_valid": "the same",
}


def test_every_call_takes_the_identity_of_who_asks(store: MemoryStore, tmp_path: Path) -> None:
    service = Service(lambda: store, tmp_path, infrastructure=FakeInfrastructure())
    assert _without(_concerns(service)) == set(WITHOUT)


def test_a_call_without_one_is_found() -> None:
    class Concern:
        def read(self, identity: object) -> None: ...

        def write(self, name: str) -> None: ...

    assert _without([Concern]) == {"Concern.write"}


def _concerns(service: Service) -> list[type]:
    """The classes of the service's attributes."""
    names = [name for name, value in vars(Service).items() if isinstance(value, cached_property)]
    return [type(getattr(service, name)) for name in names]


def _without(concerns: Iterable[type]) -> set[str]:
    """The public calls that no identity is handed to."""
    return {
        f"{concern.__name__}.{name}"
        for concern in concerns
        for name, call in inspect.getmembers(concern, inspect.isfunction)
        if not name.startswith("_") and "identity" not in inspect.signature(call).parameters
    }
