"""What a job is made of: the partitions of an attempt, and the workload of each replica. Pure; names are fixed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from cumulus.backends.base import EnvVar, LeaseRef, Mount, Workload
from cumulus.resources.job import GPUJob
from cumulus.resources.meta import ATTEMPT_LABEL, JOB_LABEL, REPLICA_LABEL, ObjectMeta
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import FINALIZER, Gang, GPUPartition, GPUPartitionSpec
from cumulus.resources.quantity import parse_bytes, parse_cpus, parse_duration

GRACE = "10s"
"""Time between SIGTERM and SIGKILL for a job that has no checkpoint."""

LABEL_LENGTH = 63
NAME_LENGTH = 225
"""What may be left of a job's name in its partitions' names, which have at most 253 characters."""
PLACE_LENGTH = 200
"""What may be left of a job's namespace and name in its workloads' names, which name files."""


def grace(job: GPUJob) -> str:
    """Time between the stop signal and SIGKILL."""
    return job.spec.checkpoint.grace_period if job.spec.checkpoint is not None else GRACE


def last_grace(job: GPUJob) -> float:
    """Seconds between the stop signal and SIGKILL when the job is deleted: what was asked for, at most its own."""
    own = parse_duration(grace(job))
    asked = job.metadata.deletion_grace_period_seconds
    return min(own, asked) if asked else own


def runtime(job: GPUJob) -> Literal["process", "container"]:
    """The runtime that the job needs of its node."""
    return "container" if job.spec.image is not None else "process"


def partition_name(job: GPUJob, attempt: int, replica: int, device: int) -> str:
    return f"{_base(job.metadata.name)}-a{attempt}-r{replica}-d{device}"


def partition_names(job: GPUJob, attempt: int) -> tuple[str, ...]:
    """Replica by replica, device by device."""
    return tuple(
        partition_name(job, attempt, replica, device)
        for replica in range(job.spec.replicas)
        for device in range(job.spec.gpu.count)
    )


def workload_name(job: GPUJob, attempt: int, replica: int) -> str:
    """Unique for ever: it carries the job's uid."""
    place = f"{job.metadata.namespace}.{job.metadata.name}"[:PLACE_LENGTH]
    return f"{place}.{job.uid.replace('-', '')[:8]}-a{attempt}-r{replica}"


def partitions(job: GPUJob, attempt: int) -> tuple[GPUPartition, ...]:
    """The partitions that an attempt asks for, in the order of `partition_names`."""
    gang = f"{_base(job.metadata.name)}-a{attempt}"
    size = job.spec.replicas * job.spec.gpu.count
    return tuple(
        GPUPartition(
            metadata=ObjectMeta(
                name=partition_name(job, attempt, replica, device),
                namespace=job.metadata.namespace,
                labels={
                    JOB_LABEL: _base(job.metadata.name, LABEL_LENGTH),
                    ATTEMPT_LABEL: str(attempt),
                    REPLICA_LABEL: str(replica),
                },
                owner_references=(job.owner_reference(),),
                finalizers=(FINALIZER,),
            ),
            spec=_partition_spec(job, Gang(name=gang, size=size, group=replica, since=_since(job, attempt))),
        )
        for replica in range(job.spec.replicas)
        for device in range(job.spec.gpu.count)
    )


def workload(
    job: GPUJob, attempt: int, replica: int, held: Sequence[GPUPartition], nodes: Mapping[str, GPUNode]
) -> Workload:
    """One replica inside its partitions, which must be Active. Raises KeyError where their node is not in `nodes`."""
    spec, resources = job.spec, job.spec.resources
    return Workload(
        name=workload_name(job, attempt, replica),
        namespace=job.metadata.namespace or "",
        job=job.metadata.name,
        job_uid=job.uid,
        attempt=attempt,
        replica=replica,
        replicas=spec.replicas,
        node=held[0].status.node,
        command=(*spec.command, *spec.args) if spec.command else (),
        args=() if spec.command else spec.args,
        leases=tuple(_lease_ref(partition, nodes[partition.status.node]) for partition in held),
        image=spec.image or "",
        working_dir=spec.working_dir or "",
        env=_env(job),
        mounts=tuple(Mount(mount.source, mount.target, mount.read_only) for mount in spec.mounts),
        cpu_millis=parse_cpus(resources.cpus) if resources.cpus else 0,
        memory_bytes=parse_bytes(resources.memory) if resources.memory else 0,
        grace=parse_duration(grace(job)),
        user_id=spec.run_as_user,
        shm_bytes=parse_bytes(spec.shm_size) if spec.shm_size else 0,
        host_network=spec.host_network,
        ports=tuple((port.container_port, port.host_port) for port in spec.ports),
        checkpoint_path=(spec.checkpoint.path or "") if spec.checkpoint else "",
    )


def _partition_spec(job: GPUJob, gang: Gang) -> GPUPartitionSpec:
    gpu = job.spec.gpu
    return GPUPartitionSpec(
        memory=gpu.memory,
        compute=gpu.compute,
        duration=gpu.duration,
        grace_period=grace(job),
        selector=gpu.selector,
        min_enforcement=job.spec.min_enforcement,
        placement=job.spec.placement,
        priority=job.spec.priority,
        runtime=runtime(job),
        host_ports=tuple(sorted(port.host_port for port in job.spec.ports)),
        gang=gang,
    )


def _base(name: str, length: int = NAME_LENGTH) -> str:
    """The name, or where it is too long its beginning and a digest."""
    if len(name) <= length:
        return name
    return f"{name[: length - 9].rstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _since(job: GPUJob, attempt: int) -> str:
    begun = next((a.queue_time for a in job.status.attempts if a.number == attempt), None)
    since = begun or job.metadata.creation_timestamp
    assert since is not None
    return since


def _env(job: GPUJob) -> tuple[EnvVar, ...]:
    return tuple(
        EnvVar(env.name, secret=env.value_from.secret_key_ref.name, key=env.value_from.secret_key_ref.key)
        if env.value_from is not None
        else EnvVar(env.name, env.value or "")
        for env in job.spec.env
    )


def _lease_ref(partition: GPUPartition, node: GPUNode) -> LeaseRef:
    status = partition.status
    device = next(device for device in node.status.devices if device.index == status.device)
    return LeaseRef(
        id=status.partition_id, device=device.index, device_id=device.id, device_name=device.name,
        device_type=device.type, platform_index=device.platform_index, device_index=device.device_index,
        memory_bytes=status.memory_bytes, compute=status.compute, token=status.fencing_token,
        expires_at=status.expires_at or "", enforcement=(status.enforcement or "none"),
        seconds=parse_duration(partition.spec.duration),
    )  # fmt: skip
