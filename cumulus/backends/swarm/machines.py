"""The Swarm's machines as the controllers see them: only while the Swarm is this control plane's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cumulus.backends.swarm.members import Member, Members
from cumulus.backends.swarm.owner import Ownership


class Machines:
    """See `controllers.cluster.Cluster`."""

    def __init__(self, members: Members, ownership: Ownership) -> None:
        self._members = members
        self._ownership = ownership

    @property
    def confirmed(self) -> bool:
        return self._ownership.confirmed

    def machines(self) -> Sequence[Member]:
        self._ownership.instance()
        return self._members.all()

    def tell(self, name: str, labels: Mapping[str, str]) -> None:
        self._ownership.instance()
        self._members.label(self._members.named(name), labels)
