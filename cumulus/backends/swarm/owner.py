"""Who owns the Swarm: a mark on it, written once, names one store in one state directory.

The mark is a Swarm config, since its name can be taken once only, also when two start at the same moment. Its labels
say who it is; they are changed against the version that was read. Who finds another's mark touches nothing. Several
control planes share a Swarm by names of their own (SWARM_INSTANCE): each has a mark of its own then.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from cumulus.backends.swarm import spec
from cumulus.backends.swarm.engine import Engine, NameTaken
from cumulus.clock import Clock, timestamp
from cumulus.errors import BackendError, NotOurs
from cumulus.lib.state_id import StatePlace

log = structlog.get_logger("cumulus.backends")

NAME = "cumulus-owner"
"""Of the mark; with "-INSTANCE" where control planes share the Swarm."""
CHECK_SECONDS = 5.0
"""How old what is known of the mark may be when something is touched."""
UNNAMED = "default"
"""The instance of control planes from before there were marks."""
_UNNAMED = re.compile(rf"{UNNAMED}|[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}")
"""That, or a store's id."""

_STORE, _PLACE, _WHERE, _SINCE = "owner-store", "owner-place", "owner-where", "owner-since"
_TEXT = "The control plane that runs this Swarm; its labels say which. Made by Cumulus: see `cumulus cluster status`.\n"
_SHOWN = 5
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Mark:
    """`store` and `place` say whose it is, `where` and `since` tell people. `instance` is the label on services."""

    store: str
    place: str
    instance: str
    where: str
    since: str
    id: str = ""
    version: int = 0

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Mark:
        labels = config["Spec"].get("Labels") or {}

        def label(name: str) -> str:
            # It is shown to people, and anybody on the Swarm can write it.
            return "".join(c for c in str(labels.get(f"{spec.PREFIX}{name}", "")) if c.isprintable())[:_LONGEST]

        return cls(
            store=label(_STORE), place=label(_PLACE), instance=str(labels.get(spec.INSTANCE, "")), where=label(_WHERE),
            since=label(_SINCE), id=str(config["ID"]), version=int(config["Version"]["Index"]),
        )  # fmt: skip

    def labels(self) -> dict[str, str]:
        own = {_STORE: self.store, _PLACE: self.place, _WHERE: self.where, _SINCE: self.since}
        return {spec.INSTANCE: self.instance, **{f"{spec.PREFIX}{name}": value for name, value in own.items()}}


class Ownership:
    """`named` is SWARM_INSTANCE; `store_id` raises `BackendError` while no daemon has led on the store; `known` tells
    whether this state directory has a record of a workload."""

    def __init__(
        self,
        engine: Engine,
        place: Callable[[], StatePlace],
        clock: Clock,
        *,
        named: str,
        store_id: Callable[[], str],
        known: Callable[[str], bool],
    ) -> None:
        self._engine = engine
        self._place = functools.cache(place)
        self._clock = clock
        self._named = named
        self._store_id = store_id
        self._known = known
        self._mutex = threading.Lock()
        self._until = float("-inf")
        self._instance = ""
        self._refusal: NotOurs | None = None
        self._remembered: bool | None = None

    @property
    def name(self) -> str:
        """The name of the mark."""
        return f"{NAME}-{self._named}" if self._named else NAME

    @property
    def confirmed(self) -> bool:
        """Whether the Swarm was this control plane's when it was looked at last, also by an earlier daemon. Asks
        nobody."""
        if self._refusal is None and not self._instance and self._remembered is None:
            self._remembered = bool(self._place().recall(self.name))
        return self._refusal is None and bool(self._instance or self._remembered)

    def instance(self) -> str:
        """The label by which this control plane knows its services. Claims the Swarm where it is nobody's.

        Raises `NotOurs` where it is another's, `BackendError` where that cannot be seen."""
        with self._mutex:
            if self._clock.monotonic() >= self._until:
                self._look()
                self._until = self._clock.monotonic() + CHECK_SECONDS
            if self._refusal is not None:
                raise NotOurs(str(self._refusal), hint=self._refusal.hint)
            return self._instance

    def mark(self) -> Mark | None:
        """The mark as it is on the Swarm now."""
        found = self._engine.config(self.name)
        return None if found is None else Mark.read(found)

    def why_not_ours(self) -> NotOurs | None:
        """Why the Swarm would not be ours, looked at now; nothing is claimed. Raises `BackendError`."""
        mark = self.mark()
        if mark is not None:
            return None if self.is_ours(mark) else self._anothers(mark)
        return self._unmarked() if self.strangers() else None

    def is_ours(self, mark: Mark) -> bool:
        return mark.place == self._place().id and self._is_this_store(mark)

    def strangers(self) -> Sequence[str]:
        """Services without a mark, by name, that a control plane of an earlier version may run; none of ours."""
        return sorted(
            s["Spec"]["Name"]
            for s in self.services(None)
            if not self._known(s["Spec"]["Labels"].get(spec.WORKLOAD, ""))
        )

    def services(self, mark: Mark | None) -> Sequence[Mapping[str, Any]]:
        """Those of the mark's owner; without a mark, of whoever used the Swarm under this name, or under none."""
        if mark is not None or self._named:
            instance = mark.instance if mark is not None else self._named
            return self._engine.services([f"{spec.INSTANCE}={instance}"])
        return [s for s in self._engine.services([spec.INSTANCE]) if _UNNAMED.fullmatch(_instance(s))]

    def adopt(self, seen: Mark | None) -> Mark:
        """Make the Swarm this control plane's; what runs keeps its label. Raises `BackendError` where the mark is not
        as it was `seen`."""
        mark = self._ours(seen.instance if seen is not None else self._unmarked_instance())
        if seen is None:
            try:
                self._engine.create_config(self.name, _TEXT, mark.labels())
            except NameTaken:
                raise _changed() from None
        elif not self._engine.relabel_config(seen.id, seen.version, mark.labels()):
            raise _changed()
        with self._mutex:
            self._until = float("-inf")
        return mark

    def _look(self) -> None:
        mark = self.mark() or self._claim()
        if mark is None:
            refusal: NotOurs | None = self._unmarked()
        else:
            refusal = None if self.is_ours(mark) else self._anothers(mark)
        if mark is not None and refusal is None:
            self._instance = mark.instance
        self._place().note(self.name, "" if mark is None or refusal is not None else mark.instance)
        if refusal is not None and (self._refusal is None or str(refusal) != str(self._refusal)):
            log.error("the Swarm is not ours: nothing on it is touched", why=str(refusal), hint=refusal.hint)
        if refusal is None and self._refusal is not None:
            log.info("the Swarm is ours now")
        self._refusal = refusal

    def _claim(self) -> Mark | None:
        """The mark that is there then, mostly ours; None where somebody uses the Swarm without one."""
        if self.strangers():
            return None
        mark = self._ours(self._unmarked_instance())
        try:
            self._engine.create_config(self.name, _TEXT, mark.labels())
        except NameTaken:
            return self.mark()
        log.info("the Swarm is marked as ours", mark=self.name, instance=mark.instance)
        return self.mark()

    def _ours(self, instance: str) -> Mark:
        place = self._place()
        return Mark(self._store_id(), place.id, instance, place.text, timestamp(self._clock.now()))

    def _unmarked_instance(self) -> str:
        """Services from before there were marks keep theirs: a label of tasks cannot be changed."""
        if self._named:
            return self._named
        return min(map(_instance, self.services(None)), default=self._store_id())

    def _is_this_store(self, mark: Mark) -> bool:
        try:
            return mark.store == self._store_id()
        except BackendError:
            return False

    def _anothers(self, mark: Mark) -> NotOurs:
        whose = "another copy of this store" if self._is_this_store(mark) else f"the store {mark.store}"
        return NotOurs(
            f"this Swarm belongs to the control plane at {mark.where} ({whose}, since {mark.since[:19]}Z)", hint=_HINT
        )

    def _unmarked(self) -> NotOurs:
        names = self.strangers()
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        return NotOurs(
            f"this Swarm has no owner's mark, but runs services of a control plane that is not this one: {shown}",
            hint=_HINT,
        )


def _instance(service: Mapping[str, Any]) -> str:
    return str(service["Spec"]["Labels"].get(spec.INSTANCE, ""))


_HINT = (
    "use another Swarm, share this one under a name of your own (SWARM_INSTANCE), or, where that control plane is gone"
    " for good, take it over: cumulus cluster adopt"
)


def _changed() -> BackendError:
    return BackendError("the Swarm's owner has changed meanwhile", hint="look again: cumulus cluster status")
