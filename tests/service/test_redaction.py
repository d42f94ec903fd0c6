"""Of others' objects every read shows user, job name, share and end, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cumulus.answers.history import Span
from cumulus.clock import timestamp
from cumulus.errors import CumulusError, Forbidden
from cumulus.history.facts import to_datetime, to_milliseconds
from cumulus.lib.execution import ExecRequest
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.query import Query
from cumulus.resources.registry import KINDS
from cumulus.resources.submitter import SUBMITTER, SUBMITTER_UID
from cumulus.service import redaction
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.stores import empty_store
from tests.documents import NOW, active, ago, ahead, job, node, partition, running
from tests.service.conftest import FakeInfrastructure
from tests.service.test_access import binding
from tests.waiting import eventually

HUSH = "hush"
"""Is in everything of theirs that is not for others."""
ANN, EVE = Identity("ann", 1001), Identity("eve", 1002)
ANNS, LABS = Key("GPUJob", "ann", "mine"), Key("GPUJob", "lab", "train")
MACHINE = Key("GPUNode", "", "gpu-1")
WINDOW = to_milliseconds(NOW) - 6 * 3_600_000, to_milliseconds(NOW) + 12 * 3_600_000


def hush(document: Document) -> Document:
    """The object with something to hide in its metadata."""
    metadata = document["metadata"]
    metadata["labels"] = {**(metadata.get("labels") or {}), "of": HUSH}
    metadata["annotations"] = {SUBMITTER: "bob", "note": HUSH}
    return document


def theirs() -> list[Document]:
    env = [{"name": "A", "value": HUSH}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": HUSH, "key": HUSH}}}]
    train = hush(job("train", namespace="lab", command=[HUSH, HUSH], env=env, workingDir=f"/{HUSH}"))
    held = hush(active("train-a1-r0-d0"))
    owner = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "name": "train", "uid": "u-train",
             "controller": True}  # fmt: skip
    held["metadata"] |= {"namespace": "lab", "ownerReferences": [owner]}
    held["spec"] |= {"selector": {"name": f"*{HUSH}*"}, "user": HUSH}
    told = {"type": "Active", "status": "True", "reason": "R", "message": HUSH}
    held["status"] |= {"partitionId": HUSH, "conditions": [told]}
    machine = node("gpu-1", free=0)
    machine["spec"] = {"ssh": {"host": HUSH, "user": HUSH, "keySecret": HUSH, "chronosCli": HUSH}}
    machine["metadata"]["annotations"] = {"cumulus.dev/last-applied-configuration": HUSH}
    lease = {"partitionId": HUSH, "memoryBytes": 1, "compute": 1, "expiresAt": "2027-01-01T00:00:00Z", "user": "carol"}
    machine["status"]["devices"][0]["foreignLeases"] = [lease]
    event = {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "Event", "metadata": {"name": "e", "namespace": "lab"},
        "involvedObject": {"kind": "GPUJob", "namespace": "lab", "name": "train"}, "reason": "R", "message": HUSH,
        "source": {"component": "c"}, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    of_node = {**event, "metadata": {"name": "n", "namespace": "default"}}
    of_node["involvedObject"] = {"kind": "GPUNode", "name": "gpu-1"}
    return [train, held, machine, event, of_node]


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Ann has a namespace of her own, and waits there for what Bob holds in the lab."""
    store = empty_store()
    mine = job("mine", namespace="ann", gpu={"memory": "90%"})
    for document in (binding("user", "User", "ann", "ann"), *theirs(), mine):
        store.create(document)
    outside = FakeInfrastructure()
    outside.logs.chunks[1, 0] = [HUSH.encode()]
    return Service(lambda: store, tmp_path, infrastructure=outside, owner=4_000_000_001)


def reads(service: Service, identity: Identity) -> dict[str, Callable[[], Any]]:
    """Every read of the service, and every write that could tell what is there."""
    objects, uid = service.objects, service.store.get(LABS)["metadata"]["uid"]
    found: dict[str, Callable[[], Any]] = {
        "why": lambda: asdict(service.explanations.why(identity, ANNS)),
        "why theirs": lambda: asdict(service.explanations.why(identity, LABS)),
        "describe": lambda: asdict(service.descriptions.describe(identity, ANNS)),
        "describe theirs": lambda: asdict(service.descriptions.describe(identity, LABS)),
        "describe node": lambda: asdict(service.descriptions.describe(identity, MACHINE)),
        "line": lambda: asdict(service.explanations.line(identity)),
        "usage": lambda: asdict(service.usage.now(identity)),
        "timeline": lambda: service.history.timeline(identity, *WINDOW, 1000),
        "report": lambda: service.history.report(identity, 0),
        "lease rows": lambda: service.history.lease_rows(identity, 0),
        "held over time": lambda: service.history.held_over_time(identity, *WINDOW),
        "job use": lambda: service.history.job_use(identity, LABS),
        "losses": lambda: service.descriptions.losses(identity, MACHINE),
        "node": lambda: service.nodes.get(identity, "gpu-1"),
        "holders": lambda: service.nodes.holders(identity, "gpu-1"),
        "logs": lambda: list(service.logs.read(identity, LABS)),
        "files": lambda: service.jobs.files(identity, [uid]),
        "follow": lambda: objects.follow(identity, LABS, since=0).next(0),
        "damaged": lambda: service.find_damaged(identity),
        "state": lambda: service.server_state(identity),
        "secrets": lambda: service.secrets.list(identity, "lab"),
        "all secrets": lambda: service.secrets.list(identity, None),
        "system secrets": lambda: service.secrets.list(identity, ""),
        "swarm": lambda: service.swarm.status(identity),
        "probe": lambda: objects.list(identity, Query("GPUNode", fields=f"spec.ssh.user={HUSH}")).items,
        "suspend": lambda: service.jobs.suspend(identity, LABS, suspended=True),
        "park": lambda: service.jobs.park(identity, LABS, parked=True),
        "unpark": lambda: service.jobs.park(identity, LABS, parked=False),
        "delete": lambda: objects.delete(identity, LABS),
        "json patch": lambda: objects.patch(
            identity, LABS, [{"op": "test", "path": "/spec/command/0", "value": "x"}], type="json"
        ),
        "patch": lambda: objects.patch(identity, LABS, {"spec": {"command": ["x"]}}),
        "server-side apply": lambda: objects.apply_patch(identity, LABS, {}, field_manager="x", dry_run=True),
        "prune": lambda: objects.apply(identity, [], prune=f"of={HUSH}", prune_limit=0, dry_run=True),
        "update": lambda: objects.update(identity, job("train", namespace="lab")),
        "create": lambda: objects.create(identity, job("train", namespace="lab"), dry_run=True),
        "label": lambda: objects.set_labels(identity, LABS, {"of": "x"}),
        "cordon": lambda: service.nodes.cordon(identity, "gpu-1", unschedulable=True),
        "ask": lambda: service.workers.ask(identity, "gpu-1"),
    }  # fmt: skip

    def watched(query: Query) -> list[Document]:
        kinds, namespace = frozenset({query.kind}), query.namespace or None
        return [event.document for event in objects.watch(identity, since=0, kinds=kinds, namespace=namespace).next(0)]

    for kind in KINDS:
        for namespace in (None, "", "lab") if kind.namespaced else (None,):
            query = Query(kind.name, namespace)
            found[f"list {kind.plural} {namespace}"] = lambda query=query: objects.list(identity, query).items
            found[f"list packed {kind.plural} {namespace}"] = lambda query=query: objects.list_packed(identity, query)
            found[f"delete {kind.plural} {namespace}"] = lambda query=query: objects.delete_collection(
                identity, query, dry_run=True
            )
            found[f"watch {kind.plural} {namespace}"] = lambda query=query: watched(query)
    return found


@pytest.mark.parametrize("identity", [ANN, EVE, Identity("nobody")], ids=lambda identity: identity.name)
def test_no_read_tells_what_is_not_for_others(service: Service, identity: Identity) -> None:
    allowed = set()
    for name, read in reads(service, identity).items():
        try:
            said = repr(read())
            allowed.add(name)
        except CumulusError as error:
            said = f"{error} {error.hint}"
        assert HUSH not in said.replace(f"spec.ssh.user={HUSH}", ""), name
    everybodys = {"node", "describe node", "files", "state", "probe", "line", "usage", "timeline"}
    everybodys |= {"report", "lease rows", "held over time"}
    everybodys |= {"list gpunodes None", "list packed gpunodes None", "watch gpunodes None"}
    assert allowed == everybodys | ({"why", "describe"} if identity is ANN else set())


def test_a_selector_finds_nothing_that_is_not_shown(service: Service) -> None:
    for fields, found in ((f"spec.ssh.user={HUSH}", 0), ("metadata.name=gpu-1", 1)):
        assert len(service.objects.list(EVE, Query("GPUNode", fields=fields)).items) == found


def test_why_keeps_its_word_with_user_job_share_and_end(service: Service) -> None:
    said = "\n".join(service.explanations.why(ANN, ANNS).lines)
    assert "job lab/train of bob: " in said
    assert "of device 0 of gpu-1, until " in said


def test_every_way_to_ask_names_who_holds_a_share_and_who_waits_for_one(service: Service) -> None:
    """The same user, job and end, to who may read no namespace."""
    held = service.store.get(Key("GPUPartition", "lab", "train-a1-r0-d0"))
    ends = held["status"]["expiresAt"]
    promise = {"startBy": ahead(hours=9), "node": "gpu-1", "device": 0}
    waits = hush(partition("next", status={"phase": "Pending", "promise": promise}))
    owner = {**held["metadata"]["ownerReferences"][0], "name": "later", "uid": "u-later"}
    waits["metadata"] |= {"namespace": "lab", "ownerReferences": [owner]}
    service.store.create(waits)
    [share] = service.descriptions.describe(EVE, MACHINE).related
    line, used = service.explanations.line(EVE), service.usage.now(EVE).shares
    assert (share["metadata"], share["spec"]["user"]) == ({"name": "train", "namespace": "lab"}, "bob")
    told = {
        "node": [("lab/train", "bob", share["status"]["expiresAt"])],
        "queue": [(each.name, each.user, each.ends) for each in line.holding],
        "usage": [(f"{each.namespace}/{each.name}", each.user, each.until) for each in used],
        "timeline": [
            (span["job"], span["user"], timestamp(to_datetime(span["end"]))) for span in _spans(service, "Lease")
        ],
    }
    for where, names in told.items():
        assert [(job, user, end[:16]) for job, user, end in names if "/" in (job or "")] == [
            ("lab/train", "bob", ends[:16])
        ], where
    assert [(span["job"], span["user"]) for span in _spans(service, "Promise")] == [("lab/later", "bob")]
    assert ("lab/later", "bob") in [(each.name, each.user) for each in line.waiting]


def test_what_others_held_is_nobodys_business_when_it_is_over(service: Service) -> None:
    held = service.store.get(Key("GPUPartition", "lab", "train-a1-r0-d0"))
    [before] = [span for span in _spans(service, "Lease") if span["job"]]
    assert (before["used"], before["busy"], before["enforcement"]) == (None, None, "")
    service.store.update_status({**held, "status": {**held["status"], "phase": "Released", "endedAt": ago()}})
    eventually(lambda: not [span for span in _spans(service, "Lease") if span["job"]])
    assert [span["user"] for span in _spans(service, "Lease")] == [None]
    service.store.create(binding("viewer", "User", "eve", "lab"))
    service.access.bindings_changed()
    assert "lab/train" in [span["job"] for span in _spans(service, "Lease")]


def _spans(service: Service, kind: str) -> list[Span]:
    """Of the timeline that a stranger sees."""
    found = service.history.timeline(EVE, *WINDOW, 1000)
    return [span for lane in found["lanes"] for span in lane["spans"] if span["kind"] == kind]


def test_a_node_shows_who_has_shares_of_it(service: Service) -> None:
    found = service.descriptions.describe(EVE, MACHINE)
    [share] = found.related
    assert share["metadata"] == {"name": "train", "namespace": "lab"}
    assert share["spec"]["user"] == "bob"
    assert set(share["spec"]) <= {"memory", "compute", "user"}
    assert set(share["status"]) <= {"node", "device", "memoryBytes", "compute", "expiresAt", "phase"}
    assert share["status"]["expiresAt"]
    [lease] = found.document["status"]["devices"][0]["foreignLeases"]
    assert lease == {
        "partitionId": "", "memoryBytes": 1, "compute": 1, "expiresAt": "2027-01-01T00:00:00Z", "user": "carol"
    }  # fmt: skip
    assert found.document["spec"] == {}


def test_the_service_reaches_a_job_that_may_be_read_at_a_node_whose_address_may_not(service: Service) -> None:
    mine = running("run", namespace="ann", checkpoint={"path": "/data"})
    mine["metadata"]["annotations"] = {SUBMITTER: "ann", SUBMITTER_UID: "1001"}
    mine["status"]["attempts"][-1]["node"] = "gpu-1"
    service.store.create(mine)
    key, outside = Key("GPUJob", "ann", "run"), service.infrastructure
    assert isinstance(outside, FakeInfrastructure)
    assert service.nodes.get(ANN, "gpu-1")["spec"] == {}
    ways: dict[str, Callable[[], Any]] = {
        "logs": lambda: list(service.logs.read(ANN, key)),
        "exec": lambda: service.exec.exec(ANN, key, 0, ExecRequest(("true",))),
        "connect": lambda: service.exec.connect(ANN, key, 0, 80),
        "checkpoints": lambda: service.checkpoints.list(ANN, key),
    }
    for name, reach in ways.items():
        outside.reached.clear()
        reach()
        assert [lookup(found or {}, "spec.ssh.host") for found in outside.reached] == [HUSH], name


def test_who_has_a_role_there_sees_all(service: Service) -> None:
    service.store.create(binding("viewer", "User", "eve", "lab"))
    [share] = service.descriptions.describe(EVE, MACHINE).related
    assert share["status"]["partitionId"] == HUSH
    # What is in no namespace needs a role in all.
    assert service.nodes.get(EVE, "gpu-1")["spec"] == {}
    service.store.create(binding("viewer", "User", "eve"))
    service.access.bindings_changed()
    assert service.nodes.get(EVE, "gpu-1")["spec"]["ssh"]["host"] == HUSH


def test_what_is_damaged_is_not_quoted_to_others(service: Service) -> None:
    from cumulus.errors import InvalidObject

    document = service.store.get(Key("GPUPartition", "lab", "train-a1-r0-d0"))
    error = InvalidObject(f"it holds {HUSH}")
    told = redaction.Redaction(service.access)
    assert told.problem(ANN, document, error) is not error
    assert HUSH not in str(told.problem(ANN, document, error))
    assert told.problem(Identity("root", 0), document, error) is error


def test_a_uid_is_no_path(service: Service) -> None:
    for uid in ("..", "../..", "/etc", "a/b", ""):
        with pytest.raises(CumulusError, match="is no uid"):
            service.jobs.files(EVE, [uid])


def test_files_are_told_to_who_sees_the_namespace(service: Service, tmp_path: Path) -> None:
    run = tmp_path / "process" / "jobs" / "u-1" / "a1-r0"
    (run / "work").mkdir(parents=True)
    (run / "work" / "made").write_text("")
    (run / "spec.json").write_text(json.dumps({"namespace": "ann"}))
    assert service.jobs.files(ANN, ["u-1"])[0].filled
    assert not service.jobs.files(EVE, ["u-1"])[0].directory


def test_a_refusal_does_not_tell_what_is_there(service: Service) -> None:
    said = []
    for name in ("train", "nothing"):
        with pytest.raises(Forbidden) as caught:
            service.objects.get(EVE, Key("GPUJob", "lab", name))
        said.append(str(caught.value).replace(name, ""))
    assert said[0] == said[1]
