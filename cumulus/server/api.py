"""What handlers stand on, whatever the transport: the service, the watches, and threads to call the service in."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from cumulus.errors import CumulusError, TooManyRequests
from cumulus.lib.sized_cache import SizedCache
from cumulus.server.creations import Creations
from cumulus.server.limiter import Limiter, RequestLimits
from cumulus.server.stream_threads import LIMIT, StreamThreads

if TYPE_CHECKING:
    from cumulus.server.metrics.daemon import DaemonMetrics
    from cumulus.server.watches import WatchBridge
    from cumulus.service.identity import Identity
    from cumulus.service.service import Service

P = ParamSpec("P")
T = TypeVar("T")
THREADS = 16
"""Calls of the service that run at once. Streams, which take long, have threads of their own."""
REACHING, OF_ONE_USER = 64, 8
"""Calls that wait for programs of users, at once."""
HELD = 64
"""Programs beside jobs, and connections to their ports, that one user may have at once: each is a process of root's on
a node, and many of them may come in one request."""
_TURN_SECONDS = 0.05
EVENT_LINES_BYTES = 4 * 2**20
"""Those who watch are told of an event within moments of each other."""
TABLE_ROWS_BYTES = 16 * 2**20
"""Of some 25,000 jobs."""


class Refused(NamedTuple):
    at: float
    """In monotonic seconds."""
    place: str
    error: CumulusError


class Api:
    """One for each server process, which its listeners share."""

    def __init__(
        self, service: Service, bridge: WatchBridge, *, metrics: DaemonMetrics | None = None,
        limits: RequestLimits = RequestLimits(), streams: int = LIMIT, names: Collection[str] = (),
    ) -> None:  # fmt: skip
        """`names`: by which browsers call this server, beside localhost and its addresses."""
        self.service = service
        self.metrics = metrics
        self.limiter = Limiter(limits, service.access.owner)
        self.bridge = bridge
        self.event_lines: SizedCache[int, bytes] = SizedCache(EVENT_LINES_BYTES)
        """Events by their revision, as watches over HTTP tell them: encoded once for all who watch."""
        self.table_rows: SizedCache[Any, Any] = SizedCache(TABLE_ROWS_BYTES)
        """What rows of tables over HTTP show of their object alone."""
        self.table_runs: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()
        """The same of the runs of lists that the store keeps, as they were told last: gone with the run."""
        self.names = names
        self.streams = StreamThreads(streams)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="api")
        self.creations = Creations(service.objects.create_each, self._threads)
        self._reaching = ThreadPoolExecutor(REACHING, thread_name_prefix="reach")
        self._reached: Counter[tuple[str, int | None]] = Counter()
        self.refused: dict[tuple[str, int | None], Refused] = {}
        """By user, what was refused last of what asked for a WebSocket."""
        self._held: Counter[tuple[str, int | None]] = Counter()
        # What was held may go wherever this is held.
        self._lock = threading.RLock()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function, which may block for a moment, returns from a thread. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))

    async def reach(self, identity: Identity, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `call`, where it is up to a user's program how long that takes: in other threads, of which one user has
        few. A port at which nobody accepts is to hold up whoever asked for it, and nobody else."""
        who = identity[:2]
        while not self._begin(who):
            await asyncio.sleep(_TURN_SECONDS)
        reaching = self._reaching.submit(function, *args, **kwargs)
        # Not where the caller stops waiting: the thread is taken until the function returns.
        reaching.add_done_callback(lambda _: self._end(who))
        return await asyncio.wrap_future(reaching)

    async def hold(self, identity: Identity, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `reach`; what the function returns counts as the user's until nobody has it any more. Raises
        TooManyRequests."""
        if self.limiter.is_free(identity):
            return await self.reach(identity, function, *args, **kwargs)
        who = identity[:2]
        with self._lock:
            if self._held[who] >= HELD:
                raise TooManyRequests(
                    f"{identity.name} has {HELD} programs beside jobs, and connections to their ports", seconds=5,
                    hint="end one of them",
                )  # fmt: skip
            self._held[who] += 1
        try:
            found = await self.reach(identity, function, *args, **kwargs)
        except BaseException:
            self._let_go(who)
            raise
        weakref.finalize(found, self._let_go, who)
        return found

    def _let_go(self, who: tuple[str, int | None]) -> None:
        with self._lock:
            self._held[who] -= 1
            if not self._held[who]:
                del self._held[who]

    def _begin(self, who: tuple[str, int | None]) -> bool:
        # Several listeners, each with an event loop of its own, share this.
        with self._lock:
            if self._reached[who] >= OF_ONE_USER:
                return False
            self._reached[who] += 1
            return True

    def _end(self, who: tuple[str, int | None]) -> None:
        with self._lock:
            self._reached[who] -= 1
            if not self._reached[who]:
                del self._reached[who]

    def close(self) -> None:
        self.streams.close()
        self._reaching.shutdown()
        self._threads.shutdown()
