"""RemoteLeases against a real sshd and a real ledger."""

from __future__ import annotations

import uuid

import pytest

from cumulus.chronos.lease import EndReason, LeaseRequest, LeaseState
from cumulus.chronos.remote import RemoteLeases

pytestmark = pytest.mark.ssh


def request(id: str = "", **fields: object) -> LeaseRequest:
    defaults: dict[str, object] = {"device": 0, "memory_bytes": 2**20 + 1, "compute": 333, "seconds": 60.0}
    # Processes are found by the id of their lease: no two tests on a machine may share one.
    return LeaseRequest(id=id or str(uuid.uuid4()), **(defaults | fields))  # type: ignore[arg-type]


def test_a_lease_from_grant_to_end(leases: RemoteLeases) -> None:
    [device, *_] = leases.devices()
    assert device.memory_bytes > 0
    asked = request(user="team/x y", owner="cumulus:1", grace=0.5)
    granted = leases.grant(asked)
    assert (granted.state, granted.memory_bytes, granted.compute) == (LeaseState.ACTIVE, 2**20 + 1, 333)
    assert (granted.user, granted.owner, granted.grace) == ("team/x y", "cumulus:1", 0.5)
    assert 55 < granted.expires_in <= 60
    assert [lease.id for lease in leases.list()] == [asked.id]
    assert leases.renew(asked.id, 120).expires_in > 110
    released = leases.release(asked.id)
    assert released is not None
    assert (released.state, released.end_reason) == (LeaseState.ENDED, EndReason.RELEASED)
    assert leases.list() == []
    assert [lease.state for lease in leases.list(ended=True)] == [LeaseState.ENDED]


def test_facts_are_known_with_the_devices(leases: RemoteLeases) -> None:
    leases.devices()
    assert leases.facts.boot_id
    assert leases.facts.chronos_version
    assert leases.facts.clock_skew is not None
    assert abs(leases.facts.clock_skew) < 2
