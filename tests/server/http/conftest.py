"""The API of a service over a store in memory, served on a Unix socket to whoever a test says."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cumulus.clock import Clock, FakeClock
from cumulus.server.api import Api
from cumulus.server.http.app import make_app
from cumulus.server.http.listener import Listener
from cumulus.server.limiter import RequestLimits
from cumulus.server.metrics.daemon import DaemonMetrics
from cumulus.server.watches import WatchBridge
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.base import Store
from cumulus.store.memory import MemoryStore
from tests.documents import NOW
from tests.service.conftest import ME, FakeInfrastructure
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from starlette.types import Scope


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass
class Answer:
    code: int
    headers: dict[str, str]
    body: bytes
    raw_headers: Sequence[tuple[str, str]] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def all_headers(self, name: str) -> list[str]:
        """The values of a header that may come several times."""
        return [value for given, value in self.raw_headers if given.lower() == name]


@dataclass
class Served:
    """A server that is up, and who asks it."""

    path: Path
    store: Store
    clock: FakeClock
    asks: Identity = ME
    outside: FakeInfrastructure = field(default_factory=FakeInfrastructure)

    def ask(self, method: str, url: str, body: Any = None, **headers: str) -> Answer:
        """One request over a connection of its own. `body`: bytes, or what is sent as JSON. `content_type="…"` and the
        like become headers."""
        connection = UnixConnection(self.path)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
                given.setdefault("content-type", "application/json")
            connection.request(method, url, body, given)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read(), response.getheaders())
        finally:
            connection.close()

    def get(self, url: str, **headers: str) -> Any:
        """What a GET that succeeds answers, as JSON."""
        answer = self.ask("GET", url, **headers)
        assert answer.code == 200, (answer.code, answer.body)
        return answer.json


@contextmanager
def serving(
    listening: socket.socket, store: Store, home: Path, clock: Clock, outside: FakeInfrastructure,
    asks: Callable[[], Identity], limits: RequestLimits = RequestLimits(),
) -> Iterator[None]:  # fmt: skip
    """The API over the store, on a socket, to whoever `asks` says."""

    async def authenticate(scope: Scope) -> Identity:
        return asks()

    bridge = WatchBridge(store)
    metrics = DaemonMetrics(store, clock)
    api = Api(Service(lambda: store, home, clock, infrastructure=outside), bridge, metrics=metrics, limits=limits)
    listener = Listener(make_app(api, authenticate), [listening])
    listener.start()
    try:
        yield
    finally:
        # What streams ends first, so that the listener has nothing to wait for.
        bridge.close()
        api.streams.close()
        listener.close()
        api.close()
        store.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    clock = FakeClock(NOW)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    server = Served(tmp_path / "api.sock", MemoryStore(clock), clock)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(server.path))
        with serving(listening, server.store, home, clock, server.outside, lambda: server.asks):
            yield server
