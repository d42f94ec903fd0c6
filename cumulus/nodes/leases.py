"""`Leases` of another machine: each call is a `chronos_cli --json` there, asked of a server where there can be one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cumulus.chronos.contract import Device, Lease, LeaseRequest, NodeFacts, PolicyChange, commands, wire
from cumulus.chronos.contract.node import read_checkpoint_places
from cumulus.chronos.contract.usage import LeaseUse, lease_uses
from cumulus.clock import parse_timestamp
from cumulus.errors import LedgerUnavailable, ParkRefused
from cumulus.nodes import answers
from cumulus.nodes.clocks import NodeClock
from cumulus.nodes.connection import CommandResult, NodeConnection
from cumulus.resources.reasons import ParkingReason

SECONDS = 15.0
"""For a command to answer."""

DISCOVERY_SECONDS = 75.0
"""For the first look at a node's devices: its drivers may have to start."""


class RemoteLeases:
    """Raises what the ledger there raises, `NodeUnreachable` for any silence, `NodeBusy` where it is slow, and
    `LedgerUnavailable` where no Chronos that speaks this protocol answers. Times are on this machine's clock.

    `command` is the shell text that runs chronos_cli there.
    """

    def __init__(self, connection: NodeConnection, command: str = "chronos_cli") -> None:
        self.connection = connection
        self._command = command
        self._clock = NodeClock()
        self._facts = NodeFacts()
        self._discovered = False
        self._takes: frozenset[str] = frozenset()

    @property
    def facts(self) -> NodeFacts:
        """As of when the devices were asked for last."""
        return self._facts

    def devices(self) -> Sequence[Device]:
        said, _ = self._call(commands.DEVICES, SECONDS if self._discovered else DISCOVERY_SECONDS)
        with self._understanding():
            node = said["node"]
            self._takes = frozenset(map(str, node.get("takes", ())))
            skew = None if self._clock.skew is None else round(self._clock.skew, 3)
            conditions = tuple(wire.read_health(fields) for fields in said.get("conditions", ()))
            figures = {str(id): wire.read_figures(fields) for id, fields in said.get("figures", {}).items()}
            unleased = tuple(map(wire.read_unleased, said.get("unleased", ())))
            self._facts = NodeFacts(
                node["hostname"], node["bootId"], node["chronosVersion"], skew, conditions, figures, unleased,
                wire.read_parking(said["parking"]) if said.get("parking") else None,
                read_checkpoint_places(node.get("checkpointPlaces")),
            )  # fmt: skip
            found = [wire.read_device(fields) for fields in said["devices"]]
        self._discovered = True
        return found

    def grant(self, request: LeaseRequest) -> Lease:
        return self._granted(commands.create(request, takes=self._takes))

    def begin(self, id: str) -> Lease | None:
        return self._found(commands.begin(id))

    def renew(self, id: str, seconds: float, *, token: int | None = None) -> Lease:
        """With `token`, raises `StaleToken` where it is not the lease's."""
        return self._granted(commands.renew(id, seconds, token))

    def release(self, id: str, *, token: int | None = None) -> Lease | None:
        """With `token`, raises `StaleToken` where it is not the lease's."""
        return self._found(commands.release(id, token))

    def get(self, id: str) -> Lease | None:
        return self._found(commands.get(id))

    def list(self, *, ended: bool = False) -> Sequence[Lease]:
        said, answer = self._call(commands.listing(ended))
        with self._understanding():
            return [self._clock.on_ours(wire.read_lease(x), answer.sent, answer.received) for x in said["leases"]]

    def park(self, id: str, park_for: float, *, freeze: bool = False, token: int | None = None) -> Lease:
        """See `Parks.park`."""
        if "park" not in self._takes:
            raise ParkRefused(
                f"Chronos on {self.connection.node} is older than parking", reason=ParkingReason.NOT_SUPPORTED,
                hint="cumulus node setup brings it up to date",
            )  # fmt: skip
        return self._granted(commands.park(id, park_for, freeze, token))

    def unpark(self, id: str, seconds: float, *, token: int | None = None) -> Lease:
        """See `Parks.unpark`."""
        return self._granted(commands.unpark(id, seconds, token))

    def usage(self) -> Sequence[LeaseUse]:
        """What leases use of the devices now."""
        said, _ = self._call(commands.STATS)
        with self._understanding():
            return lease_uses(said["leases"])

    def prepare(self, id: str) -> Mapping[str, str]:
        """See `Prepares.prepare`."""
        said, _ = self._call(commands.prepare(id))
        with self._understanding():
            return {str(name): str(value) for name, value in said["variables"].items()}

    def set_policy(self, change: PolicyChange) -> None:
        """See `Ledger.set_policy`. Nothing happens where the Chronos there is older than that."""
        if "policy" in self._takes:
            self._call(commands.policy(change))

    def close(self) -> None:
        """Calls that wait fail, and so does every later one."""
        self.connection.close()

    def _granted(self, arguments: Sequence[str]) -> Lease:
        lease = self._found(arguments)
        if lease is None:
            raise LedgerUnavailable(f"Chronos on {self.connection.node} answered without a lease")
        return lease

    def _found(self, arguments: Sequence[str]) -> Lease | None:
        said, answer = self._call(arguments)
        with self._understanding():
            fields = said["lease"]
            return fields and self._clock.on_ours(wire.read_lease(fields), answer.sent, answer.received)

    def _call(self, arguments: Sequence[str], seconds: float = SECONDS) -> tuple[dict[str, Any], CommandResult]:
        answer = self.connection.call(f"{self._command} serve --json", arguments, seconds)
        if answer is None:
            answer = self.connection.run(f"{self._command} {shlex.join(arguments)}", seconds)
        said = answers.parsed(self.connection.node, answer)
        with self._understanding():
            self._clock.measure(parse_timestamp(said["time"]), answer.sent, answer.received)
        return said, answer

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, ValueError, TypeError) as error:
            raise LedgerUnavailable(
                f"Chronos on {self.connection.node} answers in a way unknown here: {error!r}"
            ) from None
