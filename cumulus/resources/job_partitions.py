"""The partitions that a job asks for, attempt by attempt: the job controller makes them, and `why` asks about them
before it has. Pure; names are fixed."""

from __future__ import annotations

import hashlib
from typing import Literal

from cumulus.resources.annotations import SAME_DIRECTORY
from cumulus.resources.job import GPUJob
from cumulus.resources.meta import ATTEMPT_LABEL, JOB_LABEL, REPLICA_LABEL, ObjectMeta
from cumulus.resources.partition import FINALIZER, Gang, GPUPartition, GPUPartitionSpec, Program, Saved
from cumulus.resources.preemption import Preemptible
from cumulus.resources.reasons import AttemptReason
from cumulus.resources.renewal import Renewal
from cumulus.resources.retries import requeues
from cumulus.resources.submitter import submitter_annotations

GRACE = "10s"
"""Time between SIGTERM and SIGKILL for a job that has no checkpoint."""

LABEL_LENGTH = 63
NAME_LENGTH = 225
"""What may be left of a job's name in its partitions' names, which have at most 253 characters."""


def grace(job: GPUJob) -> str:
    """Time between the stop signal and SIGKILL."""
    return job.spec.checkpoint.grace_period if job.spec.checkpoint is not None else GRACE


def runtime(job: GPUJob) -> Literal["process", "container"]:
    """The runtime that the job needs of its node."""
    return "container" if job.spec.image is not None else "process"


def preemptible(job: GPUJob) -> Preemptible | None:
    """How the job is ended for another queue's: with the least loss that it knows. None where it keeps its share until
    its lease ends. What is said here the job controller carries out (`controllers.job.ending`)."""
    if requeues(job):
        return Preemptible.CHECKPOINT
    return Preemptible.KILL if job.spec.preemptible is Preemptible.KILL else None


def partition_name(job: GPUJob, attempt: int, replica: int, device: int) -> str:
    return f"{_base(job.metadata.name)}-a{attempt}-r{replica}-d{device}"


def partition_names(job: GPUJob, attempt: int) -> tuple[str, ...]:
    """Replica by replica, device by device."""
    return tuple(
        partition_name(job, attempt, replica, device)
        for replica in range(job.spec.replicas)
        for device in range(job.spec.gpu.count)
    )


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
                annotations=submitter_annotations(job.metadata.annotations),
                owner_references=(job.owner_reference(),),
                finalizers=(FINALIZER,),
            ),
            spec=_partition_spec(
                job,
                Gang(
                    name=gang,
                    size=size,
                    group=replica,
                    since=_since(job, attempt),
                    preemptible=preemptible(job),
                    yielded=bool(job.status.preemptions),
                ),
            ),
        )
        for replica in range(job.spec.replicas)
        for device in range(job.spec.gpu.count)
    )


def _partition_spec(job: GPUJob, gang: Gang) -> GPUPartitionSpec:
    gpu = job.spec.gpu
    return GPUPartitionSpec(
        memory=gpu.memory,
        compute=gpu.compute,
        duration=gpu.duration,
        grace_period=grace(job),
        selector=gpu.selector,
        overuse=gpu.overuse,
        sharing=gpu.sharing,
        renewal=gpu.renewal or Renewal(),
        min_enforcement=job.spec.min_enforcement,
        placement=job.spec.placement,
        priority=job.spec.priority,
        queue=job.spec.queue,
        runtime=runtime(job),
        host_ports=tuple(sorted(port.host_port for port in job.spec.ports)),
        program=_program(job),
        checkpoint_place=_checkpoint_place(job),
        saved=_saved(job),
        gang=gang,
    )


def _program(job: GPUJob) -> Program | None:
    spec = job.spec
    if spec.image is not None:
        return None
    same_on = str(job.metadata.annotations.get(SAME_DIRECTORY, ""))
    only_here = python = None
    if spec.call is not None:
        python = spec.call.interpreter
        if spec.call.environment is not None:
            only_here = "a call with requirements and without an image"
        elif python is None:
            only_here = "a call without an image that names no Python"
    if spec.checkpoint is not None and spec.checkpoint.from_ is not None:
        only_here = "spec.checkpoint.from without an image"
    return Program(
        directory=spec.working_dir, same_on=tuple(name for name in same_on.split(",") if name), python=python,
        only_here=only_here,
    )  # fmt: skip


def _checkpoint_place(job: GPUJob) -> Literal["s3"] | None:
    """What its node has to reach, since the job names it. In the daemon's own bucket a job keeps what can be kept."""
    asked, spec = job.spec.checkpoint, job.spec
    if asked is None or not (asked.uri or "").startswith("s3://"):
        return None
    # The program of a container without a path copies what it likes.
    return None if spec.image is not None and asked.path is None else "s3"


def _saved(job: GPUJob) -> Saved | None:
    """Where its checkpoint is, where other nodes don't see that."""
    asked, saved = job.spec.checkpoint, job.status.checkpoint
    if job.spec.image is not None or asked is None or saved is None or (asked.path or "").startswith("/"):
        return None
    if not saved.node:
        return None
    copied = saved.uploaded_step
    # Of a node that is gone, the newest that was copied is the best that there is.
    beyond = copied is not None and (copied >= saved.step or _node_was_lost(job))
    return Saved(node=saved.node, alone=not beyond)


def _node_was_lost(job: GPUJob) -> bool:
    last = job.status.attempts[-1] if job.status.attempts else None
    return last is not None and last.reason == AttemptReason.NODE_LOST


def _base(name: str, length: int = NAME_LENGTH) -> str:
    """The name, or where it is too long its beginning and a digest."""
    if len(name) <= length:
        return name
    return f"{name[: length - 9].rstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _since(job: GPUJob, attempt: int) -> str:
    made = (*job.status.attempts, job.status.next)
    begun = next((a.queue_time for a in made if a is not None and a.number == attempt), None)
    since = begun or job.metadata.creation_timestamp
    assert since is not None
    return since
