"""`map` and `starmap`: one function for many items, in several sessions at once.

    items -> batches -> sessions (one thread each) -> results, in order or as they come

Items go in batches that take about `BATCH_SECONDS`, so that short ones cost little and long ones spread evenly.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar, cast

from cumulus.errors import CumulusError
from cumulus.sdk import on_node, results
from cumulus.sdk.errors import CallError, LeaseExpired, NodeLost, NotPicklable, RemoteError, shows_hints
from cumulus.sdk.options import CallOptions, check_arguments, whole
from cumulus.sdk.packaging import pickling
from cumulus.sdk.remote_function import RemoteFunction, plain
from cumulus.sdk.session import Session
from cumulus.sdk.threads import awaited

if TYPE_CHECKING:
    from cumulus.sdk.caller import Caller

T = TypeVar("T")
BATCH_SECONDS = 0.25
LARGEST_BATCH = 256
AHEAD = 4096
"""How many items are begun at most of which nobody has taken the result."""
LOSSES = 3
"""How often an item is run again whose session was lost through no fault of its own."""


class _Item(NamedTuple):
    number: int
    args: tuple[Any, ...]
    faults: int = 0
    losses: int = 0


class MapResults(Generic[T]):
    """The results of a `map`, which runs already: iterate over them, also with `async for`. `close`, or the end of a
    `with` block, ends it early, and so does letting go of it."""

    def __init__(self, mapping: _Mapping[T]) -> None:
        self._mapping = mapping

    @property
    def attempts(self) -> Mapping[int, int]:
        """How often each item was begun, by its place: once, but where its session was lost meanwhile."""
        return self._mapping.attempts

    def __iter__(self) -> Self:
        return self

    @shows_hints
    def __next__(self) -> T:
        return self._mapping.next(_Waiter())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await awaited(self._next_or_end)
        except _End:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """End it with its sessions. Results that nobody took are dropped."""
        self._mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Its threads end the sessions.
        self._mapping.stop()

    @shows_hints
    def _next_or_end(self, on_call: Callable[[Any], None]) -> T:
        waiter = _Waiter()
        on_call(waiter)
        try:
            return self._mapping.next(waiter)
        except StopIteration:
            raise _End from None


class _End(Exception):
    """StopIteration, for a future, which can't hold that."""


class _Waiter:
    """Who waits for the next result."""

    gone = False
    """Takes none any more: it is for who asks next."""

    def cancel(self) -> None:
        self.gone = True


class _Mapping(Generic[T]):
    """The work behind `MapResults`."""

    def __init__(
        self, caller: Caller, function: Callable[..., T], items: Iterator[_Item], asked: CallOptions, *, workers: int,
        ordered: bool, return_exceptions: bool, progress: _Progress,
    ) -> None:  # fmt: skip
        self.attempts: dict[int, int] = {}
        self._caller = caller
        self._function = function
        self._name = pickling.name_of(function)
        self._pickled = _pickled(function, self._name)
        self._digest = hashlib.sha256(self._pickled).hexdigest()
        self._items = items
        self._again: deque[_Item] = deque()
        self._retries = asked.get("retries", 0)
        self._asked = cast(CallOptions, {name: value for name, value in asked.items() if name != "retries"})
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._progress = progress
        self._changed = threading.Condition()
        self._done: dict[int, tuple[T | None, BaseException | None]] = {}
        self._finished: deque[int] = deque()
        self._next = 0
        self._begun = 0
        self._taken = 0
        self._exhausted = False
        self._closed = False
        self._failure: BaseException | None = None
        self._sessions: set[Session] = set()
        for number in range(workers):
            threading.Thread(target=self._work, name=f"cumulus-map-{number}", daemon=True).start()

    def next(self, waiter: _Waiter) -> T:
        with self._changed:
            while True:
                if waiter.gone:
                    raise StopIteration
                if self._failure is not None:
                    failure = self._failure
                    break
                index = self._ready()
                if index is not None:
                    value, error = self._done.pop(index)
                    self._taken += 1
                    self._changed.notify_all()
                    if error is None or self._return_exceptions:
                        return cast(T, value if error is None else error)
                    failure = error
                    break
                if self._closed or (self._exhausted and self._taken == self._begun):
                    failure = StopIteration()
                    break
                # Not for ever at once, so that Ctrl-C is heard on every system.
                try:
                    self._changed.wait(0.5)
                except KeyboardInterrupt as interrupt:
                    failure = interrupt
                    break
        self.close()
        raise failure

    def close(self) -> None:
        """End it with its sessions. Results that nobody took are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            sessions, self._sessions = list(self._sessions), set()
        self._progress.end()
        for session in sessions:
            session.close()

    def stop(self) -> None:
        """No item is begun any more."""
        self._closed = True

    def _ready(self) -> int | None:
        if not self._ordered:
            return self._finished.popleft() if self._finished else None
        if self._next in self._done:
            self._next += 1
            return self._next - 1
        return None

    # In the threads of the sessions.

    def _work(self) -> None:
        session: Session | None = None
        try:
            size = 1
            is_warm = False
            while chunk := self._take(size):
                if session is None:
                    session, is_warm = self._session(), False
                    if session is None:
                        return
                began = time.monotonic()
                try:
                    function = None if is_warm else self._pickled
                    batch = _pickled([item.args for item in chunk], f"an argument of {self._name}")
                    answers = session.run(on_node.run_batch, self._digest, function, batch)
                except CallError as error:
                    self._lost(chunk, error, was_warm=is_warm)
                    self._drop(session)
                    session, size = None, 1
                    continue
                except NotPicklable as error:
                    self._store([(item, None, error) for item in chunk])
                    continue
                self._store([(item, *_value(answer, item.number)) for item, answer in zip(chunk, answers, strict=True)])
                if is_warm:
                    # The first batch waited for the lease.
                    size = _next_size(len(chunk), time.monotonic() - began)
                is_warm = True
        except BaseException as error:
            with self._changed:
                if not self._closed and self._failure is None:
                    self._failure = error
                self._changed.notify_all()
        finally:
            if session is not None:
                self._drop(session)

    def _session(self) -> Session | None:
        made = Session(self._caller, self._asked, code_of=self._function)
        with self._changed:
            if not self._closed:
                self._sessions.add(made)
                return made
        made.close()
        return None

    def _drop(self, session: Session) -> None:
        with self._changed:
            self._sessions.discard(session)
        session.close()

    def _take(self, size: int) -> list[_Item]:
        """The next items; none where there are no more."""
        with self._changed:
            while not self._closed and self._failure is None:
                if self._again:
                    # One by one: it may be the one that ends sessions.
                    chunk = [self._again.popleft()]
                elif self._exhausted:
                    if self._taken + len(self._done) >= self._begun:
                        return []
                    # Another session has some, which may come back.
                    self._changed.wait(0.5)
                    continue
                elif self._begun - self._taken >= AHEAD:
                    self._changed.wait(0.5)
                    continue
                else:
                    chunk = self._from_source(size)
                for item in chunk:
                    self.attempts[item.number] = self.attempts.get(item.number, 0) + 1
                if chunk:
                    return chunk
            return []

    def _from_source(self, size: int) -> list[_Item]:
        chunk = []
        for _ in range(size):
            item = next(self._items, None)
            if item is None:
                self._exhausted = True
                self._changed.notify_all()
                break
            chunk.append(item)
        self._begun += len(chunk)
        return chunk

    def _store(self, answers: Sequence[tuple[_Item, Any, BaseException | None]]) -> None:
        with self._changed:
            for item, value, error in answers:
                self._done[item.number] = value, error
                self._finished.append(item.number)
            self._changed.notify_all()
        self._progress.advance(len(answers))

    def _lost(self, chunk: Sequence[_Item], error: CallError, *, was_warm: bool) -> None:
        """A session ended under these items: run them again, or say that they failed."""
        # A lease that a session was given for one item alone was too short for it.
        innocent = isinstance(error, NodeLost) or (isinstance(error, LeaseExpired) and was_warm)
        failed = []
        with self._changed:
            for item in chunk:
                if len(chunk) > 1 or (innocent and item.losses < LOSSES):
                    self._again.append(item._replace(losses=item.losses + 1))
                elif not innocent and item.faults < self._retries:
                    self._again.append(item._replace(faults=item.faults + 1))
                else:
                    failed.append((item, None, error))
            self._changed.notify_all()
        self._store(failed)


def start_map(
    caller: Caller, function: Callable[..., T], items: Iterable[Sequence[Any]], asked: CallOptions, *, workers: int,
    total: int, ordered: bool, return_exceptions: bool, progress: bool | None,
) -> MapResults[T]:  # fmt: skip
    """`total`: how many items there are, less than 0 where that is not known. Raises UsageError, NotPicklable."""
    if isinstance(function, RemoteFunction):
        asked = {**function.options, **asked}
    function = plain(function)
    workers = whole("workers", workers, least=1)
    if total >= 0:
        workers = min(workers, max(total, 1))

    def numbered() -> Iterator[_Item]:
        for index, args in enumerate(items):
            check_arguments(function, args, {})
            yield _Item(index, tuple(args))

    mapping = _Mapping(
        caller, function, numbered(), asked, workers=workers, ordered=ordered, return_exceptions=return_exceptions,
        progress=_Progress(pickling.name_of(function), total if total >= 0 else None, progress),
    )  # fmt: skip
    return MapResults(mapping)


class _Progress:
    """A bar on stderr."""

    def __init__(self, name: str, total: int | None, wanted: bool | None) -> None:
        self._lock = threading.Lock()
        self._bar: Any = None
        shown = wanted if wanted is not None else bool(sys.stderr and sys.stderr.isatty())
        if shown:
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import MofNCompleteColumn, Progress

            self._bar = Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task(escape(name), total=total)
            self._bar.start()

    def advance(self, count: int) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.advance(self._task, count)

    def end(self) -> None:
        with self._lock:
            bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()


def _pickled(value: object, what: str) -> bytes:
    try:
        return pickling.dumps(value)
    except Exception as error:
        raise NotPicklable(f"{what} can't be pickled: {error}") from error


def _value(answer: tuple[Any, ...], number: int) -> tuple[Any, BaseException | None]:
    """Of what `run_batch` says of one item, which was signed with its batch."""
    place = f"item {number} (the first is 0)"
    if answer[0] == on_node.RETURNED:
        try:
            return results.rebuilt(answer[1], f"what {place} returned"), None
        except CumulusError as error:
            return None, error
    _, packed, name, text, traceback = answer
    made = results.rebuilt_exception(packed, traceback, place) if packed is not None else None
    return None, RemoteError(name, text, traceback, place=place) if made is None else made


def _next_size(size: int, seconds: float) -> int:
    """At most four times as many as before, of which the last took that long."""
    fitting = int(size * BATCH_SECONDS / max(seconds, 1e-6))
    return max(1, min(fitting, 4 * size, LARGEST_BATCH))
