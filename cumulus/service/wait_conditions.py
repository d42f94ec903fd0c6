"""What `wait` waits for: a condition, a field's value, creation, deletion; and when that cannot come true any more."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cumulus.errors import UsageError
from cumulus.lib.suggest import nearest
from cumulus.resources.jsonpath import JsonPath
from cumulus.resources.key import Document
from cumulus.resources.kind import Kind
from cumulus.resources.registry import BY_NAME


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

    @property
    def claims_knowledge(self) -> bool:
        """Whether it says how something is: that nobody knows is true without a daemon too."""
        return self.status.lower() != "unknown"

    def met(self, document: Document | None, now: datetime) -> bool:
        if document is None:
            return False
        status = BY_NAME[document["kind"]].condition_status(document, self.type, now)
        return status.lower() == self.status.lower()

    def unreachable(self, document: Document | None) -> str:
        return _over(document)


@dataclass(frozen=True)
class HasValue:
    """`jsonpath={.status.phase}=Running`; without a value it is enough that there is one."""

    path: JsonPath
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


class Finished:
    """It is over, well or not."""

    def __str__(self) -> str:
        return "finished"

    def met(self, document: Document | None, now: datetime) -> bool:
        return document is not None and BY_NAME[document["kind"]].over(document)

    def unreachable(self, document: Document | None) -> str:
        return "it is gone" if document is None else ""


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
    if text == "finished":
        if not kind.final_phases:
            raise UsageError(f"a {kind.name} does not finish", hint="wait for a condition, create or delete")
        return Finished()
    if form == "condition" and rest:
        type, _, status = rest.partition("=")
        return HasCondition(_condition_type(type, kind), status or "True")
    if form == "jsonpath" and rest:
        wanted = _value(rest)
        wanted.path.check([kind])
        return wanted
    raise UsageError(
        f"{text!r} is nothing to wait for",
        hint="write --for=condition=NAME[=STATUS], --for=jsonpath='{.path}'=VALUE, --for=finished, --for=create "
        "or --for=delete",
    )


def _condition_type(given: str, kind: Kind) -> str:
    known = kind.conditions
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
        return HasValue(JsonPath(path), rest[1:] if rest else None)
    path, equals, value = text.partition("=")
    return HasValue(JsonPath(path), value if equals else None)


def _over(document: Document | None) -> str:
    """Nothing about a finished job or an ended partition changes any more, but that it is deleted."""
    if document is None:
        return "it is gone"
    return phase_summary(document) if BY_NAME[document["kind"]].over(document) else ""


def summary(document: Document, now: datetime) -> str:
    """How an object is, in a few words: `Failed (BackoffLimitExceeded: exit code 3)`."""
    return BY_NAME[document["kind"]].summary(document, now)


def phase_summary(document: Document) -> str:
    """The same of a job or partition, which have a phase."""
    return BY_NAME[document["kind"]].phase_summary(document)
