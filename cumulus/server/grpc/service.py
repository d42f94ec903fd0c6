"""Puts the gRPC service together: each RPC behind the door, health, and reflection for tools such as grpcurl."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.server.api import Api
from cumulus.server.grpc.attendance import AttendanceBook
from cumulus.server.grpc.blobs import BlobCalls
from cumulus.server.grpc.credentials import AuthenticateRpc
from cumulus.server.grpc.door import Door
from cumulus.server.grpc.jobs import JobCalls
from cumulus.server.grpc.logs import LogCalls
from cumulus.server.grpc.metering import Metering
from cumulus.server.grpc.results import ResultCalls
from cumulus.server.grpc.sessions import SessionCalls

if TYPE_CHECKING:
    from cumulus.server.grpc.door import Handler

NAME = pb.DESCRIPTOR.services_by_name["Orchestrator"].full_name
MOST_MESSAGE_BYTES = 8 * 2**20
"""Of a request. Clients send blobs in pieces of less."""
MOST_CALLS, MOST_STREAMS = 4096, 1024
"""At once: of all connections, and of one."""
MOST_CONNECTIONS = 2048
OPTIONS: list[tuple[str, int]] = [
    ("grpc.so_reuseport", 0),  # Two servers at one port would share its calls.
    ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),  # What is sent was measured where it is made.
    ("grpc.max_metadata_size", 16 * 2**10),
    ("grpc.max_concurrent_streams", MOST_STREAMS),
    ("grpc.max_allowed_incoming_connections", MOST_CONNECTIONS),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # A client that is gone without a word is noticed, and one may ask as often as every ten seconds whether we are.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    # Clients connect again when they have something to say.
    ("grpc.max_connection_idle_ms", 5 * 60_000),
]


def handlers(api: Api, door: Door, attendance: AttendanceBook) -> Mapping[str, Handler]:
    """By the RPC's name."""
    blobs, jobs, logs, results = BlobCalls(api), JobCalls(api, attendance), LogCalls(api), ResultCalls(api)
    sessions = SessionCalls(api)
    return {
        "PutBlob": door.uploading("PutBlob", pb.PutBlobRequest, blobs.put),
        "FindBlobs": door.unary("FindBlobs", pb.FindBlobsRequest, blobs.find),
        "GetBlob": door.streaming("GetBlob", pb.GetBlobRequest, blobs.get),
        "Submit": door.unary("Submit", pb.SubmitRequest, jobs.submit, changes=True),
        "Get": door.unary("Get", pb.GetRequest, jobs.get),
        "List": door.unary("List", pb.ListRequest, jobs.list),
        "Watch": door.streaming("Watch", pb.WatchRequest, jobs.watch),
        "Cancel": door.unary("Cancel", pb.CancelRequest, jobs.cancel, changes=True),
        "Attend": door.unary("Attend", pb.AttendRequest, jobs.attend),
        "Result": door.streaming("Result", pb.ResultRequest, results.result),
        "Call": door.conversing("Call", pb.CallRequest, sessions.call),
        "Logs": door.streaming("Logs", pb.LogsRequest, logs.logs),
    }


def make_server(
    api: Api, attendance: AttendanceBook, authenticate: AuthenticateRpc, metering: Metering
) -> grpc.aio.Server:
    """A server without a port. Several may share what is given. To be made in the event loop that runs it."""
    door = Door(api, authenticate, metering)
    server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=MOST_CALLS)
    answers = grpc.method_handlers_generic_handler(NAME, dict(handlers(api, door, attendance)))
    server.add_generic_rpc_handlers((answers,))
    health_pb2_grpc.add_HealthServicer_to_server(_Health(door), server)
    names = (NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(door, names), server)
    return server


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Anybody may check: probes show nothing. A watch, which stays open, is for those who are known."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def Check(self, request: Any, context: Any) -> Any:
        if request.service not in ("", NAME, health.SERVICE_NAME):
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return _serving()

    async def Watch(self, request: Any, context: Any) -> None:
        async with self._door.entered("Health.Watch", context):
            known = request.service in ("", NAME, health.SERVICE_NAME)
            await context.write(_serving() if known else health_pb2.HealthCheckResponse(status="SERVICE_UNKNOWN"))
            # It serves until it ends, and this with it.
            await asyncio.Event().wait()


class _Reflection(ReflectionServicer):  # type: ignore[misc]
    """For those who are known."""

    def __init__(self, door: Door, names: tuple[str, ...]) -> None:
        super().__init__(names)
        self._door = door

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async with self._door.entered("Reflection", context):
            async for answer in super().ServerReflectionInfo(requests, context):
                yield answer


def _serving() -> Any:
    return health_pb2.HealthCheckResponse(status="SERVING")
