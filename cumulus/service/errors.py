"""What the service refuses, besides what the store does."""

from __future__ import annotations

from cumulus.errors import CumulusError


class JobFinished(CumulusError):
    """The job is over: it can be neither suspended nor resumed."""


class AlreadySet(CumulusError):
    """A label or annotation has another value, and overwriting was not asked for."""


class WaitTimedOut(CumulusError):
    """Time was up before the condition was met."""


class ConditionUnreachable(CumulusError):
    """What is waited for can't come true any more."""
