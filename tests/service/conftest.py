"""A store filled by hand, and infrastructure that answers what a test says."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cumulus.answers.carried import ChangePiece, ChangesFound
from cumulus.answers.checkpoints import (
    CheckpointBytes,
    CheckpointCopied,
    CheckpointFile,
    CheckpointFound,
    CheckpointManifest,
    CheckpointPiece,
)
from cumulus.answers.nodes import HostKey, WorkerAnswer, WorkerDevice
from cumulus.answers.swarm import (
    ImagePushed,
    ImageStep,
    SwarmInvitation,
    SwarmMade,
    SwarmMark,
    SwarmOwnership,
    SwarmStatus,
)
from cumulus.backends.logs import Gap
from cumulus.blob.base import BlobStore
from cumulus.blob.directory import DirectoryBlobStore
from cumulus.calls.session import SessionConnection, connect
from cumulus.clock import FakeClock
from cumulus.errors import NodeUnreachable, NoLog, NotRunning
from cumulus.lib.execution import ExecRequest, Execution, Reach
from cumulus.nodes.address import WorkerHost
from cumulus.resources.key import Document
from cumulus.resources.node import SshAddress
from cumulus.service.identity import Identity
from cumulus.service.infrastructure import CheckpointReader, LogReader, StoreId
from cumulus.store.memory import MemoryStore
from cumulus.testing.execution import FakeExecution, echoing
from tests.documents import NOW

ME = Identity("tester", 0)


@dataclass
class FakeLogs:
    """Chunks by attempt and replica. `ended` is called when a reader has given all that there is."""

    chunks: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)
    ended: Callable[[int], None] = lambda attempt: None
    asked: list[tuple[str, int, int, bool, int | None]] = field(default_factory=list)
    times_asked: list[tuple[float | None, bool]] = field(default_factory=list)
    open: int = 0

    def reader(self, job: Document, node: str) -> LogReader:
        if not self.chunks:
            raise NoLog("there are no logs")
        self.open += 1
        return _Reader(self, node)


@dataclass
class _Reader:
    logs_: FakeLogs
    node: str

    def logs(
        self, job_uid: str, attempt: int, replica: int, *,
        follow: bool = False, tail: int | None = None, since: float | None = None, timestamps: bool = False,
        position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        self.logs_.times_asked.append((since, timestamps))
        self.logs_.asked.append((self.node, attempt, replica, follow, tail))
        left = position or 0
        for chunk in self.logs_.chunks.get((attempt, replica), []):
            size = chunk.dropped if isinstance(chunk, Gap) else len(chunk)
            if left < size or not size:
                yield chunk if isinstance(chunk, Gap) else chunk[left:]
            left = max(0, left - size)
        self.logs_.ended(attempt)

    def close(self) -> None:
        self.logs_.open -= 1


@dataclass
class FakeWorkers:
    """Machines by host: the key that each shows."""

    keys: dict[str, HostKey] = field(default_factory=dict)
    trusted: dict[str, HostKey] = field(default_factory=dict)
    answer: WorkerAnswer = field(
        default_factory=lambda: WorkerAnswer("host", "1", "1", 0.5, (WorkerDevice(0, "H100", 2**30, "hard"),))
    )
    installed: list[tuple[str, str, bool]] = field(default_factory=list)

    def parse(self, ssh: str) -> tuple[str, str, int]:
        place = WorkerHost.parse(ssh)
        return place.user, place.host, place.port

    def shown_key(self, ssh: SshAddress) -> HostKey:
        if ssh.host not in self.keys:
            raise NodeUnreachable(f"{ssh.host} cannot be reached")
        return self.keys[ssh.host]

    def trusts(self, ssh: SshAddress, key: HostKey) -> bool:
        known = self.trusted.get(ssh.host)
        if known is not None and known != key:
            raise NodeUnreachable(f"the host key of {ssh.host} is not the one that is known")
        return known is not None

    def trust(self, ssh: SshAddress, key: HostKey) -> None:
        self.trusted[ssh.host] = key

    def ask(self, name: str, ssh: SshAddress) -> WorkerAnswer:
        return replace(self.answer, hostname=ssh.host)

    def install(self, name: str, ssh: SshAddress, *, prefix: str, python: str, dry_run: bool) -> str:
        self.installed.append((name, prefix, dry_run))
        return "Chronos is ready.\n"


def host_key(host: str, digest: str = "abc") -> HostKey:
    return HostKey(host, "ssh-ed25519", "AAAA", f"SHA256:{digest} (ED25519)")


@dataclass
class FakeSwarm:
    """`services`: the uid of the job of each."""

    address: str = ""
    services: dict[str, str] = field(default_factory=dict)
    ours: bool = False
    addresses: Mapping[str, SshAddress] = field(default_factory=dict)

    def initialise(self, advertise: str, listen: str) -> SwarmMade:
        made, self.address = not self.address, advertise
        return SwarmMade(made, self.address)

    def invitation(self) -> SwarmInvitation:
        return SwarmInvitation(f"{self.address}:2377", "token")

    def status(self, store_id: StoreId) -> SwarmStatus:
        return SwarmStatus((), () if self.ours else ("nobody's",))

    def ownership(self, store_id: StoreId, jobs: Collection[str]) -> SwarmOwnership:
        others = tuple(name for name, uid in self.services.items() if uid not in jobs)
        return SwarmOwnership(None, self.ours, len(self.services) - len(others), others)

    def adopt(self, store_id: StoreId, mark: SwarmMark | None) -> None:
        self.ours = True

    def push_image(
        self, name: str, nodes: Sequence[str], addresses: Mapping[str, SshAddress], every: float
    ) -> Generator[ImageStep]:
        self.addresses = addresses
        for node in nodes:
            yield ImagePushed(node, name, sent=True)


@dataclass
class FakeCheckpoints:
    """Two, of which the newer is damaged."""

    path: str = "/c"
    kept: int = 0

    def list(self) -> Sequence[CheckpointFound]:
        return [CheckpointFound(2, problem="manifest.json: is none"), CheckpointFound(1, size=3)]

    def copied(self) -> CheckpointCopied | None:
        return CheckpointCopied(1, 5, copying=2)

    def verify(self, step: int | None) -> Iterator[CheckpointFound]:
        yield from (found for found in self.list() if step in (None, found.step))

    def send(self, step: int | None) -> Iterator[CheckpointPiece]:
        yield CheckpointManifest(step or 1, b"{}")
        yield CheckpointFile("a", 3)
        yield CheckpointBytes(b"\0\xff1")

    def prune(self, keep: int) -> Sequence[int]:
        self.kept = keep
        return [2]


class _Reached:
    """See `lib.execution.Reach`."""

    def __init__(self, infrastructure: FakeInfrastructure, where: tuple[str, int, int, str]) -> None:
        self._infrastructure = infrastructure
        self._where = where

    def exec(self, asked: ExecRequest) -> Execution:
        self._infrastructure.executions.append((*self._where, asked))
        return self._infrastructure.begin(asked)

    def attach(self, *, stdin: bool) -> Execution:
        return FakeExecution(ExecRequest(("attached", "0"), stdin))

    def feed(self) -> Execution:
        return FakeExecution(ExecRequest(("fed", "0"), stdin=True))

    def connect(self, port: int) -> socket.socket:
        return self._infrastructure.connect(port)


def connected(port: int) -> socket.socket:
    """As if all even ports were listened on."""
    if port % 2:
        raise NotRunning(f"no process of the job listens on port {port}")
    return echoing()


@dataclass
class FakeInfrastructure:
    """See `service.infrastructure.Infrastructure`."""

    logs: FakeLogs = field(default_factory=FakeLogs)
    workers: FakeWorkers = field(default_factory=FakeWorkers)
    swarm: FakeSwarm = field(default_factory=FakeSwarm)
    checkpoints: FakeCheckpoints = field(default_factory=FakeCheckpoints)

    executions: list[tuple[str, int, int, str, ExecRequest]] = field(default_factory=list)
    """What was started beside which attempt and replica, on which node."""
    reached: list[Document | None] = field(default_factory=list)
    """The GPUNodes that it was given, to reach them."""
    begin: Callable[[ExecRequest], Execution] = FakeExecution
    connect: Callable[[int], socket.socket] = connected
    session_directory: str = ""
    """Where a session's socket is, "" where none runs."""

    def word_on_node(self, node: Document, user: str, uid: int, directory: str, word: str) -> str:
        return "it is not asked"

    def missing_python(self, job: Document) -> str:
        return ""

    def session(self, job: Document, node: Document | None) -> SessionConnection:
        self.reached.append(node)
        return connect(self.session_directory or "/nowhere")

    def reach(self, job: Document, attempt: int, replica: int, node: str, where: Document | None) -> Reach:
        self.reached.append(where)
        return _Reached(self, (job["metadata"]["name"], attempt, replica, node))

    @cached_property
    def blobs(self) -> BlobStore:
        """Gone with this."""
        self._directory = TemporaryDirectory()
        return DirectoryBlobStore(Path(self._directory.name, "blobs"))

    def log_reader(self, job: Document, node: str, where: Document | None) -> LogReader:
        self.reached.append(where)
        return self.logs.reader(job, node)

    def changes(
        self, job: Document, most: int, nodes: Callable[[str], Document | None]
    ) -> Iterator[ChangePiece]:  # fmt: skip
        yield ChangesFound("node", "/work", 1, 3, sent=most >= 3)

    def checkpoints_beyond(self, job: Document, uri: str) -> CheckpointReader:
        return self.checkpoints

    def checkpoint_reader(self, job: Document, nodes: Callable[[str], Document | None]) -> CheckpointReader:
        self.reached.append(nodes(job["status"]["attempts"][-1]["node"]))
        return self.checkpoints


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def store(clock: FakeClock) -> Iterator[MemoryStore]:
    opened = MemoryStore(clock)
    yield opened
    opened.close()
