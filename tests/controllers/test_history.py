"""The history of a whole control plane: nothing is missing or there twice, though daemons die and objects go."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from structlog.contextvars import get_contextvars

from cumulus.chronos.contract.usage import LeaseUse
from cumulus.clock import parse_timestamp
from cumulus.errors import NodeUnreachable
from cumulus.history import of_job, spans
from cumulus.history.facts import to_milliseconds
from cumulus.history.follower import HistoryFollower
from cumulus.history.recorder import HistoryRecorder
from cumulus.history.schema import reading
from cumulus.history.timeline import TimeWindow
from cumulus.nodes.agent import NodeAgent
from cumulus.resources.job import GPUJob, JobPhase
from cumulus.testing.backend import Script
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.exact import ExactStore
from tests.controllers.objects import a_job

ALWAYS = 1 << 60


def _file(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@contextmanager
def _daemon(world: World, tmp_path: Path, identity: str = "a") -> Iterator[Daemon]:
    recorder = HistoryRecorder(_file(tmp_path), world.clock, retention=365 * 86400, every=60)
    with closing(HistoryFollower(ExactStore(world.store), recorder)) as history:
        yield Daemon(world, identity, history=history)


Past = tuple[str, int, int, str]
"""Of a lease that is over: its job, from, to, phase."""


def _past(tmp_path: Path, world: World) -> list[Past]:
    with reading(_file(tmp_path)) as db:
        assert db is not None
        window = TimeWindow(0, ALWAYS, to_milliseconds(world.clock.now()))
        found = [span for _, some in spans.past(db, window, 1 << 60, lambda span, _, over: span) for span in some]
    return sorted((str(span["job"]), span["start"], span["end"], span["phase"]) for span in found)


def _is_over(job: GPUJob) -> bool:
    return job.status.phase in (JobPhase.SUCCEEDED, JobPhase.FAILED)


def _moment(text: str | None) -> int:
    assert text
    return to_milliseconds(parse_timestamp(text))


def test_what_status_says_is_in_the_history_though_daemons_die(tmp_path: Path) -> None:
    world = World(("n1", "n2"), script=lambda workload: Script(seconds=100.0 + 10 * int(workload.job[-1])))
    wanted: list[Past] = []
    for number in range(3):
        world.apply(a_job(f"j{number}", memory="0.5", duration="10m"))
        with _daemon(world, tmp_path, f"d{number}") as daemon:
            settle(world, daemon, seconds=45)
        # The node goes on by itself.
        world.clock.advance(40)
    with _daemon(world, tmp_path, "last") as daemon:
        drive(world, daemon, until=lambda: all(map(_is_over, world.client.list(GPUJob))), within=2000)
        settle(world, daemon, seconds=5)
    for partition in world.partitions():
        owner = partition.owner("GPUJob")
        assert owner is not None
        status = partition.status
        phase = status.phase.value
        wanted.append((f"default/{owner.name}", _moment(status.activated_at), _moment(status.ended_at), phase))
    assert _past(tmp_path, world) == sorted(wanted)
    assert len({job for job, *_ in wanted}) == 3


def test_a_lease_that_ended_while_no_daemon_ran_ended_when_its_node_says(tmp_path: Path) -> None:
    world = World(script=lambda workload: Script(seconds=100.0))
    world.apply(a_job("train", memory="0.5", duration="10m"))
    with _daemon(world, tmp_path) as daemon:
        drive(world, daemon, until=lambda: world.job("train").status.phase == "Running")
        settle(world, daemon, seconds=5)
    world.clock.advance(7200)
    world.store.compact(world.store.revision())
    with _daemon(world, tmp_path, "b") as daemon:
        drive(world, daemon, until=lambda: _is_over(world.job("train")))
        settle(world, daemon, seconds=5)
    ((_, start, end, _),) = _past(tmp_path, world)
    assert end - start < 700_000, "not when the next daemon looked"


def test_jobs_that_were_deleted_stay_in_the_history(tmp_path: Path) -> None:
    world = World(script=lambda workload: Script(seconds=math.inf))
    world.apply(a_job("train", memory="0.5"))
    with _daemon(world, tmp_path) as daemon:
        drive(world, daemon, until=lambda: world.job("train").status.phase == "Running")
        world.clock.advance(60)
        world.client.delete(world.job("train"))
        settle(world, daemon, seconds=60)
    assert not world.partitions()
    ((_, start, end, phase),) = _past(tmp_path, world)
    assert (end - start >= 60_000, phase) == (True, "Released")


def test_use_is_asked_of_nodes_with_leases_and_one_that_is_away_keeps_nobody(tmp_path: Path) -> None:
    world = World(("n1", "n2", "n3"), script=lambda workload: Script(seconds=math.inf))
    asked: list[str] = []
    logged_with: set[tuple[str | None, str | None]] = set()

    def usage(name: str) -> list[LeaseUse]:
        asked.append(name)
        logged_with.add((get_contextvars().get("loop"), get_contextvars().get("key")))
        if name == "n2":
            raise NodeUnreachable("n2 is away")
        return [LeaseUse(p.uid, 0, 100, 50, 50, 1000, 250, 750, False) for p in world.partitions()]

    world.agents = [
        NodeAgent(name, leases, usage=lambda name=name: usage(name)) for name, leases in world.leases.items()
    ]  # fmt: skip
    for name in ("one", "two"):
        world.apply(a_job(name, memory="1.0", duration="1h"))
    with _daemon(world, tmp_path) as daemon:
        settle(world, daemon, seconds=400)
    assert logged_with == {("history", "use")}
    assert "n2" in asked
    assert "n3" not in asked
    with reading(_file(tmp_path)) as db:
        assert db is not None
        found = {name: next(of_job.series(db, "default", name)) for name in ("one", "two")}
    by_node = {series["node"]: series for series in found.values()}
    assert set(by_node["n1"]["busy"]) == {0.25}
    assert set(by_node["n1"]["used"]) == {0.5}
    assert len(by_node["n1"]["used"]) >= 5
    assert not by_node["n2"]["used"]
