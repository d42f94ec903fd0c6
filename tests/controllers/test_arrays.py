"""GPUJobArrays: their plan, and their jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus.controllers.array.plan import plan
from cumulus.errors import InvalidObject
from cumulus.resources import array_values, index_ranges
from cumulus.resources.cron_job import JobTemplate
from cumulus.resources.event import Event
from cumulus.resources.index_ranges import Indexes
from cumulus.resources.job import Env, GPUJob, GPUJobStatus
from cumulus.resources.job_array import ArrayPhase, GPUJobArray, GPUJobArraySpec, GPUJobArrayStatus
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.key import API_VERSION, Document, Key
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.queue import Queue, QueueSpec
from cumulus.resources.reasons import EventReason
from cumulus.resources.submitter import Submitter
from cumulus.service.identity import Identity
from tests.controllers.driver import settle
from tests.controllers.objects import a_job
from tests.controllers.test_cron import at
from tests.gitops.cluster import Cluster

ROOT = Identity("root", 0)


def an_array(indexes: str | None = "0-9", *, status: dict[str, Any] | None = None, **spec: Any) -> GPUJobArray:
    template = JobTemplate(spec=a_job(memory="0.1", image="busybox").spec)
    return GPUJobArray(
        metadata=ObjectMeta(name="sweep", namespace="default", uid="u"),
        spec=GPUJobArraySpec(indexes=indexes, job_template=template, **spec),
        status=GPUJobArrayStatus(**status or {}),
    )


def child(index: int, phase: str, done: str = "10:00") -> GPUJob:
    status = GPUJobStatus(phase=JobPhase(phase), completion_time=at(done).isoformat() if phase != "Running" else None)
    return a_job(f"sweep-{index}").replace(status=status)


@pytest.mark.parametrize(
    ("indexes", "spec", "status", "phases", "create", "said"),
    [
        ("0-9", {"parallelism": 3}, {}, {}, (0, 1, 2), {"active": "0-2", "waiting": 7}),
        ("0-9", {"parallelism": 3}, {"active": "0-2"}, {0: "Running", 1: "Succeeded", 2: "Failed"}, (3, 4),
         {"active": "0,3-4", "succeeded": "1", "failed": "2", "waiting": 5}),
        # What was made and is gone was deleted; what was recorded stays, though its job is gone.
        ("0-4", {"parallelism": 9}, {"active": "0", "succeeded": "1", "failed": "2"}, {}, (3, 4),
         {"succeeded": "1", "failed": "0,2", "active": "3-4"}),
        ("3,5-6", {"parallelism": 9}, {}, {}, (3, 5, 6), {"active": "3,5-6", "waiting": 0}),
        ("0-1", {"suspend": True}, {}, {}, (), {"phase": "Suspended", "waiting": 2}),
        ("0-1", {}, {"active": "0-1"}, {0: "Succeeded", 1: "Succeeded"}, (), {"phase": "Succeeded"}),
        ("0-1", {}, {"active": "0-1"}, {0: "Succeeded", 1: "Failed"}, (), {"phase": "Failed", "failed": "1"}),
        # One that failed runs again.
        ("0-1", {}, {"succeeded": "0", "failed": "1"}, {1: "Running"}, (), {"phase": "Running", "active": "1"}),
    ],
)  # fmt: skip
def test_plans(
    indexes: str, spec: dict[str, Any], status: dict[str, Any], phases: dict[int, str], create: tuple[int, ...],
    said: dict[str, Any],
) -> None:  # fmt: skip
    jobs = {index: child(index, phase) for index, phase in phases.items()}
    found = plan(an_array(indexes, status=status, **spec), jobs, at("12:00"))
    assert found.create == create
    assert {name: getattr(found.status, name) for name in said} == said
    assert (found.status.completion_time is not None) == (found.status.phase in ("Succeeded", "Failed"))


def test_only_jobs_whose_end_is_recorded_go_the_oldest_first() -> None:
    jobs = {n: child(n, "Succeeded", f"1{n}:00") for n in range(4)}
    array = an_array("0-9", status={"succeeded": "0-2"}, successful_jobs_history_limit=1)
    assert [job.metadata.name for job in plan(array, jobs, at("20:00")).forget] == ["sweep-0", "sweep-1"]


SETS = st.sets(st.integers(0, 40) | st.integers(0, index_ranges.HIGHEST), max_size=20)


@given(SETS, SETS)
def test_ranges_are_what_sets_are(one: set[int], other: set[int]) -> None:
    a, b = Indexes.of(one), Indexes.of(other)
    assert list(index_ranges.parse(str(a))) == list(a) == sorted(one)
    assert (len(a), bool(a), a == b) == (len(one), bool(one), one == other)
    assert a | b == Indexes.of(one | other)
    assert a - b == Indexes.of(one - other)
    assert {index for index in one | other if index in a} == one


@pytest.mark.parametrize("text", ["", "a", "3-1", "0-9:0", "0-999999", "0-999999:2", "1,,2", "-1", "0-9%2000"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"index|begins"):
        index_ranges.check(text)


def manifest(indexes: str | None = "0-5", **spec: Any) -> Document:
    named = {} if indexes is None else {"indexes": indexes}
    job = {"command": ["train"], "gpu": {"memory": "10%", "duration": "1h"}}
    return {
        "apiVersion": API_VERSION, "kind": "GPUJobArray", "metadata": {"name": "sweep", "namespace": "default"},
        "spec": {**named, "jobTemplate": {"spec": job}, **spec},
    }  # fmt: skip


def array(cluster: Cluster) -> GPUJobArray:
    return cluster.world.client.get(GPUJobArray, "default", "sweep")


def test_each_index_is_one_job_so_many_at_once_as_the_submitter(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=("node-1",))
    cluster.job_seconds = 100
    cluster.service.objects.create(ROOT, manifest(parallelism=2, successfulJobsHistoryLimit=3))
    settle(cluster.world, cluster.daemon, seconds=20)
    jobs = cluster.world.client.list(GPUJob)
    assert [job.metadata.name for job in jobs] == ["sweep-0", "sweep-1"]
    assert [{e.name: e.value for e in job.spec.env} for job in jobs] == [
        {"CUMULUS_ARRAY_INDEX": str(n), "CUMULUS_ARRAY_COUNT": "6"} for n in range(2)
    ]
    assert all(Submitter.of(job.metadata.annotations)[:2] == ("root", 0) for job in jobs)
    # One is deleted by its index; the others go on.
    cluster.service.objects.delete(ROOT, Key("GPUJob", "default", "sweep-1"))
    settle(cluster.world, cluster.daemon, seconds=600)
    found = array(cluster).status
    assert (found.phase, found.succeeded, found.failed) == (ArrayPhase.FAILED, "0,2-5", "1")
    assert [job.metadata.name for job in cluster.world.client.list(GPUJob)] == ["sweep-3", "sweep-4", "sweep-5"]
    # Another is run again by its index.
    cluster.service.reruns.rerun(ROOT, Key("GPUJob", "default", "sweep-4"))
    settle(cluster.world, cluster.daemon, seconds=20)
    assert array(cluster).status.active == "4"
    settle(cluster.world, cluster.daemon, seconds=200)
    assert (array(cluster).status.succeeded, array(cluster).status.phase) == ("0,2-5", ArrayPhase.FAILED)
    cluster.world.client.delete(array(cluster))
    settle(cluster.world, cluster.daemon, seconds=60)
    assert cluster.world.client.list(GPUJob) == []


@pytest.mark.parametrize(
    ("spec", "index", "found", "said"),
    [
        ({"values": ["small", 0.5, 3]}, 1, {"CUMULUS_ARRAY_VALUE": "0.5"}, "0.5"),
        ({"matrix": {"seed": [1, 2, 3], "lr": [0.1, "1e-3"]}}, 4,
         {"CUMULUS_MATRIX_LR": "1e-3", "CUMULUS_MATRIX_SEED": "2"}, "lr=1e-3, seed=2"),
    ],
)  # fmt: skip
def test_an_index_has_its_values(spec: dict[str, Any], index: int, found: dict[str, str], said: str) -> None:
    array = an_array(None, **spec)
    count = {"CUMULUS_ARRAY_INDEX": str(index), "CUMULUS_ARRAY_COUNT": str(len(array.spec.wanted))}
    job = array.job(index)
    assert {each.name: each.value for each in job.spec.env} == count | found
    assert array_values.of_array(array.to_json(), index) == said
    assert array_values.of_job(job.to_json()) == said


def test_every_combination_comes_once() -> None:
    array = an_array(None, matrix={"a": [0, 1, 2], "b": ["x", "y"], "c": [7, 8]})
    found = [tuple(array_values.at((), array.spec.matrix, index).values()) for index in array.spec.wanted]
    assert found == [(a, b, c) for a in "012" for b in "xy" for c in "78"]


def test_values_are_filled_in() -> None:
    array = GPUJobArray.model_validate(manifest(None, values=["a b", "$(CUMULUS_ARRAY_INDEX)"]))
    spec = array.spec.job_template.spec.model_copy(update={
        "command": ("train", "--in=$(CUMULUS_ARRAY_VALUE)", "$$(CUMULUS_ARRAY_VALUE)", "$(date) $CUMULUS_ARRAY_INDEX"),
        "args": ("$(CUMULUS_ARRAY_INDEX)",), "env": (Env(name="OUT", value="out/$(CUMULUS_ARRAY_INDEX)"),),
        "working_dir": "/data/$(CUMULUS_ARRAY_INDEX)", "checkpoint": Checkpoint(path="saves/$(CUMULUS_ARRAY_INDEX)"),
    })  # fmt: skip
    made = array.replace(spec=array.spec.model_copy(update={"job_template": JobTemplate(spec=spec)}))
    job = made.job(0).spec
    assert job.command == ("train", "--in=a b", "$(CUMULUS_ARRAY_VALUE)", "$(date) $CUMULUS_ARRAY_INDEX")
    assert (job.args, job.env[0].value, job.working_dir) == (("0",), "out/0", "/data/0")
    assert job.checkpoint is not None
    assert job.checkpoint.path == "saves/0"
    # What a value says is no place for another.
    assert made.job(1).spec.command[1] == "--in=$(CUMULUS_ARRAY_INDEX)"


def test_a_matrix_runs(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=("node-1",))
    cluster.service.objects.create(ROOT, manifest(None, matrix={"lr": [0.1, 0.01], "seed": [1, 2]}, parallelism=3))
    settle(cluster.world, cluster.daemon, seconds=300)
    found = array(cluster).status
    assert (found.phase, found.succeeded, found.waiting) == (ArrayPhase.SUCCEEDED, "0-3", 0)
    jobs = [job.to_json() for job in cluster.world.client.list(GPUJob)]
    assert [array_values.of_job(job) for job in jobs] == [
        f"lr={lr}, seed={seed}" for lr in (0.1, 0.01) for seed in (1, 2)
    ]


def test_a_job_goes_after_an_array_and_after_an_index_that_is_gone(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=("node-1",))
    cluster.job_seconds = 30
    job = manifest()["spec"]["jobTemplate"]["spec"]

    def make(name: str, *others: str) -> None:
        metadata = {"name": name, "namespace": "default"}
        spec = {**job, "after": {"succeeded": list(others)}}
        document = {"apiVersion": API_VERSION, "kind": "GPUJob", "metadata": metadata, "spec": spec}
        cluster.service.objects.create(ROOT, document)

    def phase(name: str) -> JobPhase:
        return cluster.world.client.get(GPUJob, "default", name).status.phase

    make("sum", "array/sweep")
    settle(cluster.world, cluster.daemon, seconds=5)
    said = cluster.service.explanations.why(ROOT, Key("GPUJob", "default", "sum")).lines[0]
    assert "for array/sweep to succeed (there is no such array yet)" in said
    cluster.service.objects.create(ROOT, manifest("0-3", parallelism=2, successfulJobsHistoryLimit=1))
    settle(cluster.world, cluster.daemon, seconds=20)
    assert phase("sum") is JobPhase.PENDING
    settle(cluster.world, cluster.daemon, seconds=300)
    assert phase("sum") is JobPhase.SUCCEEDED
    make("second", "sweep-0", "array/sweep")
    make("vain", "sweep-9")
    settle(cluster.world, cluster.daemon, seconds=60)
    assert phase("second") is JobPhase.SUCCEEDED
    assert phase("vain") is JobPhase.PENDING


def test_no_array_waits_for_itself(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=("node-1",))
    wanted = manifest("0-3")
    template = wanted["spec"]["jobTemplate"]["spec"]
    job: Document = {
        "apiVersion": API_VERSION, "kind": "GPUJob", "metadata": {"name": "sum", "namespace": "default"},
        "spec": {**template, "after": {"finished": ["sweep-2"]}},
    }  # fmt: skip
    cluster.service.objects.create(ROOT, job)
    wanted["spec"]["jobTemplate"]["spec"] = {**template, "after": {"succeeded": ["sum"]}}
    with pytest.raises(InvalidObject, match="array/sweep after sum after sweep-2 after array/sweep"):
        cluster.service.objects.create(ROOT, wanted)
    wanted["spec"]["jobTemplate"]["spec"] = {**template, "after": {"succeeded": ["sweep-1"]}}
    with pytest.raises(InvalidObject, match="is a part of the array itself"):
        cluster.service.objects.create(ROOT, wanted)


def test_an_index_whose_name_another_job_has_waits_and_the_others_go_on(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=("node-1",))
    foreign = cluster.service.objects.create(ROOT, {
        "apiVersion": API_VERSION, "kind": "GPUJob", "metadata": {"name": "sweep-1", "namespace": "default"},
        "spec": {**manifest()["spec"]["jobTemplate"]["spec"], "suspend": True},
    })  # fmt: skip
    cluster.service.objects.create(ROOT, manifest("0-3", parallelism=2))
    settle(cluster.world, cluster.daemon, seconds=300)
    found = array(cluster).status
    assert (found.phase, found.succeeded, found.failed, found.waiting) == (ArrayPhase.RUNNING, "0,2-3", "", 1)
    (said,) = found.conditions
    assert (said.type, said.status, said.reason) == ("JobsMade", "False", "NameTaken")
    assert said.message == "other jobs are named sweep-1; those indexes wait until the names are free"
    (event,) = (e for e in cluster.world.client.list(Event) if e.reason == EventReason.FAILED_CREATE)
    assert (event.message, event.count) == (said.message, 1)
    cluster.service.objects.delete(ROOT, Key("GPUJob", "default", "sweep-1"))
    settle(cluster.world, cluster.daemon, seconds=120)
    found = array(cluster).status
    assert (found.phase, found.succeeded) == (ArrayPhase.SUCCEEDED, "0-3")
    assert [(c.status, c.reason) for c in found.conditions] == [("True", "Made")]
    assert cluster.world.client.get(GPUJob, "default", "sweep-1").uid != foreign["metadata"]["uid"]


def test_what_is_refused_is_told_once_and_what_has_ended_is_recorded_meanwhile(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=("node-1",))
    cluster.job_seconds = 100
    cluster.service.objects.create(ROOT, manifest("0-3", parallelism=2))
    settle(cluster.world, cluster.daemon, seconds=20)
    queue = Queue(metadata=ObjectMeta(name="default"), spec=QueueSpec(max_duration="1m"))
    cluster.service.objects.create(ROOT, queue.to_json())
    settle(cluster.world, cluster.daemon, seconds=600)
    found = array(cluster).status
    assert (found.succeeded, found.active, found.waiting) == ("0-1", "", 2)
    assert [(c.status, c.reason) for c in found.conditions] == [("False", "Refused")]
    (event,) = (e for e in cluster.world.client.list(Event) if e.reason == EventReason.FAILED_CREATE)
    assert event.count == 1
    cluster.service.objects.delete(ROOT, Key("Queue", "", "default"))
    settle(cluster.world, cluster.daemon, seconds=300)
    assert array(cluster).status.phase is ArrayPhase.SUCCEEDED
    assert [(c.status, c.reason) for c in array(cluster).status.conditions] == [("True", "Made")]
