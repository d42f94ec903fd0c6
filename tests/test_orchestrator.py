"""The orchestrator of the first description, end to end: `cumulus-orchestrator --config config.yaml`, asked at its gRPC
address by the SDK with a token, over TLS.

    python tests/test_orchestrator.py
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import pytest

    sys.exit(pytest.main([__file__, "-v"]))

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.errors import Unauthenticated
from cumulus.sdk import CumulusClient
from tests.commands import installed
from tests.e2e.conftest import Machine, manifest, serving
from tests.processes import Process

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("orchestrator")]

CONFIG = """
apiVersion: cumulus.dev/v1alpha1
logs: {first: 1Mi, last: 4Mi}
"""


class Orchestrator(Machine):
    """A machine whose daemon is started by the program's first name, and a client of it elsewhere."""

    serves_grpc = True

    def serve(self) -> Process:
        self.directory.mkdir(exist_ok=True)
        (self.directory / "config.yaml").write_text(CONFIG)
        return self.started(installed("cumulus-orchestrator"), "--config", "config.yaml", cwd=self.directory)


@pytest.fixture(scope="module")
def orchestrator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchestrator]:
    with serving(Orchestrator(tmp_path_factory.mktemp("orchestrator"))) as made:
        yield made


@pytest.fixture
def token(orchestrator: Orchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the server's user was given, and its authority is trusted."""
    for name in ("CUMULUS_HOME", "CUMULUS_ORCHESTRATOR_URL", "CUMULUS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = orchestrator.context()
    (tmp_path / "ca.pem").write_text(found.ca)
    monkeypatch.setenv("CUMULUS_CA_FILE", str(tmp_path / "ca.pem"))
    return found.token


def where() -> tuple[int, str]:
    print("on the node")
    return os.getpid(), os.environ["CHRONOS_DEVICE_NAME"]


def test_a_function_runs_on_a_lease(orchestrator: Orchestrator, token: str, capfd: pytest.CaptureFixture[str]) -> None:
    with CumulusClient(orchestrator.grpc(), token) as client:
        pid, device = client.run(where, gpu_memory=0.5, duration=3600)
    assert pid != os.getpid()
    assert device
    assert "on the node" in capfd.readouterr().out
    [job] = [job for job in orchestrator.items("job") if job["spec"].get("call")]
    assert (job["spec"]["gpu"]["memory"], job["spec"]["gpu"]["duration"]) == ("0.5", "3600s")
    assert job["status"]["phase"] == "Succeeded"


def test_nobody_is_served_without_a_token(orchestrator: Orchestrator, token: str) -> None:
    with CumulusClient(orchestrator.grpc(), "cumulus_not-a-token") as client, pytest.raises(Unauthenticated):
        client.run(where)


def test_jobs_outlive_the_orchestrator(orchestrator: Orchestrator) -> None:
    orchestrator.apply(manifest("long", "echo begun; sleep 2; echo done"))
    orchestrator.ok("wait", "gpujob/long", "--for=condition=Running", "--timeout=150s")
    daemon = orchestrator.daemons[-1]
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    orchestrator.serve()
    orchestrator.ok("wait", "gpujob/long", "--for=condition=Succeeded", "--timeout=150s")
    assert orchestrator.ok("logs", "long") == "begun\ndone\n"
    assert len(orchestrator.get("job", "long")["status"]["attempts"]) == 1
