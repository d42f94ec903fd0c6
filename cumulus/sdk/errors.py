"""What calls raise beside the exceptions of the called functions. Each is a `CumulusError`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from cumulus.errors import CumulusError
from cumulus.resources.quantity import format_bytes

P = ParamSpec("P")
T = TypeVar("T")


class NotPicklable(CumulusError):
    """The function, or one of its arguments or its result, can't be pickled."""


class SourceTooLarge(CumulusError):
    """The local code is larger than may travel. The message names the largest files."""


class Untrusted(CumulusError):
    """A result is not unpickled: nothing shows that the caller's own function made it."""


class CallError(CumulusError):
    """A call did not return: base of all that follow. `call` is its name."""

    def __init__(self, message: str, *, hint: str | None = None, call: str = "") -> None:
        super().__init__(message, hint=hint)
        self.call = call


class RemoteError(CallError):
    """The function raised an exception that can't be rebuilt here. `type` is the exception's class, `text` what it
    says, `traceback` where it was raised, with the source lines."""

    def __init__(self, type: str, text: str, traceback: str, *, call: str = "", place: str = "") -> None:
        super().__init__(f"{type}: {text}" if text else type, call=call)
        self.type = type
        self.text = text
        self.traceback = traceback
        if traceback:
            self.add_note(note_of(traceback, place or f"the call {call}"))


class OutOfMemory(CallError):
    """The function ran out of memory. `used` and `leased` are bytes, 0 where that is not known."""

    def __init__(self, text: str, *, used: int = 0, leased: int = 0, call: str = "") -> None:
        sizes = f" ({format_bytes(used)} in use, {format_bytes(leased)} leased)" if used and leased else ""
        super().__init__(f"{text}{sizes}", hint="lease more: gpu_memory=…", call=call)
        self.used = used
        self.leased = leased


class LeaseExpired(CallError):
    """The lease was over before the function returned."""


class DeadlineExceeded(CallError):
    """The job's activeDeadline was over before the function returned."""


class NodeLost(CallError):
    """The node, or what ran the function there, went away."""


class NotStarted(CallError):
    """The function did not start: no program of that Python, no such image, a module that is missing there."""


class Crashed(CallError):
    """The function's process ended without an answer: by a signal, or os._exit."""


class Cancelled(CallError):
    """The call was cancelled: its job was deleted."""


def shows_hints(function: Callable[P, T]) -> Callable[P, T]:
    """A function of users' programs: what would make an error right stands below its traceback."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except CumulusError as error:
            note = f"Hint: {error.hint}"
            if error.hint and note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise

    return call


def note_of(traceback: str, place: str) -> str:
    """What is shown below an exception that was raised elsewhere: in which call, or for which item of many."""
    return f"\nRaised in {place}:\n{traceback.rstrip()}"
