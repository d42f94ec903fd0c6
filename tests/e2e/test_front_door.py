"""A real daemon, TLS and tokens, and kubectl as it is: from `cumulus kubeconfig` to a job that ran."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.documents import job
from tests.e2e.conftest import Machine
from tests.waiting import eventually

KUBECTL = shutil.which("kubectl")
pytestmark = [
    pytest.mark.daemon,
    pytest.mark.skipif(KUBECTL is None, reason="THE SESSIONS OF KUBECTL ARE LEFT OUT: it is not installed"),
]


def test_kubectl_from_a_kubeconfig_to_a_job_that_ran(machine: Machine, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"

    def kubectl(*words: str, given: str = "", code: int = 0) -> str:
        done = subprocess.run(
            [KUBECTL or "", "--kubeconfig", str(config), f"--cache-dir={tmp_path}/cache", *words], input=given,
            capture_output=True, text=True, timeout=100, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    daemon = machine.serve()
    eventually(lambda: machine.run("kubeconfig", "-o", str(config)).returncode == 0)
    assert config.stat().st_mode & 0o777 == 0o600
    eventually(lambda: kubectl("get", "--raw", "/livez") == "ok")
    hello = job("hello", command=["true"], gpu={"memory": "10%"})
    del hello["status"]
    assert kubectl("apply", "-f", "-", given=json.dumps(hello)) == "gpujob.cumulus.dev/hello created\n"
    assert "condition met" in kubectl("wait", "gpujob/hello", "--for=condition=Succeeded", "--timeout=90s")
    assert kubectl("get", "--raw", "/readyz") == "ok"
    assert kubectl("get", "gpujobs", "-o", "name") == "gpujob.cumulus.dev/hello\n"
    assert json.loads(kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]["username"] == "root"

    # The daemon starts again: the same kubeconfig is right, since authority and port stay.
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(60) == 0
    assert "refused" in kubectl("get", "gpujobs", code=1)
    machine.serve()
    eventually(
        lambda: machine.run("kubeconfig").returncode == 0 and (machine.directory / "cumulus" / "api.sock").exists()
    )

    def deleted() -> bool:
        try:
            return kubectl("delete", "gpujob", "hello") == 'gpujob.cumulus.dev "hello" deleted\n'
        except AssertionError:
            return False

    eventually(deleted)
    for each in json.loads(machine.ok("token", "list", "-o", "json")):
        machine.ok("token", "revoke", each["name"])
    assert "You must be logged in" in kubectl("get", "gpujobs", code=1)
    text = "".join(log.read_text() for log in machine.directory.glob("serve-*.log"))
    assert "/apis/cumulus.dev/v1alpha1/namespaces/default/gpujobs" in text
    assert "cumulus_" not in text, "no token comes into the log"
