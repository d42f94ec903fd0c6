"""Pods: one for each replica of a job, as long as the job is there. Each further attempt is a restart of its container.

A pod has no environment but the names of the secrets that it takes variables from. It states no resources: `kubectl
describe node` would hold them against a node's CPUs, which nobody counts here.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from cumulus.resources.columns import age
from cumulus.resources.condition_types import JobCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.job_partitions import GRACE
from cumulus.resources.job_phase import RUNNING_PHASES, JobPhase
from cumulus.resources.key import API_VERSION, Document
from cumulus.resources.kind import Column
from cumulus.resources.kinds import gpujob
from cumulus.resources.kinds.gpujob import job_attempts, job_command, job_gpu, job_node, job_reason
from cumulus.resources.meta import JOB_LABEL, REPLICA_LABEL
from cumulus.resources.quantity import parse_duration
from cumulus.resources.reasons import AttemptReason
from cumulus.resources.submitter import SUBMITTER
from cumulus.server.http.kubernetes.core.view import KEPT, ComputedKind, routes

CONTAINER = "job"
"""The name of a pod's only container."""
NO_EXIT_CODE = 137
"""Of an attempt whose program's exit code nobody saw: Kubernetes says so of a container that went with its node."""
GPU_ANNOTATION = "cumulus.dev/gpu"
"""Annotation of a pod: what share it leases, for people."""

_UIDS = uuid.UUID("b0a3d9de-27a5-49f8-8c6b-1c3f54d7a3e0")
_NAME = re.compile(r"(.+)-(0|[1-9][0-9]{0,3})")


def pod_name(job: str, replica: int) -> str:
    return f"{job}-{replica}"


def pod_uid(job_uid: str, replica: int) -> str:
    return str(uuid.uuid5(_UIDS, f"{job_uid}/{replica}"))


def job_of(pod: str) -> tuple[str, int] | None:
    """The job and the replica that a pod is of; None for what is no pod's name."""
    found = _NAME.fullmatch(pod)
    return (found[1], int(found[2])) if found else None


def pods_of(job: Document, _: datetime) -> Sequence[Document]:
    shared = _Shared(job)
    return [shared.pod(replica) for replica in range(lookup(job, "spec.replicas") or 1)]


def attempts_of(job: Document) -> list[Document]:
    """Those that have started, as far as the status remembers: the last is what the container runs or ran."""
    return [dict(a) for a in lookup(job, "status.attempts") or () if a.get("startTime")]


class _Shared:
    """What the pods of a job have in common."""

    def __init__(self, job: Document) -> None:
        self._job = job
        self._metadata = job["metadata"]
        self._spec = job.get("spec") or {}
        self._phase = lookup(job, "status.phase") or JobPhase.PENDING
        started = attempts_of(job)
        self._last = started[-1] if started else {}
        self._before = started[-2] if len(started) > 1 else {}
        self._live = bool(self._last) and not self._last.get("endTime")
        self._over = self._phase in (JobPhase.SUCCEEDED, JobPhase.FAILED)
        self._restarts = max(0, int(job_attempts(job)) - 1)
        self._ready = self._live and self._phase in RUNNING_PHASES
        self._container = self._container_spec()
        self._state = self._container_state()

    def pod(self, replica: int) -> Document:
        node = self._node(replica)
        return {
            "apiVersion": "v1", "kind": "Pod", "metadata": self._pod_metadata(replica),
            "spec": {
                "containers": [self._container], "restartPolicy": "OnFailure", **({"nodeName": node} if node else {}),
                **self._volumes(), "terminationGracePeriodSeconds": self._grace(), "schedulerName": "cumulus",
            },
            "status": self._status(),
        }  # fmt: skip

    def _pod_metadata(self, replica: int) -> Document:
        mine, name = self._metadata, pod_name(self._metadata["name"], replica)
        labels = {**(mine.get("labels") or {}), JOB_LABEL: mine["name"], REPLICA_LABEL: str(replica)}
        submitter = (mine.get("annotations") or {}).get(SUBMITTER)
        annotations = {GPU_ANNOTATION: job_gpu(self._job), **({SUBMITTER: submitter} if submitter else {})}
        owner = {"apiVersion": API_VERSION, "kind": gpujob.KIND.name, "name": mine["name"], "uid": mine["uid"]}
        return {
            **{field: mine[field] for field in KEPT if field in mine}, "name": name,
            "uid": pod_uid(mine["uid"], replica), "labels": labels, "annotations": annotations,
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        }  # fmt: skip

    def _container_spec(self) -> Document:
        spec = self._spec
        secrets = [
            {"name": each["name"], "valueFrom": {"secretKeyRef": _reference(each)}}
            for each in spec.get("env") or ()
            if lookup(each, "valueFrom.secretKeyRef")
        ]
        mounts = [
            {"name": f"mount-{n}", "mountPath": mount["target"], "readOnly": bool(mount.get("readOnly"))}
            for n, mount in enumerate(spec.get("mounts") or ())
        ]
        command, args = job_command(spec)
        given = {
            "command": command, "args": args, "workingDir": spec.get("workingDir"),
            "env": secrets, "volumeMounts": mounts,
        }  # fmt: skip
        return {
            "name": CONTAINER, "image": spec.get("image") or "", "resources": {},
            **{k: v for k, v in given.items() if v}, **({"stdin": True, "tty": True} if spec.get("tty") else {}),
            **({"stdin": True, "stdinOnce": True} if spec.get("stdin") else {}),
        }  # fmt: skip

    def _volumes(self) -> Document:
        found = [
            {"name": f"mount-{n}", "hostPath": {"path": mount["source"], "type": ""}}
            for n, mount in enumerate(self._spec.get("mounts") or ())
        ]
        return {"volumes": found} if found else {}

    def _grace(self) -> int:
        checkpoint = self._spec.get("checkpoint")
        given = checkpoint.get("gracePeriod", "30s") if isinstance(checkpoint, dict) else GRACE
        return int(parse_duration(str(given)))

    def _node(self, replica: int) -> str:
        if not job_node(self._job):
            return ""
        last = (lookup(self._job, "status.attempts") or [{}])[-1]
        nodes = last.get("nodes") or [last.get("node", "")]
        return str(nodes[min(replica, len(nodes) - 1)])

    def _status(self) -> Document:
        phase = "Running" if self._live else self._phase if self._over else "Pending"
        status: Document = {"phase": phase, "conditions": list(self._conditions()), "qosClass": "BestEffort"}
        if self._last:
            status["startTime"] = self._last["startTime"]
        if self._phase == JobPhase.SUSPENDED or (self._phase == JobPhase.FAILED and not self._last):
            status |= {"reason": job_reason(self._job) or self._phase, "message": self._message()}
        if self._state:
            before = _terminated(self._before if self._live or self._over else self._last)
            status["containerStatuses"] = [
                {
                    "name": CONTAINER, "image": self._container["image"], "imageID": "", "ready": self._ready,
                    "started": self._live, "restartCount": self._restarts, "state": self._state,
                    "lastState": before,
                }
            ]  # fmt: skip
        return status

    def _container_state(self) -> Document:
        """Empty where nothing was placed yet: Kubernetes' clients say Pending then."""
        if self._live:
            return {"running": {"startedAt": self._last["startTime"]}}
        if self._over and self._last:
            return _terminated(self._last)
        if self._last or self._phase == JobPhase.SCHEDULED:
            return {"waiting": {"reason": job_reason(self._job) or self._phase, "message": self._message()}}
        return {}

    def _message(self) -> str:
        for type in (self._phase, JobCondition.SCHEDULED, JobCondition.PARTITIONS_READY, JobCondition.RUNNING):
            found = condition(self._job, type)
            if found.get("message") and (type == self._phase) == (found.get("status") == "True"):
                return str(found["message"])
        return ""

    def _conditions(self) -> Iterator[Document]:
        scheduled = condition(self._job, JobCondition.SCHEDULED)
        placed = self._live or self._over or scheduled.get("status") == "True"
        why = {} if placed else {"reason": "Unschedulable", "message": str(scheduled.get("message") or "")}
        yield self._condition("PodScheduled", placed, scheduled, why)
        yield self._condition("Initialized", bool(self._last), condition(self._job, JobCondition.RUNNING))
        done = {"reason": "PodCompleted"} if self._phase == JobPhase.SUCCEEDED else {}
        not_ready = {} if self._ready else done or {"reason": "ContainersNotReady"}
        for type in ("ContainersReady", "Ready"):
            yield self._condition(type, self._ready, condition(self._job, JobCondition.RUNNING), not_ready)

    def _condition(self, type: str, holds: bool, ours: Mapping[str, Any], why: Mapping[str, str] = {}) -> Document:
        since = ours.get("lastTransitionTime") or self._metadata.get("creationTimestamp")
        return {"type": type, "status": str(holds), "lastTransitionTime": since, **why}


def _reference(variable: Document) -> Document:
    reference = variable["valueFrom"]["secretKeyRef"]
    return {"name": reference["name"], "key": reference["key"]}


def _terminated(attempt: Mapping[str, Any]) -> Document:
    if not attempt.get("endTime"):
        return {}
    code = attempt.get("exitCode")
    if code is None:
        code = 0 if attempt.get("reason") == AttemptReason.COMPLETED else NO_EXIT_CODE
    return {
        "terminated": {
            "exitCode": code, "reason": attempt.get("reason") or "Error", "message": attempt.get("message", ""),
            "startedAt": attempt["startTime"], "finishedAt": attempt["endTime"],
        }
    }  # fmt: skip


def _container_status(pod: Document) -> Document:
    return dict((lookup(pod, "status.containerStatuses") or [{}])[0])


def status_cell(pod: Document) -> str:
    """As kubectl words it: Running, Completed, Error, and why it waits."""
    if lookup(pod, "metadata.deletionTimestamp"):
        return "Terminating"
    state = _container_status(pod).get("state") or {}
    for type in ("waiting", "terminated"):
        if type in state:
            return str(state[type].get("reason") or "") or type.title()
    return str(lookup(pod, "status.reason") or lookup(pod, "status.phase"))


def restarts_cell(pod: Document, now: datetime) -> str:
    found = _container_status(pod)
    count = found.get("restartCount") or 0
    last = lookup(found, "lastState.terminated.finishedAt")
    return f"{count} ({age(last, now)} ago)" if count and last else str(count)


VIEW = ComputedKind(
    "Pod",
    "pods",
    True,
    (
        Column("READY", cell=lambda pod, _: f"{int(bool(_container_status(pod).get('ready')))}/1"),
        Column("STATUS", cell=lambda pod, _: status_cell(pod)),
        Column("RESTARTS", cell=lambda pod, view: restarts_cell(pod, view.now)),
        Column("AGE", "metadata.creationTimestamp", form="age"),
        Column("NODE", "spec.nodeName", wide=True),
        Column("GPU", cell=lambda pod, _: pod["metadata"]["annotations"][GPU_ANNOTATION], wide=True),
    ),
    gpujob.KIND.name,
    pods_of,
    "pods are a view of jobs: change or delete the gpujob that the pod is of",
    lambda name: found[0] if (found := job_of(name)) else None,
    at_once=20,
)
ROUTES = routes(VIEW)
