"""The registry's entry for Lease."""

from __future__ import annotations

from cumulus.resources.kind import Column, Kind

LEADER = "cumulus-controller"
"""Name of the one Lease."""

KIND = Kind(
    "Lease",
    "leases",
    (),
    False,
    "cumulus.resources.lease",
    (
        Column("HOLDER", "spec.holderIdentity"),
        Column("TOKEN", "spec.token"),
        Column("RENEWED", "spec.renewTime", form="age"),
    ),
    user_made=False,
    beats=True,
    tells=False,
)
