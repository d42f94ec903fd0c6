"""An exception as an outcome: in clear, and as a pickle that is the exception again, with its causes, where it can be.

Exceptions are pickled by hand: pickle itself forgets causes, and calls `__init__` with what `args` has, which fails
for a class of one's own that takes more. Where it does, the exception is made without `__init__`, and its attributes
are set.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cloudpickle

from cumulus.calls.outcome import OUT_OF_MEMORY, RAISED, Outcome

_LONGEST_CHAIN = 32
_LARGEST = 64 * 2**20
"""Bytes of a pickled exception at most: who raises with a data set in hand wants the text."""

_OUT_OF_MEMORY = re.compile(
    r"\bout of (?:device )?memory\b|OUT_OF_MEMORY|OutOfMemory|MemoryAllocation"
    r"|MEM_OBJECT_ALLOCATION_FAILURE|OUT_OF_(?:HOST_MEMORY|RESOURCES)|RESOURCE_EXHAUSTED|ResourceExhausted",
    re.IGNORECASE,
)
"""What CUDA, PyTorch, CuPy, JAX, TensorFlow and OpenCL say, in the class or in the text."""


def outcome_of(error: BaseException) -> Outcome:
    """What the exception says, in clear."""
    if not _is_out_of_memory(error):
        return described(error, RAISED)
    # OpenCL's and CuPy's classes stand below MemoryError too.
    used, leased = _device_memory() if _names_out_of_memory(error) else _host_memory()
    return replace(described(error, OUT_OF_MEMORY), used=used, leased=leased)


def described(error: BaseException, outcome: str) -> Outcome:
    """An outcome with the class, the text and the traceback of the exception."""
    return Outcome(outcome, type=name_of(type(error)), text=_text(error), traceback=_traceback(error))


def rebuildable(error: BaseException) -> bytes | None:
    """A pickle from which the exception comes out as itself; None where it would not."""
    ways = _Ways(error)
    if not ways.of(error):
        return None
    pickled = _pickled(error, ways, links=True)
    if pickled is None or not _is_same(pickled, error):
        pickled = _pickled(error, ways, links=False)
    return pickled


def name_of(kind: type) -> str:
    """The name of a class in clear: module.name."""
    return f"{kind.__module__}.{kind.__qualname__}"


class _Ways:
    """How each exception of a chain can be rebuilt: "init" as pickle does, "bare" without its `__init__`, "" not."""

    def __init__(self, error: BaseException) -> None:
        self._ways: dict[int, str] = {}
        self._kept: list[BaseException] = []
        self._learn(error)

    def _learn(self, error: BaseException) -> None:
        if self.knows(error) or len(self._kept) >= _LONGEST_CHAIN:
            return
        self._kept.append(error)
        self._ways[id(error)] = "init"
        for member in _members(error):
            # Before their group, which is tried with them.
            self._learn(member)
        self._ways[id(error)] = self._find(error)
        for other in (error.__cause__, error.__context__):
            if other is not None:
                self._learn(other)

    def of(self, error: BaseException) -> str:
        return self._ways.get(id(error), "init")

    def knows(self, error: BaseException) -> bool:
        return id(error) in self._ways

    def _find(self, error: BaseException) -> str:
        for way in ("init", "bare"):
            self._ways[id(error)] = way
            pickled = _pickled(error, self, links=False)
            if pickled is not None and _is_same(pickled, error):
                return way
        return ""


def _members(error: BaseException) -> Sequence[BaseException]:
    """Those of a group, in Pythons that have groups."""
    try:
        found = getattr(error, "exceptions", ())
    except Exception:
        return []
    return [each for each in found if isinstance(each, BaseException)] if isinstance(found, (tuple, list)) else []


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, ways: _Ways, links: bool) -> None:
        super().__init__(file, protocol=5)
        self._ways = ways
        self._links = links

    def reducer_override(self, value: Any) -> Any:
        return self._reduced(value) if isinstance(value, BaseException) else super().reducer_override(value)

    def _reduced(self, error: BaseException) -> Any:
        way = self._ways.of(error)
        if not way:
            # A cause that cannot be rebuilt stands there as text.
            return RuntimeError, (f"{name_of(type(error))}: {_text(error)}",)
        made = error.__reduce_ex__(5)
        if not isinstance(made, tuple):
            return made
        make, args, state, *more = (*made, None) if len(made) == 2 else made
        if way == "bare" and make is type(error):
            make, args = copyreg.__newobj__, (make, *args)  # type: ignore[attr-defined]
        plain = type(error).__setstate__ is BaseException.__setstate__
        if self._links and self._ways.knows(error) and plain and (state is None or isinstance(state, dict)):
            # Setting the cause sets the last one too.
            state = {
                **(state or {}), "__cause__": error.__cause__, "__context__": error.__context__,
                "__suppress_context__": error.__suppress_context__,
            }  # fmt: skip
        return (make, args, state, *more)


def _pickled(error: BaseException, ways: _Ways, links: bool) -> bytes | None:
    file = io.BytesIO()
    try:
        _Pickler(file, ways, links).dump(error)
    except Exception:
        return None
    return file.getvalue() if file.tell() <= _LARGEST else None


def _is_same(pickled: bytes, error: BaseException) -> bool:
    """Whether what comes out is such an exception again; its class' own code runs here, and may do anything."""
    try:
        made = pickle.loads(pickled)
        return type(made) is type(error) and _text(made) == _text(error)
    except Exception:
        return False


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(what it says cannot be shown)"


def _traceback(error: BaseException) -> str:
    """From the called function on, with source lines and causes."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_globals.get("__name__")):
        frames = frames.tb_next
    try:
        return "".join(traceback.TracebackException(type(error), error, frames).format())
    except Exception:
        return f"{name_of(type(error))}: {_text(error)}\n"


def _is_ours(module: Any) -> bool:
    return isinstance(module, str) and module.startswith(("cumulus.runner.", "asyncio."))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, Exception) or isinstance(error, OSError):
        return False
    return _names_out_of_memory(error)


def _names_out_of_memory(error: BaseException) -> bool:
    """Whether it says so in the words of a device: a MemoryError that does not is of the machine's memory."""
    return any(_OUT_OF_MEMORY.search(said) for said in (type(error).__name__, _text(error)[:4096]))


def _host_memory() -> tuple[int, int]:
    """Bytes in use and allowed, as far as this process knows."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return used, 0 if limit == resource.RLIM_INFINITY else limit


def _device_memory() -> tuple[int, int]:
    """Bytes that the framework at work has of the leased devices, and bytes leased."""
    leased = sum(int(part) for part in os.environ.get("CHRONOS_MEMORY_BYTES", "").split(",") if part.strip().isdigit())
    used = 0
    try:
        torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
        if torch is not None and torch.cuda.is_initialized():
            used = sum(torch.cuda.memory_reserved(device) for device in range(torch.cuda.device_count()))
        elif cupy is not None:
            used = cupy.get_default_memory_pool().total_bytes()
    except Exception:
        used = 0
    return int(used), leased
