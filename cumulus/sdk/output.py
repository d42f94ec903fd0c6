"""What a call prints, on its way to the caller's stdout: each kept line once and in order."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cumulus.errors import NoLog, NotFound
from cumulus.resources.job_phase import FINAL_PHASES
from cumulus.sdk import transport
from cumulus.sdk.transport import EndedHere, GrpcConnection

if TYPE_CHECKING:
    from cumulus.rpc.orchestrator_pb2 import JobRef


REST_SECONDS = 0.05
"""How long what was printed takes until it is in the log."""


def dropped_line(dropped: int) -> str:
    """In the place of what is not kept any more."""
    return f"[… {dropped} bytes of output are not kept …]\n"


def stream(
    connection: GrpcConnection, job: JobRef, *, follow: bool, on_call: Callable[[Any], None] | None = None,
    drain: bool = False,
) -> Iterator[str]:  # fmt: skip
    """The text that a job printed, in pieces; with `follow` until it is final. Goes on where it was when the server
    was away. `on_call` is told of each request, so that another thread can end it; with `drain` what is there then
    comes all the same."""
    from cumulus.rpc.orchestrator_pb2 import LogsRequest

    text = _Text()
    position = ""
    over = False
    while not over:
        if drain and not follow:
            # What was printed last is on its way to the log.
            time.sleep(REST_SECONDS)
        request = LogsRequest(job=job, position=position, follow=follow)
        taken: list[str] = []

        def once(request: LogsRequest = request) -> tuple[Any, Any]:
            call = connection.stub().Logs(request, metadata=connection.metadata())
            if on_call is not None and request.follow:
                on_call(call)
            # The first message decides whether the server is there.
            return call, next(iter(call), None)

        try:
            call, first = connection.again(once, patience=transport.long)
        except (NoLog, NotFound):
            return
        except EndedHere:
            if not (drain and follow):
                return
            follow = False
            continue
        import grpc

        chunk = first
        try:
            while chunk is not None:
                connection.reached()
                if chunk.dropped:
                    taken.append(text.end() + dropped_line(chunk.dropped))
                taken.append(text.feed(chunk.data))
                position = chunk.position
                yield from filter(None, taken)
                taken.clear()
                chunk = next(call, None)
            # A server that ends in good order ends its answers, too.
            over = not follow or _is_over(connection, job)
        except grpc.RpcError as error:
            if transport.ended_here(error):
                over, follow = not (drain and follow), False
            elif not transport.is_passing(transport.error_of(error)):
                over = True
        finally:
            call.cancel()
    if rest := text.end():
        yield rest


def _is_over(connection: GrpcConnection, job: JobRef) -> bool:
    try:
        found = connection.job(job, patience=transport.long)
    except NotFound:
        return True
    return (found.get("status") or {}).get("phase") in FINAL_PHASES


class _Text:
    """Bytes to text, also where a character is cut by the end of a chunk."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        return self._decoder.decode(data)

    def end(self) -> str:
        rest = self._decoder.decode(b"", True)
        self._decoder.reset()
        return rest


class OutputWriter:
    """Writes to what `sys.stdout` is at that time. A terminal gets nothing that could harm it."""

    def __init__(self) -> None:
        self._screen: Any = None

    def write(self, text: str) -> None:
        out = sys.stdout
        if out is None:
            return
        if self._screen is None and out.isatty():
            from cumulus.lib.screen import Screen

            self._screen = Screen()
        out.write(self._screen.feed(text.encode("utf-8", "replace")).decode() if self._screen else text)
        out.flush()

    def end(self) -> None:
        if self._screen is not None and sys.stdout is not None:
            sys.stdout.write(self._screen.end().decode())
            sys.stdout.flush()
