"""kubectl 1.32 against core/v1 and the reviews: one session, its output compared."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.clock import FakeClock
from cumulus.resources.key import Key
from cumulus.resources.roles import Role
from cumulus.service.access.matrix import RESOURCES, GuardedResource
from cumulus.service.identity import Identity
from cumulus.store.memory import MemoryStore
from tests.documents import NOW, ago, event, failed, job, node, running
from tests.server.http.conftest import serving
from tests.server.http.kubectl import KUBECTL, MISSING, Kubectl
from tests.service.conftest import ME, FakeInfrastructure
from tests.service.test_access import binding

pytestmark = pytest.mark.skipif(KUBECTL is None, reason=MISSING)


class Bed:
    def __init__(self) -> None:
        self.store = MemoryStore(FakeClock(NOW))
        self.outside = FakeInfrastructure()
        self.asks = ME


@pytest.fixture
def bed() -> Bed:
    bed = Bed()
    secret = {"secretKeyRef": {"name": "wandb", "key": "token"}}
    again = running("train", env=[{"name": "PLAIN", "value": "hidden"}, {"name": "TOKEN", "valueFrom": secret}])
    again["status"]["attemptCount"] = 2
    again["status"]["attempts"].insert(
        0, {"number": 1, "node": "gpu-1", "startTime": ago(minutes=9), "endTime": ago(minutes=6), "exitCode": 3,
            "reason": "Error"},
    )  # fmt: skip
    again["status"]["attempts"][1]["number"] = 2
    bed.store.create(node("gpu-1"))
    train = bed.store.create(again)
    bed.store.create(event("e", train, "Started", "attempt 2 started"))
    bed.store.create(failed("bad"))
    bed.store.create(job("gang", namespace="team", replicas=2))
    bed.outside.logs.chunks = {(1, 0): [b"before\n"], (2, 0): [b"one\n", b"two\n"]}
    return bed


@pytest.fixture
def kubectl(bed: Bed, tmp_path: Path) -> Iterator[Kubectl]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        serving(listening, bed.store, tmp_path, FakeClock(NOW), bed.outside, lambda: bed.asks),
    ):
        yield Kubectl(f"http://127.0.0.1:{listening.getsockname()[1]}", tmp_path)


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_pods_nodes_events_and_namespaces(kubectl: Kubectl, bed: Bed) -> None:
    resources = {line[0]: line[1:] for line in table(kubectl("api-resources", "--no-headers"))}
    assert resources["pods"] == ["po", "v1", "true", "Pod"]
    assert resources["nodes"] == ["no", "v1", "false", "Node"]
    assert resources["gpunodes"][-3:] == ["cumulus.dev/v1alpha1", "false", "GPUNode"]

    heading, *rows = kubectl("get", "po").splitlines()
    assert heading.split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert [row.split()[:4] for row in rows] == [["bad-0", "0/1", "Error", "0"], ["train-0", "1/1", "Running", "1"]]
    everywhere = table(kubectl("get", "pods", "-A", "-o", "wide", "--no-headers"))
    assert [row[:3] for row in everywhere if row[0] == "team"] == [["team", "gang-0", "0/1"], ["team", "gang-1", "0/1"]]
    assert next(row for row in everywhere if row[1] == "train-0")[-4:] == ["gpu-1", "50%", "for", "1h"]
    assert kubectl("get", "pod", "train-0", "-o", "jsonpath={.status.phase} {.spec.nodeName}") == "Running gpu-1"
    assert "condition met" in kubectl("wait", "--for=condition=Ready", "pod/train-0", "--timeout=150s")
    assert [row[:2] for row in table(kubectl("get", "all", "--no-headers")) if row] == [
        ["gpujob.cumulus.dev/bad", "Failed"], ["gpujob.cumulus.dev/train", "Running"],
    ]  # fmt: skip

    told = kubectl("describe", "pod", "train-0")
    assert "Controlled By:  GPUJob/train" in told
    assert "<set to the key 'token' in secret 'wandb'>" in told
    assert "hidden" not in told
    assert "attempt 2 started" in told
    assert "attempt 2 started" in kubectl("describe", "gj", "train")
    assert "attempt 2 started" in kubectl("events", "--for", "gpujob/train")
    for events in ("ev", "events", "events.events.k8s.io", "events.v1.events.k8s.io"):
        assert table(kubectl("get", events, "--no-headers"))[0][1:4] == ["Normal", "Started", "gpujob/train"]
    notes = "jsonpath={.items[*].note}"
    selected = "--field-selector=regarding.name=train"
    assert kubectl("get", "events.events.k8s.io", selected, "-o", notes) == "attempt 2 started"

    assert table(kubectl("get", "no", "--no-headers"))[0][:3] == ["gpu-1", "Ready", "<none>"]
    described = kubectl("describe", "node", "gpu-1")
    assert "cumulus.dev/devices:        1" in described
    assert "train-0" in described
    assert table(kubectl("get", "ns", "--no-headers")) == [["default", "Active"], ["team", "Active"]]
    assert kubectl("create", "ns", "new") == "namespace/new created\n"

    for words in (("delete", "pod", "train-0"), ("label", "pod", "train-0", "a=b")):
        assert "pods are a view of jobs" in kubectl.fails(*words)
    assert "has no terminal" in kubectl.fails("attach", "train-0")
    assert "namespaces are implicit" in kubectl.fails("delete", "ns", "new")


def test_logs(kubectl: Kubectl, bed: Bed) -> None:
    assert kubectl("logs", "train-0") == "one\ntwo\n"
    assert kubectl("logs", "train-0", "-p", "-c", "job") == "before\n"
    assert kubectl("logs", "-l", "cumulus.dev/job=train", "--tail=-1") == "one\ntwo\n"
    assert "waiting to start" in kubectl.fails("logs", "gang-0", "-n", "team")

    def end(attempt: int) -> None:
        train = bed.store.get(Key("GPUJob", "default", "train"))
        train["status"]["attempts"][1]["endTime"] = ago(minutes=0)
        bed.store.update_status(train)

    bed.outside.logs.ended = end
    assert kubectl("logs", "-f", "train-0") == "one\ntwo\n"


def test_secrets(kubectl: Kubectl, tmp_path: Path) -> None:
    made = kubectl("create", "secret", "generic", "wandb", "--from-literal=token=hidden")
    assert made == "secret/wandb created\n"
    manifest = "apiVersion: v1\nkind: Secret\nmetadata: {name: wandb}\nstringData: {token: changed, user: me}\n"
    for again in (True, False):
        assert kubectl("apply", "-f", "-", given=manifest) == "secret/wandb configured\n", again
    assert kubectl("apply", "--server-side", "-f", "-", given=manifest) == "secret/wandb serverside-applied\n"
    assert table(kubectl("get", "secrets", "-o", "wide", "--no-headers")) == [["wandb", "Opaque", "2", "token,user"]]
    assert "changed" not in kubectl("get", "secret", "wandb", "-o", "yaml") + kubectl("describe", "secret", "wandb")
    assert kubectl("delete", "secret", "wandb") == 'secret "wandb" deleted\n'


def test_who_may_do_what(kubectl: Kubectl, bed: Bed) -> None:
    bed.asks = Identity("ann", 1001, ("lab",))
    bed.store.create(binding("user", "Group", "lab", "team"))

    def may(*words: str) -> bool:
        return kubectl.says("auth", "can-i", *words) == "yes\n"

    assert may("create", "gpujobs", "-n", "team")
    assert not may("create", "gpujobs")
    assert may("get", "pods", "--subresource=log", "-n", "team")
    assert not may("delete", "nodes")
    assert may("get", "/version")
    who = kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}")
    assert who == 'ann ["lab","system:authenticated"]'
    rules = kubectl("auth", "can-i", "--list", "-n", "team")
    assert "gpujobs.cumulus.dev" in rules
    assert "clusterrolebindings" not in rules


@pytest.mark.parametrize("role", [None, *Role], ids=str)
def test_what_a_role_may_is_the_matrix_cell_by_cell(kubectl: Kubectl, bed: Bed, role: Role | None) -> None:
    """What the verbs then do: see `test_reviews`."""
    bed.asks = Identity("ann", 1001)
    if role is not None:
        for where in ("", "team"):
            bed.store.create(binding(role, "User", "ann", where, "mine"))
    listed: set[tuple[str, str]] = set()
    for line in kubectl("auth", "can-i", "--list", "-n", "team").splitlines():
        if found := re.fullmatch(r"(\S+) +\[] +\[] +\[(.+)]", line):
            listed |= {(found[1], verb) for verb in found[2].split()}
    assert listed == {
        (_named(each), verb)
        for each in RESOURCES
        for verb, least in each.verbs.items()
        if least is None or (role is not None and role.covers(least))
    }


def _named(resource: GuardedResource) -> str:
    """As kubectl writes it: gpujobs.cumulus.dev/log."""
    name, slash, below = resource.name.partition("/")
    return f"{name}{resource.group and '.'}{resource.group}{slash}{below}"
