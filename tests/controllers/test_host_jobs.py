"""What nodes are asked about jobs without an image, when, and what placement makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cumulus.backends.cluster import ProgramsAnswer
from cumulus.clock import FakeClock
from cumulus.controllers.node.host_jobs import BAD_SECONDS, GOOD_SECONDS, HostJobsOfNodes
from cumulus.machinery.cache import StoreReader
from cumulus.resources import job_partitions
from cumulus.resources.annotations import SAME_DIRECTORY
from cumulus.resources.job import Attempt, GPUJob
from cumulus.resources.job_call import Call
from cumulus.resources.job_checkpoint import Checkpoint, SavedCheckpoint
from cumulus.resources.node import HostJobs, HostJobUser
from cumulus.resources.partition import Saved
from cumulus.resources.submitter import Submitter
from cumulus.scheduling import fit
from cumulus.scheduling.claim import Filter, claim_of
from cumulus.scheduling.snapshot import Node
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from tests.controllers.objects import a_job

ANN, BOB = ("ann", 1001), ("bob", 1002)


class World:
    """A store with waiting jobs, and a node that knows ann alone."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.asked: list[tuple[tuple[str, int], ...]] = []
        self.why = ""
        self.silent = False
        self.hosts = HostJobsOfNodes(StoreReader(self.store), self.ask, self.clock, ("/home",))

    def ask(self, node: str, users: Sequence[tuple[str, int]]) -> ProgramsAnswer | None:
        self.asked.append(tuple(users))
        if self.silent:
            return None
        return ProgramsAnswer(
            self.why, () if self.why else tuple("" if user == ANN else "no such user" for user in users)
        )

    def waits(self, name: str, user: tuple[str, int], **spec: Any) -> None:
        client = StoreClient(self.store)
        for partition in job_partitions.partitions(client.create(of(a_job(name, **spec), user)), 1):
            client.create(partition)


def of(job: GPUJob, user: tuple[str, int], **more: str) -> GPUJob:
    annotations = {**Submitter(*user).annotations, **more}
    return job.replace(metadata=job.metadata.model_copy(update={"annotations": annotations}))


def test_a_node_is_asked_now_and_then_and_at_once_about_a_new_user() -> None:
    world = World()
    known = world.hosts.of("n", None)
    assert known == HostJobs(offered=True, shared=("/home",))
    world.clock.advance(GOOD_SECONDS / 2)
    assert world.hosts.of("n", known) == known
    world.waits("a", ANN)
    world.waits("b", BOB)
    world.waits("c", ANN, image="x", command=())
    known = world.hosts.of("n", known)
    assert known is not None
    assert known.users == (HostJobUser(name="ann", uid=1001), HostJobUser(name="bob", uid=1002, problem="no such user"))
    assert world.hosts.of("n", known) == known
    world.clock.advance(GOOD_SECONDS)
    world.silent = True
    assert world.hosts.of("n", known) == known
    assert world.asked == [(), (ANN, BOB), (ANN, BOB)]


def test_a_node_that_runs_none_is_asked_again_soon() -> None:
    world = World()
    world.why = "it lacks the host image"
    known = world.hosts.of("n", None)
    assert known is not None
    assert (known.offered, known.message) == (False, "it lacks the host image")
    world.waits("a", ANN)
    assert world.hosts.of("n", known) == known
    world.clock.advance(BAD_SECONDS)
    world.why = ""
    known = world.hosts.of("n", known)
    assert known is not None
    assert (known.offered, known.problem_of("ann:1001"), known.problem_of("bob:1002")) == (True, "", None)


THERE = HostJobs(
    offered=True,
    shared=("/home",),
    users=(HostJobUser(name="ann", uid=1), HostJobUser(name="bob", uid=2, problem="is cat")),
)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Filter(runtime="process", user="ann:1"), ""),
        (Filter(runtime="process", user="ann:1", directory="/home/ann"), ""),
        (
            Filter(runtime="process", user="ann:1", directory="/homes"),
            "the directory /homes is not known to be the same there",
        ),
        (Filter(runtime="process", user="ann:1", directory="/x", same_on=("other", "n")), ""),
        (Filter(runtime="process", user="ann:1", directory="/x", same_on=("other",)), "/x is not known"),
        (Filter(runtime="process", user="ann:1", python="/home/ann/venv/bin/python"), ""),
        (
            Filter(runtime="process", user="ann:1", python="/usr/bin/python3", same_on=("n",)),
            "the Python /usr/bin/python3 is not known to be the same there",
        ),
        (Filter(runtime="process", user="bob:2"), "is cat"),
        (Filter(runtime="process", user="ann:2"), "the node has not yet said whether it knows the user ann"),
        (Filter(runtime="process", user="ann:1", only_here="a call"), "a call runs on the daemon's own machine alone"),
        (Filter(runtime="process"), ""),
        (Filter(runtime="container"), "needs the runtime container"),
    ],
)
def test_placement_reads_what_nodes_said(wanted: Filter, words: str) -> None:
    found = fit.node_mismatch(wanted, Node("n", True, "", False, {}, ("process",), (), host_jobs=THERE))
    assert (found is None) == (not words)
    assert words in (found.message if found is not None else "")
    if not wanted.user:
        return
    # Where the daemon runs its jobs, none of this is asked.
    assert fit.node_mismatch(wanted, Node("n", True, "", False, {}, ("process",), ())) is None


def test_why_a_node_runs_none_is_told() -> None:
    there = HostJobs(offered=False, message="it lacks the host image")
    found = fit.node_mismatch(
        Filter(runtime="process", user="ann:1"), Node("n", True, "", False, {}, ("container",), (), host_jobs=there)
    )
    assert found is not None
    assert found.message == "needs the runtime process, the node offers container: it lacks the host image"


def test_what_a_job_asks_of_a_node_is_in_its_partitions() -> None:
    job = of(a_job(working_dir="/data/x"), ANN, **{SAME_DIRECTORY: "b,c"})
    job = job.replace(
        metadata=job.metadata.model_copy(update={"creation_timestamp": "2026-01-01T00:00:00Z", "uid": "u"})
    )
    (partition,) = job_partitions.partitions(job, 1)
    wanted = claim_of(partition).demand.filter
    assert (wanted.user, wanted.directory, wanted.same_on, wanted.only_here) == ("ann:1001", "/data/x", ("b", "c"), "")
    call = Call(payload="a" * 64, python="3.11", interpreter="/home/ann/bin/python")
    for checkpoint, made, python, only_here in (
        (None, call, "/home/ann/bin/python", ""),
        (None, call.model_copy(update={"interpreter": None}), "", "a call without an image that names no Python"),
        (
            None, call.model_copy(update={"environment": "b" * 64}), "/home/ann/bin/python",
            "a call with requirements and without an image",
        ),
        (Checkpoint(uri="s3://b/p"), None, "", ""),
        (Checkpoint(uri="s3://b/p", from_="before"), None, "", "spec.checkpoint.from without an image"),
    ):  # fmt: skip
        other = job.replace(spec=job.spec.model_copy(update={"checkpoint": checkpoint, "call": made}))
        asked = claim_of(job_partitions.partitions(other, 1)[0]).demand.filter
        assert (asked.python, asked.only_here) == (python, only_here)
    image = job.replace(spec=job.spec.model_copy(update={"image": "x", "working_dir": None}))
    assert claim_of(job_partitions.partitions(image, 1)[0]).demand.filter.user == ""


@pytest.mark.parametrize(
    ("uploaded", "reason", "alone"),
    [(None, "Saved", True), (4, "Saved", True), (5, "Saved", False), (4, "NodeLost", False), (None, "NodeLost", True)],
)
def test_a_checkpoint_that_is_beyond_its_node_binds_to_none(uploaded: int | None, reason: str, alone: bool) -> None:
    job = of(a_job(checkpoint=Checkpoint(uri="s3://b/p")), ANN)
    saved = SavedCheckpoint(step=5, time="2026-01-01T00:00:00Z", node="a", uploaded_step=uploaded)
    status = job.status.model_copy(update={"checkpoint": saved, "attempts": (Attempt(number=1, reason=reason),)})
    metadata = job.metadata.model_copy(update={"creation_timestamp": "2026-01-01T00:00:00Z", "uid": "u"})
    [partition] = job_partitions.partitions(job.replace(status=status, metadata=metadata), 2)
    assert (partition.spec.node, partition.spec.saved) == (None, Saved(node="a", alone=alone))
    wanted = claim_of(partition).demand.filter
    # The other node has it from beyond, or from a, if that answers.
    for reached in ({"a", "b"}, {"b"}):
        other = Node("b", True, "", False, {}, ("process",), (), reached=frozenset(reached))
        found = fit.node_mismatch(wanted, other)
        assert (found is None) == ("a" in reached or not alone)
