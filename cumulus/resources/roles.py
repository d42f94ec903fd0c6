"""The roles that bindings give: viewer, user, admin, each with all that the one before it may do. Light."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What each may do is in `service.access.matrix`."""

    VIEWER = "viewer"
    USER = "user"
    ADMIN = "admin"

    def covers(self, other: Role) -> bool:
        """Whether who has this role may do all that `other` allows."""
        return _RANK[self] >= _RANK[other]


_RANK = {role: rank for rank, role in enumerate(Role)}


def strongest(first: Role | None, second: Role | None) -> Role | None:
    """The one that covers the other; None where there is neither."""
    if first is None or second is None:
        return first or second
    return first if first.covers(second) else second
