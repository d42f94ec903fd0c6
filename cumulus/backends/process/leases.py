"""What a supervisor asks of the lease ledger: may this run start, and did its lease end it?

Standard library only, and the ledger is imported only where the run has leases.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

from cumulus.backends.process.supervise import End
from cumulus.chronos.lease import EndReason, Lease, LeaseState
from cumulus.errors import ChronosError, LedgerUnavailable, NoSuchLease, StaleToken

LEDGER_PATIENCE = 10.0
"""Seconds for which an unavailable ledger is asked again before the run is given up."""


class AttachedLeases(Protocol):
    """The part of the ledger that supervisors use."""

    def get(self, id: str) -> Lease | None: ...

    def attach(self, id: str, pid: int, token: int, *, role: str) -> None:
        """Register a process of the lease. Raises `NoSuchLease` where it is not ACTIVE, and `StaleToken`."""
        ...


class LeaseGuard:
    """The leases of one run."""

    def __init__(self, spec: dict[str, Any], ledger: AttachedLeases | None = None) -> None:
        self._leases: list[dict[str, Any]] = spec["leases"]
        self._home: str | None = spec["chronos_home"]
        self._ledger = ledger

    def attach(self, pid: int) -> End | None:
        """Register `pid`, whose descendants end with the leases. The end of the run where a lease is not to be had."""
        for lease in self._leases:
            try:
                self._patiently(lease["id"], pid, lease["token"])
            except NoSuchLease as error:
                if self.ended() is EndReason.EXPIRED:
                    return End(None, "LeaseExpired", f"lease {lease['id']} expired before the command was started")
                return End(None, "StartError", f"not started without its lease: {error}")
            except StaleToken as error:
                return End(None, "StartError", f"not started, its lease was granted to another holder: {error}")
            except ChronosError as error:
                return End(None, "StartError", f"not started, the lease ledger refused: {error}")
        return None

    def ended(self) -> EndReason | None:
        """Why a lease of the run has ended or is ending; expiry before release. None: all are live or unknown."""
        reasons = []
        for lease in self._leases:
            try:
                found = self._open().get(lease["id"])
            except ChronosError:
                continue
            if found is not None and found.state is not LeaseState.ACTIVE:
                reasons.append(found.end_reason)
        if EndReason.EXPIRED in reasons:
            return EndReason.EXPIRED
        return EndReason.RELEASED if reasons else None

    def _patiently(self, id: str, pid: int, token: int) -> None:
        deadline = time.monotonic() + LEDGER_PATIENCE
        while True:
            try:
                return self._open().attach(id, pid, token, role="supervisor")
            except LedgerUnavailable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)

    def _open(self) -> AttachedLeases:
        if self._ledger is None:
            from cumulus.chronos.ledger import Ledger

            # No monitor from here: it would be this subreaper's child and end with the job.
            self._ledger = Ledger(Path(self._home) if self._home else None, start_monitor=False)
        return self._ledger
