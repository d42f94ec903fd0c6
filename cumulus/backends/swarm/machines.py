"""The Swarm's machines, for the controllers. Every call raises `NotOurs` while another control plane owns the Swarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cumulus.backends.cluster import ProgramsAnswer
from cumulus.backends.swarm.members import Members, SwarmMember
from cumulus.backends.swarm.node_engine import RunsPrograms
from cumulus.backends.swarm.owner import Ownership
from cumulus.backends.swarm.programs import image_id
from cumulus.backends.swarm.task_reconciler import Engines
from cumulus.errors import BackendError, BackendRefused
from cumulus.lib.printable import one_line


class Machines:
    """See `backends.cluster.Cluster`."""

    def __init__(self, members: Members, ownership: Ownership, node_engine: Engines) -> None:
        self._members = members
        self._ownership = ownership
        self._node_engine = node_engine

    @property
    def confirmed(self) -> bool:
        return self._ownership.confirmed

    def machines(self) -> Sequence[SwarmMember]:
        self._ownership.instance()
        return self._members.all()

    def programs(self, name: str, users: Sequence[tuple[str, int]]) -> ProgramsAnswer:
        self._ownership.instance()
        engine = self._node_engine(name)
        if not isinstance(engine, RunsPrograms):
            return ProgramsAnswer("it is not reached over SSH")
        try:
            image = image_id(self._members.named(name).architecture)
            found = engine.programs(image, {"users": users})
            return ProgramsAnswer("", tuple(one_line(str(why)) for why in found["users"]))
        except BackendRefused as error:
            return ProgramsAnswer(str(error))

    def tell(self, name: str, labels: Mapping[str, str]) -> None:
        self._ownership.instance()
        self._members.label(self._members.named(name), labels)

    def pin(self, id: str, name: str) -> None:
        self._ownership.instance()
        self._members.pin(id, name)

    def remove(self, name: str) -> str:
        self._ownership.instance()
        member = self._members.named(name)
        untold = "it does not answer the manager" if not member.answers else self._tell_to_leave(name)
        self._members.remove(member)
        if not untold:
            return "it left the Swarm"
        return f"it is removed from the Swarm, but does not know it ({untold}); run there: docker swarm leave --force"

    def _tell_to_leave(self, name: str) -> str:
        """Tell the machine to leave the Swarm. Why that was not possible, "" where it left."""
        engine = self._node_engine(name)
        if engine is None:
            return "it is not reached over SSH"
        try:
            engine.leave_swarm()
        except BackendError as error:
            return str(error)
        return ""
