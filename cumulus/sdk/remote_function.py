"""Functions that run on a leased share when they are called: `client.remote`, `@remote` and `@gpu`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, cast, overload

from cumulus.checkpoint import variables
from cumulus.sdk.options import CallOptions, given

if TYPE_CHECKING:
    from cumulus.sdk.call import Call
    from cumulus.sdk.client import CumulusClient
    from cumulus.sdk.mapping import MapResults

P = ParamSpec("P")
T = TypeVar("T")


class RemoteFunction(Generic[P, T]):
    """A function with the options of its calls. Calling it runs it on a leased share; inside of a call, which has one
    already, it runs there and then."""

    def __init__(
        self, function: Callable[P, T], options: CallOptions, client: Callable[[], CumulusClient], *,
        here_in_a_job: bool = False,
    ) -> None:  # fmt: skip
        functools.update_wrapper(self, function)
        self.function = function
        self.options = options
        self._client = client
        self._here_in_a_job = here_in_a_job

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it; see `CumulusClient.run`."""
        if self._here_in_a_job and variables.JOB in os.environ:
            return self.function(*args, **kwargs)
        return cast(T, self._client()._run(self.function, args, kwargs, self.options))

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Submit a call; see `CumulusClient.submit`."""
        return self._client()._submit(self.function, args, kwargs, self.options)

    def map(
        self, items: Iterable[Any], /, *, workers: int = 2, ordered: bool = True, return_exceptions: bool = False,
        progress: bool | None = None,
    ) -> MapResults[T]:  # fmt: skip
        """Call it for each item; see `CumulusClient.map`."""
        function = cast(Callable[[Any], T], self.function)
        return self._client().map(
            function, items, workers=workers, ordered=ordered, return_exceptions=return_exceptions,
            progress=progress, **self.options,
        )  # fmt: skip

    def starmap(
        self, items: Iterable[Sequence[Any]], /, *, workers: int = 2, ordered: bool = True,
        return_exceptions: bool = False, progress: bool | None = None,
    ) -> MapResults[T]:  # fmt: skip
        """Call it with the arguments of each item; see `CumulusClient.starmap`."""
        function = cast(Callable[..., T], self.function)
        return self._client().starmap(
            function, items, workers=workers, ordered=ordered, return_exceptions=return_exceptions,
            progress=progress, **self.options,
        )  # fmt: skip

    def local(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it in this process."""
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """As a method it takes the instance along."""
        if instance is None:
            return self
        bound = self.function.__get__(instance, owner)
        return RemoteFunction(bound, self.options, self._client, here_in_a_job=self._here_in_a_job)

    def __reduce__(self) -> tuple[Any, ...]:
        """On a node it is the function, which needs no client there."""
        return functools.partial, (self.function,)


def plain(function: Callable[P, T]) -> Callable[P, T]:
    """The function itself."""
    return function.function if isinstance(function, RemoteFunction) else function


@overload
def remote(function: Callable[P, T], /) -> RemoteFunction[P, T]: ...
@overload
def remote(**options: Unpack[CallOptions]) -> Callable[[Callable[P, T]], RemoteFunction[P, T]]: ...
def remote(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """A function that runs on a leased share when it is called, by the server that the `cumulus` command asks.

    @remote(gpu_memory=0.5, duration="1h")
    def train(dataset: str) -> float: ...

    train("imagenet")           # there
    train.local("imagenet")     # here
    call = train.submit("imagenet")
    """
    if function is not None:
        return _decorated(function, {})
    return lambda function: _decorated(function, cast(CallOptions, options))


def gpu(
    memory: float | str, duration: float | str = "1h", *, compute: float | str | None = None, count: int = 1,
    image: str | None = None, env: Mapping[str, str] | None = None,
    requirements: Sequence[str] | str | os.PathLike[str] | None = None, retries: int | None = None,
    checkpoint: bool | str | Mapping[str, Any] | None = None, queue: str | None = None,
    after: Sequence[object] | None = None,
) -> Callable[[Callable[P, T]], RemoteFunction[P, T]]:  # fmt: skip
    """As `remote`, in the words of a lease: `@gpu(memory=0.5, duration="1h")`."""
    options = given(
        gpu_memory=memory, duration=duration, gpu_compute=compute, gpus=count, image=image, env=env,
        requirements=requirements, retries=retries, checkpoint=checkpoint, queue=queue, after=after,
    )  # fmt: skip
    return lambda function: _decorated(function, options)


def _decorated(function: Callable[P, T], options: CallOptions) -> RemoteFunction[P, T]:
    return RemoteFunction(plain(function), options, default_client, here_in_a_job=True)


@functools.cache
def default_client() -> CumulusClient:
    """The client of decorated functions: `CumulusClient()`, made with the first call."""
    from cumulus.sdk.client import CumulusClient

    return CumulusClient()
