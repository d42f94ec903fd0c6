"""Stands before each RPC: who asks, how much they may ask, what the log says of it, and how errors are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode

from cumulus.errors import CumulusError, StoreUnavailable, Unauthenticated, UsageError
from cumulus.lib.printable import one_line
from cumulus.rpc import pieces
from cumulus.server.api import Api
from cumulus.server.grpc.credentials import AuthenticateRpc
from cumulus.server.grpc.errors import TRAILER, code_of, details_of, message_of
from cumulus.server.grpc.metering import Metering
from cumulus.service.identity import Identity

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = grpc.RpcMethodHandler[bytes, bytes]

_log = structlog.get_logger("cumulus.grpc")
STALLED_SECONDS = 300.0
"""How long a client may leave an answer unread."""
KNOWN_SECONDS = 1.0
"""How long after a look at a stream's token it is not looked at again."""
RequestT = TypeVar("RequestT", bound=Message)
Sent = TypeVar("Sent")
Asked = TypeVar("Asked")
"""What comes as bytes, one message or a stream of them, and what it is once it is parsed."""
Unary = Callable[[Identity, RequestT], Awaitable[Message]]
Streaming = Callable[[Identity, RequestT], AsyncGenerator[Message]]
_Uploading = Callable[[Identity, AsyncIterator[RequestT | bytes]], Awaitable[Message]]
"""Messages that are a piece of content alone come as its bytes."""
Conversing = Callable[[Identity, AsyncIterator[RequestT]], AsyncGenerator[Message]]


class _Parser(NamedTuple, Generic[RequestT]):
    """The type of an RPC's requests. They are parsed here, so that what is no message is the client's error."""

    type: type[RequestT]

    def one(self, data: bytes) -> RequestT:
        try:
            return self.type.FromString(data)
        except DecodeError:
            raise UsageError(f"the request is no {self.type.DESCRIPTOR.name}") from None

    async def pieces(self, stream: AsyncIterator[bytes]) -> AsyncIterator[RequestT | bytes]:
        async for data in stream:
            piece = pieces.read(data)
            yield self.one(data) if piece is None else piece


class _StillKnown:
    """Who began a stream, asked for again as it goes on: a token that is revoked ends what it opened."""

    def __init__(self, api: Api, identity: Identity) -> None:
        self._api = api
        self._token = identity.token
        self._looked = time.monotonic()

    async def check(self) -> None:
        """Raises Unauthenticated."""
        now = time.monotonic()
        if self._token and now - self._looked >= KNOWN_SECONDS:
            self._looked = now
            try:
                await self._api.call(self._api.service.tokens.check_valid, self._token)
            except Unauthenticated:
                what = "the token, or the certificate, that opened this is over, or was revoked"
                raise Unauthenticated(what, hint="make a token: cumulus token create") from None

    async def each(self, stream: AsyncIterator[bytes], parse: Callable[[bytes], RequestT]) -> AsyncIterator[RequestT]:
        async for data in stream:
            await self.check()
            yield parse(data)


class Door:
    """Makes handlers of functions that take who asks, and the request or requests. `changes`: the log has a line for
    each call."""

    def __init__(self, api: Api, authenticate: AuthenticateRpc, metering: Metering) -> None:
        self._api = api
        self._metering = metering
        self._authenticate = authenticate

    def unary(self, name: str, type: type[RequestT], call: Unary[RequestT], *, changes: bool = False) -> Handler:
        return grpc.unary_unary_rpc_method_handler(self._one(name, _Parser(type).one, call, changes=changes))

    def streaming(self, name: str, type: type[RequestT], call: Streaming[RequestT]) -> Handler:
        def parse(sent: bytes, known: _StillKnown) -> RequestT:
            return _Parser(type).one(sent)

        return grpc.unary_stream_rpc_method_handler(self._each(name, parse, call, changes=False))

    def uploading(self, name: str, type: type[RequestT], call: _Uploading[RequestT]) -> Handler:
        return grpc.stream_unary_rpc_method_handler(self._one(name, _Parser(type).pieces, call, changes=True))

    def conversing(self, name: str, type: type[RequestT], call: Conversing[RequestT]) -> Handler:
        def parse(sent: AsyncIterator[bytes], known: _StillKnown) -> AsyncIterator[RequestT]:
            return known.each(sent, _Parser(type).one)

        return grpc.stream_stream_rpc_method_handler(self._each(name, parse, call, changes=True))

    def _one(
        self, name: str, parse: Callable[[Sent], Asked], call: Callable[[Identity, Asked], Awaitable[Message]],
        changes: bool,
    ) -> Callable[[Sent, Context], Awaitable[bytes]]:  # fmt: skip
        """For an RPC with one answer."""

        async def handle(sent: Sent, context: Context) -> bytes:
            async with self.entered(name, context, changes=changes) as identity:
                return (await call(identity, parse(sent))).SerializeToString()

        return handle

    def _each(
        self, name: str, parse: Callable[[Sent, _StillKnown], Asked],
        call: Callable[[Identity, Asked], AsyncGenerator[Message]], changes: bool,
    ) -> Callable[[Sent, Context], Awaitable[None]]:  # fmt: skip
        """For an RPC with a stream of answers."""

        async def handle(sent: Sent, context: Context) -> None:
            async with self.entered(name, context, changes=changes) as identity:
                known = _StillKnown(self._api, identity)
                async with _reader(context) as write, aclosing(call(identity, parse(sent, known))) as answers:
                    async for message in answers:
                        await known.check()
                        await write(message)

        return handle

    @asynccontextmanager
    async def entered(self, name: str, context: Any, *, changes: bool = False) -> AsyncIterator[Identity]:
        """Around one call. Errors inside end it with their code."""
        began, code, identity = time.monotonic(), StatusCode.OK, Identity("")
        try:
            identity = await self._authenticate(context.invocation_metadata() or (), context.peer())
            counts = self._api.limiter.begin(identity)
            try:
                yield identity
            finally:
                if counts:
                    self._api.limiter.end(identity)
        except CumulusError as error:
            code = code_of(error)
            await context.abort(code, details_of(error), ((TRAILER, message_of(error).SerializeToString()),))
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            code = StatusCode.INTERNAL
            _log.error("a call failed", method=name, exc_info=error)
            await context.abort(code, "the server failed; its log says how")
        except BaseException:
            # The client went away, its deadline passed, or the server ends.
            code = StatusCode.CANCELLED
            raise
        finally:
            seconds = time.monotonic() - began
            self._metering.note(name, code.name, seconds)
            if changes and identity.name:
                milliseconds = round(seconds * 1000)
                _log.info("call", method=name, user=one_line(identity.name), code=code.name, milliseconds=milliseconds)


@asynccontextmanager
async def _reader(context: Context) -> AsyncIterator[Callable[[Message], Awaitable[None]]]:
    """Writes to the client. Raises StoreUnavailable where it does not read: it may ask again, from where it was."""
    loop = asyncio.get_running_loop()
    try:
        # One for all that is written: to make one takes as long as to write.
        async with asyncio.timeout(None) as limit:

            async def write(message: Message) -> None:
                limit.reschedule(loop.time() + STALLED_SECONDS)
                await context.write(message.SerializeToString())
                limit.reschedule(None)

            yield write
    except TimeoutError:
        if not limit.expired():
            raise
        raise StoreUnavailable(f"nothing of the answer was read for {STALLED_SECONDS:g} seconds") from None
