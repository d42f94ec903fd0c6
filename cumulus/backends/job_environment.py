"""The variables that tell a job who it is and what it leased, the same with every backend.

docs/jobs.md has the table of all variables.
"""

from __future__ import annotations

from cumulus.backends import variables as names
from cumulus.backends.base import Checkpointing, LeaseRef, Workload
from cumulus.checkpoint import variables as checkpoint_names
from cumulus.chronos.contract.variables import HeldLease, of_leases
from cumulus.resources.enforcement import Enforcement


def job_environment(workload: Workload, checkpoint: str, chronos_home: str | None, request: str = "") -> dict[str, str]:
    """Who the job is, what it leased, and how it keeps its work: these win over all else, secrets too. `checkpoint`:
    its path as the program sees it; `request`: the file by which the node asks it for a checkpoint.

    CUMULUS_WORKLOAD and CHRONOS_PARTITION_ID are also the marks by which the node finds processes to end.
    """
    variables = {
        checkpoint_names.JOB: workload.job,
        "CUMULUS_NAMESPACE": workload.namespace,
        checkpoint_names.JOB_UID: workload.job_uid,
        checkpoint_names.ATTEMPT: str(workload.attempt),
        # The tokens of leases grow on each device for itself. An attempt is made with each lease, one after the other.
        checkpoint_names.FENCING_TOKEN: str(workload.attempt),
        checkpoint_names.REPLICA: str(workload.replica),
        checkpoint_names.REPLICAS: str(workload.replicas),
        names.WORKLOAD: workload.name,
    }
    if checkpoint:
        variables[names.CHECKPOINT_PATH] = checkpoint
    if workload.checkpointing is not None:
        variables |= _checkpointing(workload, workload.checkpointing, request)
    if chronos_home is not None:
        variables["CHRONOS_HOME"] = chronos_home
    return variables | of_leases([_held(lease) for lease in workload.leases])


def _checkpointing(workload: Workload, asked: Checkpointing, request: str) -> dict[str, str]:
    variables = {
        checkpoint_names.URI: asked.uri,
        checkpoint_names.EVERY: f"{asked.every:g}" if asked.every else "",
        checkpoint_names.KEEP: str(asked.keep),
        checkpoint_names.GRACE: f"{workload.grace:g}",
        checkpoint_names.REQUEST: request,
    }
    return {name: value for name, value in variables.items() if value}


def _held(lease: LeaseRef) -> HeldLease:
    return HeldLease(
        lease.id, lease.memory_bytes, lease.compute, lease.token, lease.expires_at, Enforcement(lease.enforcement),
        lease.device, lease.device_id, lease.device_name, lease.platform_index, lease.device_index, lease.seconds,
    )  # fmt: skip
