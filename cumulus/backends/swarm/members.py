"""The machines of the Swarm, by the names that GPUNodes have."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cumulus.backends.swarm.engine import Engine
from cumulus.backends.swarm.observe import moment
from cumulus.backends.swarm.spec import PREFIX
from cumulus.clock import Clock
from cumulus.errors import BackendError

NAME_LABEL = f"{PREFIX}node"
"""On a Swarm node: the GPUNode that it is, where that has another name than the host."""

_FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Member:
    """One node of the Swarm. `state` is ready, down, unknown or disconnected; `availability` active, pause or drain."""

    id: str
    name: str
    address: str
    state: str
    availability: str
    role: str
    engine: str
    message: str = ""
    updated: str = ""
    """When the manager last wrote something of it: each time it joins anew, among other things."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def answers(self) -> bool:
        return self.state == "ready"

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> Member:
        spec, status, description = node["Spec"], node.get("Status", {}), node.get("Description", {})
        labels = spec.get("Labels") or {}
        manager = str((node.get("ManagerStatus") or {}).get("Addr", "")).rsplit(":", 1)[0]
        address = str(status.get("Addr", ""))
        return cls(
            id=node["ID"], name=labels.get(NAME_LABEL) or object_name(description.get("Hostname", node["ID"])),
            address=manager if address in ("", "0.0.0.0", "127.0.0.1") else address,
            state=status.get("State", "unknown"), availability=spec.get("Availability", "active"),
            role=spec.get("Role", "worker"), engine=(description.get("Engine") or {}).get("EngineVersion", ""),
            message=status.get("Message", ""), labels=labels,
            updated=moment(node.get("UpdatedAt", "")),
        )  # fmt: skip


class Members:
    """Asks the Swarm, at most once a second."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._mutex = threading.Lock()
        self._members: Sequence[Member] = ()
        self._until = float("-inf")

    def all(self) -> Sequence[Member]:
        """Raises `BackendError`."""
        with self._mutex:
            if self._clock.monotonic() >= self._until:
                self._members = [Member.read(node) for node in self._engine.nodes()]
                self._until = self._clock.monotonic() + _FRESH_SECONDS
            return self._members

    def named(self, name: str) -> Member:
        """Raises `BackendError` where there is none. Of several with one host name the one that answers is meant."""
        found = sorted((m for m in self.all() if m.name == name), key=lambda m: (not m.answers, m.id))
        if not found:
            raise BackendError(
                f"no node of the Swarm is named {name}",
                hint=f"join it, or say which one it is: docker node update --label-add {NAME_LABEL}={name} NODE",
            )
        return found[0]

    def by_id(self, id: str) -> Member | None:
        return next((member for member in self.all() if member.id == id), None)

    def label(self, member: Member, labels: Mapping[str, str], owned: str = "gpu.") -> bool:
        """Make `labels` the node's labels of that prefix; others stay. Whether something was to be changed."""
        others = {key: value for key, value in member.labels.items() if not key.startswith(owned)}
        wanted = {**others, **labels}
        if wanted == dict(member.labels):
            return False

        def change(spec: dict[str, Any]) -> dict[str, Any] | None:
            kept = {key: value for key, value in (spec.get("Labels") or {}).items() if not key.startswith(owned)}
            return {**spec, "Labels": {**kept, **labels}}

        self._engine.update_node(member.id, change)
        with self._mutex:
            self._until = float("-inf")
        return True


def object_name(hostname: str) -> str:
    """The host's name as an object's name."""
    name = re.sub(r"[^a-z0-9.-]+", "-", hostname.lower()).strip("-.")
    return name[:253] or "node"
