"""What handlers stand on, whatever the transport: the service, the watches, and threads to call the service in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from cumulus.server.limiter import Limiter, RequestLimits
from cumulus.server.stream_threads import LIMIT, StreamThreads

if TYPE_CHECKING:
    from cumulus.server.metrics.daemon import DaemonMetrics
    from cumulus.server.watches import WatchBridge
    from cumulus.service.service import Service

P = ParamSpec("P")
T = TypeVar("T")
THREADS = 16
"""Calls of the service that run at once. Streams, which take long, have threads of their own."""


class Api:
    """One for each server process, which its listeners share."""

    def __init__(
        self, service: Service, bridge: WatchBridge, *, metrics: DaemonMetrics | None = None,
        limits: RequestLimits = RequestLimits(), streams: int = LIMIT,
    ) -> None:  # fmt: skip
        self.service = service
        self.metrics = metrics
        self.limiter = Limiter(limits, service.access.owner)
        self.bridge = bridge
        self.streams = StreamThreads(streams)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="api")

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function, which may block for a moment, returns from a thread. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))

    def close(self) -> None:
        self.streams.close()
        self._threads.shutdown()
