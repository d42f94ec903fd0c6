"""What a run was told about its checkpoints, read from its environment once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from . import variables

DIRECTORY = "checkpoints"
"""Where checkpoints are kept outside of Cumulus: below the working directory."""
KEEP = 3
"""As GPUJob has it by default."""
GRACE = 30.0
"""Seconds, as GPUJob has it by default."""


@dataclass(frozen=True)
class Settings:
    """See `variables` for each."""

    path: str | None = DIRECTORY
    """None: a job whose manifest has no checkpoint. It has no place where one would be found again."""
    every: float | None = None
    keep: int = KEEP
    grace: float = GRACE
    request: str | None = None
    deadline: str | None = None
    expires_at: str | None = None
    accounts: tuple[str, ...] = ()
    attempt: int = 0
    token: int = 0
    rank: int = 0
    world: int = 1
    job: bool = False
    """Whether this is a run of Cumulus."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """What the environment says. What is not set, empty or no number counts as left out: a run must not fail for
        it."""
        job = bool(environ.get(variables.JOB))
        rank, world = _place(environ)
        return cls(
            path=environ.get(variables.PATH) or (None if job else DIRECTORY),
            every=_seconds(environ.get(variables.EVERY)),
            keep=max(1, _whole(environ.get(variables.KEEP), KEEP)),
            grace=_seconds(environ.get(variables.GRACE)) or GRACE,
            request=environ.get(variables.REQUEST) or None,
            deadline=environ.get(variables.LEASE_DEADLINE) or None,
            expires_at=environ.get(variables.EXPIRES_AT) or None,
            accounts=tuple(each for each in environ.get(variables.ACCOUNT, "").split(":") if each),
            attempt=_whole(environ.get(variables.ATTEMPT), 0),
            token=_whole(environ.get(variables.FENCING_TOKEN), 0),
            rank=rank,
            world=world,
            job=job,
        )


def _place(environ: Mapping[str, str]) -> tuple[int, int]:
    """This run's rank and how many there are: a launcher's numbers (torchrun), else those of the replicas."""
    for rank, world in (("RANK", "WORLD_SIZE"), (variables.REPLICA, variables.REPLICAS)):
        number, count = _whole(environ.get(rank), -1), _whole(environ.get(world), 0)
        if 0 <= number < count:
            return number, count
    return 0, 1


def _whole(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else default


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < 1e12 else None
