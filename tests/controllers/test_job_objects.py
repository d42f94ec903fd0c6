"""Names that never collide, and workloads that carry all that a node needs."""

from __future__ import annotations

import pytest

from cumulus.backends.base import EnvVar, GangMember, WorkloadMount
from cumulus.controllers.job import objects
from cumulus.resources import job_partitions
from cumulus.resources.enforcement import Enforcement
from cumulus.resources.fields import check_label_value, check_name
from cumulus.resources.job import Env, EnvSource, GPUJob, HostResources, SecretKeyRef
from cumulus.resources.job import Mount as JobMount
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.meta import JOB_LABEL, ObjectMeta
from cumulus.resources.node import DeviceStatus, GPUNode, GPUNodeSpec, GPUNodeStatus, SshAddress
from cumulus.resources.partition import GPUPartitionStatus, PartitionPhase
from tests.controllers.objects import a_job


def stored(name: str = "train", uid: str = "12345678-9abc", **spec: object) -> GPUJob:
    meta = ObjectMeta(name=name, namespace="default", uid=uid, creation_timestamp="2030-01-01T00:00:00Z")
    return a_job(**spec).replace(metadata=meta)  # type: ignore[arg-type]


def test_names_are_as_agreed() -> None:
    job = stored(replicas=2)
    assert job_partitions.partition_names(job, 3) == ("train-a3-r0-d0", "train-a3-r1-d0")
    assert objects.workload_name(job, 3, 1) == "default.train.12345678-a3-r1"


@pytest.mark.parametrize("name", ["a" * 253, "a" * 226, "x." + "y" * 240, "a" * 63, "a-" * 100 + "b"])
def test_names_of_long_jobs_are_valid_and_distinct(name: str) -> None:
    job, other = stored(name), stored(name[:-1] + "z")
    for partition in job_partitions.partitions(job, 1000):
        check_name(partition.metadata.name)
        check_label_value(partition.metadata.labels[JOB_LABEL])
        assert partition.spec.gang is not None
        check_name(partition.spec.gang.name)
    assert set(job_partitions.partition_names(job, 1)).isdisjoint(job_partitions.partition_names(other, 1))
    assert len(objects.workload_name(job, 1000, 999)) < 240


def test_a_workload_carries_everything() -> None:
    secret = EnvSource(secret_key_ref=SecretKeyRef(name="s", key="k"))
    job = stored(
        image="x", command=("python", "train.py"), args=("--fast",), working_dir="/w", replicas=2, count=1,
        env=(Env(name="A", value="1"), Env(name="S", value_from=secret)),
        mounts=(JobMount(source="/data", target="/d", read_only=True),),
        resources=HostResources(cpus="500m", memory="1Gi"),
        checkpoint=Checkpoint(path="/ckpt", grace_period="45s"),
    )  # fmt: skip
    status = GPUPartitionStatus(
        phase=PartitionPhase.ACTIVE, node="n", device=1, partition_id="lease", memory_bytes=20, compute=250,
        fencing_token=7, expires_at="2030-01-01T01:00:00Z", enforcement=Enforcement.GUARDED,
    )  # fmt: skip
    held = [job_partitions.partitions(job, 2)[1].replace(status=status)]
    device = DeviceStatus(index=1, id="pci-1", name="H100", memory_bytes=80, platform_index=2, device_index=3)
    node = GPUNode(metadata=ObjectMeta(name="n"), status=GPUNodeStatus(devices=(device,)))
    work = objects.workload(job, 2, 1, held, {"n": node})
    assert (work.namespace, work.job, work.job_uid, work.attempt) == ("default", "train", job.uid, 2)
    assert (work.replica, work.replicas, work.node) == (1, 2, "n")
    assert (work.command, work.working_dir) == (("python", "train.py", "--fast"), "/w")
    assert work.env == (EnvVar("A", "1"), EnvVar("S", secret="s", key="k"))
    assert work.mounts == (WorkloadMount("/data", "/d", True),)
    assert (work.cpu_millis, work.memory_bytes, work.grace, work.checkpoint_path) == (500, 2**30, 45, "/ckpt")
    (lease,) = work.leases
    assert (lease.id, lease.token, lease.device, lease.device_id) == ("lease", 7, 1, "pci-1")
    assert (lease.platform_index, lease.device_index, lease.enforcement) == (2, 3, "guarded")
    assert (lease.memory_bytes, lease.compute, lease.expires_at) == (20, 250, "2030-01-01T01:00:00Z")


def test_what_only_a_container_has_reaches_its_workload_and_its_partitions() -> None:
    job = stored(
        image="x", run_as_user=1000, shm_size="1Gi", placement="Spread", replicas=2,
        ports=({"containerPort": 81, "hostPort": 8081}, {"containerPort": 80, "hostPort": 8080}),
    )  # fmt: skip
    partitions = job_partitions.partitions(job, 1)
    assert {(p.spec.placement, p.spec.host_ports) for p in partitions} == {("Spread", (8080, 8081))}
    nodes = {
        "n": GPUNode(
            metadata=ObjectMeta(name="n"),
            status=GPUNodeStatus(devices=(DeviceStatus(index=0, name="H100", memory_bytes=1),)),
        )
    }
    held = [partitions[0].replace(status=GPUPartitionStatus(node="n", device=0))]
    work = objects.workload(job, 1, 0, held, nodes)
    assert (work.user_id, work.shm_bytes, work.host_network) == (1000, 2**30, False)
    assert work.ports == ((81, 8081), (80, 8080))
    work = objects.workload(stored(image="x", host_network=True, run_as_user=0), 1, 0, held, nodes)
    assert (work.user_id, work.host_network, work.ports, work.shm_bytes) == (0, True, (), 0)


def test_a_gang_says_where_all_its_replicas_are() -> None:
    job = stored(replicas=2)
    partitions = job_partitions.partitions(job, 1)
    held = [p.replace(status=GPUPartitionStatus(node=n, device=0)) for p, n in zip(partitions, "ba", strict=True)]
    ssh = SshAddress(host="10.0.0.7", user="root")
    nodes = {
        "a": GPUNode(metadata=ObjectMeta(name="a"), spec=GPUNodeSpec(ssh=ssh)),
        "b": GPUNode(metadata=ObjectMeta(name="b"), status=GPUNodeStatus(hostname="b.lab")),
    }
    assert objects.gang_of(job, held, nodes) == (GangMember("b", "b.lab"), GangMember("a", "10.0.0.7"))
    assert objects.gang_of(stored(), held[:1], nodes) == ()


def test_the_runtime_follows_the_image() -> None:
    assert job_partitions.runtime(stored()) == "process"
    assert job_partitions.runtime(stored(image="repo/x")) == "container"
    assert [p.spec.runtime for p in job_partitions.partitions(stored(image="repo/x"), 1)] == ["container"]
