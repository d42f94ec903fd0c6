"""What is done in the ledger with the leases of a run, by whichever process has the ledger open: the one that answers
supervisors, a child of a supervisor, or at the end a supervisor itself. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cumulus.backends.variables import LEASE_DEADLINE
from cumulus.clock import SystemClock, timestamp
from cumulus.lib.unix_user import UnixUser

if TYPE_CHECKING:
    from cumulus.chronos.contract import EndReason
    from cumulus.chronos.local import Ledger

AnswerT = TypeVar("AnswerT")


def preload() -> None:
    """Load what `HeldLeases` needs, before it is asked for."""
    from cumulus.chronos import local

    local.preload()


class LeaseHold(NamedTuple):
    """What holds a job to its leases: variables of its environment, and the cgroup it is started in, if any."""

    variables: dict[str, str] = {}
    cgroup: str | None = None


def open_ledger(home: str | None) -> Ledger:
    from pathlib import Path

    from cumulus.chronos.local import Ledger

    # No monitor from here: it would be a subreaper's child and end with the job.
    return Ledger(Path(home) if home else None, start_monitor=False)


def _at_once(ask: Callable[[], AnswerT]) -> AnswerT:
    return ask()


class HeldLeases:
    """`leases` as spec.json names them, `own` the variables of the job itself, `user` whom it runs as, where that is
    not this process's own user."""

    def __init__(
        self, leases: list[dict[str, Any]], own: dict[str, str], home: str | None, user: dict[str, Any] | None,
        opened: Callable[[str | None], Ledger] = open_ledger,
    ) -> None:  # fmt: skip
        self._leases = leases
        self._own = own
        self._home = home
        runs_as = UnixUser.read(user)
        self._user = None if runs_as is None else runs_as.uid
        self._open = opened
        self._opened: Ledger | None = None

    def attach(self, pid: int, ask: Callable[[Callable[[], Any]], Any] = _at_once) -> LeaseHold:
        """Register the supervisor `pid` with each lease, and prepare what holds its job to them. `ask` calls what it is
        given, again where the ledger is not to be had. Raises what the ledger and the enforcement raise."""
        variables: dict[str, str] = {}
        for lease in self._leases:
            ask(partial(self._ledger.attach, lease["id"], pid, lease["token"], role="supervisor"))
            variables = self._enforced(variables, lease["id"])
        # Last: what the enforcement starts for the node is not to be taken for the job's.
        ids = [lease["id"] for lease in self._leases]
        return LeaseHold(variables, ask(partial(self._ledger.make_cgroup, ids, pid)))

    def begin(self) -> None:
        """Start the leases' time. Where the ledger cannot be written, it counts a little later, as it would anyway."""
        from cumulus.errors import ChronosError

        for lease in self._leases:
            with suppress(ChronosError):
                self._ledger.begin(lease["id"])

    def ended(self, by: float, began: float) -> str:
        """See `LeaseGuard.ended`; `began` is when the command was let go."""
        from cumulus.chronos.contract import EndReason
        from cumulus.errors import ChronosError

        reasons: set[EndReason | None] = set()
        for lease in self._leases:
            try:
                found = self._ledger.get(lease["id"])
                since = self._ledger.ended_since(lease["id"]) if by < math.inf else None
            except ChronosError:
                # The ledger is gone, say. The monitor ends the leases that it knew all the same.
                if began + (lease.get("seconds") or math.inf) <= min(by, SystemClock().monotonic()):
                    reasons.add(EndReason.EXPIRED)
                continue
            if found is not None and not found.state.goes_on and (since is None or since <= by):
                reasons.add(found.end_reason)
        lost = (EndReason.LOST, EndReason.UNPARK_FAILED, EndReason.REBOOTED)
        order = (EndReason.OVERUSED, *lost, EndReason.EXPIRED, EndReason.RELEASED)
        return next((str(r) for r in order if r in reasons), "")

    def _enforced(self, variables: dict[str, str], id: str) -> dict[str, str]:
        from cumulus.chronos import local
        from cumulus.chronos.contract import variables as contract
        from cumulus.errors import NoSuchLease

        ledger = self._ledger
        lease = ledger.get(id)
        device = next((d for d in ledger.devices() if lease and d.id == lease.device_id), None)
        if lease is None or device is None:
            raise NoSuchLease(f"the device of lease {id} is no longer on this node")
        ours = contract.join(variables, local.hold_to(lease, device, ledger.home, self._user))
        # Over the job's own: what is a list, as PYTHONPATH, keeps the job's part too.
        merged = contract.merge(self._own, ours)
        variables = {name: value for name, value in merged.items() if value != self._own.get(name)}
        return variables | self._ends(id, lease.expires_in, variables)

    def _ends(self, id: str, expires_in: float, variables: dict[str, str]) -> dict[str, str]:
        """The variables that say when the first lease ends. Where its time has yet to count, it does from about now
        on."""
        from cumulus.chronos.contract.variables import EXPIRES_AT

        seconds = next((x["seconds"] for x in self._leases if x["id"] == id and x.get("seconds")), expires_in)
        deadline = SystemClock().monotonic() + min(seconds, expires_in)
        found = {LEASE_DEADLINE: f"{min(deadline, float(variables.get(LEASE_DEADLINE, deadline))):.3f}"}
        if seconds >= expires_in:
            return found
        ends = timestamp(SystemClock().now() + timedelta(seconds=seconds))
        return found | {EXPIRES_AT: min(ends, variables.get(EXPIRES_AT, ends))}

    @property
    def _ledger(self) -> Ledger:
        if self._opened is None:
            self._opened = self._open(self._home)
        return self._opened
