"""`Session`: one warm process in one lease. Its calls run one after another in it, and what they leave lives on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast, overload

from cumulus.calls.outcome import Outcome
from cumulus.calls.session import KEPT
from cumulus.client.http.errors import ServerUnavailable
from cumulus.errors import CumulusError, UsageError
from cumulus.sdk import on_node, options, output, results, transport, waiting
from cumulus.sdk.call import Attendance, Call
from cumulus.sdk.errors import CallError, Cancelled, NodeLost, shows_hints
from cumulus.sdk.options import CallOptions
from cumulus.sdk.packaging import pickling
from cumulus.sdk.remote_function import plain
from cumulus.sdk.threads import Background

if TYPE_CHECKING:
    from cumulus.rpc import orchestrator_pb2
    from cumulus.rpc.orchestrator_pb2 import JobRef
    from cumulus.sdk.caller import Caller

P = ParamSpec("P")
T = TypeVar("T")
_HELLOS = 2**40
"""Numbers from here on are of what begins a connection."""
UNDER_WAY = KEPT // 2
"""How many calls are sent of which no answer has come."""
PRINT_SECONDS = 3.0
"""How long a session that is closed waits for the rest of its output."""
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
        # Nobody cancels it: it runs, or its turn comes. Its numbers have no gaps.
        self.future.set_running_or_notify_cancel()
        self.outcome: Outcome | None = None
        self.size = 0
        self.content = bytearray()


class _Link:
    """One connection of a session."""

    def __init__(self, hello: _Sent) -> None:
        self.hello = hello
        self.asked = deque([hello])
        """What was sent on it and is not answered."""
        self.greeted = False
        self.over = False


class Session:
    """See `CumulusClient.session`. It begins at once; its first call waits for the lease. `close`, or the end of a
    `with` block, ends it with its lease."""

    def __init__(self, caller: Caller, asked: CallOptions, *, code_of: Callable[..., Any] | None = None) -> None:
        if asked.get("retries"):
            raise UsageError("a session takes no retries: what it kept would be lost")
        name = pickling.name_of(code_of) if code_of else "session"
        prepared = caller.prepare(bool, (), {}, asked, attended=True, session=True, code_of=code_of, name=name)
        self._caller = caller
        self._job: Call[Any] = caller.submit(prepared)
        self._code = prepared.modules
        self._attendance = Attendance(self._job).__enter__()
        self._changed = threading.Condition()
        self._ids = itertools.count(1)
        self._hellos = itertools.count()
        self._waiting: deque[_Sent] = deque()
        """Calls without an answer, in their order; their numbers have no gaps."""
        self._process = ""
        self._closed = False
        self._failure: BaseException | None = None
        self._background = Background()
        self._on_call = self._background.ends_with
        self._printed = threading.Event()
        self._begun = threading.Event()
        # All that they use is there: what is over at once ends the session from one of them.
        self._background.start(self._serve)
        self._background.start(self._print)
        self._background.start(lambda: waiting.tell(self._job, self._begun))

    @property
    def name(self) -> str:
        """Of its job."""
        return self._job.name

    @overload
    def run(self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> T: ...
    @overload
    def run(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...
    @shows_hints
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

    @shows_hints
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """As `run`, but does not wait. In asyncio: `await asyncio.wrap_future(session.submit(…))`. One call can't be
        cancelled, since it runs in the process of all: `close` ends them."""
        function = plain(fn)
        options.check_arguments(function, args, kwargs)
        self._refuse_new_code(function)
        with self._changed:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise CumulusError(f"session {self.name} is closed")
            sent = self._sent(next(self._ids), function, args, kwargs)
            self._waiting.append(sent)
            self._changed.notify_all()
        return cast("concurrent.futures.Future[T]", sent.future)

    def remote(self, fn: Callable[P, T], /) -> Callable[P, T]:
        """The function as one that runs in the session, with its arguments checked by type."""

        @functools.wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.run(fn, *args, **kwargs)

        return call

    def close(self) -> None:
        """End its process and its lease. Calls that have not returned are lost."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._background.end()
        # The log goes with the job.
        self._printed.wait(PRINT_SECONDS)
        self._end()
        self._fail(Cancelled(f"session {self.name} was closed", call=self.name))

    def _end(self) -> None:
        self._begun.set()
        self._attendance.__exit__()
        with contextlib.suppress(CumulusError):
            # Where the server is away, or the client is closed, its silence ends the session.
            self._job.cancel()

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
            self._end()
        except BaseException as error:
            self._fail(error)
            self._end()
            raise

    def _exchange(self) -> None:
        """One connection: all that has no answer yet is sent, and what comes after. A process that has answered a call
        already answers it again, and runs nothing twice. Whether it is the same process is asked first."""
        connection = self._caller.connection
        link = _Link(self._sent(_HELLOS + next(self._hellos), on_node.process_id, (), {}))
        stream = connection.stub().Call(self._requests(link), metadata=connection.metadata())
        self._on_call(stream)
        try:
            for response in stream:
                connection.reached()
                self._take(link, response)
        finally:
            with self._changed:
                link.over = True
                self._changed.notify_all()
            stream.cancel()
        if not self._closed:
            raise ServerUnavailable("the session's connection ended")

    def _requests(self, link: _Link) -> Iterator[orchestrator_pb2.CallRequest]:
        yield from _messages(link.hello, self._job._reference)
        done = 0
        while (sent := self._next(link, done)) is not None:
            done = sent.id
            sent.outcome, sent.size, sent.content = None, 0, bytearray()
            link.asked.append(sent)
            yield from _messages(sent)

    def _next(self, link: _Link, done: int) -> _Sent | None:
        """The call after number `done`, once there is one that waits for its answer; None at the end."""
        with self._changed:
            while not (link.over or self._closed):
                if link.greeted and self._waiting:
                    at = max(done + 1 - self._waiting[0].id, 0)
                    if at < min(len(self._waiting), UNDER_WAY):
                        return self._waiting[at]
                self._changed.wait()
            return None

    def _take(self, link: _Link, response: orchestrator_pb2.CallResponse) -> None:
        sent = link.asked[0]
        if sent.id != response.id:
            raise CumulusError(f"session {self.name} answered call {response.id} instead of {sent.id}")
        if response.outcome:
            try:
                sent.outcome, sent.size = Outcome.read(response.outcome), response.size
            except ValueError as error:
                raise CumulusError(f"what session {self.name} answered can't be read: {error}") from None
        sent.content.extend(response.data)
        if sent.outcome is None or len(sent.content) < sent.size:
            return
        link.asked.popleft()
        if sent is not link.hello:
            with self._changed:
                if len(self._waiting) > UNDER_WAY:
                    # One more may be sent. Else nobody waits for this, and to wake a thread takes time.
                    self._changed.notify_all()
                self._waiting.popleft()
            _settle(sent, f"{self.name}/{sent.name}")
            return
        _settle(sent, self.name)
        process = sent.future.result()
        if self._process not in ("", process):
            raise NodeLost(f"the process of session {self.name} is lost, and what it kept", call=self.name)
        with self._changed:
            self._process, link.greeted = process, True
            self._begun.set()
            self._changed.notify_all()

    def _sent(self, id: int, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Sent:
        key = self._caller.key.of_call(f"{self._job.namespace}/{self.name}/{id}")
        payload, _ = pickling.payload(key, function, args, kwargs)
        return _Sent(id, pickling.name_of(function), key, payload)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
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
        if isinstance(error, CallError):
            return error
        try:
            self._job.result(END_SECONDS)
        except CallError as told:
            return told
        except (TimeoutError, CumulusError):
            return error
        except BaseException as told:
            return told
        return CallError(f"session {self.name} is over", call=self.name)

    def _print(self) -> None:
        printer = output.OutputWriter()
        try:
            job = self._job._reference
            for text in output.stream(self._caller.connection, job, follow=True, on_call=self._on_call, drain=True):
                printer.write(text)
            printer.end()
        except (CumulusError, ValueError):
            # The second where stdout is closed.
            return
        finally:
            self._printed.set()


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


def _messages(sent: _Sent, job: JobRef | None = None) -> Iterator[orchestrator_pb2.CallRequest]:
    from cumulus.rpc.orchestrator_pb2 import CallRequest, CallStart

    pieces = transport.chunks(memoryview(sent.payload))
    yield CallRequest(start=CallStart(job=job, id=sent.id, size=len(sent.payload), data=next(pieces, b"")))
    for data in pieces:
        yield CallRequest(data=data)
