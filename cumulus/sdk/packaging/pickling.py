"""The pickle of a call, and words for what can't be pickled."""

from __future__ import annotations

import contextlib
import functools
import io
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cumulus.calls.envelope import LARGE_ARGUMENT, MOST_ARGUMENTS, payload_head
from cumulus.sdk import on_node
from cumulus.sdk.errors import NotPicklable
from cumulus.sdk.packaging.blob import Blob, Pieces

PROTOCOL = 5
_NO_FILE = "<dynamic-code>"


class Pickled(NamedTuple):
    """A call as bytes."""

    payload: bytes
    arguments: tuple[Blob, ...]
    """The large ones, which other calls may have too."""
    sources: frozenset[str]


def pickled(key: bytes, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Pickled:
    """As `payload`, with each large argument apart. Raises NotPicklable."""
    made = _Small()
    made.write(payload_head(key))
    try:
        sources = _dump((function, tuple(args), dict(kwargs)), made)
        return Pickled(made.getvalue(), (), sources)
    except _TooLarge:
        pass
    except Exception as error:
        raise _refusal(function, args, kwargs, error) from error
    large, sources = _large(function, args, kwargs)
    if not large:
        whole, sources = payload(key, function, args, kwargs)
        return Pickled(whole, (), sources)
    places = {place for _, there in large for place in there}
    left = tuple(None if place in places else value for place, value in enumerate(args))
    named = {name: None if name in places else value for name, value in kwargs.items()}
    rest = io.BytesIO()
    rest.write(payload_head(key))
    told = [(blob.sha256, there) for blob, there in large]
    try:
        sources |= _dump((function, left, named, told), rest)
    except Exception as error:
        raise _refusal(function, args, kwargs, error) from error
    return Pickled(rest.getvalue(), tuple({blob.sha256: blob for blob, _ in large}.values()), sources)


def _large(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[tuple[Blob, list[int | str]]], frozenset[str]]:
    """The large arguments, each with the places where it is, and the names of the files whose code is in them."""
    given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    places: dict[int, tuple[Any, list[int | str]]] = {}
    for place, value in given:
        places.setdefault(id(value), (value, []))[1].append(place)
    large: list[tuple[Blob, list[int | str]]] = []
    sources: frozenset[str] = frozenset()
    for value, there in places.values():
        made = Pieces()
        try:
            found = _dump(value, made)
        except Exception as error:
            raise _refusal(function, args, kwargs, error) from error
        if made.size > LARGE_ARGUMENT and len(large) < MOST_ARGUMENTS:
            large.append((made.blob(), there))
            sources |= found
    return large, sources


class _TooLarge(Exception):
    """More than a payload with all arguments should have."""


class _Small(io.BytesIO):
    """Takes no more than a payload without large arguments has: a large one is not copied to find that out."""

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > LARGE_ARGUMENT:
            raise _TooLarge
        return super().write(data)


def payload(
    key: bytes, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[bytes, frozenset[str]]:
    """What the runner gets (see `cumulus.calls.envelope`), and the names of the files whose code is in it: what
    `__main__` defines, and lambdas, go by value. Raises NotPicklable, which names the argument."""
    made = io.BytesIO()
    made.write(payload_head(key))
    try:
        sources = _dump((function, tuple(args), dict(kwargs)), made)
    except Exception as error:
        raise _refusal(function, args, kwargs, error) from error
    return made.getvalue(), sources


def dumps(value: object) -> bytes:
    """Raises whatever pickling does."""
    made = io.BytesIO()
    _dump(value, made)
    return made.getvalue()


def name_of(function: object) -> str:
    """For people."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def _dump(value: object, file: io.BytesIO | Pieces) -> frozenset[str]:
    pickler = _pickler()(file, protocol=PROTOCOL)
    pickler.dump(value)
    return frozenset(pickler.sources)


@functools.cache
def _pickler() -> Any:
    """cloudpickle's, which takes a while to load, with the names of files kept: it leaves them out of code."""
    import cloudpickle

    # What `map` runs there needs no Cumulus of the node's.
    cloudpickle.register_pickle_by_value(on_node)

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def __init__(self, file: io.BytesIO | Pieces, protocol: int) -> None:
            super().__init__(file, protocol=protocol)
            self.sources: set[str] = set()

        def reducer_override(self, value: Any) -> Any:
            if not isinstance(value, types.CodeType):
                return super().reducer_override(value)
            if value.co_filename != on_node.__file__:
                self.sources.add(value.co_filename)
            make, given = self.dispatch_table[types.CodeType](value)
            return make, tuple(value.co_filename if part == _NO_FILE else part for part in given)

    return Pickler


def _refusal(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception
) -> NotPicklable:
    name = name_of(function)
    parts = [(f"argument {at} of {name}", value) for at, value in enumerate(args, 1)]
    parts += [(f"argument {key}= of {name}", value) for key, value in kwargs.items()]
    for what, value in parts:
        if not _picklable(value):
            return NotPicklable(
                f"{what}, a {type(value).__name__}, can't be pickled: {error}",
                hint="send what it is made from, and make it inside of the function",
            )
    if (found := _unpicklable_variable(function)) is not None:
        user, variable, value = found
        return NotPicklable(
            f"{user} uses {variable} from around it, a {type(value).__name__}, which can't be pickled: {error}",
            hint=f"make {variable} inside of the function, or pass what it is made from",
        )
    return NotPicklable(
        f"{name} can't be pickled, with what it uses from around it: {error}",
        hint="make inside of the function what can't travel: open files, locks, connections",
    )


def _unpicklable_variable(function: object) -> tuple[str, str, object] | None:
    """The function, this one or one that it uses, with the name and the value of a variable from around it that can't
    be pickled; None where there is none."""
    seen: set[int] = set()
    found: tuple[str, str, object] | None = None
    while isinstance(function, types.FunctionType) and id(function) not in seen:
        seen.add(id(function))
        user = name_of(function)
        around = {**_global_variables(function), **_cells(function)}
        wrong = next((each for each in around.items() if id(each[1]) not in seen and not _picklable(each[1])), None)
        if wrong is None:
            break
        found = (user, *wrong)
        function = wrong[1]
    return found


def _global_variables(function: types.FunctionType) -> dict[str, object]:
    names = function.__code__.co_names
    return {name: function.__globals__[name] for name in names if name in function.__globals__}


def _cells(function: types.FunctionType) -> dict[str, object]:
    made = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        # One that is not set yet has no content.
        with contextlib.suppress(ValueError):
            made[name] = cell.cell_contents
    return made


def _picklable(value: object) -> bool:
    try:
        dumps(value)
    except Exception:
        return False
    return True
