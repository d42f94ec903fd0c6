"""A call through the real daemon, in whose processes nothing can be unpickled."""

from __future__ import annotations

import hashlib
import os
import pickle
import pwd
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from cumulus.blob.directory import DirectoryBlobStore
from cumulus.calls.outcome import Outcome, verify
from cumulus.infrastructure import LocalInfrastructure
from tests.e2e.conftest import Machine
from tests.runner.calls import HERE, KEY, payload_of
from tests.waiting import eventually

pytestmark = pytest.mark.daemon
cloudpickle.register_pickle_by_value(sys.modules[__name__])

ABORTS = """
import os, pickle
def abort(*given, **named):
    os.write(2, b"UNPICKLED\\n")
    os._exit(99)
for name in ("load", "loads", "Unpickler", "_load", "_loads", "_Unpickler"):
    setattr(pickle, name, abort)
"""
"""A sitecustomize."""


class Client:
    """Writes blobs into the daemon's own directory, as the gRPC server does for users."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._blobs = DirectoryBlobStore(machine.directory / "cumulus" / "blobs")
        self._owner = f"{os.geteuid()}:{pwd.getpwuid(os.geteuid()).pw_name}"

    def submit(self, name: str, payload: bytes, **call: Any) -> None:
        digest = hashlib.sha256(payload).hexdigest()
        self._blobs.write(self._owner, digest, len(payload), [payload])
        spec = {"payload": digest, "python": HERE, "interpreter": sys.executable, **call}
        self._machine.apply(
            {
                "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": {"name": name},
                "spec": {"call": spec, "gpu": {"memory": "10%", "duration": "1h"}},
            }
        )  # fmt: skip

    def outcome(self, name: str, phase: str) -> Outcome:
        self._machine.ok("wait", f"gpujob/{name}", f"--for=condition={phase}", "--timeout=150s")
        found = Outcome.of_status(self._machine.get("job", name)["status"]["call"])
        assert found is not None
        return found

    def value(self, payload: bytes, outcome: Outcome) -> Any:
        content = b"".join(self._blobs.open(self._owner, outcome.result))
        assert verify(KEY, hashlib.sha256(payload).hexdigest(), outcome)
        return pickle.loads(content)


def test_calls_through_a_daemon_that_is_killed_and_unpickles_nothing(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(ABORTS)
    machine.env["PYTHONPATH"] = str(tmp_path / "site")
    guarded = [sys.executable, "-c", "import pickle; pickle.loads(b'N.')"]
    assert subprocess.run(guarded, env=machine.env, capture_output=True, check=False).returncode == 99
    gate, ran = tmp_path / "gate", tmp_path / "ran"

    def wait(number: int) -> tuple[int, str]:
        import time

        with open(ran, "a") as file:
            file.write("once\n")
        print("waiting", flush=True)
        while not gate.exists():
            time.sleep(0.01)
        return number * 2, os.environ["CUMULUS_JOB"]

    client = Client(machine)
    daemon = machine.serve()
    machine.ready()
    waits, raises, missing, serves = (
        payload_of(wait, 21), payload_of(int, "x"), payload_of(len, ""), payload_of(os.getpid),
    )  # fmt: skip
    client.submit("waits", waits)
    client.submit("raises", raises)
    client.submit("missing", missing, python="3.99")
    client.submit("serves", serves, session=True)
    eventually(ran.exists)
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    gate.touch()
    machine.serve()
    assert client.value(waits, client.outcome("waits", "Succeeded")) == (42, "waits")
    assert ran.read_text() == "once\n"
    assert machine.ok("logs", "waits") == "waiting\n"
    raised = client.outcome("raises", "Failed")
    assert (raised.outcome, raised.type) == ("Raised", "builtins.ValueError")
    assert type(client.value(raises, raised)) is ValueError
    refused = client.outcome("missing", "Failed")
    assert refused.outcome == "NotStarted"
    assert "there is no Python 3.99 on this node" in refused.text
    described = " ".join(machine.ok("describe", "job", "raises").split())
    assert "Outcome: Raised, builtins.ValueError: invalid literal for int() with base 10: 'x'" in described
    infrastructure = LocalInfrastructure(machine.directory / "cumulus")
    session = infrastructure.session(machine.get("job", "serves"), None)
    _, _, content = session.call(len(serves), [serves])
    assert pickle.loads(b"".join(content)) > 1
    session.close_session()
    session.close()
    assert client.outcome("serves", "Succeeded").outcome == "Returned"
    machine.ok("delete", "jobs", "--all", "--timeout=150s")
    for log in machine.directory.glob("serve-*.log"):
        assert "UNPICKLED" not in log.read_text()
