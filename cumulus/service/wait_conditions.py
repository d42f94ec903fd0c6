"""What `wait` waits for: a condition, a field's value, creation, deletion; and when it can no longer come true."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cumulus.errors import UsageError
from cumulus.lib.suggest import nearest
from cumulus.resources.columns import is_silent, node_state
from cumulus.resources.documents import condition, lookup
from cumulus.resources.jsonpath import Path
from cumulus.resources.key import Document
from cumulus.resources.registry import Kind

CONDITIONS: dict[str, tuple[str, ...]] = {
    "GPUJob": ("Scheduled", "PartitionsReady", "Running", "Succeeded", "Failed", "Suspended"),
    "GPUPartition": ("Bound", "Active", "Ended"),
    "GPUNode": ("Ready", "ContainersReady", "MPSReady"),
}
_FINAL = {
    "GPUJob": ("Succeeded", "Failed"),
    "GPUPartition": ("Expired", "Released", "Failed"),
}


class WaitCondition(Protocol):
    """`document` is None when the object is not there. `str` is the condition as it is written."""

    def met(self, document: Document | None, now: datetime) -> bool: ...

    def unreachable(self, document: Document | None) -> str:
        """Why it can't come true any more, "" while it can."""
        ...


@dataclass(frozen=True, slots=True)
class HasCondition:
    """`condition=Succeeded` or `condition=Ready=False`; a condition that is not there counts as Unknown."""

    type: str
    status: str = "True"

    def __str__(self) -> str:
        return f"condition={self.type}" + (f"={self.status}" if self.status != "True" else "")

    def met(self, document: Document | None, now: datetime) -> bool:
        if document is None:
            return False
        status = condition(document, self.type).get("status", "Unknown")
        if (document["kind"], self.type) == ("GPUNode", "Ready") and is_silent(document, now):
            # Of a node that was Ready when the last daemon ended nobody knows how it is.
            status = "Unknown"
        return bool(status.lower() == self.status.lower())

    def unreachable(self, document: Document | None) -> str:
        return _over(document)


@dataclass(frozen=True)
class HasValue:
    """`jsonpath={.status.phase}=Running`; without a value it is enough that there is one."""

    path: Path
    value: str | None

    def __str__(self) -> str:
        return "the jsonpath" + (f"={self.value}" if self.value is not None else "")

    def met(self, document: Document | None, now: datetime) -> bool:
        if document is None:
            return False
        found = self.path.texts(document)
        return bool(found) if self.value is None else self.value in found

    def unreachable(self, document: Document | None) -> str:
        return _over(document)


class Created:
    def met(self, document: Document | None, now: datetime) -> bool:
        return document is not None

    def unreachable(self, document: Document | None) -> str:
        return ""


class Deleted:
    def met(self, document: Document | None, now: datetime) -> bool:
        return document is None

    def unreachable(self, document: Document | None) -> str:
        return ""


def parse_condition(text: str, kind: Kind) -> WaitCondition:
    """Raises UsageError, with the conditions that `kind` has."""
    form, _, rest = text.partition("=")
    if text == "delete":
        return Deleted()
    if text == "create":
        return Created()
    if form == "condition" and rest:
        type, _, status = rest.partition("=")
        return HasCondition(_condition_type(type, kind), status or "True")
    if form == "jsonpath" and rest:
        wanted = _value(rest)
        wanted.path.check([kind])
        return wanted
    raise UsageError(
        f"{text!r} is nothing to wait for",
        hint="write --for=condition=NAME[=STATUS], --for=jsonpath='{.path}'=VALUE, --for=create or --for=delete",
    )


def _condition_type(given: str, kind: Kind) -> str:
    known = CONDITIONS.get(kind.name, ())
    for type in known:
        if type.lower() == given.lower():
            return type
    if not known:
        raise UsageError(f"a {kind.name} has no conditions", hint="wait for jsonpath, create or delete")
    close = nearest(given, known)
    hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}"
    raise UsageError(f"a {kind.name} has no condition {given!r}", hint=hint)


def _value(text: str) -> HasValue:
    """`{.path}=VALUE`: the path ends at its closing brace, since filters hold `=` too."""
    text = re.sub(r"""^(['"])(\{.*\})\1""", r"\2", text)
    brace = text.rfind("}") if text.startswith("{") else -1
    if brace >= 0:
        path, rest = text[: brace + 1], text[brace + 1 :]
        if rest and not rest.startswith("="):
            raise UsageError(f"{rest!r} after the path is not understood", hint="write jsonpath='{.path}'=VALUE")
        return HasValue(Path(path), rest[1:] if rest else None)
    path, equals, value = text.partition("=")
    return HasValue(Path(path), value if equals else None)


def _over(document: Document | None) -> str:
    """Nothing about a finished job or an ended partition changes any more, but that it is deleted."""
    if document is None:
        return "it is gone"
    phase = lookup(document, "status.phase")
    if phase not in _FINAL.get(document["kind"], ()):
        return ""
    return phase_summary(document)


def summary(document: Document, now: datetime) -> str:
    """How an object is, in a few words: `Failed (BackoffLimitExceeded: exit code 3)`."""
    if document["kind"] != "GPUNode":
        return phase_summary(document)
    state = node_state(document, now)
    return state if state.startswith("Unknown (") else state + detail(condition(document, "Ready"))


def phase_summary(document: Document) -> str:
    """The same of a job or partition, which have a phase."""
    phase = str(lookup(document, "status.phase") or "")
    if not phase:
        return "no status yet"
    for type in (phase, "Ended", "Scheduled", "Bound", "PartitionsReady"):
        found = condition(document, type)
        if found.get("reason") and (found.get("status") == "True") == (type in (phase, "Ended")):
            return phase + detail(found)
    return phase


def detail(found: object) -> str:
    """Reason and message of a condition in brackets."""
    if not isinstance(found, dict):
        return ""
    reason, message = str(found.get("reason") or ""), str(found.get("message") or "")
    parts = [message] if reason in message else [part for part in (reason, message) if part]
    return f" ({': '.join(parts)})" if any(parts) else ""
