"""The connection to the orchestrator: credentials, tries, and errors as the exceptions that they were there.

Every request may be made twice: a submit carries its idempotency key, and the others change nothing that a second one
would change again. So a request whose answer was lost is made again, for as long as the server may need to restart.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from cumulus import environment, errors
from cumulus.answers.tickets import SECONDS
from cumulus.client.http.errors import ServerUnavailable
from cumulus.errors import CumulusError
from cumulus.lib.backoff import Backoff
from cumulus.lib.printable import block, one_line
from cumulus.resources.key import Document
from cumulus.sdk import errors as sdk_errors
from cumulus.sdk import quiet_grpc
from cumulus.sdk.endpoint import ServerAddress

if TYPE_CHECKING:
    import grpc

    from cumulus.answers.tickets import GrpcTicket
    from cumulus.rpc.orchestrator_pb2 import JobRef
    from cumulus.rpc.orchestrator_pb2_grpc import OrchestratorStub

Q = TypeVar("Q")
T = TypeVar("T")
FIRST_SECONDS = 10.0
"""How long a server may take to answer for the first time: gRPC's process starts a little later than the daemon."""
RETRY_SECONDS = 60.0
"""How long a server that was there may be away before a request is given up."""
WAIT_SECONDS = 900.0
"""The same, for what waits for a call that runs: its job needs no server to go on."""
UNARY_SECONDS = 30.0
"""For one try of a short request."""
HELD_SECONDS = 35.0
"""What holds longer than this was no try to connect, and no short request."""
CHUNK = 2**20
"""Bytes of content in a message at most."""
PUT_BLOB = "/cumulus.v1.Orchestrator/PutBlob"
CLOSED = "the client is closed"
TICKETS = 5
"""How many tickets one request may have refused."""
BACKOFF = Backoff(first=0.065, longest=1.95, jitter=6 / 13)
"""From 0.05 s up to 1.5 s, each three tenths more or less."""
TICKET, ERROR, VERSION = "cumulus-ticket", "cumulus-error-bin", "cumulus-client"

_OPTIONS = [
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.use_local_subchannel_pool", 1),
    # The HTTP API is asked without a proxy too: both are one server, and few proxies carry gRPC.
    ("grpc.enable_http_proxy", 0),
]


class Patience(Protocol):
    """Says how long to go on trying."""

    def __call__(self, reached: bool) -> float: ...


def short(reached: bool) -> float:
    return RETRY_SECONDS if reached else FIRST_SECONDS


def long(reached: bool) -> float:
    return WAIT_SECONDS if reached else FIRST_SECONDS


class GrpcConnection:
    """One server. Safe for threads; a process that was forked gets a channel of its own."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._stub: OrchestratorStub | None = None
        self._pid = 0
        self._ticket: GrpcTicket | None = None
        self._renewed_at = 0.0
        self._reached = False
        self._closed = False

    def stub(self) -> OrchestratorStub:
        """The orchestrator's methods."""
        with self._lock:
            if self._closed:
                raise CumulusError(CLOSED)
            if self._stub is None or self._pid != os.getpid():
                quiet_grpc.load()
                from cumulus.rpc.orchestrator_pb2_grpc import OrchestratorStub

                self._channel = self._opened()
                self._stub, self._pid = OrchestratorStub(self._channel), os.getpid()
            return self._stub

    def upload(self, requests: Iterator[bytes]) -> None:
        """PutBlob, of requests that are serialized. Raises grpc.RpcError, and what `stub` and `metadata` do."""
        self.stub()
        channel = self._channel
        if channel is None:
            raise CumulusError(CLOSED)
        put: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(PUT_BLOB)
        put(requests, metadata=self.metadata())

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Who asks. Raises CumulusError where no ticket is to be had."""
        from cumulus import __version__

        version = (VERSION, f"cumulus-python/{__version__}")
        if self.address.api is None or not self.address.is_local:
            return (("authorization", f"Bearer {self.address.token}"), version)
        ticket = self._ticket
        if ticket is None or time.monotonic() >= self._renewed_at:
            ticket = self._new_ticket()
        return ((TICKET, ticket.ticket), version)

    def call(
        self, method: Callable[[OrchestratorStub], grpc.UnaryUnaryMultiCallable[Q, T]], request: Q, *,
        patience: Patience = short,
    ) -> T:  # fmt: skip
        """The answer to a request, which is made again where the server was away. Raises the CumulusError that the
        server tells, and ServerUnavailable where it stays away."""
        return self.again(
            lambda: method(self.stub())(request, metadata=self.metadata(), timeout=UNARY_SECONDS), patience=patience
        )

    def job(self, reference: JobRef, *, patience: Patience = short) -> Document:
        """The GPUJob as it is now. Raises NotFound, and what `call` does."""
        from cumulus.rpc.orchestrator_pb2 import GetRequest

        found = self.call(lambda stub: stub.Get, GetRequest(job=reference), patience=patience)
        return cast(Document, json.loads(found.object))

    def again(self, attempt: Callable[[], T], *, patience: Patience = short) -> T:
        """The value of `attempt`, tried again while the server is away or busy. A try that got somewhere may tell so
        with `reached`: then patience begins anew."""
        quiet_grpc.load()
        import grpc

        tries = _Tries()
        refused = 0
        while True:
            began = time.monotonic()
            ticket = self._ticket
            answered = True
            try:
                value = attempt()
            except grpc.RpcError as error:
                if ended_here(error):
                    raise EndedHere("the request was ended here") from None
                made = self._error(error)
                if isinstance(made, errors.Unauthenticated) and ticket is not None and refused < TICKETS:
                    # It is over: tickets live for minutes, and a daemon that restarts knows none of those before.
                    refused += 1
                    if self._ticket is ticket:
                        self._ticket = None
                elif self._closed or not is_passing(made):
                    raise made from None
                last = made
            except ValueError:
                # gRPC's, where `close` came in between.
                if not self._closed:
                    raise
                raise CumulusError(CLOSED) from None
            except GivenUp:
                # Of a request within this one, which was patient enough.
                raise
            except ServerUnavailable as error:
                # Of the API, which gives tickets. It may have taken long to say nothing.
                last, answered = error, False
            else:
                self._reached = True
                return value
            if answered and time.monotonic() - began > HELD_SECONDS:
                # It was answered at first.
                tries = _Tries()
            if not tries.pause(patience(self._reached), last):
                raise self._away(last)

    def reached(self) -> None:
        """The server has answered."""
        self._reached = True

    def close(self) -> None:
        """Ends all that is going on. Nothing may be asked afterwards."""
        with self._lock:
            self._closed = True
            channel, self._channel, self._stub = self._channel, None, None
        if channel is not None and self._pid == os.getpid():
            channel.close()

    def _opened(self) -> grpc.Channel:
        """Where the server of the API says that its gRPC is, where that is who is known."""
        address = self.address
        if address.api is None:
            return _channel(address)
        told = self._new_ticket()
        if address.is_local:
            return _channel(address._replace(target=f"unix:{told.socket}"))
        port = told.address.rpartition(":")[2]
        if not port:
            raise CumulusError(
                f"the server at {address.api.address} answers gRPC on its own machine alone",
                hint="start it with: cumulus serve --grpc-listen",
            )
        host = address.target.rpartition(":")[0]
        return _channel(address._replace(target=f"{host}:{port}", ca=told.ca or address.ca))

    def _new_ticket(self) -> GrpcTicket:
        from cumulus.client.http.client import HttpClient
        from cumulus.client.http.connection import ClientConnection

        assert self.address.api is not None
        asked = time.monotonic()
        # Who asks for a ticket tries again by itself.
        connection = ClientConnection(self.address.api, retry_seconds=0)
        with HttpClient(self.address.api, connection=connection) as client:
            self._ticket = made = client.grpc_ticket()
        # Before its end: the server logs a ticket that is over, as somebody else may show one.
        self._renewed_at = asked + 0.8 * SECONDS
        return made

    def _error(self, error: grpc.RpcError) -> CumulusError:
        return error_of(error, self._where)

    @property
    def _where(self) -> str:
        return f"the server at {self.address.target.removeprefix('unix:')}"

    def _away(self, last: CumulusError) -> CumulusError:
        if not isinstance(last, ServerUnavailable):
            return last
        hint = "start it: cumulus serve" if self.address.is_local else "is it running, and is that its gRPC address?"
        return GivenUp(f"{self._where} does not answer: {last}", hint=hint)


class _Tries:
    def __init__(self) -> None:
        self._began = time.monotonic()
        self._failures = 0

    def pause(self, patience: float, error: CumulusError) -> bool:
        """Whether there is time for one more, which has come then."""
        seconds = BACKOFF.seconds(self._failures, random.random())
        self._failures += 1
        if isinstance(error, errors.TooManyRequests):
            seconds = max(seconds, min(error.seconds, 10.0))
        if time.monotonic() - self._began + seconds > patience:
            return False
        time.sleep(seconds)
        return True


class GivenUp(ServerUnavailable):
    """It was asked again and again, for as long as there was patience."""


class EndedHere(CumulusError):
    """Another thread of this process ended the request."""


def ended_here(error: grpc.RpcError) -> bool:
    """Whether this process ended the request, and not the server or the network."""
    cancelled = getattr(error, "cancelled", None)
    return bool(cancelled is not None and cancelled())


def is_passing(error: CumulusError) -> bool:
    """Whether the same request may be answered in a moment."""
    if isinstance(error, errors.BackendRefused | errors.NotOurs):
        return False
    passing = ServerUnavailable | errors.StoreUnavailable | errors.TooManyRequests | errors.BackendError
    # The last two where somebody else uploads the same blob.
    return isinstance(error, passing | errors.BlobBusy | errors.BlobOffset)


def error_of(error: grpc.RpcError, where: str = "the server") -> CumulusError:
    """The exception that the server raised."""
    import grpc

    from cumulus.rpc.orchestrator_pb2 import Error

    code = error.code()
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == ERROR and isinstance(value, bytes):
            with contextlib.suppress(Exception):
                return _told(Error.FromString(value), code)
    words = one_line(error.details() or code.name)
    if code is grpc.StatusCode.UNAVAILABLE and "CERTIFICATE_VERIFY_FAILED" in words:
        return CumulusError(
            f"{where}: its certificate is not one that is trusted here",
            hint=f"log in: cumulus login https://HOST:PORT; or name its authority's file in {environment.CA_FILE}",
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return ServerUnavailable(words)
    if code is grpc.StatusCode.UNKNOWN and "Stream removed" in words:
        return ServerUnavailable(words)
    return _BY_CODE.get(code.name, CumulusError)(f"{where}: {words}")


_BY_CODE: dict[str, type[CumulusError]] = {
    "NOT_FOUND": errors.NotFound, "ALREADY_EXISTS": errors.AlreadyExists, "PERMISSION_DENIED": errors.Forbidden,
    "UNAUTHENTICATED": errors.Unauthenticated, "INVALID_ARGUMENT": errors.InvalidObject,
    "RESOURCE_EXHAUSTED": errors.TooManyRequests, "ABORTED": errors.Conflict, "UNIMPLEMENTED": errors.NotSupported,
}  # fmt: skip


def _told(told: Any, code: grpc.StatusCode) -> CumulusError:
    found = getattr(errors, told.reason, None) or getattr(sdk_errors, told.reason, None)
    if told.reason == "ServerUnavailable":
        found = ServerUnavailable
    kind = found if isinstance(found, type) and issubclass(found, CumulusError) else None
    if kind is None:
        kind = _BY_CODE.get(code.name, CumulusError)
    message = block(told.message)
    problems = [f"{one_line(each.field)}: {one_line(each.message)}" for each in told.problems]
    missing = [each for each in problems if each.partition(": ")[2] not in message]
    made = kind.__new__(kind)
    CumulusError.__init__(made, "; ".join([message, *missing]), hint=one_line(told.hint) or None)
    if isinstance(made, errors.InvalidObject):
        made.field = told.problems[0].field if told.problems else None
    if isinstance(made, errors.TooManyRequests):
        made.seconds = getattr(told, "retry_after", 0.0) or 1.0
    return made


def _channel(address: ServerAddress) -> grpc.Channel:
    quiet_grpc.load()
    import grpc

    if address.is_local:
        return grpc.insecure_channel(f"unix:{_short(address.target.removeprefix('unix:'))}", options=_OPTIONS)
    if address.ca:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=address.ca)
        except (ssl.SSLError, ValueError) as error:
            raise CumulusError(
                f"the certificates that the server at {address.target} is trusted by can't be read: {error}",
                hint=f"they are PEM: look at {environment.CA_FILE}, or log in again: cumulus login",
            ) from None
    roots = address.ca.encode() if address.ca else _system_roots()
    return grpc.secure_channel(address.target, grpc.ssl_channel_credentials(roots), options=_OPTIONS)


def _short(path: str) -> str:
    """A path of less than 108 bytes to the same socket, which the kernel asks for. Linux alone has one for any path."""
    if len(os.fsencode(path)) < 104 or not hasattr(os, "O_PATH"):
        return path
    directory, name = os.path.split(path)
    # Kept for as long as the process lives: gRPC connects again and again.
    return f"/proc/self/fd/{os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}/{name}"


def _system_roots() -> bytes | None:
    """What the system trusts; None for what gRPC brings along."""
    found = ssl.get_default_verify_paths().cafile
    with contextlib.suppress(OSError):
        if found:
            with open(found, "rb") as file:
                return file.read()
    return None


def chunks(content: memoryview) -> Iterator[bytes]:
    """The content in pieces that a message holds."""
    for begin in range(0, len(content), CHUNK):
        yield bytes(content[begin : begin + CHUNK])
