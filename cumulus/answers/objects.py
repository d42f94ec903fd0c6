"""Answers about objects, and requests for which a key or a query is not enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cumulus.errors import InvalidObject
from cumulus.resources.key import Document, Key
from cumulus.resources.registry import BY_NAME

PatchType = Literal["merge", "json"]
"""`merge` is a JSON merge patch (RFC 7386): maps are merged, null removes, all else replaces. `json` is a JSON patch
(RFC 6902): a list of operations, done in order, or none of them."""
Propagation = Literal["background", "orphan"]
"""What becomes of the objects that belong to a deleted one: they are deleted after it, or stay, owned by nobody."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying manifests did to one object, or would do. `str` is the line that `apply` prints.

    `before` is the object as stored (None: there was none), `after` as it is to be, or is (None: pruned).
    """

    action: Literal["created", "configured", "unchanged", "pruned", "recreated"]
    key: Key
    before: Document | None
    after: Document | None

    def __str__(self) -> str:
        return f"{BY_NAME[self.key.kind].qualified}/{self.key.name} {self.action}"


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The directories that were made for a job and go with it: working directories, logs, checkpoints at relative
    paths. They may belong to another user, or lie on another node: then there seem to be none."""

    directory: str
    """All of it is below."""
    working_directories: tuple[str, ...]
    """Of its replicas, by attempt and replica."""
    filled: bool
    """Whether a program wrote any file. Its log does not count."""


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job or partition is not running, or how it is, in sentences. `damaged`: stored objects that had to be left
    out of the answer."""

    lines: tuple[str, ...]
    over: bool
    """Whether it has ended, so that nothing will happen to it any more."""
    damaged: tuple[InvalidObject, ...] = ()


@dataclass(frozen=True, slots=True)
class Extended:
    """The leases of a job were lengthened, or would be."""

    until: str
    """When the first of them ends now (RFC 3339), unless its program has ended before."""


@dataclass(frozen=True, slots=True)
class Description:
    """An object with what belongs to it. `related`: what its kind's entry says is listed with it."""

    document: Document
    related: tuple[Document, ...] = ()
    events: tuple[Document, ...] = ()
    """About it, the latest last."""
    waiting: tuple[str, ...] = ()
    """For what waits: when it starts, who is in the way, and each node's reason; or why it is not in the queue."""
    files: JobFiles | None = None
    """Of a kind that leaves files."""
    damaged: tuple[InvalidObject, ...] = ()
    """Stored objects that had to be left out."""
    incomplete: bool = False
    """Whether it is damaged itself, so that why it waits cannot be told."""


@dataclass(frozen=True, slots=True)
class ConditionMet:
    """What was waited for is true of an object. `deleted`: that it is gone was waited for."""

    key: Key
    deleted: bool
    ended: str = ""
    """How it ended, where its end was waited for, and whether it has failed."""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class StillWaiting:
    """How the first object that is waited for is. `what`: `gpujob/train`, or the kinds where there is no object yet."""

    what: str
    state: str
    others: int = 0
    """How many more are waited for."""

    def __str__(self) -> str:
        more = f", and {self.others} more" if self.others else ""
        return f"waiting for {self.what}: {self.state}{more}"


WaitStep = ConditionMet | StillWaiting
