"""kubectl 1.32, unmodified, against the API: one session, its output compared."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cumulus.clock import FakeClock
from cumulus.server.http.api import Api
from cumulus.server.http.app import make_app
from cumulus.server.http.listener import Listener
from cumulus.server.watches import WatchBridge
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from tests.documents import NOW, job, running
from tests.service.conftest import ME, FakeInfrastructure

KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="THE SESSIONS OF KUBECTL ARE LEFT OUT: it is not installed")

Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore(FakeClock(NOW))


@pytest.fixture(scope="module")
def kubectl(store: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """Runs kubectl against a server on the loopback that takes everybody for one user: over plain HTTP it sends no
    token."""
    home = tmp_path_factory.mktemp("kubectl")

    async def authenticate(_: object) -> Identity:
        return ME

    service = Service(lambda: store, home, FakeClock(NOW), infrastructure=FakeInfrastructure())
    bridge = WatchBridge(store)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        api = Api(service, bridge)
        listener = Listener(make_app(api, authenticate), [listening])
        listener.start()
        server = f"http://127.0.0.1:{listening.getsockname()[1]}"
        environment = {"PATH": os.environ["PATH"], "HOME": str(home)}

        def run(*words: str, given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
            command = [KUBECTL or "", "--server", server, f"--cache-dir={home}/cache", *words]
            return subprocess.run(
                command, input=given, capture_output=True, text=True, timeout=60, env={**environment, **variables}
            )

        yield run
        bridge.close()
        listener.close()
        api.close()
    store.close()


def said(finished: subprocess.CompletedProcess[str]) -> str:
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_session(kubectl: Kubectl, store: MemoryStore, tmp_path: Path) -> None:
    said_of = lambda *words, **given: said(kubectl(*words, **given))  # noqa: E731
    resources = {line.split()[0]: line.split() for line in said_of("api-resources", "--no-headers").splitlines()}
    assert resources["gpujobs"][-3:] == ["cumulus.dev/v1alpha1", "true", "GPUJob"]

    created = said_of("create", "--validate=false", "-f", "-", given=json.dumps(job("train")))
    assert created == "gpujob.cumulus.dev/train created\n"
    again = kubectl("create", "--validate=false", "-f", "-", given=json.dumps(job("train")))
    assert again.stderr.startswith("Error from server (AlreadyExists)")
    bad = job("bad")
    bad["spec"]["gpu"]["memory"] = "nonsense"
    refused = kubectl("create", "--validate=false", "-f", "-", given=json.dumps(bad))
    assert 'The GPUJob "bad" is invalid' in refused.stderr or "spec.gpu.memory" in refused.stderr, refused.stderr

    store.create(running("busy", labels={"team": "x"}))
    heading, *rows = said_of("get", "gj").splitlines()
    assert heading.split()[:2] == ["NAME", "PHASE"]
    assert [row.split()[:2] for row in rows] == [["busy", "Running"], ["train", "Pending"]]
    assert said_of("get", "gpujobs", "-A", "-o", "name", "--chunk-size=1") == (
        "gpujob.cumulus.dev/busy\ngpujob.cumulus.dev/train\n"
    )
    assert said_of("get", "gj", "--field-selector", "status.phase=Running", "-o", "jsonpath={..name}") == "busy"
    by_name = said_of("get", "gj", "--sort-by=.metadata.name", "--no-headers", "-o", "custom-columns=N:.metadata.name")
    assert by_name.split() == ["busy", "train"]

    assert said_of("label", "gj", "train", "team=y") == "gpujob.cumulus.dev/train labeled\n"
    assert said_of("annotate", "gj", "train", "note=hello") == "gpujob.cumulus.dev/train annotated\n"
    patch = json.dumps({"spec": {"suspend": True}})
    assert said_of("patch", "gj", "train", "--type=merge", "-p", patch) == "gpujob.cumulus.dev/train patched\n"
    strategic = kubectl("patch", "gj", "train", "-p", "{}")
    assert "application/strategic-merge-patch+json is not supported" in strategic.stderr
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/note: hello/note: edited/' \"$1\"\n")
    editor.chmod(0o755)
    assert "edited" in said_of("edit", "gj", "train", "--validate=false", EDITOR=str(editor))
    assert said_of("get", "gj", "train", "-o", "jsonpath={.metadata.annotations.note}") == "edited"
    assert "condition met" in said_of("wait", "gj/train", "--for=jsonpath={.spec.suspend}=true", "--timeout=10s")

    assert said_of("delete", "gj", "train") == 'gpujob.cumulus.dev "train" deleted\n'
    assert said_of("delete", "gj", "--all").startswith('gpujob.cumulus.dev "busy" deleted')
    missing = kubectl("get", "gj", "train")
    assert missing.stderr.startswith("Error from server (NotFound)")
    assert said_of("get", "--raw", "/livez") == "ok"
