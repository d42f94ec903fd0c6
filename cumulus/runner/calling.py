"""One call: unpickles its payload, calls the function, pickles what came of it."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import sys
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NoReturn

import cloudpickle

from cumulus.calls.envelope import HEAD_BYTES, LARGEST, argument_file, key_of
from cumulus.calls.outcome import NOT_LOADED, NOT_PICKLABLE, RETURNED, Outcome, sign
from cumulus.runner import failure

_DEEPEST = 6
"""How far below the result is looked for what cannot be pickled."""


@dataclass(frozen=True)
class CallAnswer:
    """What came of a call; `exit_code` is what its process should end with, as a script's would."""

    outcome: Outcome
    exit_code: int = 1


def answer(payload: BinaryIO, digest: str, result: BinaryIO, directory: str = "") -> CallAnswer:
    """Run the call in `payload`, whose sha256 is `digest`, and write its pickled result to the empty file `result`.
    `directory`: where the files of its large arguments are."""
    process = os.getpid()
    try:
        key = key_of(payload.read(HEAD_BYTES))
    except ValueError as error:
        return CallAnswer(Outcome(NOT_LOADED, text=str(error)))
    try:
        function, args, kwargs = _loaded(payload, directory)
    except BaseException as error:
        return CallAnswer(failure.described(error, NOT_LOADED))
    del payload
    try:
        value = function(*args, **kwargs)
        value = _awaited(value) if inspect.isawaitable(value) else value
    except BaseException as error:
        if os.getpid() != process:
            _end_child(error)
        return _raised(error, key, digest, result)
    if os.getpid() != process:
        _end_child(None)
    return _returned(value, key, digest, result)


def _loaded(payload: BinaryIO, directory: str) -> tuple[Any, Any, Any]:
    """The function and its arguments. Raises whatever unpickling does."""
    function, args, kwargs, *large = pickle.load(payload)
    if not large:
        return function, args, kwargs
    args = list(args)
    for sha256, places in large[0]:
        with open(os.path.join(directory, argument_file(sha256)), "rb") as file:
            value = pickle.load(file)
        for place in places:
            # One object, as in the client, where it was given twice.
            if isinstance(place, int):
                args[place] = value
            else:
                kwargs[place] = value
    return function, args, kwargs


def _awaited(value: Any) -> Any:
    # Loaded where it is needed: it takes as long as all the rest.
    import asyncio

    async def wait() -> Any:
        return await value

    return asyncio.run(wait())


def _returned(value: Any, key: bytes, digest: str, result: BinaryIO) -> CallAnswer:
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        text = "the function returned a generator, which cannot leave its process; return a list of what it yields"
        return CallAnswer(Outcome(NOT_PICKLABLE, text=text))
    file = _Measured(result)
    try:
        cloudpickle.Pickler(file, protocol=5).dump(value)
        result.flush()
    except MemoryError as error:
        _empty(result)
        return _raised(error, key, digest, result)
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, _TooLarge):
            # Not the value's fault: the disk is full, say.
            raise
        _empty(result)
        said = f"{type(error).__name__}: {error}"
        text = f"{failure.name_of(type(value))} cannot be pickled: {said}"
        if not isinstance(error, _TooLarge) and (where := _unpicklable(value)):
            text = f"{text}; it is at {where}"
        sys.stderr.write(f"{text}\n")
        return CallAnswer(Outcome(NOT_PICKLABLE, type=failure.name_of(type(value)), text=text))
    sha256 = file.sha256.hexdigest()
    signature = sign(key, digest, RETURNED, sha256)
    return CallAnswer(Outcome(RETURNED, result=sha256, result_size=file.size, signature=signature), 0)


def _raised(error: BaseException, key: bytes, digest: str, result: BinaryIO) -> CallAnswer:
    made = failure.outcome_of(error)
    if not isinstance(error, SystemExit):
        sys.stderr.write(made.traceback)
    pickled = failure.rebuildable(error)
    if pickled is None:
        return CallAnswer(made, _exit_code(error))
    result.write(pickled)
    result.flush()
    sha256 = hashlib.sha256(pickled).hexdigest()
    signature = sign(key, digest, made.outcome, sha256)
    made = replace(made, result=sha256, result_size=len(pickled), signature=signature)
    return CallAnswer(made, _exit_code(error))


def _exit_code(error: BaseException | None) -> int:
    """What Python's own process would end with."""
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        return 1
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def _end_child(error: BaseException | None) -> NoReturn:
    """A process that the function forked came out of it: the answer is its parent's to give."""
    try:
        if error is not None and not isinstance(error, SystemExit):
            sys.stderr.write(failure.outcome_of(error).traceback)
        code = _exit_code(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        code = 1
    os._exit(code)


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _unpicklable(value: Any) -> str:
    """The path, as Python would write it, to a part of `value` that cannot be pickled; "" where the whole is it."""
    path, seen = "", set()
    for _ in range(_DEEPEST):
        seen.add(id(value))
        parts = _parts(value)
        found = next((part for part in parts if id(part[1]) not in seen and not _can_pickle(part[1])), None)
        if found is None:
            break
        path, value = f"{path}{found[0]}", found[1]
    return f"result{path}, {failure.name_of(type(value))}" if path else ""


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r:.60}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    attributes = getattr(value, "__dict__", None)
    return [(f".{name}", part) for name, part in attributes.items()] if isinstance(attributes, dict) else []


def _can_pickle(value: Any) -> bool:
    try:
        cloudpickle.Pickler(_Measured(None), protocol=5).dump(value)
    except Exception:
        return False
    return True


class _TooLarge(OSError):
    pass


class _Measured:
    """A file that knows its content's size and sha256."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.size += size
        if self.size > LARGEST:
            raise _TooLarge(f"it has more than {LARGEST} bytes; write it to a file instead")
        if self._file is not None:
            self.sha256.update(data)
            self._file.write(data)
        return size
