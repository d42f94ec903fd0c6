"""kubectl 1.32, unmodified, against the API: one session, its output compared."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from cumulus.clock import FakeClock
from cumulus.resources.key import Key
from cumulus.store.memory import MemoryStore
from tests.documents import NOW, job, running
from tests.server.http.conftest import serving
from tests.server.http.kubectl import KUBECTL, MISSING, Kubectl
from tests.service.conftest import ME, FakeInfrastructure

pytestmark = pytest.mark.skipif(KUBECTL is None, reason=MISSING)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(FakeClock(NOW))


@pytest.fixture
def kubectl(store: MemoryStore, tmp_path: Path) -> Iterator[Kubectl]:
    """Over plain HTTP it sends no token, so the server takes everybody for one user."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        serving(listening, store, tmp_path, FakeClock(NOW), FakeInfrastructure(), lambda: ME),
    ):
        yield Kubectl(f"http://127.0.0.1:{listening.getsockname()[1]}", tmp_path)


def test_a_session(kubectl: Kubectl, store: MemoryStore, tmp_path: Path) -> None:
    resources = {line.split()[0]: line.split() for line in kubectl("api-resources", "--no-headers").splitlines()}
    assert resources["gpujobs"][-3:] == ["cumulus.dev/v1alpha1", "true", "GPUJob"]

    explained = kubectl("explain", "gj.spec.gpu.memory")
    assert "FIELD: memory <Share>" in explained
    assert "a fraction 0.5, a percentage 50% or a quantity 20Gi" in explained
    recursive = kubectl("explain", "gpujobs.spec", "--recursive")
    assert "  env\t<[]Env>\n    name\t<string> -required-\n" in recursive

    created = kubectl("create", "-f", "-", given=json.dumps(job("train")))
    assert created == "gpujob.cumulus.dev/train created\n"
    again = kubectl.fails("create", "-f", "-", given=json.dumps(job("train")))
    assert again.startswith("Error from server (AlreadyExists)")
    bad = job("bad")
    bad["spec"]["gpu"]["memory"] = "nonsense"
    refused = kubectl.fails("create", "-f", "-", given=json.dumps(bad))
    assert refused == (
        'The GPUJob "bad" is invalid: spec.gpu.memory: '
        "'nonsense' is not a quantity; write bytes as 20Gi, 512Mi or 1500M\n"
    )

    store.create(running("busy", labels={"team": "x"}))
    heading, *rows = kubectl("get", "gj").splitlines()
    assert heading.split()[:2] == ["NAME", "PHASE"]
    assert [row.split()[:2] for row in rows] == [["busy", "Running"], ["train", "Pending"]]
    assert kubectl("get", "gpujobs", "-A", "-o", "name", "--chunk-size=1") == (
        "gpujob.cumulus.dev/busy\ngpujob.cumulus.dev/train\n"
    )
    assert kubectl("get", "gj", "--field-selector", "status.phase=Running", "-o", "jsonpath={..name}") == "busy"
    by_name = kubectl("get", "gj", "--sort-by=.metadata.name", "--no-headers", "-o", "custom-columns=N:.metadata.name")
    assert by_name.split() == ["busy", "train"]

    assert kubectl("label", "gj", "train", "team=y") == "gpujob.cumulus.dev/train labeled\n"
    assert kubectl("annotate", "gj", "train", "note=hello") == "gpujob.cumulus.dev/train annotated\n"
    patch = json.dumps({"spec": {"suspend": True}})
    assert kubectl("patch", "gj", "train", "--type=merge", "-p", patch) == "gpujob.cumulus.dev/train patched\n"
    strategic = kubectl.fails("patch", "gj", "train", "-p", "{}")
    assert "application/strategic-merge-patch+json is not supported" in strategic
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/note: hello/note: edited/' \"$1\"\n")
    editor.chmod(0o755)
    assert "edited" in kubectl("edit", "gj", "train", EDITOR=str(editor))
    assert kubectl("get", "gj", "train", "-o", "jsonpath={.metadata.annotations.note}") == "edited"
    assert "condition met" in kubectl("wait", "gj/train", "--for=jsonpath={.spec.suspend}=true", "--timeout=150s")

    assert kubectl("delete", "gj", "train") == 'gpujob.cumulus.dev "train" deleted\n'
    assert kubectl("delete", "gj", "--all").startswith('gpujob.cumulus.dev "busy" deleted')
    missing = kubectl.fails("get", "gj", "train")
    assert missing.startswith("Error from server (NotFound)")
    assert kubectl("get", "--raw", "/livez") == "ok"


def manifest(name: str, **spec: Any) -> str:
    """A job as a person writes it."""
    made = job(name, **spec)
    return json.dumps({**made, "status": None, "metadata": {"name": name}})


def test_what_manifests_become(kubectl: Kubectl, tmp_path: Path) -> None:
    """create, apply, diff, replace, patch and what they say of what is wrong."""
    train = "gpujob.cumulus.dev/train"
    tried = kubectl("create", "--dry-run=server", "-f", "-", "-o", "name", given=manifest("train"))
    assert tried == f"{train}\n"
    assert kubectl("apply", "-f", "-", given=manifest("train")) == f"{train} created\n"
    assert kubectl("apply", "-f", "-", given=manifest("train")) == f"{train} unchanged\n"
    changed = manifest("train", priority=5)
    difference = kubectl.fails_with(1, "diff", "-f", "-", given=changed)
    assert "-  priority: 0\n+  priority: 5\n" in difference
    assert kubectl("apply", "-f", "-", given=changed) == f"{train} configured\n"
    assert kubectl("diff", "-f", "-", given=changed) == ""
    assert kubectl("replace", "-f", "-", given=manifest("train", priority=6)) == f"{train} replaced\n"
    other = manifest("train", command=["false"])
    assert kubectl.fails("replace", "-f", "-", given=other).startswith(
        'The GPUJob "train" is invalid: spec.command: is immutable and cannot change from ["true"] to ["false"]'
    )
    assert kubectl("replace", "--force", "-f", "-", given=other) == (
        'gpujob.cumulus.dev "train" deleted\ngpujob.cumulus.dev/train replaced\n'
    )
    odd = manifest("odd", gpus=1)
    assert kubectl.fails("apply", "--validate=strict", "-f", "-", given=odd) == (
        'Error from server (BadRequest): error when creating "STDIN": '
        'strict decoding error: unknown field "spec.gpus"; did you mean gpu?\n'
    )
    assert kubectl.warns("create", "--validate=warn", "-f", "-", given=odd) == (
        "gpujob.cumulus.dev/odd created\n", 'Warning: unknown field "spec.gpus"; did you mean gpu?\n',
    )  # fmt: skip
    suspended = json.dumps(
        [
            {"op": "test", "path": "/spec/suspend", "value": False},
            {"op": "replace", "path": "/spec/suspend", "value": True},
        ]
    )
    assert kubectl("patch", "gj", "train", "--type=json", "-p", suspended) == f"{train} patched\n"
    assert kubectl.fails("patch", "gj", "train", "--type=json", "-p", suspended).startswith(
        'The GPUJob "train" is invalid: patch: operation 0 of the JSON patch does not fit'
    )
    finished = '{"status": {"phase": "Succeeded"}}'
    assert (
        kubectl("patch", "gj", "train", "--subresource=status", "--type=merge", "-p", finished) == f"{train} patched\n"
    )
    assert kubectl("get", "gj", "train", "--subresource=status", "-o", "jsonpath={.status.phase}") == "Succeeded"


def test_forms_watches_and_deletes(kubectl: Kubectl, store: MemoryStore) -> None:
    store.create(running("busy"))
    store.create(job("train"))
    assert kubectl("get", "gj", "busy", "-o", "wide").splitlines()[0].split() == [
        "NAME", "PHASE", "NODE", "GPU", "ATTEMPTS", "LEASE", "ENDS", "CHECKPOINT", "IMAGE", "VALUES", "REASON", "AGE",
    ]  # fmt: skip
    assert kubectl("get", "gj", "-o", "go-template={{range .items}}{{.metadata.name}},{{end}}") == "busy,train,"
    assert json.loads(kubectl("get", "gj", "busy", "-o", "json"))["metadata"]["name"] == "busy"
    assert yaml.safe_load(kubectl("get", "gj", "busy", "-o", "yaml"))["status"]["phase"] == "Running"
    with (
        kubectl.following("get", "gj", "-w", "--no-headers") as all,
        kubectl.following("get", "gj", "--watch-only", "--no-headers", "--output-watch-events") as told,
    ):
        assert [all.readline().split()[0] for _ in range(2)] == ["busy", "train"]
        # The other one has begun when it tells of something.
        number = 0
        reader = Thread(target=told.readline)
        reader.start()
        while reader.is_alive():
            store.create(job(f"new-{number}"))
            number += 1
            reader.join(0.2)
        assert all.readline().split()[:2] == ["new-0", "Pending"]
        store.delete(Key("GPUJob", "default", "new-0"))
        while (event := told.readline().split()[:2])[0] == "ADDED":
            pass
        assert event == ["DELETED", "new-0"]
    assert kubectl("delete", "gj", "busy", "--now", "--cascade=foreground") == 'gpujob.cumulus.dev "busy" deleted\n'
    assert (
        kubectl("delete", "gj", "train", "--grace-period=5", "--cascade=orphan", "-o", "name")
        == "gpujob.cumulus.dev/train\n"
    )
    assert kubectl("delete", "-f", "-", "--ignore-not-found", given=manifest("train")) == ""
    tried = kubectl("delete", "gj", "--all", "--dry-run=server")
    assert tried.startswith('gpujob.cumulus.dev "new-1" deleted (server dry run)\n') or number == 1
    assert kubectl("delete", "gj", "-l", "no=such") == "No resources found\n"
    assert kubectl.fails("delete", "gj", "busy").startswith("Error from server (NotFound)")


def test_server_side_apply(kubectl: Kubectl, store: MemoryStore, tmp_path: Path) -> None:
    train, key = "gpujob.cumulus.dev/train", Key("GPUJob", "default", "train")
    apply = ("apply", "--server-side", "-f", "-")

    def managers() -> list[tuple[str, str]]:
        entries = store.get(key)["metadata"].get("managedFields", [])
        return [(entry["manager"], entry["operation"]) for entry in entries]

    given = manifest("train", priority=1)
    assert kubectl(*apply, given=given) == f"{train} serverside-applied\n"
    revision = store.revision()
    assert kubectl(*apply, given=given) == f"{train} serverside-applied\n"
    assert store.revision() == revision
    assert managers() == [("kubectl", "Apply")]

    kubectl("label", "gj", "train", "team=y")
    assert managers() == [("kubectl", "Apply"), ("kubectl-label", "Update")]
    conflicting = json.dumps({**json.loads(given), "metadata": {"name": "train", "labels": {"team": "x"}}})
    refused = kubectl.fails(*apply, given=conflicting)
    assert refused.startswith(
        'error: Apply failed with 1 conflict: conflict with "kubectl-label" using cumulus.dev/v1alpha1 at '
        "2030-01-01T12:00:00Z: .metadata.labels.team\n"
    )
    assert "--force-conflicts" in refused
    other = kubectl.fails(*apply, "--field-manager=ci", given=manifest("train", priority=2))
    assert 'conflict with "kubectl": .spec.priority' in other
    difference = kubectl.fails_with(
        1, "diff", "--server-side", "--force-conflicts", "-f", "-", given=manifest("train", priority=2)
    )
    assert "-  priority: 1\n+  priority: 2\n" in difference
    kubectl(*apply, "--force-conflicts", given=conflicting)
    assert managers() == [("kubectl", "Apply")]

    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/priority: 1/priority: 7/' \"$1\"\n")
    editor.chmod(0o755)
    assert "edited" in kubectl("edit", "gj", "train", EDITOR=str(editor))
    assert managers() == [("kubectl", "Apply"), ("kubectl-edit", "Update")]
    assert "kubectl-edit" in kubectl.fails(*apply, given=conflicting)
    assert "managedFields" not in kubectl("get", "gj", "train", "-o", "yaml")
    assert "kubectl-edit" in kubectl("get", "gj", "train", "-o", "yaml", "--show-managed-fields")


def test_from_client_side_apply_to_server_side(kubectl: Kubectl, store: MemoryStore) -> None:
    """kubectl takes over what it applied before: what is gone from the manifest goes."""
    key, apply = Key("GPUJob", "default", "train"), ("apply", "--server-side", "-f", "-")
    kubectl("apply", "-f", "-", given=manifest("train", priority=1, ttlAfterFinished="1h"))
    (entry,) = store.get(key)["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("kubectl-client-side-apply", "Update")
    kubectl(*apply, given=manifest("train", priority=2, ttlAfterFinished="1h"))
    entries = store.get(key)["metadata"]["managedFields"]
    assert ("kubectl", "Apply") in [(entry["manager"], entry["operation"]) for entry in entries]
    assert "kubectl-client-side-apply" not in [entry["manager"] for entry in entries]
    kubectl(*apply, given=manifest("train", priority=2))
    spec = store.get(key)["spec"]
    assert (spec["priority"], spec.get("ttlAfterFinished")) == (2, None)
    # Back again: its note is what server-side apply kept for it, in other words.
    for said in ("configured", "unchanged"):
        assert kubectl("apply", "-f", "-", given=manifest("train", priority=2)) == f"gpujob.cumulus.dev/train {said}\n"


def test_what_is_no_longer_applied_is_pruned_by_its_label(kubectl: Kubectl) -> None:
    prune = ("apply", "-f", "-", "--prune", "-l", "set=a", "--prune-allowlist=cumulus.dev/v1alpha1/GPUJob")
    one, two = (manifest(name).replace('"name":', '"labels": {"set": "a"}, "name":', 1) for name in ("one", "two"))
    assert kubectl(*prune, given=f"{one}\n{two}").split() == [
        "gpujob.cumulus.dev/one", "created", "gpujob.cumulus.dev/two", "created",
    ]  # fmt: skip
    assert kubectl(*prune, given=two).split() == [
        "gpujob.cumulus.dev/two", "unchanged", "gpujob.cumulus.dev/one", "pruned",
    ]  # fmt: skip


def test_nobody_asks_as_another(kubectl: Kubectl) -> None:
    said = kubectl.fails("get", "gj", "--as", "viewer")
    assert said.startswith("Error from server (Forbidden): nobody can ask as another user"), said
