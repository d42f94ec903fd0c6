"""One kind of object and everything about it, as data and functions over its JSON. Light: no model is loaded.

Machinery, verbs and pages ask a `Kind`; none of them names one. `kinds/` has the entries, `registry` their list.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import API_VERSION, Document
from cumulus.resources.query import Query
from cumulus.resources.roles import Role

if TYPE_CHECKING:
    from cumulus.resources.meta import Resource
    from cumulus.resources.sections import Section, Surroundings


class CellView(Protocol):
    """What a cell may know besides its object."""

    @property
    def now(self) -> datetime: ...
    @property
    def owned_by(self) -> Callable[[Document], Sequence[Document]]:
        """The objects of the kind's `owns` that belong to an object; asked only when such a cell is shown."""
        ...


@dataclass(frozen=True, slots=True)
class Column:
    """A table column: the dotted path of its value in the object's JSON, and how it is shown.

    `form`: text, age (a timestamp as the time since), until (a timestamp as the time left), bytes, or millis.
    `cell` computes the text from the whole object instead. `fit` and `yields`: see `cumulus.lib.table.Heading`.
    """

    title: str
    path: str = ""
    form: Literal["text", "age", "until", "bytes", "millis"] = "text"
    wide: bool = False
    fit: Literal["whole", "cut", "wrap"] = "cut"
    yields: int = 1
    cell: Callable[[Document, CellView], str] | None = None


def detail(found: Mapping[str, Any]) -> str:
    """Reason and message of a condition in brackets."""
    reason, message = str(found.get("reason") or ""), str(found.get("message") or "")
    parts = [message] if reason in message else [part for part in (reason, message) if part]
    return f" ({': '.join(parts)})" if any(parts) else ""


def by_condition(document: Document, type: str, now: datetime) -> str:
    """The status of its condition of that type: True, False or Unknown."""
    return str(condition(document, type).get("status", "Unknown"))


@dataclass(frozen=True, slots=True)
class Related:
    """Other objects that `describe` lists with an object, in the table that `get` shows of their kind."""

    title: str
    query: Callable[[Document], Query]
    """Finds them."""
    shown: Callable[[Document], bool] = lambda _: True
    """Which of those found are listed."""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One kind of object."""

    name: str
    plural: str
    short: tuple[str, ...]
    namespaced: bool
    module: str
    """Where its model is."""
    columns: tuple[Column, ...]
    user_made: bool = True
    """Whether a manifest may hold it."""
    readers: Role | None = Role.VIEWER
    """The least role that may get, list and watch it. None: everybody who is known."""
    writers: Role = Role.ADMIN
    """The least role that may create, change and delete it."""
    grants: bool = False
    """Whether it gives roles, by `roleRef` and `subjects`."""
    guarded: bool = False
    """Whether only an admin's Source may hold it: it decides over others, or over what is made in somebody's name."""
    reads_as_submitter: frozenset[str] = frozenset()
    """Fields of spec that say what its controller reads as the Unix user who made it. Where there are any, the
    controller also writes with that person's roles: an admin of its namespace alone does not say what it does."""
    signed: tuple[tuple[str, str], ...] = ()
    """Fields of spec, each with the annotation in which the service writes who set it last."""
    sealed: frozenset[str] = frozenset()
    """Fields that no write changes, an admin's neither: they say what controllers may end, delete or read, or are
    checked by a request of their own."""
    takes_over: frozenset[str] = frozenset()
    """Finalizers whose work an object does that is made in the place of one that is there."""
    successor: Callable[[Document, Document], Document] | None = None
    """What the new object is that takes the place of the first one. None: just as it is."""
    selected: frozenset[str] = frozenset()
    """Fields that our own code selects by: known to be there without the model, which takes long to load."""
    work: bool = False
    """Whether `all` means it. Nothing that is only there once: what is true of all work must be safe to say of all."""
    named: bool = True
    """Whether its name says anything to people: a table shows it then."""
    order: Callable[[Document], str] | None = None
    """What `get` sorts by; None: as the store has them, by namespace and name."""
    owns: str = ""
    """The kind of what belongs to it and is shown with it."""
    noun: str = ""
    """What people call one in a sentence: job, node. Its name in small letters if left out."""
    runs: bool = False
    """Whether a program runs of each of its objects, in attempts, with logs and checkpoints."""
    logs_hint: str = ""
    """Of a kind that does not run itself: where people find its logs, with `{name}` for that of the object."""
    waits: bool = False
    """Whether it may wait in the queue for a share, so that `why` explains it."""
    job_template: bool = False
    """Whether its controller makes jobs of its `spec.jobTemplate`, so that this must be one that a queue takes."""
    related: Related | None = None
    sections: Callable[[Document, Surroundings], Iterator[Section]] | None = None
    """What `describe` shows of it besides metadata, conditions and events. None: its spec."""
    leaves_files: bool = False
    """Whether what ran of it left logs and directories, which go with it."""
    own_grace_period: bool = False
    """Whether it says itself how long its processes have to end, and a delete may not shorten that."""
    lost_gpu_hours: Callable[[Document, datetime], float] | None = None
    """The running work that a delete of an object would lose: devices times the hours that they have run."""
    losses: Callable[[Document, Sequence[Document]], Sequence[str]] | None = None
    """What a delete loses that no controller brings back, each as the rest of a sentence: `is cordoned`. It gets the
    object and what `related` finds. None: nothing."""
    parent: str = ""
    """The field that names the object of the same kind which it is a part of: its objects form trees."""
    remembered_as: Literal["", "lease", "node", "reservation"] = ""
    """As what the history remembers its objects; not at all if left out."""
    beats: bool = False
    """Whether it is written every few seconds while nothing happens, so that pages are not told of it."""
    tells: bool = True
    """Whether events are told of it."""
    conditions: tuple[str, ...] = ()
    """The condition types that people may wait for."""
    condition_status: Callable[[Document, str, datetime], str] = by_condition
    reported_in: Callable[[Document], int] | None = None
    """The term of the leader in which an object was reported last, of a kind whose conditions say how something is
    that a daemon looks at now and then: without one, nobody knows."""
    final_phases: frozenset[str] = frozenset()
    """Phases after which nothing of it changes any more, but that it is deleted."""
    failed_phases: frozenset[str] = frozenset()
    """Those of them that mean that it has failed."""
    blobs: Callable[[Document], Iterator[tuple[tuple[str | int, ...], str]]] | None = None
    """The blobs that an object is made of: the path of the field, and the sha256. They must be its submitter's."""
    phase_rests_on: tuple[tuple[str, bool], ...] = ()
    """Condition types that say why an object is in its phase, each while it is True or while it is not, after the
    condition of the phase's own name."""
    state: Callable[[Document, datetime], str] | None = None
    """How an object without a phase is, in a few words."""

    def model(self) -> type[Resource]:
        """The pydantic model."""
        found: type[Resource] = getattr(importlib.import_module(self.module), self.name)
        return found

    @property
    def api_version(self) -> str:
        """Of its objects."""
        return API_VERSION

    @property
    def qualified(self) -> str:
        """As `apply` names it: gpujob.cumulus.dev."""
        return f"{self.name.lower()}.cumulus.dev"

    @property
    def one(self) -> str:
        """The noun for one of it."""
        return self.noun or self.name.lower()

    @property
    def words(self) -> tuple[str, ...]:
        """Every word by which a person may call this kind."""
        return (self.name.lower(), self.plural, *self.short)

    def failed(self, document: Document) -> bool:
        """Whether the object has failed for good."""
        return lookup(document, "status.phase") in self.failed_phases

    def over(self, document: Document) -> bool:
        """Whether nothing of the object changes any more, but that it is deleted."""
        phase = lookup(document, "status.phase")
        return isinstance(phase, str) and phase in self.final_phases

    def summary(self, document: Document, now: datetime) -> str:
        """How an object is, in a few words: `Failed (Error: exit code 3)`."""
        return self.state(document, now) if self.state is not None else self.phase_summary(document)

    def phase_summary(self, document: Document) -> str:
        """The same of a kind whose objects have a phase."""
        phase = str(lookup(document, "status.phase") or "")
        if not phase:
            return "no status yet"
        for type, holds in ((phase, True), *self.phase_rests_on):
            found = condition(document, type)
            if found.get("reason") and (found.get("status") == "True") == holds:
                return phase + detail(found)
        return phase
