"""`CumulusClient`: calls Python functions on leased shares of GPUs."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from operator import length_hint
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar, Unpack, cast, overload

from cumulus.sdk import endpoint, options
from cumulus.sdk.call import Attendance, Call
from cumulus.sdk.caller import Caller
from cumulus.sdk.errors import shows_hints
from cumulus.sdk.mapping import MapResults, start_map
from cumulus.sdk.options import CallOptions
from cumulus.sdk.packaging.source import Project
from cumulus.sdk.remote_function import RemoteFunction, plain
from cumulus.sdk.session import Session
from cumulus.sdk.transport import GrpcConnection

P = ParamSpec("P")
T = TypeVar("T")


class CumulusClient:
    """Calls Python functions on leased shares of GPUs.

        client = CumulusClient()
        print(client.run(train, dataset, gpu_memory=0.5, duration="1h"))

    `address`: HOST:PORT of gRPC, https://HOST:PORT of the API, or unix:PATH; if left out, the server that the `cumulus`
    command asks. `token`: else that of CUMULUS_TOKEN, or of `cumulus login`. `namespace`: else the server's default for
    this user. `project`: the directory whose modules travel with a call; else the one around the program, with a
    pyproject.toml or a .git. `include`: more files below it. `interpreter`: the Python to use on nodes that have it;
    else this one. Raises CumulusError where no server is to be found; it is asked with the first call.

    Safe for threads. `close`, or a `with` block, ends the connection; calls go on.
    """

    @shows_hints
    def __init__(
        self, address: str | endpoint.ServerAddress | None = None, token: str | None = None, *,
        namespace: str | None = None,
        project: str | os.PathLike[str] | None = None, include: Sequence[str] = (), interpreter: str | None = None,
    ) -> None:  # fmt: skip
        found = endpoint.find(address, token)
        around = Project(Path(project), include) if project is not None else Project.around(include=include)
        self._connection = GrpcConnection(found)
        self._caller = Caller(self._connection, around, namespace or found.namespace, interpreter)

    @overload
    def run(self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> T: ...

    @overload
    def run(
        self, fn: Callable[..., T], /, *args: Any, gpu_memory: float | str | None = None,
        gpu_compute: float | str | None = None, gpus: int | None = None, duration: float | str | None = None,
        image: str | None = None, env: Mapping[str, str] | None = None,
        requirements: Sequence[str] | str | os.PathLike[str] | None = None, retries: int | None = None,
        checkpoint: bool | str | Mapping[str, Any] | None = None, queue: str | None = None,
        after: Sequence[object] | None = None, **kwargs: Any,
    ) -> T: ...  # fmt: skip

    @shows_hints
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call `fn(*args, **kwargs)` on a leased share; what it returns. What it prints is printed here.

        `gpu_memory`: the share of the device's memory: 0.5, "50%" or "20Gi"; else a tenth. `gpu_compute`: of its
        compute; else the same share. `gpus`: devices; else 1. `duration`: when the lease ends: seconds or "1h30m"; else
        an hour. `image`, `env`, `requirements`, `retries`, `checkpoint`, `queue`, `after`: see `CallOptions`.

        Raises what `fn` raises, and a CallError where it does not come to that. Ctrl-C cancels the call, and so does
        the end of this process. A function with a parameter of an option's name is refused: use `remote`.
        """
        asked, kwargs = split(fn, kwargs, "run")
        return self._run(plain(fn), args, kwargs, asked)

    @overload
    def submit(self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> Call[T]: ...

    @overload
    def submit(
        self, fn: Callable[..., T], /, *args: Any, gpu_memory: float | str | None = None,
        gpu_compute: float | str | None = None, gpus: int | None = None, duration: float | str | None = None,
        image: str | None = None, env: Mapping[str, str] | None = None,
        requirements: Sequence[str] | str | os.PathLike[str] | None = None, retries: int | None = None,
        checkpoint: bool | str | Mapping[str, Any] | None = None, queue: str | None = None,
        after: Sequence[object] | None = None, **kwargs: Any,
    ) -> Call[T]: ...  # fmt: skip

    @shows_hints
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call[Any]:
        """As `run`, but does not wait: the call outlives this process. Its result is kept for a week."""
        asked, kwargs = split(fn, kwargs, "submit")
        return self._submit(plain(fn), args, kwargs, asked)

    def remote(self, fn: Callable[P, T], /, **asked: Unpack[CallOptions]) -> RemoteFunction[P, T]:
        """The function as one that runs on a leased share, with its arguments checked by type:

        client.remote(train, gpu_memory=0.5)(dataset, epochs=3)
        """
        return RemoteFunction(plain(fn), asked, lambda: self)

    @shows_hints
    def attach(self, name: str, *, namespace: str | None = None) -> Call[Any]:
        """A call that was submitted earlier, by any process of this user. Raises NotFound."""
        return self._caller.attach(name, namespace)

    @shows_hints
    def map(
        self, fn: Callable[[Any], T], items: Iterable[Any], /, *, workers: int = 2, ordered: bool = True,
        return_exceptions: bool = False, progress: bool | None = None, **asked: Unpack[CallOptions],
    ) -> MapResults[T]:  # fmt: skip
        """`fn(item)` for each item, in `workers` sessions at once; iterate over the results. Each session leases its
        own share, and keeps what `fn` leaves in memory.

        `ordered`: results in the order of the items, else as they come. `return_exceptions`: exceptions are results;
        else the first one is raised. `progress`: show a bar; else where stderr is a terminal. `retries`: how often an
        item is run again whose session ended under it.
        """
        return start_map(
            self._caller, fn, ((item,) for item in items), asked, total=length_hint(items, -1), workers=workers,
            ordered=ordered, return_exceptions=return_exceptions, progress=progress,
        )  # fmt: skip

    @shows_hints
    def starmap(
        self, fn: Callable[..., T], items: Iterable[Sequence[Any]], /, *, workers: int = 2, ordered: bool = True,
        return_exceptions: bool = False, progress: bool | None = None, **asked: Unpack[CallOptions],
    ) -> MapResults[T]:  # fmt: skip
        """As `map`, with `fn(*item)`."""
        return start_map(
            self._caller, fn, items, asked, total=length_hint(items, -1), workers=workers, ordered=ordered,
            return_exceptions=return_exceptions, progress=progress,
        )  # fmt: skip

    @shows_hints
    def session(self, **asked: Unpack[CallOptions]) -> Session:
        """A warm process in one lease. Its calls run one after another in that process, and what they keep in memory
        lives on:

            with client.session(gpu_memory=0.5, duration="1h") as session:
                session.run(load_model)
                session.run(predict, batch)
        """
        return Session(self._caller, asked)

    def close(self) -> None:
        """End the connection. Calls and their jobs go on."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @shows_hints
    def _run(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], asked: CallOptions) -> Any:
        prepared = self._caller.prepare(fn, args, kwargs, asked, attended=True)
        call = self._caller.submit(prepared)
        with Attendance(call):
            try:
                return call.printed_result()
            except KeyboardInterrupt:
                if not call.has_answer:
                    call.cancel()
                raise

    @shows_hints
    def _submit(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], asked: CallOptions
    ) -> Call[Any]:
        return self._caller.submit(self._caller.prepare(fn, args, kwargs, asked))


def split(fn: Callable[..., Any], given: Mapping[str, Any], verb: str) -> tuple[CallOptions, dict[str, Any]]:
    """The options, and the function's own keyword arguments."""
    options.check_names(plain(fn), verb)
    asked = {name: value for name, value in given.items() if name in options.NAMES and value is not None}
    if isinstance(fn, RemoteFunction):
        asked = {**fn.options, **asked}
    return cast(CallOptions, asked), {name: value for name, value in given.items() if name not in options.NAMES}
