"""What came of a call, in clear: `outcome.json` of a run, `status.call` of a job, the head of an answer to the client.

`Returned` and `Raised` have a result, the pickle of the value or of the exception, which is signed: the client checks
`verify` before it unpickles.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from cumulus.calls import documents
from cumulus.lib import printable

FORMAT = 1

RETURNED = "Returned"
"""The result is what the function returned."""
RAISED = "Raised"
"""The function raised; the result is the exception, where it can be rebuilt from a pickle."""
OUT_OF_MEMORY = "OutOfMemory"
"""It ran out of the memory of its device, or of its own; the result as with Raised."""
NOT_PICKLABLE = "NotPicklable"
"""It returned what cannot be pickled: there is no result."""
NOT_LOADED = "NotLoaded"
"""Its payload could not be unpickled, for want of a module perhaps: it did not run."""
LEASE_EXPIRED = "LeaseExpired"
"""Its lease was over before it returned."""
NODE_LOST = "NodeLost"
"""Its node, or what ran it there, went away."""
DEADLINE = "Deadline"
"""spec.activeDeadline was over."""
NOT_STARTED = "NotStarted"
"""Its program could not be started, for want of its Python perhaps."""
NOT_KEPT = "NotKept"
"""Its result could not be stored: there is no room for it."""
CRASHED = "Crashed"
"""Its process ended without an answer: a signal, or os._exit."""

OF_RUNNER = (RETURNED, RAISED, OUT_OF_MEMORY, NOT_PICKLABLE, NOT_LOADED)
"""Those that a runner writes. The job controller tells the others, where there is none of these."""
OUTCOMES = (*OF_RUNNER, LEASE_EXPIRED, NODE_LOST, DEADLINE, NOT_STARTED, NOT_KEPT, CRASHED)

LONGEST_TEXT, LONGEST_TRACEBACK, LONGEST_TYPE = 4096, 16384, 256


@dataclass(frozen=True)
class Outcome:
    """What came of a call. In JSON the fields have camelCase names; what is empty is left out."""

    outcome: str
    type: str = ""
    """The exception's class, as module.name."""
    text: str = ""
    """What the exception says, or what happened where there was none."""
    traceback: str = ""
    """The remote traceback with its source lines, causes included."""
    result: str = ""
    """sha256 of the result, "" where there is none."""
    result_size: int = 0
    """In bytes."""
    signature: str = ""
    """Binds outcome and result to the call; see `sign`."""
    used: int = 0
    """Bytes of memory that were in use when there was too little; 0: not known."""
    leased: int = 0
    """Bytes that the lease, or the limit, allows; 0: not known."""

    def to_json(self) -> bytes:
        """As `outcome.json` holds it. Texts that are too long lose their middle."""
        return documents.dump({"format": FORMAT, **self.fields()})

    def fields(self) -> dict[str, Any]:
        """The fields of `status.call`, without what is empty."""
        # By hand: each call in a session waits for this, and `dataclasses.asdict` takes ten times as long.
        made = {}
        for name, given in _NAMES.items():
            if value := getattr(self, name):
                longest = _LONGEST.get(name)
                made[given] = value if longest is None else shortened(value, longest)
        return made

    @classmethod
    def read(cls, content: bytes, allowed: tuple[str, ...] = OUTCOMES) -> Outcome:
        """What somebody else wrote: raises ValueError, in one line, where something is not as it should be. Control
        characters come out as escapes."""
        return cls._of(documents.load(content, "outcome", _GIVEN, FORMAT), allowed)

    @classmethod
    def of_status(cls, call: Mapping[str, Any]) -> Outcome | None:
        """That of `status.call`; None where the call has not come to an end. Raises ValueError."""
        if not call.get("outcome"):
            return None
        return cls._of(documents.DocumentFields("status.call", dict(call)), OUTCOMES)

    @classmethod
    def _of(cls, found: documents.DocumentFields, allowed: tuple[str, ...]) -> Outcome:
        outcome = found.text("outcome")
        if outcome not in allowed:
            raise found.wrong("outcome", f"one of {', '.join(allowed)}")
        made = cls(
            outcome,
            printable.one_line(found.text("type", LONGEST_TYPE)),
            printable.block(found.text("text", LONGEST_TEXT)),
            printable.block(found.text("traceback", LONGEST_TRACEBACK)),
            found.digest("result"), found.number("resultSize"), found.digest("signature"),
            found.number("used"), found.number("leased"),
        )  # fmt: skip
        if outcome == RETURNED and not made.result:
            raise ValueError("outcome is Returned, and there is no result")
        if made.result and outcome not in (RETURNED, RAISED, OUT_OF_MEMORY):
            raise ValueError(f"outcome is {outcome}, which has no result")
        return made


_NAMES = {
    field.name: "".join(part.capitalize() if at else part for at, part in enumerate(field.name.split("_")))
    for field in fields(Outcome)
}
_GIVEN = frozenset(_NAMES.values())
_LONGEST = {"type": LONGEST_TYPE, "text": LONGEST_TEXT, "traceback": LONGEST_TRACEBACK}


def sign(key: bytes, payload: str, outcome: str, result: str) -> str:
    """Binds a result to its call: both digests and the outcome, by the key in the call's payload."""
    text = "\n".join(("cumulus result 1", payload, outcome, result))
    return hmac.digest(key, text.encode(), "sha256").hex()


def verify(key: bytes, payload: str, outcome: Outcome) -> bool:
    """Whether the runner of that call wrote the outcome. `payload`: sha256 of what the client sent."""
    wanted = sign(key, payload, outcome.outcome, outcome.result)
    return hmac.compare_digest(wanted, outcome.signature)


def shortened(text: str, longest: int) -> str:
    """`text` with its middle left out where it is too long: it begins and ends with what matters. What no text can hold
    (half a surrogate) becomes '?'."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) <= longest:
        return text
    mark = "\n… left out …\n"
    head = longest // 4
    return f"{text[:head]}{mark}{text[-(longest - head - len(mark)) :]}"
