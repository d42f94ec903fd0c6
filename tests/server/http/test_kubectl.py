"""kubectl 1.32, unmodified, against the API: one session, its output compared."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.clock import FakeClock
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
    assert 'The GPUJob "bad" is invalid' in refused or "spec.gpu.memory" in refused, refused

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
    assert "condition met" in kubectl("wait", "gj/train", "--for=jsonpath={.spec.suspend}=true", "--timeout=10s")

    assert kubectl("delete", "gj", "train") == 'gpujob.cumulus.dev "train" deleted\n'
    assert kubectl("delete", "gj", "--all").startswith('gpujob.cumulus.dev "busy" deleted')
    missing = kubectl.fails("get", "gj", "train")
    assert missing.startswith("Error from server (NotFound)")
    assert kubectl("get", "--raw", "/livez") == "ok"
