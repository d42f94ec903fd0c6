"""GPUCronJobs: their plan, and their jobs."""

from __future__ import annotations

import pwd
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cumulus.clock import timestamp
from cumulus.controllers.cron.plan import plan
from cumulus.errors import Forbidden
from cumulus.resources.cron_job import GPUCronJob, GPUCronJobSpec, JobTemplate
from cumulus.resources.event import Event
from cumulus.resources.job import GPUJob, GPUJobStatus
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.key import API_VERSION, Document, key_of
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.reasons import EventReason
from cumulus.resources.submitter import Submitter
from cumulus.service.identity import Identity
from tests.controllers.driver import settle
from tests.controllers.objects import a_job
from tests.gitops.cluster import Cluster

ROOT = Identity("root", 0)
ME = Submitter("tester")


def a_cron(schedule: str = "*/10 * * * *", created: str | None = None, **spec: Any) -> GPUCronJob:
    template = JobTemplate(spec=a_job(memory="0.1", image="busybox").spec)
    meta = ObjectMeta(
        name="nightly", namespace="default", annotations=ME.annotations, creation_timestamp=created, uid="u"
    )
    return GPUCronJob(metadata=meta, spec=GPUCronJobSpec(schedule=schedule, job_template=template, **spec))


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-01-01 {text}").replace(tzinfo=UTC)


def last(cron: GPUCronJob, text: str) -> GPUCronJob:
    return cron.replace(status=cron.status.model_copy(update={"last_schedule_time": timestamp(at(text))}))


def child(name: str, phase: str, done: str = "10:00") -> GPUJob:
    job = a_job(name)
    status = GPUJobStatus(phase=JobPhase(phase), completion_time=timestamp(at(done)))
    return job.replace(
        metadata=job.metadata.model_copy(update={"creation_timestamp": timestamp(at(done))}), status=status
    )


CREATED = "2026-01-01T10:05:00Z"


@pytest.mark.parametrize(
    ("spec", "last_time", "live", "now", "due", "replaced"),
    [
        ({}, None, False, "10:09", None, False),
        ({}, None, False, "10:10", "10:10", False),
        ({}, "10:10", False, "10:19", None, False),
        # A daemon that was down makes the last of those it missed, once.
        ({}, "10:10", False, "12:59", "12:50", False),
        ({"starting_deadline_seconds": 60}, "10:10", False, "12:59", None, False),
        ({"starting_deadline_seconds": 600}, "10:10", False, "12:59", "12:50", False),
        ({"suspend": True}, None, False, "10:10", None, False),
        ({}, "10:10", True, "10:20", "10:20", False),
        ({"concurrency_policy": "Forbid"}, "10:10", True, "10:20", None, False),
        ({"concurrency_policy": "Forbid"}, "10:10", False, "10:25", "10:20", False),
        ({"concurrency_policy": "Replace"}, "10:10", True, "10:20", "10:20", True),
        # The clock goes back by some minutes, and by more than one that was right can.
        ({}, "10:20", False, "10:12", None, False),
        ({}, "15:00", False, "10:20", None, False),
    ],
)
def test_plans(
    spec: dict[str, Any], last_time: str | None, live: bool, now: str, due: str | None, replaced: bool
) -> None:
    cron = a_cron(created=CREATED, **spec)
    cron = cron if last_time is None else last(cron, last_time)
    found = plan(cron, [child("nightly-1", "Running")] if live else [], at(now))
    assert found.due == (None if due is None else at(due))
    assert bool(found.replace) is replaced
    assert (found.status.next_schedule_time is None) == cron.spec.suspend
    if due is not None:
        assert found.status.last_schedule_time == timestamp(at(due))
        assert f"nightly-{int(at(due).timestamp()) // 60}" in found.status.active


def test_a_job_that_is_left_out_and_one_that_waits_are_told_of_once() -> None:
    late = last(a_cron(created=CREATED, starting_deadline_seconds=60), "10:10")
    found = plan(late, [], at("12:59"))
    told = "the job of 2026-01-01T12:50:00Z is left out: its deadline passed before it could be made"
    assert found.told == ((EventReason.MISS_SCHEDULE, told),)
    assert plan(late.replace(status=found.status), [], at("12:59")).told == ()
    busy = last(a_cron(created=CREATED, concurrency_policy="Forbid"), "10:10")
    found = plan(busy, [child("nightly-1", "Running")], at("10:21"))
    assert found.told == (
        (EventReason.JOB_ALREADY_ACTIVE, "the job of 2026-01-01T10:20:00Z waits: nightly-1 is not over"),
    )
    assert plan(busy.replace(status=found.status), [child("nightly-1", "Running")], at("10:22")).told == ()


def test_only_the_newest_are_kept() -> None:
    jobs = [child(f"s{n}", "Succeeded", f"1{n}:00") for n in range(5)] + [child(f"f{n}", "Failed") for n in range(3)]
    found = plan(a_cron(created=CREATED, successful_jobs_history_limit=2, suspend=True), jobs, at("20:00"))
    assert {job.metadata.name for job in found.forget} == {"s0", "s1", "s2", "f0", "f1"}
    assert found.status.last_successful_time == timestamp(at("14:00"))
    assert found.status.active == ()


def manifest(schedule: str = "*/10 * * * *", command: str = "train", **spec: Any) -> Document:
    job = {"command": [command], "gpu": {"memory": "10%", "duration": "1h"}}
    return {
        "apiVersion": API_VERSION, "kind": "GPUCronJob", "metadata": {"name": "nightly", "namespace": "default"},
        "spec": {"schedule": schedule, "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": job}, **spec},
    }  # fmt: skip


def jobs(cluster: Cluster) -> list[GPUJob]:
    return cluster.world.client.list(GPUJob)


def test_jobs_are_made_as_the_submitter_and_old_ones_go(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=("node-1",))
    cluster.service.objects.create(ROOT, manifest(successfulJobsHistoryLimit=2))
    settle(cluster.world, cluster.daemon, seconds=3700)
    found = jobs(cluster)
    assert [job.status.phase for job in found] == [JobPhase.SUCCEEDED] * 2
    assert all(Submitter.of(job.metadata.annotations)[:2] == ("root", 0) for job in found)
    cron = cluster.world.client.get(GPUCronJob, "default", "nightly")
    assert all(job.metadata.labels == {"a": "b"} and job.is_owned_by(cron.uid) for job in found)
    assert cron.status.last_schedule_time is not None
    assert cron.status.active == ()
    made = [e for e in cluster.world.client.list(Event) if e.reason == EventReason.SUCCESSFUL_CREATE]
    assert sum(event.count for event in made) == 6
    # Suspended it makes none; its jobs go with it.
    cluster.service.jobs.suspend(ROOT, cron.key, suspended=True)
    settle(cluster.world, cluster.daemon, seconds=3600)
    assert [job.metadata.name for job in jobs(cluster)] == [job.metadata.name for job in found]
    cluster.world.client.delete(cron)
    settle(cluster.world, cluster.daemon, seconds=60)
    assert jobs(cluster) == []


@pytest.mark.parametrize(("policy", "most"), [("Forbid", 1), ("Replace", 2), ("Allow", 3)])
def test_jobs_that_take_longer_than_the_schedule(tmp_path: Path, policy: str, most: int) -> None:
    cluster = Cluster(tmp_path, nodes=("node-1",))
    cluster.job_seconds = 1500
    cluster.service.objects.create(ROOT, manifest(concurrencyPolicy=policy))
    seen, names = 0, set()
    for _ in range(30):
        settle(cluster.world, cluster.daemon, seconds=120)
        live = [job for job in jobs(cluster) if not job.status.phase.finished]
        seen = max(seen, len(live))
        names |= {job.metadata.name for job in live}
    assert seen <= most
    assert len(names) == {"Forbid": 3, "Replace": 6, "Allow": 6}[policy]


def test_a_daemon_that_dies_at_every_step_makes_each_job_once(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=("node-1",))
    cluster.service.objects.create(ROOT, manifest("* * * * *", successfulJobsHistoryLimit=1000))
    rng, world = random.Random(3), cluster.world
    for _ in range(60):
        daemon = cluster.new_daemon()
        for _ in range(rng.randrange(10, 60)):
            world.backend.tell()
            if not daemon.step():
                world.clock.advance(5)
    minutes = [int(job.metadata.name.rpartition("-")[2]) for job in jobs(cluster)]
    assert len(minutes) > 5
    assert all(job.status.attempt_count <= 1 for job in jobs(cluster))
    made = [e for e in world.client.list(Event) if e.reason == EventReason.FAILED_CREATE]
    assert not made


def test_who_lost_their_role_makes_no_more_jobs(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=("node-1",))
    binding = cluster.service.objects.create(ROOT, {
        "apiVersion": API_VERSION, "kind": "RoleBinding", "metadata": {"name": "daemon", "namespace": "default"},
        "roleRef": {"kind": "Role", "name": "user"}, "subjects": [{"kind": "User", "name": "daemon"}],
    })  # fmt: skip
    daemon = Identity("daemon", pwd.getpwnam("daemon").pw_uid)
    with pytest.raises(Forbidden) as refused:
        cluster.service.objects.create(daemon, manifest())
    assert "would run as the daemon's own user" in (refused.value.hint or "")
    mine = manifest()
    mine["spec"]["jobTemplate"]["spec"]["image"] = "busybox"
    made = cluster.service.objects.create(daemon, mine)
    settle(cluster.world, cluster.daemon, seconds=900)
    (job,) = jobs(cluster)
    assert Submitter.of(job.metadata.annotations) == ("daemon", daemon.uid, False)
    admin = Identity("admin-here", 4242)
    cluster.service.objects.create(ROOT, {
        "apiVersion": API_VERSION, "kind": "RoleBinding", "metadata": {"name": "admin", "namespace": "default"},
        "roleRef": {"kind": "Role", "name": "admin"}, "subjects": [{"kind": "User", "name": "admin-here"}],
    })  # fmt: skip
    other = cluster.service.objects.get(ROOT, key_of(made))
    other["spec"]["jobTemplate"]["spec"]["image"] = "mine"
    with pytest.raises(Forbidden) as refused:
        cluster.service.objects.update(admin, other)
    assert "it acts for daemon" in (refused.value.hint or "")
    cluster.service.objects.delete(ROOT, key_of(binding))
    settle(cluster.world, cluster.daemon, seconds=900)
    assert len(jobs(cluster)) == 1
    said = [e for e in cluster.world.client.list(Event) if e.reason == EventReason.FAILED_CREATE]
    assert "forbidden" in said[0].message
    # Once for each time that was due, though it is tried again every half minute.
    assert sum(event.count for event in said) <= 2
