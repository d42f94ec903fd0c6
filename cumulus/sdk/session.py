"""`Session`: one warm process in one lease. Its calls run one after another in it, and what they leave lives on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast, overload

from cumulus.calls.outcome import Outcome
from cumulus.client.http.errors import ServerUnavailable
from cumulus.errors import CumulusError, NotFound, UsageError
from cumulus.sdk import options, output, results, transport
from cumulus.sdk.call import Attendance, Call
from cumulus.sdk.errors import CallError, Cancelled
from cumulus.sdk.options import CallOptions
from cumulus.sdk.packaging import pickling
from cumulus.sdk.remote_function import plain
from cumulus.sdk.threads import in_background

if TYPE_CHECKING:
    from cumulus.rpc import orchestrator_pb2
    from cumulus.sdk.caller import Caller

P = ParamSpec("P")
T = TypeVar("T")
CHUNK = 2**20
END_SECONDS = 10.0
"""How long to wait for why a session ended."""


class _Sent:
    """A call that has no answer yet."""

    def __init__(self, id: int, name: str, key: bytes, payload: bytes) -> None:
        self.id = id
        self.name = name
        self.key = key
        self.payload = payload
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.outcome: Outcome | None = None
        self.size = 0
        self.content = bytearray()


class Session:
    """See `CumulusClient.session`. It begins at once; its first call waits for the lease. `close`, or the end of a
    `with` block, ends it with its lease."""

    def __init__(
        self, caller: Caller, asked: CallOptions, *, code_of: Callable[..., Any] | None = None, prints: bool = True
    ) -> None:
        prepared = caller.prepare(bool, (), {}, asked, attended=True, session=True, code_of=code_of,
            name=pickling.name_of(code_of) if code_of else "session",
        )  # fmt: skip
        self._caller = caller
        self._job: Call[Any] = caller.submit(prepared)
        self._code = prepared.modules
        self._attendance = Attendance(self._job).__enter__()
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._waiting: deque[_Sent] = deque()
        self._outgoing: queue.SimpleQueue[_Sent | None] = queue.SimpleQueue()
        self._closed = False
        self._failure: BaseException | None = None
        self._background = contextlib.ExitStack()
        threads = self._background.enter_context(in_background())
        self._on_call = threads.ends_with
        threads.start(self._serve)
        if prints:
            threads.start(self._print)

    @property
    def name(self) -> str:
        """Of its job."""
        return self._job.name

    @overload
    def run(self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> T: ...
    @overload
    def run(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call `fn(*args, **kwargs)` in the session's process; what it returns. Raises what `fn` raises, and a
        CallError where the session is over. Ctrl-C ends the session."""
        future = self.submit(fn, *args, **kwargs)
        try:
            return _result(future)
        except KeyboardInterrupt:
            if not future.done():
                self.close()
            raise

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """As `run`, but does not wait. In asyncio: `await asyncio.wrap_future(session.submit(…))`."""
        function = plain(fn)
        options.check_arguments(function, args, kwargs)
        self._refuse_new_code(function)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise CumulusError(f"session {self.name} is closed")
            id = next(self._ids)
            key = self._caller.key.of_call(f"{self._job.namespace}/{self.name}/{id}")
            payload, _ = pickling.payload(key, function, args, kwargs)
            sent = _Sent(id, pickling.name_of(function), key, payload)
            self._waiting.append(sent)
            self._outgoing.put(sent)
        return cast("concurrent.futures.Future[T]", sent.future)

    def remote(self, fn: Callable[P, T], /) -> Callable[P, T]:
        """The function as one that runs in the session, with its arguments checked by type."""

        @functools.wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.run(fn, *args, **kwargs)

        return call

    def close(self) -> None:
        """End its process and its lease. Calls that have not returned are lost."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._outgoing.put(None)
        self._attendance.__exit__()
        with contextlib.suppress(CumulusError):
            # Where the server is away, or the client is closed, its silence ends the session.
            self._job.cancel()
        self._background.close()
        self._fail(Cancelled(f"session {self.name} was closed", call=self.name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._attendance.__exit__()

    def _refuse_new_code(self, function: Callable[..., Any]) -> None:
        top = (getattr(function, "__module__", None) or "").partition(".")[0]
        if top not in self._code and self._caller.is_local(function):
            raise UsageError(
                f"{pickling.name_of(function)} is in {top}, which was not imported when session {self.name} began",
                hint="import it before the session begins",
            )

    # The stream of calls and answers, in a thread of its own.

    def _serve(self) -> None:
        connection = self._caller.connection
        try:
            connection.again(self._exchange, patience=transport.long)
        except CumulusError as error:
            self._fail(self._why(error))
        except BaseException as error:
            self._fail(error)
            raise

    def _exchange(self) -> None:
        """One connection: all that has no answer yet is sent, and what comes after. Calls have numbers, and a session
        that has done one already answers it again."""
        connection = self._caller.connection
        over = threading.Event()
        stream = connection.stub().Call(self._requests(over), metadata=connection.metadata())
        self._on_call(stream)
        try:
            for response in stream:
                connection.reached()
                self._take(response)
        finally:
            over.set()
            self._outgoing.put(None)
            stream.cancel()
        if not self._closed:
            raise ServerUnavailable("the session's connection ended")

    def _requests(self, over: threading.Event) -> Iterator[orchestrator_pb2.CallRequest]:
        from cumulus.rpc.orchestrator_pb2 import CallRequest, CallStart

        with self._lock:
            again = list(self._waiting)
            for each in again:
                each.outcome, each.size = None, 0
                each.content.clear()
        done = 0
        first = True
        while not over.is_set() and not self._closed:
            sent = again.pop(0) if again else self._outgoing.get() if not first else None
            if sent is None and not first:
                continue
            if sent is not None and sent.id <= done:
                continue
            job = self._job._reference if first else None
            first = False
            if sent is None:
                yield CallRequest(start=CallStart(job=job))
                continue
            done = sent.id
            content = memoryview(sent.payload)
            head = CallStart(job=job, id=sent.id, size=len(content), data=bytes(content[:CHUNK]))
            yield CallRequest(start=head)
            for data in transport.chunks(content[CHUNK:], CHUNK):
                yield CallRequest(data=data)

    def _take(self, response: orchestrator_pb2.CallResponse) -> None:
        with self._lock:
            sent = self._waiting[0] if self._waiting else None
            if sent is None or sent.id != response.id:
                return
            if response.outcome:
                sent.outcome, sent.size = Outcome.read(response.outcome), response.size
            sent.content.extend(response.data)
            if sent.outcome is None or len(sent.content) < sent.size:
                return
            self._waiting.popleft()
        _settle(sent, f"{self.name}/{sent.name}")

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = error
            left, self._waiting = list(self._waiting), deque()
        for sent in left:
            if not sent.future.done():
                sent.future.set_exception(error)

    def _why(self, error: CumulusError) -> BaseException:
        """What became of the session's job, where that says more than the end of the connection."""
        if self._closed:
            return Cancelled(f"session {self.name} was closed", call=self.name)
        try:
            self._job.result(END_SECONDS)
        except CallError as told:
            return told
        except (NotFound, TimeoutError, CumulusError):
            return error
        except BaseException as told:
            return told
        return CallError(f"session {self.name} is over", call=self.name)

    def _print(self) -> None:
        printer = output.Printer()
        with contextlib.suppress(CumulusError, ValueError):
            # The second where stdout is closed.
            job = self._job._reference
            for text in output.stream(self._caller.connection, job, follow=True, on_call=self._on_call):
                printer.write(text)
        printer.end()


def _settle(sent: _Sent, name: str) -> None:
    assert sent.outcome is not None
    payload = hashlib.sha256(sent.payload).hexdigest()
    try:
        value = results.value(sent.outcome, sent.content, key=sent.key, payload=payload, call=name)
    except BaseException as error:
        sent.future.set_exception(error)
    else:
        sent.future.set_result(value)


def _result(future: concurrent.futures.Future[T]) -> T:
    while True:
        try:
            # Not for ever at once, so that Ctrl-C is heard on every system.
            return future.result(timeout=1.0)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise
