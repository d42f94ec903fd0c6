"""`AsyncCumulusClient`: the same calls for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Self, TypeVar, Unpack, overload

from cumulus.sdk.call import Attendance, Call
from cumulus.sdk.client import CumulusClient, split
from cumulus.sdk.endpoint import ServerAddress
from cumulus.sdk.mapping import MapResults
from cumulus.sdk.options import CallOptions
from cumulus.sdk.remote_function import plain
from cumulus.sdk.session import Session
from cumulus.sdk.threads import awaited

T = TypeVar("T")


class AsyncCumulusClient:
    """`CumulusClient` for asyncio: what waits there is awaited here. Cancelling a task that awaits `run` cancels the
    call.

    async with AsyncCumulusClient() as client:
        print(await client.run(train, dataset, gpu_memory=0.5))
    """

    def __init__(
        self, address: str | ServerAddress | None = None, token: str | None = None, *, namespace: str | None = None,
        project: str | os.PathLike[str] | None = None, include: Sequence[str] = (), interpreter: str | None = None,
    ) -> None:  # fmt: skip
        self._client = CumulusClient(
            address, token, namespace=namespace, project=project, include=include, interpreter=interpreter
        )

    @overload
    async def run(self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> T: ...
    @overload
    async def run(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...
    async def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """See `CumulusClient.run`; options and the function's own arguments are given in the same way."""
        asked, kwargs = split(fn, kwargs, "run")
        caller = self._client._caller

        def start(_: object) -> Call[Any]:
            return caller.submit(caller.prepare(plain(fn), args, kwargs, asked, attended=True))

        call: Call[Any] = await awaited(start)
        with Attendance(call):
            try:
                return await awaited(lambda _: call.printed_result())
            except BaseException:
                if not call.has_answer:
                    await awaited(lambda _: call.cancel())
                raise

    @overload
    async def submit(self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> Call[T]: ...
    @overload
    async def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Call[T]: ...
    async def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call[Any]:
        """See `CumulusClient.submit`; `await` the call for its result."""
        asked, kwargs = split(fn, kwargs, "submit")
        return await awaited(lambda _: self._client._submit(plain(fn), args, kwargs, asked))

    async def attach(self, name: str, *, namespace: str | None = None) -> Call[Any]:
        """See `CumulusClient.attach`."""
        return await awaited(lambda _: self._client.attach(name, namespace=namespace))

    def map(
        self, fn: Callable[[Any], T], items: Iterable[Any], /, *, workers: int = 2, ordered: bool = True,
        return_exceptions: bool = False, progress: bool | None = None, **asked: Unpack[CallOptions],
    ) -> MapResults[T]:  # fmt: skip
        """See `CumulusClient.map`: `async for result in client.map(…)`."""
        return self._client.map(
            fn, items, workers=workers, ordered=ordered, return_exceptions=return_exceptions, progress=progress, **asked
        )

    def starmap(
        self, fn: Callable[..., T], items: Iterable[Sequence[Any]], /, *, workers: int = 2, ordered: bool = True,
        return_exceptions: bool = False, progress: bool | None = None, **asked: Unpack[CallOptions],
    ) -> MapResults[T]:  # fmt: skip
        """See `CumulusClient.starmap`."""
        return self._client.starmap(
            fn, items, workers=workers, ordered=ordered, return_exceptions=return_exceptions, progress=progress, **asked
        )

    async def session(self, **asked: Unpack[CallOptions]) -> AsyncSession:
        """See `CumulusClient.session`: `async with await client.session(…) as session`."""
        return AsyncSession(await awaited(lambda _: self._client.session(**asked)))

    async def close(self) -> None:
        """End the connection. Calls and their jobs go on."""
        self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class AsyncSession:
    """`Session` for asyncio."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def name(self) -> str:
        """Of its job."""
        return self._session.name

    @overload
    async def run(self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> T: ...
    @overload
    async def run(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...
    async def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """See `Session.run`. A task that is cancelled leaves the call to go on."""
        return await asyncio.wrap_future(self._session.submit(fn, *args, **kwargs))

    async def close(self) -> None:
        """See `Session.close`."""
        await awaited(lambda _: self._session.close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
