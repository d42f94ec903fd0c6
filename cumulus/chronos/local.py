"""This node's own Chronos, for the programs of the control plane that run beside it: the daemon, the supervisors of its
jobs, and `cumulus doctor`. All others use `contract` alone.

Enforcement is loaded when it is asked for: supervisors must stay light.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cumulus.chronos.contract.usage import LeaseUse, lease_uses
from cumulus.chronos.device import discover, explain_none
from cumulus.chronos.device_sizes import settled
from cumulus.chronos.home import LEDGER, default_home
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.monitor_control import ensure_running, running

if TYPE_CHECKING:
    from cumulus.chronos.contract import Device, Lease
    from cumulus.chronos.enforce import EnforcementReport
    from cumulus.chronos.mig_plan import MigPlan
    from cumulus.chronos.nvml_devices import Mig

__all__ = [
    "LEDGER", "Ledger", "Mig", "default_home", "discover", "enforcement_of", "ensure_running", "explain_none",
    "hold_to", "mig_gpus", "mig_plan", "preload", "running", "settled", "usage_of",
]  # fmt: skip


def enforcement_of(device: Device, home: Path) -> EnforcementReport:
    """How strongly jobs are held to their leases on the device now, and why."""
    from cumulus.chronos import enforce

    return enforce.strength(device, home)


def preload() -> None:
    """Load what `hold_to` needs, for a process that forks those who call it."""
    from cumulus.chronos import enforce

    enforce.preload()


def hold_to(lease: Lease, device: Device, home: Path, user: int | None = None) -> dict[str, str]:
    """Prepare what holds a job to the lease. Returns the variables that the job needs for it. Idempotent. `user`: whom
    it runs as, where that is not this process's own user.

    Raises `ChronosError` where what is promised cannot be set up: the job must not start then.
    """
    from cumulus.chronos import enforce

    return enforce.environment(lease, device, home, user)


def mig_gpus() -> Mapping[str, Mig]:
    """The GPUs that are in MIG mode, by UUID."""
    from cumulus.chronos import nvml_devices

    return nvml_devices.read().mig


def mig_plan(gpus: Mapping[str, Mig], wishes: Sequence[tuple[str, int]]) -> MigPlan:
    """Which instances would serve those who wait, each with a name and its bytes."""
    from cumulus.chronos.mig_plan import Wish, plan

    return plan(gpus, [Wish(*wish) for wish in wishes])


def usage_of(ledger: Ledger) -> Sequence[LeaseUse]:
    """What leases use of this node's devices now. Takes up to a second where NVIDIA's driver is asked."""
    from cumulus.chronos import printers, usage

    leases = ledger.list()
    held = {lease.device_id for lease in leases}
    devices = [device for device in ledger.devices() if device.id in held]
    return lease_uses(map(printers.lease_usage_json, usage.measure(ledger.database, devices, leases).leases))
