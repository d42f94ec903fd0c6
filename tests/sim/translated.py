"""A node's ledger as a daemon has it: with the node's times on the daemon's own clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cumulus.chronos.contract import Device, Lease, LeaseRequest
from cumulus.nodes.clocks import NodeClock
from tests.sim.parts import SimLeases, Skewed


class Translated:
    """As `cumulus.nodes.leases` does it, with the same `NodeClock`: nobody reads a node's wall clock untranslated."""

    def __init__(self, leases: SimLeases, clock: Skewed) -> None:
        self._leases = leases
        self._clock = clock
        self._node_clock = NodeClock()

    def devices(self) -> Sequence[Device]:
        return self._leases.devices()

    def list(self, *, ended: bool = False) -> Sequence[Lease]:
        return self._ours(lambda: self._leases.list(ended=ended))

    def grant(self, request: LeaseRequest) -> Lease:
        return self._ours(lambda: [self._leases.grant(request)])[0]

    def renew(self, id: str, seconds: float) -> Lease:
        return self._ours(lambda: [self._leases.renew(id, seconds)])[0]

    def park(self, id: str, park_for: float, *, freeze: bool = False, token: int | None = None) -> Lease:
        return self._ours(lambda: [self._leases.park(id, park_for, freeze=freeze, token=token)])[0]

    def unpark(self, id: str, seconds: float, *, token: int | None = None) -> Lease:
        return self._ours(lambda: [self._leases.unpark(id, seconds, token=token)])[0]

    def get(self, id: str) -> Lease | None:
        return self._one(lambda: self._leases.get(id))

    def begin(self, id: str) -> Lease | None:
        return self._one(lambda: self._leases.begin(id))

    def release(self, id: str) -> Lease | None:
        return self._one(lambda: self._leases.release(id))

    def _one(self, ask: Callable[[], Lease | None]) -> Lease | None:
        found = self._ours(lambda: [lease for lease in [ask()] if lease is not None])
        return found[0] if found else None

    def _ours(self, ask: Callable[[], Sequence[Lease]]) -> Sequence[Lease]:
        sent = self._clock.now()
        answer = ask()
        received = self._clock.now()
        self._node_clock.measure(self._leases.clock.now(), sent, received)
        return [self._node_clock.on_ours(lease, sent, received) for lease in answer]
