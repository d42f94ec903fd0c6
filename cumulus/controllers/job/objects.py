"""The workload of each replica of a job. Pure; names are fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cumulus.backends.base import CallToRun, Checkpointing, EnvVar, GangMember, LeaseRef, Workload, WorkloadMount
from cumulus.blob.base import owner_of
from cumulus.resources.annotations import terminal_size
from cumulus.resources.job import GPUJob
from cumulus.resources.job_partitions import grace
from cumulus.resources.meta import REPLICA_LABEL
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.resources.quantity import parse_bytes, parse_cpus, parse_duration
from cumulus.resources.submitter import Submitter

CHECKPOINTS = "saved"
"""Where a process finds its checkpoints, in the job's own directory for them."""

PLACE_LENGTH = 200
"""What may be left of a job's namespace and name in its workloads' names, which name files."""


class Origin(NamedTuple):
    """What a job goes on from that has no checkpoint yet: the uid of the job that saved it, and where that kept it.
    `path`: as its spec says. `process`: whether that ran as processes, which have a place where they name none."""

    uid: str
    path: str
    uri: str
    process: bool = True


def origin_of(job: GPUJob, bucket: str) -> Origin:
    """Going on from what that job saved."""
    path = job.spec.checkpoint.path if job.spec.checkpoint is not None else None
    return Origin(job.uid, path or "", checkpoint_uri(job, bucket), job.spec.image is None)


def last_grace(job: GPUJob) -> float:
    """Seconds between the stop signal and SIGKILL when the job is deleted: what was asked for, at most its own."""
    own = parse_duration(grace(job))
    asked = job.metadata.deletion_grace_period_seconds
    return min(own, asked) if asked else own


def workload_name(job: GPUJob, attempt: int, replica: int) -> str:
    """Unique for ever: it carries the job's uid."""
    place = f"{job.metadata.namespace}.{job.metadata.name}"[:PLACE_LENGTH]
    return f"{place}.{job.uid.replace('-', '')[:8]}-a{attempt}-r{replica}"


def checkpoint_uri(job: GPUJob, bucket: str) -> str:
    """Where its checkpoints are kept beyond the node, "" where nowhere. A place of the daemon's has the job's uid: a
    new job of the same name finds nothing there."""
    checkpoint = job.spec.checkpoint
    if checkpoint is None:
        return ""
    if checkpoint.uri is not None:
        return checkpoint.uri
    return place_of(job.metadata.namespace or "", job.uid, bucket)


def place_of(namespace: str, uid: str, bucket: str) -> str:
    """In the daemon's bucket; "" where it has none."""
    return f"s3://{bucket}/checkpoints/{namespace}/{uid}" if bucket else ""


def workload(
    job: GPUJob, attempt: int, replica: int, held: Sequence[GPUPartition], nodes: Mapping[str, GPUNode],
    bucket: str = "", after: Origin | None = None, gang: tuple[GangMember, ...] = (), node: str = "",
) -> Workload:  # fmt: skip
    """One replica inside its partitions, which must be Active. `bucket` as in `checkpoint_uri`; `after`: whose
    checkpoint it goes on from; `gang` as `gang_of` makes it; `node`: of one that has no partitions yet. Raises KeyError
    where their node is not in `nodes`."""
    spec, resources = job.spec, job.spec.resources
    submitter = Submitter.of(job.metadata.annotations)
    return Workload(
        name=workload_name(job, attempt, replica),
        namespace=job.metadata.namespace or "",
        job=job.metadata.name,
        job_uid=job.uid,
        attempt=attempt,
        replica=replica,
        replicas=spec.replicas,
        node=node or held[0].status.node,
        command=(*spec.command, *spec.args) if spec.command else (),
        args=() if spec.command else spec.args,
        leases=tuple(_lease_ref(partition, nodes[partition.status.node]) for partition in held),
        image=spec.image or "",
        working_dir=spec.working_dir or "",
        env=_env(job),
        mounts=tuple(WorkloadMount(mount.source, mount.target, mount.read_only) for mount in spec.mounts),
        cpu_millis=parse_cpus(resources.cpus) if resources.cpus else 0,
        memory_bytes=parse_bytes(resources.memory) if resources.memory else 0,
        grace=parse_duration(grace(job)),
        user_id=spec.run_as_user,
        shm_bytes=parse_bytes(spec.shm_size) if spec.shm_size else 0,
        host_network=spec.host_network,
        ports=tuple((port.container_port, port.host_port) for port in spec.ports),
        submitter=submitter.name,
        submitter_uid=submitter.uid,
        submitter_admin=submitter.admin,
        call=_call(job, submitter),
        umask=int(spec.umask, 8) if spec.umask is not None else None,
        checkpoint_path=_checkpoint_path(job),
        checkpointing=_checkpointing(job, bucket, after),
        gang=gang,
        terminal=spec.tty,
        terminal_size=terminal_size(job.metadata.annotations),
        stdin=spec.stdin,
    )


def gang_of(job: GPUJob, held: Sequence[GPUPartition], nodes: Mapping[str, GPUNode]) -> tuple[GangMember, ...]:
    """Where each replica of an attempt runs that holds these partitions; empty where there is one replica. Raises
    KeyError where a node is not in `nodes`."""
    if job.spec.replicas == 1:
        return ()
    places = {int(p.metadata.labels[REPLICA_LABEL]): p.status.node for p in held}
    return tuple(GangMember(places[r], _address(nodes[places[r]])) for r in range(job.spec.replicas))


def _address(node: GPUNode) -> str:
    """By which other nodes reach it: as the controllers do; of this machine its name alone is known."""
    return node.spec.ssh.host if node.spec.ssh is not None else node.status.hostname


def _checkpoint_path(job: GPUJob) -> str:
    """A process has a directory for its checkpoints, also where its spec names none."""
    if job.spec.checkpoint is None:
        return ""
    return job.spec.checkpoint.path or ("" if job.spec.image is not None else CHECKPOINTS)


def _checkpointing(job: GPUJob, bucket: str, after: Origin | None) -> Checkpointing | None:
    spec = job.spec.checkpoint
    if spec is None:
        return None
    return Checkpointing(
        uri=checkpoint_uri(job, bucket),
        named=bool(spec.uri or spec.credentials),
        credentials=spec.credentials or "",
        every=parse_duration(spec.every) if spec.every else 0.0,
        keep=spec.keep,
        after="" if after is None else after.uid,
        after_path="" if after is None else after.path or (CHECKPOINTS if after.process else ""),
        after_uri="" if after is None else after.uri,
    )


def _call(job: GPUJob, submitter: Submitter) -> CallToRun | None:
    call = job.spec.call
    if call is None:
        return None
    return CallToRun(
        owner_of(submitter), call.payload, call.python, call.archive or "", call.environment or "",
        call.interpreter or "", call.session, tuple(call.arguments),
    )  # fmt: skip


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
