"""From what the server says of a call to a value or an exception. Nothing is unpickled before its signature is good."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from typing import Any

from cumulus.calls import outcome as outcomes
from cumulus.calls.outcome import Outcome
from cumulus.errors import CumulusError
from cumulus.sdk import errors
from cumulus.sdk.errors import CallError, RemoteError, Untrusted, note_of

_Bytes = bytes | bytearray | memoryview

_WITHOUT_RESULT: dict[str, type[CallError]] = {
    outcomes.LEASE_EXPIRED: errors.LeaseExpired,
    outcomes.NODE_LOST: errors.NodeLost,
    outcomes.DEADLINE: errors.DeadlineExceeded,
    outcomes.NOT_STARTED: errors.NotStarted,
    outcomes.NOT_LOADED: errors.NotStarted,
    outcomes.CRASHED: errors.Crashed,
}


def value(found: Outcome, result: _Bytes, *, key: bytes, payload: str, call: str) -> Any:
    """What the function returned. Raises what it raised, and a CallError where it did neither.

    `key`, `payload`: what the call was made with. Raises Untrusted where they don't fit the outcome."""
    if found.outcome == outcomes.RETURNED:
        _check_signature(found, result, key, payload, call)
        return rebuilt(result, f"what {call} returned")
    raise exception(found, result, key=key, payload=payload, call=call)


def exception(found: Outcome, result: _Bytes, *, key: bytes, payload: str, call: str) -> BaseException:
    """What it raised, or what became of it. Raises Untrusted."""
    raised = None
    if found.result:
        _check_signature(found, result, key, payload, call)
        raised = rebuilt_exception(result, found.traceback, f"the call {call}")
    if found.outcome == outcomes.OUT_OF_MEMORY:
        made = errors.OutOfMemory(
            f"{call} ran out of memory: {found.text or found.type}", used=found.used, leased=found.leased, call=call
        )
        made.__cause__ = raised
        if found.traceback and raised is None:
            made.add_note(note_of(found.traceback, f"the call {call}"))
        return made
    if found.outcome == outcomes.RAISED:
        return raised or RemoteError(found.type, found.text, found.traceback, call=call)
    if found.outcome == outcomes.NOT_PICKLABLE:
        return errors.NotPicklable(
            f"what {call} returned can't be pickled: {found.text}", hint="return plain data, or write it to a file"
        )
    kind = _WITHOUT_RESULT.get(found.outcome, CallError)
    missing = found.type.endswith(("ModuleNotFoundError", "ImportError"))
    other: CallError = kind(
        f"{call}: {found.text or found.outcome}", call=call,
        hint="name packages in requirements=…; modules of your own must be in the project" if missing else None,
    )  # fmt: skip
    if found.traceback:
        other.add_note(note_of(found.traceback, f"the call {call}"))
    return other


def rebuilt(signed: _Bytes, what: str) -> Any:
    """The value of a pickle whose signature was checked. Raises CumulusError where it can't be rebuilt, for want of its
    class perhaps. `what`: for the message."""
    try:
        return pickle.loads(signed)
    except Exception as error:
        raise CumulusError(
            f"{what}, can't be rebuilt here: {type(error).__name__}: {error}",
            hint="the classes and packages of a result must be here too",
        ) from error


def rebuilt_exception(signed: _Bytes, traceback: str, place: str) -> BaseException | None:
    """The same of an exception, with a note that tells where it was raised; None where it can't be rebuilt."""
    try:
        made = pickle.loads(signed)
    except Exception:
        return None
    if not isinstance(made, BaseException):
        return None
    if traceback:
        # A class of somebody's may take no attributes.
        with contextlib.suppress(Exception):
            made.add_note(note_of(traceback, place))
    return made


def _check_signature(found: Outcome, result: _Bytes, key: bytes, payload: str, call: str) -> None:
    if not outcomes.verify(key, payload, found):
        raise Untrusted(
            f"the result of {call} is not unpickled: its signature is not that of the call",
            hint="somebody changed it on its way, or this is another machine's key",
        )
    if hashlib.sha256(result).hexdigest() != found.result:
        raise Untrusted(f"the result of {call} is not unpickled: its sha256 is not what was signed")
