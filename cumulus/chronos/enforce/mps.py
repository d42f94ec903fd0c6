"""NVIDIA's Multi-Process Service as an enforcer: the driver refuses CUDA memory over a limit and lends part of the
multiprocessors.

`CHRONOS_MPS` chooses how, for the whole node:
  shared    (default) one daemon for all leases. Two leases of 50 % run side by side at 50 % each. The limits are in a
            job's environment, and a job that faults on the GPU ends its neighbours' work on that GPU.
  isolated  a daemon a lease, with the limits on the daemon's side: a job's own environment cannot raise them, and a
            fault stays in its lease. But daemons take turns on the GPU: two busy leases of 50 % get 25 % each.
  off       none.

Never `hard`: a job reaches the GPU without MPS by leaving its pipe directory, and the limits hold for each process
and not for the lease. docs/enforcement.md has what was tried and measured.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cumulus.chronos.contract import FULL_COMPUTE, Device, Health, Lease
from cumulus.chronos.contract.variables import MPS_MODE
from cumulus.chronos.enforce.base import EnforcementReport
from cumulus.chronos.enforce.mps_daemon import CONTROL, Daemon, runtime_directory
from cumulus.chronos.settings import LocalSettings
from cumulus.errors import ChronosError
from cumulus.resources.enforcement import Enforcement, Sharing
from cumulus.resources.reasons import EnforcementReason, NodeCondition

MODES = ("shared", "isolated", "off")

_QUERY_SECONDS = 10.0

_FAULTED = (
    "A job faulted on a GPU, and all CUDA work there has failed. New work on every GPU waits until the programs that "
    "had work there have ended: they are told to, and then made to."
)


class Mps:
    """`mode` is one of `MODES`, by default what CHRONOS_MPS says."""

    name = "mps"
    way = "CUDA"

    def __init__(self, mode: str | None = None) -> None:
        self._mode = mode or LocalSettings.read().mps_mode

    def covers(self, device: Device) -> bool:
        return device.type == "gpu" and "nvidia" in device.vendor.lower()

    def strength(self, device: Device, home: Path) -> EnforcementReport:
        if not self.covers(device):
            return EnforcementReport(Enforcement.NONE, "MPS is NVIDIA's")
        if problem := self._problem(device):
            return EnforcementReport(Enforcement.NONE, *problem)
        return EnforcementReport(
            Enforcement.GUARDED, f"MPS limits memory and multiprocessors of each CUDA process for itself ({self._mode})"
        )

    def environment(self, lease: Lease, device: Device, home: Path, user: int | None = None) -> dict[str, str]:
        """Starts the daemon. Raises `ChronosError` where it does not start: a job must not run unlimited unnoticed."""
        if not self.covers(device) or self._problem(device) or lease.sharing is Sharing.PARKABLE:
            return {}
        memory = f"{max(lease.memory_bytes // 2**20, 1)}M"
        percentage = f"{lease.compute * 100 / FULL_COMPUTE:g}"
        daemon = self._daemon(lease.id, home, device.id)
        if self._mode == "isolated":
            daemon.ensure(
                f"set_default_device_pinned_mem_limit 0 {memory}", f"set_default_active_thread_percentage {percentage}"
            )
        else:
            daemon.ensure()
        return {
            "CUDA_MPS_PIPE_DIRECTORY": str(daemon.pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(daemon.log),
            # By UUID, since numbers count the job's visible devices, and a job may hold leases on several.
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"{device.id}={memory}",
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": percentage,
        }

    def update(self, lease: Lease, home: Path) -> None:
        """MPS knows no end; nothing of a lease that it limits changes."""

    def forget(self, lease_id: str, home: Path) -> None:
        if self._mode == "isolated":
            self._daemon(lease_id, home).stop()

    def stop(self, home: Path) -> None:
        """End the shared daemon, and with it all CUDA work of the node's leases."""
        self._daemon("", home).stop()

    def health(self, devices: Sequence[Device], home: Path) -> Sequence[Health]:
        """Whether the daemon can limit and does answer; one that was started and does not is started again.

        After a fault the server takes no new work, on any GPU, until every program that had some on that GPU is gone,
        and those may go on for ever. Where there is one GPU, nobody has work that is alive, and a new daemon takes its
        place. Where there are several, those programs are ended, and the others' work goes on.
        """
        covered = [device for device in devices if self.covers(device)]
        if not covered or self._mode == "off":
            return ()
        if problem := next(filter(None, map(self._problem, covered)), None):
            return _ready(False, EnforcementReason.UNAVAILABLE, "{}. {}".format(*problem))
        daemon = self._daemon("", home)
        if self._mode == "isolated" or not daemon.was_started():
            return _ready(True, EnforcementReason.NOT_NEEDED_YET, "MPS starts with the first lease that needs it.")
        try:
            if daemon.faulted():
                if len(covered) > 1:
                    daemon.end_failed()
                    return _ready(False, EnforcementReason.FAULTED, _FAULTED)
                daemon.stop()
            restarted = daemon.ensure()
        except ChronosError as error:
            return _ready(False, EnforcementReason.DOES_NOT_START, f"{error} {error.hint or ''}".strip())
        if restarted:
            return _ready(True, EnforcementReason.RESTARTED, "MPS was down: CUDA jobs that ran through it have failed.")
        return _ready(True, EnforcementReason.ANSWERS, "MPS limits CUDA memory and multiprocessors.")

    def _problem(self, device: Device) -> tuple[str, str] | None:
        """Why MPS can't limit on the device and what would mend it."""
        if self._mode not in MODES:
            return f"{MPS_MODE}={self._mode} is unknown", f"Set {MPS_MODE} to one of {', '.join(MODES)}."
        if self._mode == "off":
            return f"MPS is switched off by {MPS_MODE}", f"Unset {MPS_MODE}."
        if shutil.which(CONTROL) is None:
            return f"{CONTROL} is not installed", "Install the driver's compute utilities (nvidia-compute-utils-NNN)."
        mode = _compute_mode(device)
        if mode == "Prohibited":
            return "the GPU's compute mode is Prohibited", "Set it: nvidia-smi --compute-mode=DEFAULT"
        if mode == "Exclusive_Process" and self._mode == "isolated":
            return "in compute mode Exclusive_Process one MPS daemon alone can use the GPU", f"Set {MPS_MODE}=shared."
        return None

    def _daemon(self, lease_id: str, home: Path, device_id: str = "") -> Daemon:
        """A lease's own daemon sees its device alone, as number 0; the shared one sees all and numbers as jobs do."""
        isolated = self._mode == "isolated"
        own = hashlib.sha256(lease_id.encode()).hexdigest()[:8] if isolated else "shared"
        place = runtime_directory(home) / f"mps-{own}"
        place.mkdir(mode=0o755, exist_ok=True)
        return Daemon(place, device_id if isolated else "")


def _ready(status: bool, reason: EnforcementReason, message: str) -> Sequence[Health]:
    return (Health(NodeCondition.MPS_READY, status, reason, message),)


def _compute_mode(device: Device) -> str:
    """Default, Exclusive_Process or Prohibited; "" where nvidia-smi does not say."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_mode", "--format=csv,noheader", f"--id={device.id}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, timeout=_QUERY_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
