"""Setting one condition of a status."""

from __future__ import annotations

from typing import Literal

from cumulus.lib.truncate import LONGEST_WORD, truncate
from cumulus.resources.meta import Condition, condition, with_condition

Truth = Literal["True", "False", "Unknown"]


def condition_set(
    conditions: tuple[Condition, ...], now: str, type: str, status: Truth | bool, reason: str, message: str = ""
) -> tuple[Condition, ...]:
    """`conditions` with that one put in; its lastTransitionTime moves to `now` only when its status changes."""
    reason, message = truncate(str(reason), LONGEST_WORD), truncate(message)
    truth: Truth = status if isinstance(status, str) else ("True" if status else "False")
    old = condition(conditions, type)
    if old is not None and (old.status, old.reason, old.message) == (truth, reason, message):
        return conditions
    return with_condition(conditions, Condition(type=type, status=truth, reason=reason, message=message), now)
