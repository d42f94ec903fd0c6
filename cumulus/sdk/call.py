"""`Call`: one call of a function, which runs, or waits, or is over."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from cumulus.calls.outcome import Outcome
from cumulus.client.http.errors import ServerUnavailable
from cumulus.errors import CumulusError, NotFound, WaitTimedOut
from cumulus.resources.job_phase import FINAL_PHASES
from cumulus.resources.key import Document
from cumulus.sdk import keys, output, presigned, results, transport, waiting
from cumulus.sdk.errors import CallError, Cancelled, shows_hints
from cumulus.sdk.threads import awaited, in_background
from cumulus.sdk.transport import GrpcConnection

if TYPE_CHECKING:
    from cumulus.rpc.orchestrator_pb2 import JobRef

T = TypeVar("T")
LAST_OUTPUT_SECONDS = 10.0
"""How long `run` waits for the rest of the output of a call that is over."""


class ServerAnswer(NamedTuple):
    """What the server says of a call that is over."""

    outcome: Outcome
    result: bytearray
    job: Document


class Call(Generic[T]):
    """A call that was submitted. It does not need the process that submitted it: `attach(call.name)` finds it again.

    `await call` is its result too.
    """

    def __init__(self, connection: GrpcConnection, job: Document, *, key: bytes | None = None) -> None:
        self._connection = connection
        metadata = job["metadata"]
        self.name: str = metadata["name"]
        self.namespace: str = metadata["namespace"]
        self._uid: str = metadata["uid"]
        self._payload: str = job["spec"]["call"]["payload"]
        self._key = key
        self._key_id: str = (metadata.get("annotations") or {}).get(keys.ID_ANNOTATION, "")
        self._answer: ServerAnswer | None = None

    def __repr__(self) -> str:
        return f"Call({self.namespace}/{self.name})"

    @property
    def job(self) -> Document:
        """The GPUJob of the call, as it is now. Raises NotFound."""
        return self._connection.job(self._reference) if self._answer is None else self._answer.job

    @property
    def status(self) -> str:
        """Pending, Scheduled, Running, Checkpointing, Parked, Suspended, Succeeded or Failed."""
        return str((self.job.get("status") or {}).get("phase") or "Pending")

    @property
    def has_answer(self) -> bool:
        """Whether this object holds what became of the call."""
        return self._answer is not None

    def done(self) -> bool:
        """Whether it is over, however it ended."""
        return self.status in FINAL_PHASES

    @shows_hints
    def logs(self, *, follow: bool = True) -> Iterator[str]:
        """What it prints, in pieces of text; until it is over, or without `follow` as far as it is now."""
        return output.stream(self._connection, self._reference, follow=follow)

    @shows_hints
    def result(self, timeout: float | None = None) -> T:
        """What the function returned; waits for that.

        Raises what the function raised, a `CallError` where it did not come to that (LeaseExpired, NodeLost,
        OutOfMemory, Cancelled, …), TimeoutError after `timeout` seconds, and Untrusted where the result does not carry
        the caller's signature.
        """
        return self._value(self._wait(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise, None where it would return. Raises TimeoutError."""
        answer = self._wait(timeout)
        try:
            self._value(answer)
        except BaseException as error:
            return error
        return None

    @shows_hints
    def cancel(self, *, grace: float = 0) -> None:
        """Stop it, and delete its job. `grace`: seconds from the stop signal to SIGKILL at most. A call that is gone
        already stays so."""
        from cumulus.rpc.orchestrator_pb2 import CancelRequest

        request = CancelRequest(job=self._reference, grace_seconds=int(grace))
        with contextlib.suppress(NotFound):
            self._connection.call(lambda stub: stub.Cancel, request)

    def __await__(self) -> Generator[Any, None, T]:
        return awaited(lambda stop: self._value(self._wait(None, stop))).__await__()

    def printed_result(self) -> T:
        """As `result`; meanwhile what the call prints goes to this process's stdout. Prints in the thread that asks, so
        that notebooks show it below the right cell."""
        events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        with in_background() as background:

            def read() -> None:
                try:
                    for text in output.stream(
                        self._connection, self._reference, follow=True, on_call=background.ends_with
                    ):
                        events.put(("output", text))
                except CumulusError:
                    # The result, or why there is none, comes another way.
                    pass
                events.put(("read", None))

            def wait() -> None:
                try:
                    events.put(("answer", self._wait(None, background.ends_with)))
                except BaseException as error:
                    events.put(("error", error))

            over = threading.Event()
            background.start(read)
            background.start(wait)
            background.start(lambda: waiting.tell(self, over))
            try:
                return self._value(_printed(events))
            finally:
                over.set()

    def _value(self, answer: ServerAnswer) -> T:
        where = f"{self.namespace}/{self.name}"
        key = self._key
        if key is None and answer.outcome.result:
            key = self._key = keys.key_for(self._key_id, where)
        value = results.value(answer.outcome, answer.result, key=key or b"", payload=self._payload, call=self.name)
        return cast(T, value)

    def _wait(self, timeout: float | None, on_call: Callable[[Any], None] | None = None) -> ServerAnswer:
        if self._answer is None:
            self._answer = fetch(self._connection, self._reference, self.name, timeout, on_call)
        return self._answer

    @property
    def _reference(self) -> JobRef:
        from cumulus.rpc.orchestrator_pb2 import JobRef

        return JobRef(namespace=self.namespace, name=self.name, uid=self._uid)


def _printed(events: queue.SimpleQueue[tuple[str, Any]]) -> ServerAnswer:
    """Print until the answer is there, and then what is left of the output."""
    printer = output.OutputWriter()
    answer: ServerAnswer | BaseException | None = None
    all_read = False
    until = 0.0
    while answer is None or not all_read:
        try:
            # Short, so that Ctrl-C is heard on every system.
            kind, value = events.get(timeout=0.2)
        except queue.Empty:
            if answer is not None and time.monotonic() > until:
                break
            continue
        if kind == "output":
            printer.write(value)
        elif kind == "read":
            all_read = True
        else:
            answer, until = value, time.monotonic() + LAST_OUTPUT_SECONDS
            if kind == "error":
                break
    printer.end()
    if isinstance(answer, BaseException):
        raise answer
    assert answer is not None
    return answer


def fetch(
    connection: GrpcConnection, job: JobRef, name: str, timeout: float | None,
    on_call: Callable[[Any], None] | None = None,
) -> ServerAnswer:  # fmt: skip
    """What came of a call, once it is over. Goes on where it was when the server was away. Raises TimeoutError;
    Cancelled where the job was deleted; `on_call` as in `output.stream`."""
    from cumulus.rpc.orchestrator_pb2 import ResultRequest

    deadline = None if timeout is None else time.monotonic() + timeout
    content = bytearray()
    head: Any = None

    def once() -> ServerAnswer:
        nonlocal head
        left = None if deadline is None else deadline - time.monotonic()
        request = ResultRequest(job=job, timeout=0 if left is None else max(left, 0.05), offset=len(content))
        limit = None if left is None else max(left, 0.05) + 5
        answers = connection.stub().Result(request, metadata=connection.metadata(), timeout=limit)
        if on_call is not None:
            on_call(answers)
        for part in answers:
            connection.reached()
            if part.HasField("header"):
                if head is not None and head.sha256 != part.header.sha256:
                    # Another one than the one of which there is a part already.
                    content.clear()
                    head = None
                    return once()
                head = part.header
            else:
                content.extend(part.data)
        if head is not None and head.get_url:
            presigned.get(head.get_url, content, head.size)
        if head is None or len(content) != head.size:
            raise ServerUnavailable("the answer was cut")
        return _answer(head, content, name)

    def in_time(reached: bool) -> float:
        patience = transport.long(reached)
        return patience if deadline is None else min(patience, deadline - time.monotonic())

    try:
        return connection.again(once, patience=in_time)
    except WaitTimedOut:
        raise TimeoutError(f"{name} is not over after {timeout:g} s") from None
    except ServerUnavailable:
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(f"{name} is not over after {timeout:g} s") from None
        raise
    except NotFound:
        raise Cancelled(f"{name} was cancelled: its job is deleted", call=name) from None


def _answer(head: Any, content: bytearray, name: str) -> ServerAnswer:
    job = json.loads(head.job.object) if head.job.object else {}
    if not head.outcome:
        if head.job.deleted:
            raise Cancelled(f"{name} was cancelled: its job is deleted", call=name)
        raise CallError(f"{name} ended, and the server does not say how", call=name)
    try:
        return ServerAnswer(Outcome.read(head.outcome), content, job)
    except ValueError as error:
        raise CumulusError(f"what the server says of {name} can't be read: {error}") from None


class Attendance:
    """Tells the server that this process is alive, for as long as the block lasts: else it cancels the call."""

    def __init__(self, call: Call[Any]) -> None:
        self._call = call
        self._over = threading.Event()

    def __enter__(self) -> Attendance:
        threading.Thread(target=self._attend, name=f"cumulus-attend-{self._call.name}", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()

    def _attend(self) -> None:
        from cumulus.rpc.orchestrator_pb2 import AttendRequest

        request = AttendRequest(job=self._call._reference)
        connection = self._call._connection
        seconds = 1.0
        while not self._over.wait(seconds):
            try:
                answer = connection.call(lambda stub: stub.Attend, request)
                seconds = min(max(answer.next, 0.5), 60.0)
            except NotFound:
                return
            except CumulusError:
                # Whoever waits for the result learns of it there.
                seconds = 1.0
