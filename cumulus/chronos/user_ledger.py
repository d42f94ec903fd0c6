"""The ledger as one user of the machine may use it: all leases are seen, and only one's own are changed."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from cumulus.chronos.contract import Device, Lease, LeaseRequest
from cumulus.chronos.contract.policy import Policy, PolicyChange
from cumulus.chronos.ledger import Ledger
from cumulus.errors import CumulusError, Forbidden, NoSuchLease
from cumulus.lib.unix_user import name_of


class LedgerCaller(NamedTuple):
    """Who asks, as the kernel says it of their connection."""

    uid: int
    pid: int

    @property
    def name(self) -> str:
        return name_of(self.uid)

    @property
    def groups(self) -> Sequence[int]:
        try:
            account = pwd.getpwuid(self.uid)
        except KeyError:
            return ()
        return os.getgrouplist(account.pw_name, account.pw_gid)


class UserLedger(Ledger):
    """A lease is the user's if it was made in their name and no control plane holds it: those of jobs are ended with
    their jobs. Raises Forbidden for all else that would change something."""

    def __init__(self, home: Path, peer: LedgerCaller, *, may_create: bool) -> None:
        super().__init__(home)
        self._peer = peer
        self._name = peer.name
        self._may_create = may_create

    def grant_all(self, requests: Sequence[LeaseRequest]) -> Sequence[Lease | CumulusError]:
        if not self._may_create:
            raise Forbidden(
                "you may not make leases on this machine",
                hint="run a job instead: cumulus apply; or ask the administrator (docs/share-a-machine.md)",
            )
        for request in requests:
            if request.user != self._name or request.owner:
                raise Forbidden(f"you may make leases for {self._name} alone", hint="leave --user and --owner out")
            if self.get(request.id) is not None:
                raise Forbidden(f"there was a lease {request.id} already", hint="leave --id out")
        return super().grant_all(requests)

    def begin(self, id: str) -> Lease | None:
        self.check_own(id)
        return super().begin(id)

    def renew(self, id: str, seconds: float, *, token: int | None = None) -> Lease:
        self.check_own(id)
        return super().renew(id, seconds, token=token)

    def release(self, id: str, *, token: int | None = None) -> Lease | None:
        self.check_own(id)
        return super().release(id, token=token)

    def park(
        self, id: str, park_for: float, *, freeze: bool = False, token: int | None = None, unproven: bool = False
    ) -> Lease:
        if unproven:
            self._refuse("park what is not proven")
        self.check_own(id)
        return super().park(id, park_for, freeze=freeze, token=token)

    def unpark(self, id: str, seconds: float, *, token: int | None = None) -> Lease:
        self.check_own(id)
        return super().unpark(id, seconds, token=token)

    def attach(self, id: str, pid: int, token: int, *, role: str = "root") -> None:
        """Also checked after the change: by then the pid may be another process's."""
        self.check_own(id)
        self._check_process(pid)
        super().attach(id, pid, token, role=role)
        try:
            self._check_process(pid)
        except Forbidden:
            super().detach(id, pid)
            raise

    def rediscover(self) -> Sequence[Device]:
        self._refuse("have the drivers asked again")

    def set_policy(self, change: PolicyChange) -> Policy:
        self._refuse("set what is done about overuse")

    def prepare(self, id: str) -> Mapping[str, str]:
        self._refuse("prepare containers")

    def make_cgroup(self, ids: Sequence[str], supervisor: int) -> str | None:
        self._refuse("make cgroups")

    def detach(self, id: str, pid: int) -> None:
        self._refuse("detach processes")

    def check_own(self, id: str) -> None:
        """Raises Forbidden, NoSuchLease."""
        lease = self.get(id)
        if lease is None:
            raise NoSuchLease(f"there is no lease {id}", hint="see the live ones with: chronos_cli list")
        if lease.owner:
            raise Forbidden(f"lease {id} is a job's", hint="delete the job: cumulus delete job NAME")
        if lease.user != self._name:
            raise Forbidden(f"lease {id} is {lease.user}'s", hint="you may change your own: chronos_cli list")

    def _check_process(self, pid: int) -> None:
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            uid = None
        if uid != self._peer.uid:
            raise Forbidden(f"process {pid} is not yours")

    def _refuse(self, what: str) -> NoReturn:
        raise Forbidden(f"only root may {what}")
