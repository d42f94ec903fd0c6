"""`HttpClient`: every call of `Client` over HTTP."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from urllib.parse import quote, urlencode

from cumulus.answers.codec import decode, encode
from cumulus.client.http.connection import ClientConnection, Cut, Method, Stream
from cumulus.client.http.errors import ServerUnavailable, error_in
from cumulus.errors import InvalidObject, StoreUnavailable, UsageError
from cumulus.lib.files import creating
from cumulus.resources.documents import owners
from cumulus.resources.field_managers import CUMULUS
from cumulus.resources.key import API_VERSION, DEFAULT_NAMESPACE, Document, Key
from cumulus.resources.kind import Kind
from cumulus.resources.query import Page, Query, Watch
from cumulus.resources.registry import kind_of

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
    from cumulus.answers.objects import (
        Applied,
        Description,
        Extended,
        JobFiles,
        PatchType,
        Propagation,
        WaitStep,
        Why,
    )
    from cumulus.answers.queue import Line
    from cumulus.answers.secrets import SecretKey
    from cumulus.answers.server import ApiAddress, ServerState
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
    from cumulus.client.endpoint import Endpoint
    from cumulus.client.programs import RemoteProgram
    from cumulus.lib.execution import ExecRequest
    from cumulus.manifest import Manifest

T = TypeVar("T")
_PATCHES = {"merge": "application/merge-patch+json", "json": "application/json-patch+json"}
_PROPAGATIONS = {"background": "Background", "orphan": "Orphan"}
_DRY_RUN = {"dryRun": "All"}
_CHUNK = 2**20
_QUIET = 45.0
"""A watch hears something every ten seconds."""
_NEW_FILE = "name a new file for each backup"


class HttpClient:
    """See `client.base.Client`. It connects with the first call."""

    def __init__(self, endpoint: Endpoint, *, connection: ClientConnection | None = None) -> None:
        self.endpoint = endpoint
        self._connection = connection or ClientConnection(endpoint)

    # Objects, over Kubernetes' paths.

    def get(self, key: Key) -> Document:
        return self._object("GET", _path_of(key), safe=True)

    def list(self, query: Query) -> Page:
        given = {
            "labelSelector": query.labels, "fieldSelector": query.fields, "limit": query.limit,
            "continue": query.continue_token,
        }  # fmt: skip
        if query.revision:
            given |= {"resourceVersion": query.revision, "resourceVersionMatch": "Exact"}
        found = self._object("GET", _path(_kind(query.kind), query.namespace), given, safe=True)
        items, metadata = found["items"] or [], found["metadata"]
        if query.owner_uid is not None:
            items = [item for item in items if any(owner["uid"] == query.owner_uid for owner in owners(item))]
        return Page(items, int(metadata["resourceVersion"]), metadata.get("continue", ""))

    def watch(self, *, since: int, kinds: frozenset[str], namespace: str | None = None) -> Watch:
        from cumulus.client.http.watch import HttpWatch

        given = {"kinds": ",".join(sorted(kinds)), "namespace": namespace}

        def open(since: int) -> Stream:
            return self._connection.stream("GET", _url("/cumulus/v1/watch", {"since": since, **given}), patience=_QUIET)

        return HttpWatch(self._connection, open, since)

    def revision(self) -> int:
        return self._call("revision", int)

    def create(self, document: Document, *, dry_run: bool = False) -> Document:
        path = _path(kind_of(document), _namespace(document))
        return self._object("POST", path, _DRY_RUN if dry_run else {}, document)

    def update(self, document: Document, *, dry_run: bool = False) -> Document:
        kind, metadata = kind_of(document), document.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if not isinstance(name, str) or not name:
            raise InvalidObject("metadata.name: is required", field="metadata.name")
        path = _path(kind, _namespace(document), name)
        return self._object("PUT", path, _DRY_RUN if dry_run else {}, document)

    def patch(
        self, key: Key, patch: object, *,
        type: PatchType = "merge", resource_version: str | None = None, dry_run: bool = False,
    ) -> Document:  # fmt: skip
        from cumulus.service.patches import check

        check(patch, type)
        if resource_version is not None:
            patch = _with_version(patch, resource_version)
        given = _DRY_RUN if dry_run else {}
        return self._object("PATCH", _path_of(key), given, patch, media_type=_PATCHES[type])

    def apply(
        self, manifests: Sequence[Manifest], *,
        dry_run: bool = False, prune: str = "", prune_limit: int | None = None, field_manager: str = CUMULUS,
        force_conflicts: bool = False, recreate: bool = False,
    ) -> Sequence[Applied]:  # fmt: skip
        from cumulus.answers.objects import Applied

        sent = [each.document for each in manifests]
        with _placed(manifests):
            return self._call(
                "apply", list[Applied], manifests=sent, dry_run=dry_run, prune=prune, prune_limit=prune_limit,
                field_manager=field_manager, force_conflicts=force_conflicts, recreate=recreate,
            )  # fmt: skip

    def source_diff(self, key: Key, manifests: Sequence[Manifest]) -> SourceDiff:
        from cumulus.answers.sources import SourceDiff

        with _placed(manifests):
            return self._read("source_diff", SourceDiff, key=key, manifests=[each.document for each in manifests])

    def delete(
        self, key: Key, *, uid: str | None = None, resource_version: str | None = None,
        propagation: Propagation = "background", grace_seconds: int = 0, dry_run: bool = False,
    ) -> Document:  # fmt: skip
        if propagation not in _PROPAGATIONS:
            raise UsageError(f"there is no propagation {propagation!r}", hint=f"it is {' or '.join(_PROPAGATIONS)}")
        if grace_seconds < 0:
            raise UsageError(f"a grace period cannot be negative, got {grace_seconds}")
        options: Document = {"propagationPolicy": _PROPAGATIONS[propagation]}
        if grace_seconds:
            options["gracePeriodSeconds"] = grace_seconds
        if preconditions := {k: v for k, v in (("uid", uid), ("resourceVersion", resource_version)) if v}:
            options["preconditions"] = preconditions
        answer = self._object("DELETE", _path_of(key), _DRY_RUN if dry_run else {}, options)
        if answer["kind"] != "Status":
            return answer
        metadata = {"name": key.name, "namespace": key.namespace, "uid": answer["details"]["uid"]}
        return {"apiVersion": API_VERSION, "kind": key.kind, "metadata": {k: v for k, v in metadata.items() if v}}

    # All else, over our own.

    def set_labels(self, key: Key, changes: Mapping[str, str | None], *, overwrite: bool = False) -> bool:
        return self._call("set_labels", bool, key=key, changes=dict(changes), overwrite=overwrite)

    def set_annotations(self, key: Key, changes: Mapping[str, str | None], *, overwrite: bool = False) -> bool:
        return self._call("set_annotations", bool, key=key, changes=dict(changes), overwrite=overwrite)

    def delete_losses(self, key: Key) -> Sequence[str]:
        return self._read("delete_losses", list[str], key=key)

    def describe(self, key: Key) -> Description:
        from cumulus.answers.objects import Description

        return self._read("describe", Description, key=key)

    def wait(
        self, targets: Sequence[Key | Query], condition: str, *, seconds: float, uids: Mapping[Key, str] | None = None
    ) -> Iterator[WaitStep]:
        """On this side of the network, so that it outlives a restart of the server as a watch does."""
        from cumulus.clock import SystemClock
        from cumulus.service.waits import wait

        return wait(self, targets, condition, seconds, SystemClock(), uids or {})

    def suspend(self, key: Key, *, suspended: bool, park: bool = False) -> bool:
        return self._call("suspend", bool, key=key, suspended=suspended, park=park)

    def park(self, key: Key, *, parked: bool, park_for: str = "") -> bool:
        return self._call("park", bool, key=key, parked=parked, park_for=park_for)

    def rerun(
        self, key: Key, *, changes: Document | None = None, from_checkpoint: bool = False, uid: str = ""
    ) -> Document:
        given: dict[str, Any] = {"changes": changes, "from_checkpoint": from_checkpoint, "uid": uid}
        return self._call("rerun", Document, key=key, **given)

    def extend(self, key: Key, seconds: float, *, dry_run: bool = False) -> Extended:
        from cumulus.answers.objects import Extended

        return self._call("extend", Extended, key=key, seconds=seconds, dry_run=dry_run)

    def why(self, key: Key) -> Why:
        from cumulus.answers.objects import Why

        return self._read("why", Why, key=key)

    def line(self, queue: str = "") -> Line:
        from cumulus.answers.queue import Line

        return self._read("line", Line, queue=queue)

    def forecast(self, document: Document) -> str:
        return self._read("forecast", str, document=document)

    def checkpoints(self, key: Key, *, beyond: bool = False) -> JobCheckpoints:
        from cumulus.answers.checkpoints import JobCheckpoints

        return self._read("checkpoints", JobCheckpoints, key=key, beyond=beyond)

    def verify_checkpoints(
        self, key: Key, *, step: int | None = None, beyond: bool = False
    ) -> Iterator[CheckpointFound]:
        from cumulus.answers.checkpoints import CheckpointFound

        return self._steps("verify_checkpoints", CheckpointFound, key=key, step=step, beyond=beyond)

    def fetch_checkpoint(self, key: Key, *, step: int | None = None, beyond: bool = False) -> Iterator[CheckpointPiece]:
        from cumulus.answers.checkpoints import CheckpointPiece

        return self._steps("fetch_checkpoint", CheckpointPiece, key=key, step=step, beyond=beyond)

    def changes(self, key: Key, *, most: int) -> Iterator[ChangePiece]:
        from cumulus.answers.carried import ChangePiece

        return self._steps("changes", ChangePiece, key=key, most=most)

    def prune_checkpoints(self, key: Key, *, keep: int, beyond: bool = False) -> Sequence[int]:
        return self._call("prune_checkpoints", list[int], key=key, keep=keep, beyond=beyond)

    def usage(self) -> UsageNow:
        from cumulus.answers.usage import UsageNow

        return self._read("usage", UsageNow)

    def timeline(self, start: int, end: int, *, pixels: int) -> Timeline:
        return cast("Timeline", self._read("timeline", Document, start=start, end=end, pixels=pixels))

    def job_use(self, key: Key) -> JobUse:
        return cast("JobUse", self._read("job_use", Document, key=key))

    def report(self, since: int, *, until: int = 0, by: By = "user") -> Report:
        return cast("Report", self._read("report", Document, since=since, until=until, by=by))

    def lease_rows(self, since: int, *, until: int = 0, after: int = 0) -> LeaseRows:
        return cast("LeaseRows", self._read("lease_rows", Document, since=since, until=until, after=after))

    def held_over_time(self, start: int, end: int, *, points: int = 100, by: By = "user") -> HeldOverTime:
        found = self._read("held_over_time", Document, start=start, end=end, points=points, by=by)
        return cast("HeldOverTime", found)

    def same_directory(self, directory: str, word: str, *, namespace: str) -> Sequence[DirectoryOnNode]:
        from cumulus.answers.nodes import DirectoryOnNode

        return self._read("same_directory", list[DirectoryOnNode], directory=directory, word=word, namespace=namespace)

    def job_files(self, uids: Sequence[str]) -> Sequence[JobFiles]:
        from cumulus.answers.objects import JobFiles

        return self._read("job_files", list[JobFiles], uids=uids)

    def logs(
        self, key: Key, *,
        attempt: int = 0, replica: int | None = None, follow: bool = False, tail: int | None = None,
        since: float | None = None, timestamps: bool = False, run: int = 0,
    ) -> Iterator[LogPiece]:  # fmt: skip
        from cumulus.answers.logs import LogPiece
        from cumulus.client.http.logs import followed

        given: dict[str, Any] = {"key": key, "replica": replica, "since": since, "timestamps": timestamps}
        given |= {"run": run} if run else {}
        if not follow:
            return self._steps("logs", LogPiece, attempt=attempt, tail=tail, follow=False, **given)

        def open(**position: object) -> Generator[LogPiece, None, Document | None]:
            return self._steps("logs", LogPiece, resumable=True, follow=True, **given, **position)

        return followed(self._connection, open, attempt, tail)

    def exec(self, key: Key, replica: int, asked: ExecRequest) -> RemoteProgram:
        given: dict[str, object] = {"stdout": "true", "stderr": "true", "command": asked.command}
        if asked.stdin:
            given["stdin"] = "true"
        if asked.terminal:
            given |= {"tty": "true", "term": asked.terminal}
        return self._program(f"{_pod_path(key, replica)}/exec?{urlencode(given, doseq=True)}")

    def attach(self, key: Key, *, stdin: bool) -> RemoteProgram:
        given = {"stdout": "true", "tty": "true", **({"stdin": "true"} if stdin else {})}
        return self._program(f"{_pod_path(key, 0)}/attach?{urlencode(given)}")

    def forward(self, key: Key, replica: int, port: int, connection: socket.socket) -> None:
        from cumulus.client.http.forwarding import forward
        from cumulus.lib.remotecommand import V5

        made = self._connection.websocket(f"{_pod_path(key, replica)}/portforward?ports={port}", V5)
        try:
            forward(made, connection)
        finally:
            made.close()

    def cordon(self, name: str, *, unschedulable: bool) -> bool:
        return self._call("cordon", bool, name=name, unschedulable=unschedulable)

    def find_worker(self, name: str, address: WorkerAddress, *, fingerprint: str = "") -> WorkerFound:
        from cumulus.answers.nodes import WorkerFound

        return self._read("find_worker", WorkerFound, name=name, address=address, fingerprint=fingerprint)

    def add_worker(self, name: str, address: WorkerAddress, key: HostKey) -> NodeChange:
        return cast("NodeChange", self._call("add_worker", str, name=name, address=address, key=key))

    def ask_worker(self, name: str) -> WorkerAnswer:
        from cumulus.answers.nodes import WorkerAnswer

        return self._read("ask_worker", WorkerAnswer, name=name)

    def setup_worker(
        self, name: str, *, prefix: str = "", python: str = "", dry_run: bool = False
    ) -> Iterator[SetupStep]:
        from cumulus.answers.nodes import SetupStep

        return self._steps("setup_worker", SetupStep, name=name, prefix=prefix, python=python, dry_run=dry_run)

    def drain_node(self, name: str, *, now: bool = False, seconds: float | None = None) -> Iterator[DrainStep]:
        from cumulus.answers.nodes import DrainStep

        return self._steps("drain_node", DrainStep, name=name, now=now, seconds=seconds)

    def plan_drain(self, name: str, *, at: str, duration: str = "") -> DrainPlanned:
        from cumulus.answers.nodes import DrainPlanned

        return self._call("plan_drain", DrainPlanned, name=name, at=at, duration=duration)

    def cancel_drain(self, name: str) -> bool:
        return self._call("cancel_drain", bool, name=name)

    def end_drain(self, name: str) -> str:
        return self._call("end_drain", str, name=name)

    def remove_node(self, name: str, *, force: bool = False) -> Iterator[RemoveStep]:
        from cumulus.answers.nodes import RemoveStep

        return self._steps("remove_node", RemoveStep, name=name, force=force)

    def init_swarm(self, *, advertise: str = "", listen: str = "") -> SwarmMade:
        from cumulus.answers.swarm import SwarmMade

        return self._call("init_swarm", SwarmMade, advertise=advertise, listen=listen)

    def swarm_invitation(self) -> SwarmInvitation:
        from cumulus.answers.swarm import SwarmInvitation

        return self._read("swarm_invitation", SwarmInvitation)

    def swarm_status(self) -> SwarmStatus:
        from cumulus.answers.swarm import SwarmStatus

        return self._read("swarm_status", SwarmStatus)

    def swarm_ownership(self) -> SwarmOwnership:
        from cumulus.answers.swarm import SwarmOwnership

        return self._read("swarm_ownership", SwarmOwnership)

    def adopt_swarm(self, mark: SwarmMark | None) -> None:
        self._call("adopt_swarm", type(None), mark=mark)

    def push_image(self, name: str, nodes: Sequence[str], *, every: float) -> Generator[ImageStep]:
        from cumulus.answers.swarm import ImageStep

        return self._steps("push_image", ImageStep, name=name, nodes=nodes, every=every)

    def server_state(self) -> ServerState:
        from cumulus.answers.server import ServerState

        return self._read("server_state", ServerState)

    def find_damaged(self, document: Document | None = None) -> InvalidObject | None:
        found: Any = InvalidObject | None
        return cast("InvalidObject | None", self._read("find_damaged", found, document=document))

    def backup(self, file: Path) -> None:
        if os.path.lexists(file):
            raise UsageError(f"{file} is there already", hint=_NEW_FILE)
        if not file.parent.is_dir():
            raise UsageError(f"there is no directory {file.parent}", hint="make it, or name a file in another one")
        stream = self._connection.stream("POST", "/cumulus/v1/backup")
        try:
            _save(stream, file)
        finally:
            stream.close()

    def create_secret(self, namespace: str, name: str, values: Mapping[str, str], *, overwrite: bool = False) -> None:
        from cumulus.secrets import SecretStore

        for key, value in values.items():
            SecretStore("/").check(name, key, value)
        self._call(
            "create_secret", type(None), namespace=namespace, name=name, values=dict(values), overwrite=overwrite
        )

    def secrets(self, namespace: str | None) -> Sequence[SecretKey]:
        from cumulus.answers.secrets import SecretKey

        return self._read("secrets", list[SecretKey], namespace=namespace)

    def delete_secret(self, namespace: str, name: str, key: str = "") -> None:
        self._call("delete_secret", type(None), namespace=namespace, name=name, key=key)

    def create_token(
        self, name: str = "", *, user: str = "", groups: Sequence[str] = (), seconds: float | None = None
    ) -> NewToken:
        from cumulus.answers.tokens import NewToken

        given: dict[str, Any] = {"name": name, "user": user, "groups": list(groups), "seconds": seconds}
        return self._call("create_token", NewToken, **given)

    def tokens(self, *, everybody: bool = False) -> Sequence[TokenInfo]:
        from cumulus.answers.tokens import TokenInfo

        return self._read("tokens", list[TokenInfo], everybody=everybody)

    def revoke_token(self, name: str, *, user: str = "") -> TokenInfo:
        from cumulus.answers.tokens import TokenInfo

        return self._call("revoke_token", TokenInfo, name=name, user=user)

    def revoke_certificate(self, serial: str) -> RevokedCertificate:
        from cumulus.answers.certificates import RevokedCertificate

        return self._call("revoke_certificate", RevokedCertificate, serial=serial)

    def revoked_certificates(self) -> Sequence[RevokedCertificate]:
        from cumulus.answers.certificates import RevokedCertificate

        return self._read("revoked_certificates", list[RevokedCertificate])

    def api_address(self) -> ApiAddress:
        from cumulus.answers.server import ApiAddress

        return self._read("api_address", ApiAddress)

    def grpc_ticket(self) -> GrpcTicket:
        from cumulus.answers.tickets import GrpcTicket

        return self._read("ticket", GrpcTicket)

    def page_link(self) -> PageLink:
        from cumulus.answers.sessions import PageLink

        return self._call("page_link", PageLink)

    def who_am_i(self) -> UserInfo:
        from cumulus.answers.access import UserInfo

        return self._read("who_am_i", UserInfo)

    def may(self, verb: str, resource: str, *, namespace: str = "", name: str = "") -> Allowed:
        from cumulus.answers.access import Allowed

        return self._read("may", Allowed, verb=verb, resource=resource, namespace=namespace, name=name)

    def raw(self, path: str) -> bytes:
        return self._connection.call("GET", path, safe=True)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _program(self, path: str) -> RemoteProgram:
        from cumulus.client.http.programs import HttpProgram
        from cumulus.lib.remotecommand import V5

        return HttpProgram(self._connection.websocket(path, V5), self._connection.where)

    def _object(
        self, method: Method, path: str, given: Mapping[str, object] = {}, body: object = None, *,
        safe: bool = False, media_type: str = "application/json",
    ) -> Document:  # fmt: skip
        sent = None if body is None else _json(body)
        answer = self._connection.call(method, _url(path, given), sent, safe=safe, media_type=media_type)
        found: Document = json.loads(answer)
        return found

    def _call(self, call: str, of: type[T], /, *, safe: bool = False, **arguments: object) -> T:
        """The answer to one of our own calls, of the type `of`."""
        answer = self._connection.call("POST", f"/cumulus/v1/{call}", _arguments(arguments), safe=safe)
        found: T = decode(of, json.loads(answer)["value"], "the answer")
        return found

    def _read(self, call: str, of: type[T], /, **arguments: object) -> T:
        """As `_call`, for what changes nothing."""
        return self._call(call, of, safe=True, **arguments)

    def _steps(
        self, call: str, of: Any, /, *, resumable: bool = False, **arguments: object
    ) -> Generator[Any, None, Any]:  # fmt: skip
        """The steps of a call that goes on. What is wrong before the first is raised here. Where the server goes away
        the iterator raises ServerUnavailable, Cut for a `resumable` one."""
        stream = self._connection.stream("POST", f"/cumulus/v1/{call}", _arguments(arguments))
        return self._stepped(stream, of, resumable)

    def _stepped(self, stream: Stream, of: Any, resumable: bool) -> Generator[Any, None, Any]:
        try:
            for line in stream.lines():
                if (status := line.get("error")) is not None:
                    raise error_in(status)
                if line.get("end"):
                    value = line.get("value")
                    return None if value is None else decode(Document, value, "the answer")
                yield decode(of, line["item"], "the answer")
            return None
        except Cut:
            if resumable:
                raise
            raise ServerUnavailable(
                f"{self._connection.where} went away before it had finished", hint="ask it again"
            ) from None
        finally:
            stream.close()


def _arguments(arguments: Mapping[str, object]) -> bytes:
    return _json({name: encode(value) for name, value in arguments.items()})


def _json(value: object) -> bytes:
    """Raises InvalidObject for what JSON can't say."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise InvalidObject("the object holds text that is not Unicode: a lone surrogate") from None
    except RecursionError:
        raise InvalidObject("the object is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise InvalidObject(f"the object cannot be written as JSON: {error}") from None


def _kind(name: str) -> Kind:
    return kind_of({"kind": name})


def _with_version(patch: object, version: str) -> object:
    """The patch, of an object of that version alone."""
    if isinstance(patch, Mapping):
        metadata = patch.get("metadata")
        known = metadata if isinstance(metadata, Mapping) else {}
        return {**patch, "metadata": {**known, "resourceVersion": version}}
    assert isinstance(patch, list | tuple)
    return [{"op": "replace", "path": "/metadata/resourceVersion", "value": version}, *patch]


def _namespace(document: Document) -> str:
    metadata = document.get("metadata")
    found = metadata.get("namespace") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) and found else DEFAULT_NAMESPACE


def _path_of(key: Key) -> str:
    return _path(_kind(key.kind), key.namespace or DEFAULT_NAMESPACE, key.name)


def _path(kind: Kind, namespace: str | None, name: str = "") -> str:
    """`namespace` None: all of them."""
    scope = f"/namespaces/{quote(namespace, safe='')}" if kind.namespaced and namespace is not None else ""
    return f"/apis/{API_VERSION}{scope}/{kind.plural}" + (f"/{quote(name, safe='')}" if name else "")


def _pod_path(key: Key, replica: int) -> str:
    namespace = quote(key.namespace or DEFAULT_NAMESPACE, safe="")
    return f"/api/v1/namespaces/{namespace}/pods/{quote(f'{key.name}-{replica}', safe='')}"


def _url(path: str, given: Mapping[str, object]) -> str:
    query = urlencode({name: value for name, value in given.items() if value not in (None, "")})
    return f"{path}?{query}" if query else path


def _save(stream: Stream, file: Path) -> None:
    """Into a new file, whole or not at all."""
    try:
        with creating(str(file)) as out:
            while chunk := stream.read(_CHUNK):
                out.write(chunk)
    except FileExistsError:
        raise UsageError(f"{file} is there already", hint=_NEW_FILE) from None
    except Cut:
        raise ServerUnavailable("the server went away before the backup was complete", hint="try again") from None
    except OSError as error:
        raise StoreUnavailable(f"the backup cannot be written to {file}: {error.strerror}") from None


@contextmanager
def _placed(manifests: Sequence[Manifest]) -> Iterator[None]:
    """The server knows manifests by their number, and here are the files: says where what is wrong with them is."""
    from cumulus.manifest import InvalidManifest

    try:
        yield
    except InvalidManifest as error:
        raise InvalidManifest(
            manifests[int(problem.position.file)].problem(problem.path, problem.message)
            if problem.position.file.isdigit() else problem
            for problem in error.problems
        ) from None  # fmt: skip
