"""The machines of the Swarm, by the names of their GPUNodes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cumulus.backends.swarm.engine import Engine
from cumulus.backends.swarm.spec import PREFIX
from cumulus.backends.swarm.tasks import moment
from cumulus.clock import Clock
from cumulus.errors import BackendError
from cumulus.lib.host import object_name

NAME_LABEL = f"{PREFIX}node"
"""On a Swarm node: the GPUNode that it is. It is written when the node is first seen, so that a host that is renamed
stays the GPUNode that it was."""

_FRESH_SECONDS = 1.0
_SUFFIX = 6
"""Letters of an id that tell apart those that want the same name."""


@dataclass(frozen=True, slots=True)
class SwarmMember:
    """One node of the Swarm. `state` is ready, down, unknown or disconnected; `availability` active, pause or drain."""

    id: str
    name: str
    """"" of one that has only just joined, and has not told the manager what it is."""
    address: str
    state: str
    availability: str
    role: str
    engine: str
    message: str = ""
    updated: str = ""
    """When the manager last wrote something of it: each time it joins anew, among other things."""
    labels: Mapping[str, str] = field(default_factory=dict)
    hostname: str = ""
    """As an object's name; "" as with `name`."""
    architecture: str = ""
    """As its kernel calls it."""

    @property
    def pinned(self) -> bool:
        """Whether its name was written to it."""
        return self.labels.get(NAME_LABEL) == self.name

    @property
    def answers(self) -> bool:
        return self.state == "ready"

    @property
    def drained(self) -> bool:
        """Whether its availability is drain: Swarm ends the tasks there and places no new ones."""
        return self.availability == "drain"

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> SwarmMember:
        spec, status, description = node["Spec"], node.get("Status", {}), node.get("Description", {})
        labels = spec.get("Labels") or {}
        manager = str((node.get("ManagerStatus") or {}).get("Addr", "")).rsplit(":", 1)[0]
        address = str(status.get("Addr", ""))
        said = description.get("Hostname")
        hostname = object_name(said) if said else ""
        return cls(
            id=node["ID"], name=labels.get(NAME_LABEL) or hostname, hostname=hostname,
            address=manager if address in ("", "0.0.0.0", "127.0.0.1") else address,
            state=status.get("State", "unknown"), availability=spec.get("Availability", "active"),
            role=spec.get("Role", "worker"), engine=(description.get("Engine") or {}).get("EngineVersion", ""),
            message=status.get("Message", ""), labels=labels,
            updated=moment(node.get("UpdatedAt", "")),
            architecture=(description.get("Platform") or {}).get("Architecture", ""),
        )  # fmt: skip


class Members:
    """The members of the Swarm. It is asked for them at most once a second."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._mutex = threading.Lock()
        self._everyone: Sequence[SwarmMember] = ()
        self._distinct: Sequence[SwarmMember] = ()
        self._until = float("-inf")

    def all(self) -> Sequence[SwarmMember]:
        """Each machine once, under a name of its own. Raises `BackendError`."""
        self.everyone()
        return self._distinct

    def everyone(self) -> Sequence[SwarmMember]:
        """As the manager lists them: a machine that joined anew also as what it was before. Raises `BackendError`."""
        with self._mutex:
            if self._clock.monotonic() >= self._until:
                self._everyone = [SwarmMember.read(node) for node in self._engine.nodes()]
                self._distinct = distinct(self._everyone)
                self._until = self._clock.monotonic() + _FRESH_SECONDS
            return self._everyone

    def named(self, name: str) -> SwarmMember:
        """Raises `BackendError` where there is none."""
        found = next((member for member in self.all() if member.name == name), None)
        if found is None:
            raise BackendError(
                f"no node of the Swarm is named {name}",
                hint=f"join it, or say which one it is: docker node update --label-add {NAME_LABEL}={name} NODE",
            )
        return found

    def by_id(self, id: str, *, fresh: bool = False) -> SwarmMember | None:
        """`fresh`: the manager is asked now. What was read a second ago may be older than what it is compared with, as
        the end of a task on a node that joined anew since. That there is none is never said without asking."""
        found = None if fresh else next((member for member in self.everyone() if member.id == id), None)
        if found is None:
            self._forget()
            found = next((member for member in self.everyone() if member.id == id), None)
        return found

    def pin(self, id: str, name: str) -> None:
        """Make the node that GPUNode, whatever its host is called; no other one is it any more."""
        for member in self.everyone():
            wanted = {NAME_LABEL: name} if member.id == id else {}
            if member.id == id or member.labels.get(NAME_LABEL) == name:
                self.label(member, wanted, owned=NAME_LABEL)

    def remove(self, member: SwarmMember) -> None:
        """Take it out of the Swarm, with what it was before it joined anew. It need not answer."""
        for other in self.everyone():
            if other.id == member.id or (other.name == member.name and not other.answers):
                self._engine.remove_node(other.id)
        self._forget()

    def label(self, member: SwarmMember, labels: Mapping[str, str], owned: str = "gpu.") -> bool:
        """Make `labels` the node's labels of that prefix; others stay. Whether something was to be changed."""
        others = {key: value for key, value in member.labels.items() if not key.startswith(owned)}
        wanted = {**others, **labels}
        if wanted == dict(member.labels):
            return False

        def change(spec: dict[str, Any]) -> dict[str, Any] | None:
            kept = {key: value for key, value in (spec.get("Labels") or {}).items() if not key.startswith(owned)}
            return {**spec, "Labels": {**kept, **labels}}

        self._engine.update_node(member.id, change)
        self._forget()
        return True

    def _forget(self) -> None:
        with self._mutex:
            self._until = float("-inf")


def distinct(members: Sequence[SwarmMember]) -> Sequence[SwarmMember]:
    """Each machine once, with a name that no other one has. Who has no name yet is not there yet: no other name, as its
    id, is to be written to it.

    Of several that want a name, the one has it to which it was written, else the first that answers. Where that one
    does not answer, and another one does at the same address, it is the same machine that joined anew. Another one that
    answers is a machine of its own: its name ends with its id's beginning. One that does not is what a machine was."""
    holders: dict[str, SwarmMember] = {}
    others: list[SwarmMember] = []
    named = (member for member in members if member.name)
    for member in sorted(named, key=lambda m: (not m.pinned, not m.answers, m.id)):
        holder = holders.setdefault(member.name, member)
        if holder is member or not member.answers:
            continue
        if not holder.answers and member.address == holder.address:
            holders[member.name] = member
        else:
            others.append(replace(member, name=f"{member.name}-{member.id[:_SUFFIX]}"))
    return [*holders.values(), *others]
