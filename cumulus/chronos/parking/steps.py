"""The steps of parking a lease, as the ledger records them: each before it is done."""

from __future__ import annotations

from enum import StrEnum

from cumulus.chronos.contract import LeaseState


class ParkingStep(StrEnum):
    NONE = ""
    """Nothing is being done: the row tells how the last attempt went."""
    ASKED = "Asked"
    """It is to be parked, and nothing has been touched."""
    LOCKING = "Locking"
    """Its processes are kept from CUDA, one after the other."""
    MOVING = "Moving"
    """All are locked, and are being moved into main memory."""
    UNDOING = "Undoing"
    """It could not be parked: what was done is being undone."""
    PARKED = "Parked"
    RETURNING = "Returning"
    """It has its share again, and its processes are being brought back."""

    @property
    def state(self) -> LeaseState:
        """Of a lease that has not begun to end."""
        return _STATES.get(self, LeaseState.PARKING)

    @property
    def backwards(self) -> bool:
        """Whether its processes are being brought back."""
        return self in (ParkingStep.UNDOING, ParkingStep.RETURNING)


_STATES = {
    ParkingStep.NONE: LeaseState.ACTIVE,
    ParkingStep.PARKED: LeaseState.PARKED,
    ParkingStep.RETURNING: LeaseState.UNPARKING,
}
