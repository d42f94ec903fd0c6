"""The variables that tell a job who it is and what it leased, the same with every backend.

docs/jobs.md has the table of all variables.
"""

from __future__ import annotations

from cumulus.backends import variables as names
from cumulus.backends.base import LeaseRef, Workload
from cumulus.chronos.contract.variables import HeldLease, of_leases
from cumulus.resources.enforcement import Enforcement


def job_environment(workload: Workload, checkpoint: str, chronos_home: str | None) -> dict[str, str]:
    """Who the job is and what it leased: these win over all else, secrets too.

    CUMULUS_WORKLOAD and CHRONOS_PARTITION_ID are also the marks by which the node finds processes to end.
    """
    variables = {
        "CUMULUS_JOB": workload.job,
        "CUMULUS_NAMESPACE": workload.namespace,
        "CUMULUS_ATTEMPT": str(workload.attempt),
        "CUMULUS_REPLICA": str(workload.replica),
        "CUMULUS_REPLICAS": str(workload.replicas),
        names.WORKLOAD: workload.name,
    }
    if checkpoint:
        variables[names.CHECKPOINT_PATH] = checkpoint
    if chronos_home is not None:
        variables["CHRONOS_HOME"] = chronos_home
    return variables | of_leases([_held(lease) for lease in workload.leases])


def _held(lease: LeaseRef) -> HeldLease:
    return HeldLease(
        lease.id, lease.memory_bytes, lease.compute, lease.token, lease.expires_at, Enforcement(lease.enforcement),
        lease.device, lease.device_id, lease.device_name, lease.platform_index, lease.device_index, lease.seconds,
    )  # fmt: skip
