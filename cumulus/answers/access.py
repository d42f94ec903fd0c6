"""What the service tells about who asks, and what they may do."""

from __future__ import annotations

from typing import NamedTuple


class UserInfo(NamedTuple):
    """Who asks, as the server knows them. `uid`: their number on its machine, None where they have none."""

    name: str
    uid: int | None = None
    groups: tuple[str, ...] = ()


class Allowed(NamedTuple):
    """Whether something may be done, and why."""

    allowed: bool
    reason: str
