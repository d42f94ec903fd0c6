"""A client of each transport, over each store. A new transport is one more entry in TRANSPORTS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from cumulus.client.base import Client
from cumulus.client.embedded import EmbeddedClient
from cumulus.client.endpoint import Endpoint
from cumulus.client.http.client import HttpClient
from cumulus.clock import Clock, FakeClock
from cumulus.lib import unix_socket
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.base import Store
from cumulus.store.memory import MemoryStore
from cumulus.store.sqlite import SqliteStore
from tests.documents import NOW
from tests.server.http.conftest import serving
from tests.service.conftest import ME, FakeInfrastructure

Connect = Callable[..., AbstractContextManager[Client]]
"""Store, state directory, clock, what is outside, and who asks."""


@contextmanager
def embedded(
    store: Store, home: Path, clock: Clock, outside: FakeInfrastructure, asks: Identity = ME
) -> Iterator[Client]:
    with EmbeddedClient(Service(lambda: store, home, clock, infrastructure=outside), asks) as client:
        yield client


@contextmanager
def over_http(
    store: Store, home: Path, clock: Clock, outside: FakeInfrastructure, asks: Identity = ME
) -> Iterator[Client]:
    path = home.parent / "api.sock"
    with (
        unix_socket.listen(str(path)) as listening,
        serving(listening, store, home, clock, outside, lambda: asks),
        HttpClient(Endpoint("unix", str(path))) as client,
    ):
        yield client


TRANSPORTS: dict[str, Connect] = {"embedded": embedded, "http": over_http}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, home: Path) -> Iterator[Store]:
    """What controllers write to, behind the client's back. Its objects are ten minutes old."""
    clock = FakeClock(NOW - timedelta(minutes=10))
    opened: Store = MemoryStore(clock) if request.param == "memory" else SqliteStore(home / "store", clock)
    yield opened
    opened.close()


@pytest.fixture
def outside() -> FakeInfrastructure:
    """What lies behind the service beyond its store."""
    return FakeInfrastructure()


@pytest.fixture(params=list(TRANSPORTS))
def client(
    request: pytest.FixtureRequest, store: Store, home: Path, clock: FakeClock, outside: FakeInfrastructure
) -> Iterator[Client]:
    with TRANSPORTS[request.param](store, home, clock, outside) as opened:
        yield opened
