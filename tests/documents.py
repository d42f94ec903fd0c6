"""Documents as a store holds them: jobs, partitions, nodes, events and the leader's lease, at one moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cumulus.clock import timestamp
from cumulus.resources.key import Document

NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


def ago(**parts: float) -> str:
    return timestamp(NOW - timedelta(**parts))


def ahead(**parts: float) -> str:
    return timestamp(NOW + timedelta(**parts))


def lease(renewed: str, *, holder: str = "here-1-abc", acquired: str = "", process: str = "") -> Document:
    """The leader's, renewed then."""
    spec = {
        "holderIdentity": holder,
        "holderProcess": process,
        "leaseDurationSeconds": 6,
        "acquireTime": acquired or renewed,
        "renewTime": renewed,
        "token": 1,
    }
    return {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "Lease",
        "metadata": {"name": "cumulus-controller"},
        "spec": spec,
    }


def job(name: str, *, namespace: str = "default", status: Document | None = None, **spec: Any) -> Document:
    gpu = {"memory": "50%", "duration": "1h", **spec.pop("gpu", {})}
    labels = spec.pop("labels", {})
    return {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUJob",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"command": ["true"], "gpu": gpu, **spec},
        "status": status or {"phase": "Pending", "attemptCount": 0},
    }


def condition(type: str, status: bool, reason: str, message: str = "", **since: float) -> Document:
    return {
        "type": type,
        "status": str(status),
        "reason": reason,
        "message": message,
        "lastTransitionTime": ago(**(since or {"minutes": 1})),
    }


def running(name: str, node: str = "gpu-1", **more: Any) -> Document:
    status = {
        "phase": "Running",
        "attemptCount": 1,
        "startTime": ago(minutes=5),
        "attempts": [
            {"number": 1, "node": node, "partitions": [f"{name}-a1-r0-d0"], "startTime": ago(minutes=5), "reason": ""}
        ],
        "conditions": [
            condition("Scheduled", True, "Bound", minutes=6),
            condition("PartitionsReady", True, "Active", minutes=5),
            condition("Running", True, "Started", minutes=5),
        ],
    }
    return job(name, status=status, **more)


def failed(name: str, **more: Any) -> Document:
    status = {
        "phase": "Failed",
        "attemptCount": 1,
        "failures": 1,
        "startTime": ago(minutes=5),
        "completionTime": ago(minutes=4),
        "attempts": [
            {"number": 1, "node": "gpu-1", "startTime": ago(minutes=5), "endTime": ago(minutes=4), "exitCode": 3,
             "reason": "Error", "message": "ended with exit code 3"}
        ],
        "conditions": [condition("Failed", True, "Error", "attempt 1 ended with exit code 3", minutes=4)],
    }  # fmt: skip
    return job(name, status=status, **more)


def partition(name: str, *, owner: Document | None = None, status: Document | None = None, **spec: Any) -> Document:
    metadata: Document = {"name": name, "namespace": "default"}
    if owner is not None:
        metadata["labels"] = {"cumulus.dev/job": owner["metadata"]["name"]}
        metadata["ownerReferences"] = [
            {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "name": owner["metadata"]["name"],
             "uid": owner["metadata"]["uid"], "controller": True}
        ]  # fmt: skip
    return {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUPartition",
        "metadata": metadata,
        "spec": {"memory": "50%", "duration": "1h", **spec},
        "status": status or {},
    }


def active(name: str, *, owner: Document | None = None, node: str = "gpu-1", **more: Any) -> Document:
    status = {
        "phase": "Active",
        "node": node,
        "device": 0,
        "deviceName": "H100",
        "partitionId": "p-1234",
        "memoryBytes": 40 * 2**30,
        "compute": 500,
        "enforcement": "guarded",
        "fencingToken": 7,
        "activatedAt": ago(minutes=5),
        "expiresAt": ahead(minutes=55),
        "conditions": [condition("Active", True, "Granted", minutes=5)],
    }
    return partition(name, owner=owner, status=status, **more)


def node(name: str, *, ready: bool = True, free: int = 40 * 2**30, **spec: Any) -> Document:
    device = {
        "index": 0,
        "id": "GPU-1",
        "name": "H100",
        "vendor": "NVIDIA",
        "type": "gpu",
        "memoryBytes": 80 * 2**30,
        "freeMemoryBytes": free,
        "freeCompute": 500,
        "enforcement": "guarded",
        "driver": "580",
    }
    return {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUNode",
        "metadata": {"name": name},
        "spec": spec,
        "status": {
            "hostname": name,
            "runtimes": ["process"],
            "devices": [device],
            "heartbeatTime": ago(seconds=3),
            "chronosVersion": "0.1.0",
            "conditions": [condition("Ready", ready, "Answers" if ready else "Silent", hours=2)],
        },
    }


def event(name: str, about: Document, reason: str, message: str, *, type: str = "Normal", **seen: float) -> Document:
    return {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": about["metadata"].get("namespace", "default")},
        "involvedObject": {
            "kind": about["kind"],
            "namespace": about["metadata"].get("namespace", ""),
            "name": about["metadata"]["name"],
            "uid": about["metadata"].get("uid", ""),
        },
        "reason": reason,
        "message": message,
        "type": type,
        "count": 2,
        "source": {"component": "job"},
        "firstTimestamp": ago(hours=1),
        "lastTimestamp": ago(**(seen or {"minutes": 1})),
    }
