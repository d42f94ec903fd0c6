"""`Client`: what the command line, tests and programs talk to, whatever transport carries the call.

All that crosses it can travel: documents (an object's JSON), keys and queries, frozen answers, streams of events and
of bytes. Errors are `CumulusError`s. Calls are synchronous; a stream is an iterator or a `Watch`.
"""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from cumulus.answers.objects import (
    Applied,
    ConditionMet,
    Description,
    Extended,
    JobFiles,
    PatchType,
    Propagation,
    StillWaiting,
    WaitStep,
    Why,
)
from cumulus.answers.server import ApiAddress, ServerState
from cumulus.resources.field_managers import CUMULUS
from cumulus.resources.key import Document, Key
from cumulus.resources.query import Page, Query, Watch, WatchEvent

if TYPE_CHECKING:
    from cumulus.answers.access import Allowed, UserInfo
    from cumulus.answers.carried import ChangePiece
    from cumulus.answers.certificates import RevokedCertificate
    from cumulus.answers.checkpoints import CheckpointFound, CheckpointPiece, JobCheckpoints
    from cumulus.answers.history import By, HeldOverTime, JobUse, LeaseRows, Report, Timeline
    from cumulus.answers.logs import LogPiece
    from cumulus.answers.nodes import (
        DirectoryOnNode,
        DrainPlanned,
        DrainStep,
        HostKey,
        NodeChange,
        RemoveStep,
        SetupStep,
        WorkerAddress,
        WorkerAnswer,
        WorkerFound,
    )
    from cumulus.answers.queue import Line
    from cumulus.answers.secrets import SecretKey
    from cumulus.answers.sessions import PageLink
    from cumulus.answers.sources import SourceDiff
    from cumulus.answers.swarm import (
        ImageStep,
        SwarmInvitation,
        SwarmMade,
        SwarmMark,
        SwarmOwnership,
        SwarmStatus,
    )
    from cumulus.answers.tickets import GrpcTicket
    from cumulus.answers.tokens import NewToken, TokenInfo
    from cumulus.answers.usage import UsageNow
    from cumulus.client.programs import RemoteProgram
    from cumulus.errors import InvalidObject
    from cumulus.lib.execution import ExecRequest
    from cumulus.manifest import Manifest

__all__ = [
    "Applied", "Client", "ConditionMet", "Description", "Document", "JobFiles", "Key", "Page",
    "PatchType", "Propagation", "Query", "ServerState", "StillWaiting", "WaitStep", "Watch", "WatchEvent", "Why",
]  # fmt: skip


class ObjectClient(Protocol):
    """Objects of every kind."""

    def get(self, key: Key) -> Document:
        """Raises NotFound, worded for people."""
        ...

    def list(self, query: Query) -> Page:
        """Raises Expired for a compacted revision or continue token, UsageError for a bad selector."""
        ...

    def watch(self, *, since: int, kinds: frozenset[str], namespace: str | None = None) -> Watch:
        """The changes of these kinds after the revision `since`; of kinds that have namespaces in this one alone, or
        in all where it is None. Raises Expired where they were compacted."""
        ...

    def revision(self) -> int:
        """The newest revision, 0 in an empty store: where a watch begins that is to miss nothing from now on."""
        ...

    def create(self, document: Document, *, dry_run: bool = False) -> Document:
        """The object as stored; with `dry_run`, as it would be. Raises AlreadyExists, InvalidObject."""
        ...

    def update(self, document: Document, *, dry_run: bool = False) -> Document:
        """Replace all but status. Raises NotFound; Conflict where the object has moved on from the resourceVersion in
        `document`; InvalidObject."""
        ...

    def patch(
        self, key: Key, patch: object, *,
        type: PatchType = "merge", resource_version: str | None = None, dry_run: bool = False,
    ) -> Document:  # fmt: skip
        """The object with `patch` applied. Without `resource_version`, again where another writer was faster. Raises
        NotFound, Conflict, InvalidObject, and UsageError for a type of patch that there is not."""
        ...

    def apply(
        self, manifests: Sequence[Manifest], *,
        dry_run: bool = False, prune: str = "", prune_limit: int | None = None, field_manager: str = CUMULUS,
        force_conflicts: bool = False, recreate: bool = False,
    ) -> Sequence[Applied]:  # fmt: skip
        """Server-side apply of manifests, all in one transaction or none: what became of each, in their order, pruned
        ones last. With `dry_run` nothing is written.

        `prune`: a label selector; what matches it, was applied before by the same field manager and is in no manifest
        any more is deleted, at most `prune_limit` objects. `force_conflicts`: take over fields that other managers own.
        `recreate`: make anew what has other immutable fields, as a rerun does.
        Raises InvalidManifest with everything that forbids it, conflicts included, PruneRefused, Conflict.
        """
        ...

    def delete(
        self, key: Key, *, uid: str | None = None, resource_version: str | None = None,
        propagation: Propagation = "background", grace_seconds: int = 0, dry_run: bool = False,
    ) -> Document:  # fmt: skip
        """The object as marked where finalizers hold it; of one that is gone at least kind, namespace, name and uid.

        `uid`, `resource_version`: only that very object. `grace_seconds`: how long a job's processes have at most, from
        the stop signal on; 0 for the job's own grace period. Raises NotFound, Conflict.
        """
        ...

    def set_labels(self, key: Key, changes: Mapping[str, str | None], *, overwrite: bool = False) -> bool:
        """Set labels, and remove those whose value is None. Whether there was something to change.

        Raises NotFound; AlreadySet for a label with another value, unless `overwrite`.
        """
        ...

    def set_annotations(self, key: Key, changes: Mapping[str, str | None], *, overwrite: bool = False) -> bool:
        """As `set_labels`."""
        ...

    def delete_losses(self, key: Key) -> Sequence[str]:
        """What a delete of the object loses that no controller brings back, each as the rest of a sentence: `is
        cordoned`. Raises NotFound."""
        ...

    def describe(self, key: Key) -> Description:
        """The object with what belongs to it. Raises NotFound."""
        ...

    def wait(
        self, targets: Sequence[Key | Query], condition: str, *, seconds: float, uids: Mapping[Key, str] | None = None
    ) -> Iterator[WaitStep]:
        """Each object as it meets the condition, and every few seconds how the others are. See `service.waits.wait`.

        Raises UsageError before it waits. The iterator raises WaitTimedOut, ConditionUnreachable, NotFound.
        """
        ...


class SourceClient(Protocol):
    """Directories and git repositories that say what should exist."""

    def source_diff(self, key: Key, manifests: Sequence[Manifest]) -> SourceDiff:
        """What the Source would do if these were all of its manifests. Nothing is written. Raises NotFound,
        InvalidManifest with all that forbids it."""
        ...


class JobClient(Protocol):
    """What people do to jobs."""

    def suspend(self, key: Key, *, suspended: bool, park: bool = False) -> bool:
        """Hold the job, or let it run again. Whether there was something to change. `park`: its program is to wait in
        main memory, and is stopped only if it can't. Raises NotFound, JobFinished."""
        ...

    def park(self, key: Key, *, parked: bool, park_for: str = "") -> bool:
        """Have the job's program wait in main memory, or come back to its GPU. Whether there was something to change.
        `park_for`: for how long at most; "" leaves what the job says. Raises NotFound, JobFinished, NotRunning where
        nothing runs that could be parked."""
        ...

    def rerun(
        self, key: Key, *, changes: Document | None = None, from_checkpoint: bool = False, uid: str = ""
    ) -> Document:
        """The job, made anew under its name with another uid; what runs of it is ended first. Earlier runs' logs can
        be read until their ttl. `changes`: a merge patch of its spec. `from_checkpoint`: it goes on from what it saved
        last. `uid`: only that very job.

        Raises NotFound, InvalidObject, Forbidden, Conflict where it is being deleted, and UsageError where it can't go
        on from a checkpoint.
        """
        ...

    def extend(self, key: Key, seconds: float, *, dry_run: bool = False) -> Extended:
        """Let the lease of the job's running attempt end so many seconds later; its spec stays.

        Raises NotFound, Forbidden, UsageError, and NotExtended where no lease of it runs, or where somebody who waits
        would start later than they are told.
        """
        ...

    def why(self, key: Key) -> Why:
        """Why a job or partition is not running, or how it is. Raises NotFound, InvalidObject, UsageError."""
        ...

    def line(self, queue: str = "") -> Line:
        """Who waits in the queue, or in all of them, when each starts, and who holds shares. Raises NotFound."""
        ...

    def forecast(self, document: Document) -> str:
        """When a job that is not made yet would start, in one sentence. Raises what `create` would."""
        ...

    def logs(
        self, key: Key, *,
        attempt: int = 0, replica: int | None = None, follow: bool = False, tail: int | None = None,
        since: float | None = None, timestamps: bool = False, run: int = 0,
    ) -> Iterator[LogPiece]:  # fmt: skip
        """The log of one attempt, the last where `attempt` is 0; with `follow` also of those that come after it, until
        the job is over. `tail`: only the last lines of the first. `since`: only lines that were begun then or later,
        in seconds since 1970. `timestamps`: each line begins with its time, to the second. `run`: of the run of that
        number, of which reruns keep the logs; the last where it is 0. With `follow` the iterator, a generator, returns
        the job as it was at the end, where that is known.

        Raises NotFound, and UsageError for a replica that there is not. The iterator raises NoLog where there is
        nothing to show, UsageError where an older version wrote the log without times.
        """
        ...

    def exec(self, key: Key, replica: int, asked: ExecRequest) -> RemoteProgram:
        """Start a program beside the running replica of a job, as its submitter, in its leases and its environment. It
        ends with the job, and where it is closed. Raises NotFound, Forbidden, NotRunning, BackendError, and
        CumulusError where no daemon is asked."""
        ...

    def checkpoints(self, key: Key, *, beyond: bool = False) -> JobCheckpoints:
        """What a job has saved on its node, newest first; or what of it is `beyond` the node. Raises NotFound,
        UsageError where it keeps none."""

    def attach(self, key: Key, *, stdin: bool) -> RemoteProgram:
        """Join the terminal of a running job's own program, which goes on where that is closed. One that waits for its
        input is given that instead: it ends once that is taken, and shows nothing. Raises as `exec` does, and
        UsageError where it has neither."""
        ...

    def forward(self, key: Key, replica: int, port: int, connection: socket.socket) -> None:
        """Carry a connection to a port at which a process of the running replica listens, until either end is closed.
        For one thread for each connection. Raises as `exec` does."""
        ...

    def verify_checkpoints(
        self, key: Key, *, step: int | None = None, beyond: bool = False
    ) -> Iterator[CheckpointFound]:
        """Have every byte of one checkpoint read, or of all. Raises as `checkpoints`, and Forbidden where the job is
        another's; so do the next two."""
        ...

    def fetch_checkpoint(self, key: Key, *, step: int | None = None, beyond: bool = False) -> Iterator[CheckpointPiece]:
        """The newest whole checkpoint, or that of the step: its manifest, then each file and its bytes. The iterator
        raises BackendError where it is not whole."""
        ...

    def changes(self, key: Key, *, most: int) -> Iterator[ChangePiece]:
        """What the job's last attempt changed in the directory that `cumulus run --sync` carried to it: how much that
        is, then each file, and its bytes where all is not more than `most`. Raises NotFound, Forbidden; the iterator
        raises BackendError."""
        ...

    def prune_checkpoints(self, key: Key, *, keep: int, beyond: bool = False) -> Sequence[int]:
        """Delete all but so many whole ones, at least one; the steps that went."""
        ...

    def usage(self) -> UsageNow:
        """What is leased and used now, of all nodes and jobs."""
        ...

    def same_directory(self, directory: str, word: str, *, namespace: str) -> Sequence[DirectoryOnNode]:
        """On which nodes the directory is the one in which the caller left the file `word`, and why not on the others.
        Without a word nobody is asked: see `service.directories`."""
        ...

    def job_files(self, uids: Sequence[str]) -> Sequence[JobFiles]:
        """The directories of each of these jobs, which go once the job is deleted and its processes have ended."""
        ...


class HistoryClient(Protocol):
    """What was held, by whom, and what is promised."""

    def timeline(self, start: int, end: int, *, pixels: int) -> Timeline:
        """Each device's leases, promises and drains from `start` to `end` (milliseconds since 1970), for a picture so
        many pixels wide: what is smaller than one of them is merged."""
        ...

    def job_use(self, key: Key) -> JobUse:
        """What each of a job's leases used, the newest first."""
        ...

    def report(self, since: int, *, until: int = 0, by: By = "user") -> Report:
        """What was held and used from `since` to `until` (milliseconds since 1970; 0: now), and which promises were
        kept, by user, queue or node: of the namespaces that the caller may read."""
        ...

    def lease_rows(self, since: int, *, until: int = 0, after: int = 0) -> LeaseRows:
        """The leases from `since` to `until` (milliseconds since 1970; 0: now), some at a time: of the namespaces that
        the caller may read. `after`: what the last answer called next."""
        ...

    def held_over_time(self, start: int, end: int, *, points: int = 100, by: By = "user") -> HeldOverTime:
        """How many devices each user, queue or node held in each of so many steps from `start` to `end` (milliseconds
        since 1970): of the namespaces that the caller may read."""
        ...


class NodeClient(Protocol):
    """What people do to nodes."""

    def cordon(self, name: str, *, unschedulable: bool) -> bool:
        """Place nothing new on the node, or place jobs on it again. Whether there was something to change. Raises
        NotFound."""
        ...

    def find_worker(self, name: str, address: WorkerAddress, *, fingerprint: str = "") -> WorkerFound:
        """The machine that is to be the node `name`, and the host key that it shows. Nothing is trusted or stored.

        Raises UsageError; NodeRefused where the name or the machine is another node's, or where a fingerprint is given
        and the key has another; NodeUnreachable, also where another key is known.
        """
        ...

    def add_worker(self, name: str, address: WorkerAddress, key: HostKey) -> NodeChange:
        """Trust the host key, which `find_worker` gave and a person has confirmed, and store the node with this
        address. Raises what `find_worker` raises."""
        ...

    def ask_worker(self, name: str) -> WorkerAnswer:
        """What the worker says of itself, asked as the daemon will. Raises NotFound, NodeRefused, ChronosError."""
        ...

    def setup_worker(
        self, name: str, *, prefix: str = "", python: str = "", dry_run: bool = False
    ) -> Iterator[SetupStep]:
        """Install Chronos on a worker, and ask it then. `prefix`: only for the SSH user, there. With `dry_run` it only
        says what it would do. The iterator raises NotFound, NodeRefused, UsageError, NodeUnreachable."""
        ...

    def drain_node(self, name: str, *, now: bool = False, seconds: float | None = None) -> Iterator[DrainStep]:
        """Place nothing new on the node, and wait until its last lease has ended. With `now` the leases are ended.
        `seconds`: how long at most. The iterator raises NotFound, and NodeRefused when time is up."""
        ...

    def plan_drain(self, name: str, *, at: str, duration: str = "") -> DrainPlanned:
        """Drain the node from `at` on, a timestamp to come: for `duration`, or until it is uncordoned. This takes the
        place of a drain that was planned before. Raises NotFound, InvalidObject, and UsageError where `at` is no time
        to come, or where the Reservation of that name was made for something else."""
        ...

    def cancel_drain(self, name: str) -> bool:
        """Take back the node's planned drain, begun or not; whether there was one. Raises NotFound, UsageError."""
        ...

    def end_drain(self, name: str) -> str:
        """Take back the planned drain of a node, where it has begun. Where it is still to come it stays, and the answer
        is when it begins; else "". Raises NotFound where there is none."""
        ...

    def remove_node(self, name: str, *, force: bool = False) -> Iterator[RemoveStep]:
        """Take a worker out; a machine of a cluster leaves that too, which is waited for. With `force` though it holds
        leases. The iterator raises NotFound, NodeRefused."""
        ...


class SwarmClient(Protocol):
    """The Docker Swarm that containers run on. Each method raises CumulusError where none is named, BackendError."""

    def init_swarm(self, *, advertise: str = "", listen: str = "") -> SwarmMade:
        """Make the engine's machine the manager of a new Swarm, or put the settings of the one it manages right."""
        ...

    def swarm_invitation(self) -> SwarmInvitation:
        """What a machine needs to join as a worker."""
        ...

    def swarm_status(self) -> SwarmStatus:
        """Its nodes, and what is not as jobs need it."""
        ...

    def swarm_ownership(self) -> SwarmOwnership:
        """Whose it is, and what of the services there are this store's jobs."""
        ...

    def adopt_swarm(self, mark: SwarmMark | None) -> None:
        """Take the Swarm over from whom the mark names, as `swarm_ownership` showed it. Raises BackendError where it
        has changed since."""
        ...

    def push_image(self, name: str, nodes: Sequence[str], *, every: float) -> Generator[ImageStep]:
        """Bring an image from the manager's engine to nodes, to all that take containers where none is named. How far
        it is comes every so many seconds. The generator raises UsageError for a node that there is not, BackendError;
        closing it cuts off what is on its way."""
        ...


class ServerClient(Protocol):
    """The server itself."""

    def server_state(self) -> ServerState:
        """Who keeps the objects up to date."""
        ...

    def find_damaged(self, document: Document | None = None) -> InvalidObject | None:
        """What is wrong with `document`, else with the first stored object that is not what its kind says; None where
        all are."""
        ...

    def raw(self, path: str) -> bytes:
        """What the server answers to a GET of `path`, as it is. Raises UsageError where there is no server."""
        ...

    def backup(self, file: Path) -> None:
        """Write all objects to the new file `file` of this machine, while the store is used. Raises UsageError where it
        is there already, StoreUnavailable."""
        ...


class SecretClient(Protocol):
    """Secrets that jobs of the same namespace may use, and in the namespace "" those of the daemon itself, which no job
    can name. Each method raises SecretUnavailable, Forbidden. Values never come back."""

    def create_secret(self, namespace: str, name: str, values: Mapping[str, str], *, overwrite: bool = False) -> None:
        """Write the keys of a secret, each whole or not at all: text of at most `answers.secrets.MAX_BYTES`. With
        `overwrite` also of one that is there, whose other keys stay. Raises AlreadyExists."""
        ...

    def secrets(self, namespace: str | None) -> Sequence[SecretKey]:
        """Every key of every secret of the namespace, of all namespaces for None, sorted."""
        ...

    def delete_secret(self, namespace: str, name: str, key: str = "") -> None:
        """Delete one key, or all of the secret. Raises NotFound."""
        ...


class TokenClient(Protocol):
    """Tokens, which show a server who asks over TLS."""

    def create_token(
        self, name: str = "", *, user: str = "", groups: Sequence[str] = (), seconds: float | None = None
    ) -> NewToken:
        """A token of `user`, by default of who asks, that ends after so many seconds. `groups`: of a user who has no
        account on the server's machine. Raises Forbidden, InvalidObject, AlreadyExists, TooManyRequests."""
        ...

    def tokens(self, *, everybody: bool = False) -> Sequence[TokenInfo]:
        """Those of who asks, or everybody's, by user and name. Raises Forbidden."""
        ...

    def revoke_token(self, name: str, *, user: str = "") -> TokenInfo:
        """End a token at once. Raises NotFound, Forbidden."""
        ...

    def revoke_certificate(self, serial: str) -> RevokedCertificate:
        """End a client certificate at once. Raises Forbidden, InvalidObject."""
        ...

    def revoked_certificates(self) -> Sequence[RevokedCertificate]:
        """Those that were revoked, the first one first. Raises Forbidden."""
        ...

    def api_address(self) -> ApiAddress:
        """Where the daemon answers over TLS. Raises NotFound where it does not."""
        ...


class AccessClient(Protocol):
    """Who asks, and what they may do."""

    def grpc_ticket(self) -> GrpcTicket:
        """What shows the daemon's gRPC server who asks, for a few minutes, and where that server listens. Raises
        NotFound where none does."""
        ...

    def page_link(self) -> PageLink:
        """What signs a browser in as who asks, once and soon. Raises NotFound where no daemon serves the page."""
        ...

    def who_am_i(self) -> UserInfo:
        """As the server knows them."""
        ...

    def may(self, verb: str, resource: str, *, namespace: str = "", name: str = "") -> Allowed:
        """Whether who asks may do it: `resource` is a plural, gpujobs, or gpujobs/log; `namespace` "": all of them."""
        ...


class Client(
    ObjectClient,
    SourceClient,
    JobClient,
    HistoryClient,
    NodeClient,
    SecretClient,
    SwarmClient,
    ServerClient,
    TokenClient,
    AccessClient,
    Protocol,
):
    """All of it. Use it with `with`, or close it."""

    def close(self) -> None:
        """End every watch. Nothing else may be called afterwards."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
