"""Why a source cannot be read."""

from __future__ import annotations

from cumulus.errors import CumulusError
from cumulus.resources.reasons import SourceReason


class SourceUnreadable(CumulusError):
    """The repository or directory cannot be read as it is to be. Nothing of the cluster is changed then."""

    def __init__(self, reason: SourceReason, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
