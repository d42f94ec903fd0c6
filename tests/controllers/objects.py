"""Short ways to make the objects that the tests of the controllers need."""

from __future__ import annotations

from typing import Any

from cumulus.resources.job import GPU, GPUJob, GPUJobSpec
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.partition import GPUPartition, GPUPartitionSpec


def a_job(name: str = "train", *, memory: str = "0.5", duration: str = "1h", count: int = 1, **spec: Any) -> GPUJob:
    gpu = GPU(memory=memory, duration=duration, count=count)
    fields = {"command": ("train",), "gpu": gpu, **spec}
    return GPUJob(metadata=ObjectMeta(name=name, namespace="default"), spec=GPUJobSpec(**fields))


def a_partition(name: str = "share", *, memory: str = "0.5", duration: str = "1h", **spec: Any) -> GPUPartition:
    fields = {"memory": memory, "duration": duration, **spec}
    return GPUPartition(metadata=ObjectMeta(name=name, namespace="default"), spec=GPUPartitionSpec(**fields))
