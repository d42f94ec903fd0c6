"""Jobs: submit, get, list, watch, cancel, attend."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson

from cumulus.errors import Expired, NotFound, StoreUnavailable, UsageError
from cumulus.resources.key import DEFAULT_NAMESPACE, Document, Key
from cumulus.resources.kinds import gpujob
from cumulus.resources.query import Query
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.server.api import Api
from cumulus.server.grpc.attendance import AttendanceBook
from cumulus.service.calls import Calls
from cumulus.service.identity import Identity

MOST_OBJECT_BYTES = 3 * 2**20
"""As of a request to the HTTP API."""
MOST_LISTED, MOST_LISTED_BYTES = 500, 2 * 2**20
"""In one answer, which ends with the page that goes over it: clients take 4 MiB unless they are told otherwise."""
_PAGE = 25


def key_of(job: pb.JobRef) -> Key:
    if not job.name:
        raise UsageError("say which job: its name is missing")
    return Key(gpujob.KIND.name, job.namespace or DEFAULT_NAMESPACE, job.name)


def message_of(document: Document, *, deleted: bool = False) -> pb.Job:
    return pb.Job(object=orjson.dumps(document), deleted=deleted)


class JobCalls:
    def __init__(self, api: Api, attendance: AttendanceBook) -> None:
        self._api = api
        self._attendance = attendance
        self._objects = api.service.objects
        self._calls: Calls = api.service.calls

    async def submit(self, identity: Identity, request: pb.SubmitRequest) -> pb.Job:
        document = _object(request.object)
        await self._api.call(self._calls.check_python, identity, document)
        submit = self._api.service.submissions.submit
        made = await self._api.call(submit, identity, document, request.idempotency_key)
        return message_of(made.document, deleted=made.deleted)

    async def get(self, identity: Identity, request: pb.GetRequest) -> pb.Job:
        return message_of(await self._api.call(self._calls.get, identity, key_of(request.job), request.job.uid))

    async def list(self, identity: Identity, request: pb.ListRequest) -> pb.ListResponse:
        return await self._api.call(self._listed, identity, request)

    async def watch(self, identity: Identity, request: pb.WatchRequest) -> AsyncGenerator[pb.Job]:
        key, uid = key_of(request.job), request.job.uid
        await self._api.call(self._api.service.access.check, identity, "watch", "gpujobs", key.namespace, key.name)
        async with aclosing(changes(self._api, identity, key, uid)) as found:
            async for document, deleted in found:
                yield message_of(document, deleted=deleted)

    async def cancel(self, identity: Identity, request: pb.CancelRequest) -> pb.Job:
        deleted = await self._api.call(
            self._objects.delete, identity, key_of(request.job), uid=request.job.uid or None,
            grace_seconds=request.grace_seconds,
        )  # fmt: skip
        return message_of(deleted)

    async def attend(self, identity: Identity, request: pb.AttendRequest) -> pb.AttendResponse:
        key = key_of(request.job)
        job = await self._api.call(self._calls.own, identity, key, request.job.uid)
        return pb.AttendResponse(next=self._attendance.heard(job))

    def _listed(self, identity: Identity, request: pb.ListRequest) -> pb.ListResponse:
        """Of one namespace; or of all in one list, where the caller may see all, else of those that they may see, one
        after another."""
        limit = min(request.limit, MOST_LISTED) if request.limit > 0 else MOST_LISTED
        namespaces: list[str | None] = [request.namespace or None]
        access = self._api.service.access
        if not request.namespace and not access.may(identity, "list", "gpujobs").allowed:
            known, _ = self._api.service.namespaces.list(identity)
            namespaces = [each for each in known if access.may(identity, "list", "gpujobs", each).allowed]
        at, token = _read_token(getattr(request, "continue"))
        if at is not None:
            namespaces = [each for each in namespaces if each is None or each >= at]
        if namespaces[:1] != [at]:
            # Nothing is left there, or they may see it no more.
            token = ""
        found: list[pb.Job] = []
        size = 0
        while namespaces:
            query = Query(
                gpujob.KIND.name, namespaces[0], labels=request.label_selector, limit=min(_PAGE, limit - len(found)),
                continue_token=token,
            )  # fmt: skip
            page = self._objects.list_packed(identity, query)
            found += [pb.Job(object=item) for item in page.items]
            size += sum(map(len, page.items))
            token = page.continue_token
            if not token:
                del namespaces[0]
            if namespaces and (len(found) >= limit or size >= MOST_LISTED_BYTES):
                return _answer(found, _token(namespaces[0], token))
        return _answer(found, "")


def _object(data: bytes) -> Document:
    if len(data) > MOST_OBJECT_BYTES:
        raise UsageError(f"the object has {len(data)} bytes; it may have {MOST_OBJECT_BYTES}")
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"the object is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError("the object is no JSON object")
    return found


async def changes(api: Api, identity: Identity, key: Key, uid: str) -> AsyncGenerator[tuple[Document, bool]]:
    """The job as it is, then as it becomes, until it is final, or gone, which the second value tells. `uid`: only that
    very job; "": the one of this name. Raises NotFound, Forbidden, StoreUnavailable once the server ends."""
    kind, seen = gpujob.KIND, ""
    while True:
        since = await api.call(api.service.objects.revision, identity)
        try:
            document = await api.call(api.service.calls.get, identity, key, uid)
        except NotFound:
            if not seen:
                raise
            yield document, True
            return
        uid = document["metadata"]["uid"]
        if document["metadata"]["resourceVersion"] != seen:
            seen = document["metadata"]["resourceVersion"]
            yield document, False
        if kind.over(document):
            return
        try:
            async with api.bridge.watch(since=since, kind=gpujob.KIND.name, namespace=key.namespace) as watcher:
                while not watcher.closed:
                    for event in await watcher.next():
                        if event.key != key:
                            continue
                        if event.type == "DELETED" or event.document["metadata"]["uid"] != uid:
                            yield (event.document if event.type == "DELETED" else document), True
                            return
                        document = event.document
                        seen = document["metadata"]["resourceVersion"]
                        yield document, False
                        if kind.over(document):
                            return
            raise StoreUnavailable("the server is ending")
        except Expired:
            continue


def _answer(jobs: list[pb.Job], token: str) -> pb.ListResponse:
    return pb.ListResponse(jobs=jobs, **{"continue": token})


def _token(namespace: str | None, token: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([namespace, token])).decode()


def _read_token(given: str) -> tuple[str | None, str]:
    if not given:
        return None, ""
    try:
        namespace, token = orjson.loads(base64.urlsafe_b64decode(given))
    except (TypeError, ValueError):
        namespace = token = 0
    if not (namespace is None or isinstance(namespace, str)) or not isinstance(token, str):
        raise UsageError("the continue token is not one of this server", hint="list again from the beginning")
    return namespace, token
