"""What Swarm's tasks mean, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from cumulus.backends.base import State
from cumulus.backends.swarm import observe, spec
from cumulus.backends.swarm.observe import Facts, Task

AT = "2026-01-02T03:04:05.123456789Z"


def task(state: str, code: int | None = None, error: str = "", **more: Any) -> Task:
    container = {"ContainerID": "c1", "ExitCode": code} if code is not None else {}
    status = {"State": state, "Err": error, "ContainerStatus": container, "Timestamp": AT}
    return Task.read({"ID": "t1", "NodeID": "n1", "CreatedAt": AT, "DesiredState": "running", "Status": status, **more})


@pytest.mark.parametrize(("seen", "facts", "expected"), [
    (task("complete", 0), Facts(), (State.SUCCEEDED, "")),
    (task("failed", 7, "task: non-zero exit (7)"), Facts(), (State.FAILED, "Error")),
    (task("failed", 137, "task: non-zero exit (137)"), Facts(oom=True, memory_bytes=1), (State.FAILED, "OOMKilled")),
    (task("failed", 137), Facts(oom=None, memory_bytes=1), (State.FAILED, "OOMKilled")),
    (task("failed", 137), Facts(oom=False, memory_bytes=1), (State.FAILED, "Error")),
    (task("failed", 143), Facts(lease="expired"), (State.FAILED, "LeaseExpired")),
    (task("failed", 143), Facts(lease="released"), (State.FAILED, "Stopped")),
    (task("failed", 143), Facts(stopped=True), (State.FAILED, "Stopped")),
    (task("failed", 143), Facts(restarted=True), (State.FAILED, "Lost")),
    (task("failed", 255), Facts(restarted=True), (State.FAILED, "Lost")),
    (task("failed", 7), Facts(restarted=True), (State.FAILED, "Error")),
    (task("rejected", error="No such image: x"), Facts(), (State.FAILED, "StartError")),
    (task("rejected", error="No such image: x"), Facts(stopped=True), (State.FAILED, "StartError")),
    (task("shutdown", 143), Facts(stopped=True), (State.FAILED, "Stopped")),
    (task("shutdown", 143), Facts(), (State.FAILED, "Lost")),
    (task("orphaned"), Facts(), (State.FAILED, "Lost")),
    (task("failed", error="starting container failed: no such file"), Facts(), (State.FAILED, "Lost")),
])  # fmt: skip
def test_an_end(seen: Task, facts: Facts, expected: tuple[State, str]) -> None:
    assert observe.ended(seen, facts)[:2] == expected


@pytest.mark.parametrize("state", ["new", "pending", "assigned", "accepted", "preparing", "ready", "starting"])
def test_a_task_on_its_way(state: str) -> None:
    assert not task(state).terminal
    assert observe.state(task(state)) is State.STARTING


def test_a_pending_task_has_no_container() -> None:
    assert not observe.alive([task("pending", NodeID="")])
    assert observe.alive([task("preparing")])


def test_nanoseconds_are_cut() -> None:
    assert task("running").at == "2026-01-02T03:04:05.123456Z"
    assert observe.moment("2026-01-02T03:04:05Z") == "2026-01-02T03:04:05.000000Z"
    assert observe.moment("0001-01-01T00:00:00Z") == ""


def test_names_fit_swarm_and_differ() -> None:
    long = "default." + "x" * 200
    names = {spec.service_name(f"{long}.abc-a{n}-r0") for n in range(50)}
    assert len(names) == 50
    assert all(len(name) <= 63 and name.replace("-", "").isalnum() for name in names)
    assert spec.service_name("default.job.0-a1-r0") == spec.service_name("default.job.0-a1-r0")
