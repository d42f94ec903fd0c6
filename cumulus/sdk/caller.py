"""Turns functions into calls on one server: what the synchronous client, the asynchronous one and sessions share."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple, cast

from cumulus import paths
from cumulus.errors import InvalidObject, UsageError
from cumulus.resources.key import Document
from cumulus.sdk import options
from cumulus.sdk.blobs import ServerBlobs
from cumulus.sdk.call import Call
from cumulus.sdk.keys import ID_ANNOTATION, ClientKey
from cumulus.sdk.options import CallOptions
from cumulus.sdk.packaging import pickling
from cumulus.sdk.packaging.archive import Archives
from cumulus.sdk.packaging.blob import Blob
from cumulus.sdk.packaging.source import Project
from cumulus.sdk.transport import GrpcConnection

_BLOBS = ("spec.call.payload", "spec.call.arguments", "spec.call.archive", "spec.call.environment")
"""How the names of fields begin that name blobs."""
FUNCTION_ANNOTATION = "cumulus.dev/function"
"""On a call's job: which function it is, for people."""


class Prepared(NamedTuple):
    """A call that is ready to be sent."""

    job: Document
    payload: Blob
    kept: tuple[Blob, ...]
    """What other calls use too."""
    key: bytes
    modules: frozenset[str]
    """Top names of the local modules that travel."""


class Caller:
    """Packages and submits."""

    def __init__(self, connection: GrpcConnection, project: Project, namespace: str, interpreter: str | None) -> None:
        self.connection = connection
        self.namespace = namespace
        self._interpreter = options.interpreter(interpreter)
        self._project = project
        self._archives = Archives(project)
        self._blobs = ServerBlobs(connection)
        self._key: ClientKey | None = None

    @property
    def key(self) -> ClientKey:
        """Made with the first call of this user."""
        if self._key is None:
            self._key = ClientKey.make()
        return self._key

    def prepare(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], asked: CallOptions, *,
        attended: bool = False, session: bool = False, code_of: Callable[..., Any] | None = None, name: str = "",
    ) -> Prepared:  # fmt: skip
        """Raises UsageError, TypeError, NotPicklable and SourceTooLarge before anything is sent.

        `code_of`: the function whose local code travels, where that is another one. `name`: what to name it by."""
        options.check_arguments(function, args, kwargs)
        shown = name or pickling.name_of(function)
        name = options.job_name(shown)
        key = self.key.of_call(f"{self.namespace}/{name}")
        pickled = pickling.pickled(key, function, args, kwargs)
        payload = Blob.of(pickled.payload)
        archive, modules = self._archives.of(code_of or function, pickled.sources)
        call: dict[str, Any] = {"payload": payload.sha256, "python": options.python_version()}
        kept = list(pickled.arguments)
        if kept:
            call["arguments"] = [blob.sha256 for blob in kept]
        if archive is not None:
            call["archive"] = archive.sha256
            kept.append(archive)
        if wanted := asked.get("requirements"):
            environment = Blob.of(_environment(wanted))
            call["environment"] = environment.sha256
            kept.append(environment)
        if self._interpreter and not asked.get("image"):
            call["interpreter"] = self._interpreter
        if session:
            call["session"] = True
        if attended:
            call["attended"] = options.ATTENDED
        annotations = {ID_ANNOTATION: self.key.id, FUNCTION_ANNOTATION: shown[:200]}
        ttl = options.RUN_TTL if attended else options.SUBMIT_TTL
        job = options.job(name, self.namespace, asked, call, ttl=ttl, annotations=annotations)
        return Prepared(job, payload, tuple(kept), key, modules)

    def is_local(self, function: Callable[..., Any]) -> bool:
        """Whether it is in a module that travels, and not in `__main__`."""
        return self._project.is_module_of(function)

    def submit(self, prepared: Prepared) -> Call[Any]:
        """Send it. One job comes of it, however often the answer is lost. Raises CumulusError."""
        key = uuid.uuid4().hex
        self._blobs.send(prepared.kept, prepared.payload)
        try:
            made = self._submitted(prepared, key)
        except InvalidObject as error:
            if not (error.field or "").startswith(_BLOBS):
                raise
            # What the server had, it may have collected since.
            self._blobs.forget()
            self._blobs.send(prepared.kept, prepared.payload)
            made = self._submitted(prepared, key)
        return Call(self.connection, made, key=prepared.key)

    def attach(self, name: str, namespace: str | None) -> Call[Any]:
        """Raises NotFound, and UsageError for a job that is no call."""
        from cumulus.rpc.orchestrator_pb2 import JobRef

        job = self.connection.job(JobRef(namespace=namespace or self.namespace, name=name))
        if not (job.get("spec") or {}).get("call"):
            raise UsageError(f"job {name} is not a call of a function", hint=f"look at it with: cumulus get job {name}")
        return Call(self.connection, job)

    def _submitted(self, prepared: Prepared, key: str) -> Document:
        from cumulus.rpc.orchestrator_pb2 import SubmitRequest

        request = SubmitRequest(idempotency_key=key, object=json.dumps(prepared.job).encode())
        made = self.connection.call(lambda stub: stub.Submit, request)
        return cast(Document, json.loads(made.object))


def _environment(wanted: Sequence[str] | str | PathLike[str]) -> bytes:
    """The environment document of `requirements=`. Raises InvalidEnvironment."""
    from cumulus.environments.lock import document_of

    cache = paths.contexts_file().with_name("requirements")
    return document_of(wanted, options.python_version(), cache=cache).to_json()
