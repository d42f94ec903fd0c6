"""The log tells who changed what, and who was refused; submitters hear who else changed what is theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from cumulus.errors import AlreadyExists, Forbidden, InvalidObject
from cumulus.resources.query import Query
from cumulus.service.identity import Identity
from cumulus.service.objects import Creation
from cumulus.service.service import Service
from cumulus.stores import empty_store
from tests.service.conftest import FakeInfrastructure
from tests.service.test_access import ANN, BOB, EVE, ROOT, TRAIN, binding, job


@pytest.fixture
def team(tmp_path: Path) -> Service:
    store = empty_store()
    for name, role in (("ann", "user"), ("bob", "user"), ("eve", "viewer")):
        store.create(binding(role, "User", name, "team", name))
    return Service(lambda: store, tmp_path, infrastructure=FakeInfrastructure(), owner=0, audit=True)


Said = list[tuple[Any, ...]]


def said(logs: Any) -> Said:
    names = ("user", "verb", "resource", "namespace", "name", "outcome", "dry_run")
    return [tuple(line.get(name) for name in names) for line in logs if line["event"] == "audit"]


def test_changes_refusals_and_failures_are_told(team: Service) -> None:
    with structlog.testing.capture_logs() as logs:
        team.objects.create(ANN, job(command=["hush"]), dry_run=True)
        team.objects.create(ANN, job(command=["hush"]))
        with pytest.raises(AlreadyExists):
            team.objects.create(ANN, job(command=["hush"]))
        with pytest.raises(Forbidden):
            team.objects.delete(BOB, TRAIN)
        with pytest.raises(Forbidden):
            team.objects.get(Identity("mallory\x1b[31m"), TRAIN)
        team.objects.get(EVE, TRAIN)
        team.secrets.create(ANN, "team", "hub", {"token": "hush"})
        with pytest.raises(Forbidden):
            team.swarm.invitation(ANN)
        team.swarm.invitation(ROOT)
        team.secrets.create(ROOT, "", "gpu-1", {"ssh-privatekey": "hush"})
        team.objects.delete(ROOT, TRAIN)
    assert said(logs) == [
        ("ann", "create", "gpujobs", "team", "train", "done", True),
        ("ann", "create", "gpujobs", "team", "train", "done", None),
        ("ann", "create", "gpujobs", "team", "train", "AlreadyExists", None),
        ("bob", "delete", "gpujobs", "team", "train", "Forbidden", None),
        ("mallory\\x1b[31m", "get", "gpujobs", "team", "train", "Forbidden", None),
        ("ann", "create", "secrets", "team", "hub", "done", None),
        ("ann", "get", "swarms/invitation", None, None, "Forbidden", None),
        ("root", "get", "swarms/invitation", None, None, "allowed", None),
        ("root", "create", "systemsecrets", None, "gpu-1", "done", None),
        ("root", "delete", "gpujobs", "team", "train", "done", None),
    ]
    assert "hush" not in repr(logs)


def test_a_command_that_asks_no_server_logs_nothing(tmp_path: Path) -> None:
    store = empty_store()
    with structlog.testing.capture_logs() as logs:
        Service(lambda: store, tmp_path, owner=0).objects.create(ROOT, job())
    assert logs == []


def test_submitters_hear_who_else_changed_what_is_theirs(team: Service) -> None:
    team.objects.create(ANN, job())
    team.jobs.suspend(ANN, TRAIN, suspended=True)
    assert team.store.list(Query("Event")).items == []
    team.jobs.suspend(ROOT, TRAIN, suspended=False)
    team.objects.set_labels(ROOT, TRAIN, {"a": "b"})
    held = team.store.get(TRAIN)
    held["metadata"]["finalizers"] = ["tests/held"]
    team.store.update(held)
    for _ in range(3):
        team.objects.delete(ROOT, TRAIN)
    events = team.store.list(Query("Event", namespace="team")).items
    assert sorted(event["message"] for event in events) == [
        "root changed this job", "root changed this job", "root deleted this job",
    ]  # fmt: skip
    assert {event["reason"] for event in events} == {"ChangedByAnother"}
    assert {event["involvedObject"]["name"] for event in events} == {"train"}


def test_objects_made_at_the_same_time_each_have_their_own_outcome(team: Service) -> None:
    def called(name: str, **spec: Any) -> dict[str, Any]:
        return {**job(**spec), "metadata": {"name": name, "namespace": "team"}}

    given: list[tuple[Identity, dict[str, Any], bool]] = [
        (ANN, called("a"), False), (EVE, called("b"), False), (BOB, called("a"), False),
        (BOB, called("c", command=None), False), (BOB, called("d"), True), (BOB, called("e"), False),
    ]  # fmt: skip
    with structlog.testing.capture_logs() as logs:
        made = team.objects.create_each([Creation(who, each, dry_run=tried) for who, each, tried in given])
    types = [type(each) for each in made]
    assert types == [dict, Forbidden, AlreadyExists, types[3], dict, dict]
    assert issubclass(types[3], InvalidObject)
    names = {page["metadata"]["name"] for page in team.objects.list(ROOT, Query("GPUJob")).items}
    assert names == {"a", "e"}
    assert sorted(line for line in said(logs)) == sorted(
        [
            ("ann", "create", "gpujobs", "team", "a", "done", None),
            ("eve", "create", "gpujobs", "team", None, "Forbidden", None),
            ("bob", "create", "gpujobs", "team", "a", "AlreadyExists", None),
            ("bob", "create", "gpujobs", "team", "d", "done", True),
            ("bob", "create", "gpujobs", "team", "e", "done", None),
        ],
        key=str,
    )
