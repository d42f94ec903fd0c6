"""To which node a job's checkpoint is brought before its lease, and what its status says of that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cumulus.backends.base import Prefetched, Workload
from cumulus.backends.checkpoints import SealedCheckpoint
from cumulus.controllers.job import prefetch
from cumulus.controllers.job.view import JobView
from cumulus.errors import BackendRefused
from cumulus.resources.event import Event
from cumulus.resources.job import Attempt, GPUJob
from cumulus.resources.job_checkpoint import Checkpoint, PrefetchedCheckpoint, SavedCheckpoint
from cumulus.resources.kinds.gpujob import prefetched
from cumulus.resources.partition import GPUPartition, PartitionPhase, Promise
from cumulus.testing.backend import FakeBackend, Script
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.objects import a_job
from tests.controllers.test_job_plan import NOW, at, shares, stored

SAVED = SavedCheckpoint(step=5, time=at(-30), node="n")


def waiting(phase: PartitionPhase, node: str = "", promise: float | None = None) -> tuple[GPUJob, list[GPUPartition]]:
    """A job whose first attempt ran on n, and whose second has such partitions."""
    job = stored(checkpoint=Checkpoint())
    first = Attempt(number=1, node="n", start_time=at(-100), end_time=at(-10), reason="Saved")
    partitions = shares(job, phase, attempt=2)
    second = Attempt(number=2, partitions=tuple(p.metadata.name for p in partitions))
    status = job.status.model_copy(update={"attempts": (first, second), "attempt_count": 2, "checkpoint": SAVED})
    told = None if promise is None else Promise(start_by=at(promise), node=node, device=0)
    update = {"node": "" if told else node, "promise": told}
    held = [p.replace(status=p.status.model_copy(update=update)) for p in partitions]
    return job.replace(status=status), held


@pytest.mark.parametrize(
    ("phase", "node", "promise", "wanted"),
    [
        pytest.param(PartitionPhase.BOUND, "m", None, {0: "m"}, id="it has its place"),
        pytest.param(PartitionPhase.PENDING, "m", 60, {0: "m"}, id="the queue promised it"),
        pytest.param(PartitionPhase.PENDING, "m", prefetch.HORIZON + 60, {}, id="not for a start that is far away"),
        pytest.param(PartitionPhase.BOUND, "n", None, {}, id="it is there already"),
        pytest.param(PartitionPhase.PENDING, "", None, {}, id="nobody knows where"),
        pytest.param(PartitionPhase.ACTIVE, "m", None, None, id="the start sees to it"),
    ],
)
def test_where_it_is_brought(phase: PartitionPhase, node: str, promise: float | None, wanted: object) -> None:
    job, held = waiting(phase, node, promise)
    view = JobView(job, held, [None], NOW)
    assert prefetch.wanted(view) == wanted
    assert prefetch.due(view) == (60 if promise == prefetch.HORIZON + 60 else None)
    if wanted:
        for change in ({"suspend": True}, {"checkpoint": None}):
            other = job.replace(spec=job.spec.model_copy(update=change))
            assert prefetch.wanted(replace(view, job=other)) == {}
        # Another replica ran there, in the same directory.
        both = job.status.attempts[0].model_copy(update={"nodes": ("n", "m")})
        shared = job.status.model_copy(update={"attempts": (both, job.status.attempts[1])})
        assert prefetch.wanted(replace(view, job=job.replace(status=shared))) == {}
        nothing = job.replace(status=job.status.model_copy(update={"checkpoint": None}))
        assert prefetch.wanted(replace(view, job=nothing)) == {}


def test_the_attempt_that_is_queued_ahead_gets_it_while_the_last_one_runs() -> None:
    job, held = waiting(PartitionPhase.ACTIVE, "m")
    first, second = job.status.attempts
    first = first.model_copy(update={"end_time": None})
    status = job.status.model_copy(update={"attempts": (first,), "next": second, "attempt_count": 1})
    assert prefetch.wanted(JobView(job.replace(status=status), held, [None], NOW)) == {0: "m"}


@pytest.mark.parametrize(
    ("found", "state", "event", "words"),
    [
        ([], None, "", ""),
        ([Prefetched("m")], "Fetching", "", "on its way to m"),
        ([Prefetched("m", 5, True)], "Arrived", "CheckpointPrefetched", "step 5 is on m"),
        ([Prefetched("m", 5, True), Prefetched("o")], "Fetching", "", "on its way to m, o"),
        ([Prefetched("m", None, True)], "Arrived", "", "m needs nothing"),
        ([Prefetched("m", None, True, "no room")], "Failed", "CheckpointNotPrefetched",
         "not to m: no room; the start tries it again"),
    ],
)  # fmt: skip
def test_what_is_told(found: list[Prefetched], state: str | None, event: str, words: str) -> None:
    told = prefetch.told(2, found)
    assert (None if told is None else told.state) == state
    assert [each.reason for each in prefetch.events(None, told)] == ([event] if event else [])
    assert prefetch.events(told, told) == ()
    status = {} if told is None else {"prefetch": told.model_dump(by_alias=True)}
    assert prefetched({"status": status}) == words


class Ahead(FakeBackend):
    """Tells what a test says of what is brought, and notes what it was asked for."""

    told: Prefetched | None = None
    asked: list[tuple[str, int, str]]
    given_up: list[str]

    def prefetch(self, workload: Workload, saved: str) -> Prefetched | None:
        asked = workload.checkpointing
        self.asked.append((workload.node, workload.attempt, "" if asked is None else asked.uri))
        if self.told is None:
            raise BackendRefused("nobody is there")
        return replace(self.told, node=workload.node)

    def give_up(self, job_uid: str) -> None:
        self.given_up.append(job_uid)


def test_a_job_that_is_handed_over_to_another_node(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = SealedCheckpoint(5, "2030-01-01T00:00:30Z", 100, 1.0, "/c")

    def script(work: Workload) -> Script:
        return Script(seconds=300, saved=saved if work.attempt == 1 else None)

    world = World(["node-1", "node-2"], script=script)
    backend = Ahead(world.clock, nodes=world.leases, script=script)
    backend.asked, backend.given_up = [], []
    world.backend = backend
    daemon = Daemon(world)
    # The whole of a device: the next attempt, which is queued ahead, has to go to the other node.
    world.apply(a_job(memory="100%", duration="100s", checkpoint=Checkpoint(uri="file:///shared/c")))

    def told() -> PrefetchedCheckpoint | None:
        return world.job("train").status.prefetch

    drive(world, daemon, until=lambda: told() is not None, within=200)
    job = world.job("train")
    assert told() == PrefetchedCheckpoint(attempt=2, nodes=("node-2",), state="Failed", message="nobody is there")
    assert job.status.live_attempt is not None
    assert (job.status.live_attempt.number, job.status.live_attempt.node) == (1, "node-1")
    backend.told = Prefetched("", 5, done=True)
    world.change_spec("train", priority=1)
    drive(world, daemon, until=lambda: (found := told()) is not None and found.state == "Arrived", within=60)
    assert {*backend.asked} == {("node-2", 2, "file:///shared/c")}
    drive(world, daemon, until=lambda: told() is None, within=200)
    settle(world, daemon, seconds=1)
    job = world.job("train")
    assert job.status.live_attempt is not None
    assert (job.status.live_attempt.number, job.status.live_attempt.node) == (2, "node-2")
    assert backend.given_up[:1] == [job.uid]
    reasons = [event.reason for event in world.client.list(Event)]
    assert {"CheckpointPrefetched", "CheckpointNotPrefetched"} <= {*reasons}
