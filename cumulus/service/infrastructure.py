"""What the service needs beyond the store and the state directory: backends, workers, the Swarm.

Whoever composes a `Service` hands it in, so that the service knows neither SSH nor Docker. In production it is
`cumulus.infrastructure`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from cumulus.resources.key import Document

if TYPE_CHECKING:
    from cumulus.answers.carried import ChangePiece
    from cumulus.answers.checkpoints import CheckpointCopied, CheckpointFound, CheckpointPiece
    from cumulus.answers.nodes import HostKey, WorkerAnswer
    from cumulus.answers.swarm import (
        ImageStep,
        SwarmInvitation,
        SwarmMade,
        SwarmMark,
        SwarmOwnership,
        SwarmStatus,
    )
    from cumulus.blob.base import BlobStore
    from cumulus.calls.session import SessionConnection
    from cumulus.lib.execution import Reach
    from cumulus.resources.node import SshAddress


class LogReader(Protocol):
    """The part of a backend that reads logs."""

    def logs(
        self, job_uid: str, attempt: int, replica: int, *,
        follow: bool = False, tail: int | None = None, since: float | None = None, timestamps: bool = False,
        position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """See `backends.base.Backend.logs`."""
        ...

    def close(self) -> None: ...


class CheckpointReader(Protocol):
    """The checkpoints of one job on its node. It looks as the job's user. Each method raises BackendError."""

    path: str

    def list(self) -> Sequence[CheckpointFound]:
        """Newest first, as their manifests tell."""
        ...

    def copied(self) -> CheckpointCopied | None:
        """How far the copy beyond the node is; None where nothing is known."""
        ...

    def verify(self, step: int | None) -> Iterator[CheckpointFound]:
        """Every byte of one, or of all, is read."""
        ...

    def send(self, step: int | None) -> Iterator[CheckpointPiece]:
        """That of the step, or the newest, once it was found whole."""
        ...

    def prune(self, keep: int) -> Sequence[int]:
        """Delete all but so many whole ones; the steps that went."""
        ...


LogReaders = Callable[[Document, str], LogReader]
"""The reader for a job's log of a run on a node. Raises NoLog where the job ran nothing with this state directory."""


WordsOnNodes = Callable[[Document, str, int, str, str], str]
"""Asks a node, by its GPUNode, as the user of that name and number, for the word that was left in a directory: why it
is not there, "" where it is."""


class WorkerInfrastructure(Protocol):
    """Nodes that are reached over SSH."""

    def parse(self, ssh: str) -> tuple[str, str, int]:
        """User, host and port of USER@HOST[:PORT]. Raises UsageError."""
        ...

    def shown_key(self, ssh: SshAddress) -> HostKey:
        """The host key that the machine shows; nobody logs in. Raises NodeUnreachable."""
        ...

    def trusts(self, ssh: SshAddress, key: HostKey) -> bool:
        """Whether the key is known. Raises NodeUnreachable where another one is."""
        ...

    def trust(self, ssh: SshAddress, key: HostKey) -> None:
        """Keep the key as the machine's."""
        ...

    def ask(self, name: str, ssh: SshAddress) -> WorkerAnswer:
        """What the worker says of itself. Raises ChronosError."""
        ...

    def install(self, name: str, ssh: SshAddress, *, prefix: str, python: str, dry_run: bool) -> str:
        """Carry Chronos over and set it up; what the worker said. Raises CumulusError."""
        ...


StoreId = Callable[[], str]
"""Which store it is. Raises BackendError while no daemon has led on it."""


class SwarmInfrastructure(Protocol):
    """The Swarm that the settings name. Each method raises CumulusError where none is named; see `service.swarm`."""

    def initialise(self, advertise: str, listen: str) -> SwarmMade: ...

    def invitation(self) -> SwarmInvitation: ...

    def status(self, store_id: StoreId) -> SwarmStatus: ...

    def ownership(self, store_id: StoreId, jobs: Collection[str]) -> SwarmOwnership:
        """`jobs`: the uids of those of this store."""
        ...

    def adopt(self, store_id: StoreId, mark: SwarmMark | None) -> None: ...

    def push_image(
        self, name: str, nodes: Sequence[str], addresses: Mapping[str, SshAddress], every: float
    ) -> Generator[ImageStep]:
        """`addresses`: of nodes that are known by one; others are reached at their address in the Swarm."""
        ...


class Infrastructure(Protocol):
    """Each part is loaded when it is first used."""

    @property
    def workers(self) -> WorkerInfrastructure: ...

    @property
    def blobs(self) -> BlobStore: ...

    @property
    def swarm(self) -> SwarmInfrastructure: ...

    def log_reader(self, job: Document, node: str, where: Document | None) -> LogReader:
        """See `LogReaders`. `where`: the GPUNode, as far as that is known."""
        ...

    def missing_python(self, job: Document) -> str:
        """Why no process can run the call of this job, for want of its Python; "" where one can, or nobody knows."""
        ...

    def session(self, job: Document, node: Document | None) -> SessionConnection:
        """A connection to the call of this job, which is a session. `node`: the GPUNode where it runs, as far as that
        is known. Raises SessionEnded where it has not begun or is over, BackendError where its node does not answer."""
        ...

    def reach(self, job: Document, attempt: int, replica: int, node: str, where: Document | None) -> Reach:
        """The ways to the replica of this job on that node while it runs; `where`: the GPUNode, as far as that is
        known. Raises NotRunning where it has not started."""
        ...

    def word_on_node(self, node: Document, user: str, uid: int, directory: str, word: str) -> str:
        """See `WordsOnNodes`."""
        ...

    def changes(
        self, job: Document, most: int, nodes: Callable[[str], Document | None]
    ) -> Iterator[ChangePiece]:  # fmt: skip
        """What the job's last attempt changed in the directory that was carried to it, read as its user. Raises
        NotFound, BackendError."""
        ...

    def checkpoints_beyond(self, job: Document, uri: str) -> CheckpointReader:
        """The same for the place `uri` beyond the nodes where the job keeps them."""
        ...

    def checkpoint_reader(self, job: Document, nodes: Callable[[str], Document | None]) -> CheckpointReader:
        """Of a job. `nodes` gives GPUNodes by name. Raises NotFound where it ran nothing with this state directory,
        UsageError where a container keeps them to itself, BackendError where its node can't be reached."""
        ...
