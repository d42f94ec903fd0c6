"""The gRPC server in this process: a service over a store in memory, on a Unix socket, asked with real tickets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from cumulus.admission import door
from cumulus.clock import FakeClock
from cumulus.resources.key import Document
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.rpc import orchestrator_pb2_grpc as rpc
from cumulus.server.api import Api
from cumulus.server.grpc.attendance import AttendanceBook
from cumulus.server.grpc.credentials import by_credentials
from cumulus.server.grpc.errors import TRAILER
from cumulus.server.grpc.metering import Metering
from cumulus.server.grpc.service import make_server
from cumulus.server.limiter import RequestLimits
from cumulus.server.watches import WatchBridge
from cumulus.service.accounts import Accounts
from cumulus.service.addresses import GrpcAddress, grpc_address
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.service.tickets import Tickets
from cumulus.store.base import Store
from cumulus.store.memory import MemoryStore
from tests.documents import NOW
from tests.service.conftest import ME, FakeInfrastructure
from tests.service.test_access import binding
from tests.waiting import PATIENCE

ANN, BOB, EVE = Identity("ann", 1001), Identity("bob", 1002), Identity("eve", 1003)
"""Ann and Bob have the role user in `team`, Eve none."""


class KnownAccounts(Accounts):
    """Those of Ann, Bob and Eve, beside this machine's."""

    def of_uid(self, uid: int) -> Identity:
        return next((each for each in (ANN, BOB, EVE) if each.uid == uid), None) or super().of_uid(uid)


class Server:
    """Open from the start to `close`, in a thread with an event loop of its own."""

    def __init__(self, service: Service, path: Path, limits: RequestLimits = RequestLimits()) -> None:
        self.api = Api(service, WatchBridge(service.store), limits=limits)
        self.now = 0.0
        self.metering = Metering()
        self.attendance = AttendanceBook(self.api, lambda: self.now)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpc", daemon=True)
        self._thread.start()
        self.run(self._open(path))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def close(self) -> None:
        self.api.bridge.close()
        self.api.streams.close()
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
        self.api.close()

    async def _open(self, path: Path) -> None:
        self._server = make_server(self.api, self.attendance, by_credentials(self.api), self.metering)
        self._server.add_insecure_port(f"unix:{path}")
        await self._server.start()
        self._attending = asyncio.create_task(self.attendance.run())

    async def _close(self) -> None:
        self._attending.cancel()
        await self._server.stop(0)


class Caller(rpc.OrchestratorStub):
    """The stub of one user, whose calls show who asks, and end within 30 seconds."""

    def __init__(self, path: Path, *metadata: tuple[str, str]) -> None:
        self.channel = grpc.intercept_channel(grpc.insecure_channel(f"unix:{path}"), _Shows(metadata))
        super().__init__(self.channel)  # type: ignore[no-untyped-call]

    def submit(self, document: Document, key: str = "once") -> Document:
        made = self.Submit(pb.SubmitRequest(idempotency_key=key, object=json.dumps(document).encode()))
        found: Document = json.loads(made.object)
        return found


class _Shows(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor,
             grpc.StreamStreamClientInterceptor):  # fmt: skip
    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def _shown(self, call: Any, details: Any, given: Any) -> Any:
        timeout = 30 if details.timeout is None else details.timeout
        return call(details._replace(metadata=[*(details.metadata or ()), *self._metadata], timeout=timeout), given)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _shown


@dataclass
class Served:
    home: Path
    path: Path
    store: Store
    clock: FakeClock
    outside: FakeInfrastructure = field(default_factory=FakeInfrastructure)
    limits: RequestLimits = field(default_factory=RequestLimits)
    service: Service = field(init=False)
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Again after `stop`: another server on the same state, as after a restart."""
        self.service = Service(lambda: self.store, self.home, self.clock, infrastructure=self.outside, owner=0)
        self.tickets = Tickets(self.home, self.clock, self.service.tokens, lambda: True, KnownAccounts())
        self.service.tickets = self.tickets
        self.server = Server(self.service, self.path, self.limits)
        grpc_address.write(self.home, GrpcAddress(str(self.path), "", ""))
        self._callers: dict[Identity, Caller] = {}

    def stop(self) -> None:
        for caller in self._callers.values():
            caller.channel.close()
        self.server.close()

    def by(self, identity: Identity = ME) -> Caller:
        """The stub of that user."""
        if identity not in self._callers:
            self._callers[identity] = Caller(self.path, ("cumulus-ticket", self.tickets.issue(identity).ticket))
        return self._callers[identity]


ROOT = Identity("root", 0)


@contextmanager
def opened(directory: Path) -> Iterator[Served]:
    """A server with its state in the directory."""
    home = directory / "home"
    home.mkdir(mode=0o700)
    (home / "api").mkdir(mode=0o700)
    clock = FakeClock(NOW)
    store = MemoryStore(clock, admission=door.check)
    for name in ("ann", "bob"):
        store.create(binding("user", "User", name, "team", name))
    made = Served(home, directory / "grpc.sock", store, clock)
    yield made
    made.stop()
    store.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with opened(tmp_path) as made:
        yield made


def error_of(raised: grpc.RpcError) -> pb.Error:
    """What the trailing metadata of a failed call says."""
    call: Any = raised
    return pb.Error.FromString(dict(call.trailing_metadata())[TRAILER])


def code_of(raised: grpc.RpcError) -> grpc.StatusCode:
    call: Any = raised
    found: grpc.StatusCode = call.code()
    return found
