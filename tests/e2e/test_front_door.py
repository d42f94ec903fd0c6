"""A real daemon, TLS and tokens, and kubectl as it is: from `cumulus kubeconfig` to a job that ran."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cumulus.service.identity import Identity
from tests.documents import job
from tests.e2e.conftest import Machine
from tests.waiting import PATIENCE, eventually

KUBECTL = shutil.which("kubectl")
pytestmark = [
    pytest.mark.daemon,
    pytest.mark.skipif(KUBECTL is None, reason="THE SESSIONS OF KUBECTL ARE LEFT OUT: it is not installed"),
]


METRICS = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_kubectl_from_a_kubeconfig_to_a_job_that_ran(machine: Machine, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"

    def run(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [KUBECTL or "", "--kubeconfig", str(config), f"--cache-dir={tmp_path}/cache", *words], input=given,
            capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            check=False,
        )  # fmt: skip

    def kubectl(*words: str, given: str = "") -> str:
        done = run(*words, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    daemon = machine.serve()
    eventually(lambda: machine.run("kubeconfig", "-o", str(config)).returncode == 0)
    assert config.stat().st_mode & 0o777 == 0o600
    assert kubectl("get", "--raw", "/livez") == "ok"
    hello = job("hello", command=["true"], gpu={"memory": "10%"})
    del hello["status"]
    assert kubectl("apply", "-f", "-", given=json.dumps(hello)) == "gpujob.cumulus.dev/hello created\n"
    assert "condition met" in kubectl("wait", "gpujob/hello", "--for=condition=complete", "--timeout=150s")
    eventually(lambda: run("get", "--raw", "/readyz").stdout == "ok")
    assert kubectl("get", "gpujobs", "-o", "name") == "gpujob.cumulus.dev/hello\n"
    me = Identity.of_this_process().name
    assert json.loads(kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]["username"] == me

    # Prometheus, as docs/metrics.md lets it in.
    token = machine.ok("token", "create", "prometheus", "--user", "prometheus", "--duration", "365d").strip()
    scrape = ("--token", token, "get", "--raw", "/metrics")
    assert "forbidden" in run(*scrape).stderr
    machine.ok("apply", "-f", "-", input=METRICS.read_text().partition("<<END\n")[2].partition("    END\n")[0])
    eventually(lambda: "workqueue_depth" in run(*scrape).stdout)

    # The daemon starts again: the same kubeconfig is right, since authority and port stay.
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(PATIENCE) == 0
    assert "refused" in run("get", "gpujobs").stderr
    machine.serve()
    eventually(lambda: run("delete", "gpujob", "hello").stdout == 'gpujob.cumulus.dev "hello" deleted\n')

    for each in json.loads(machine.ok("token", "list", "-o", "json")):
        machine.ok("token", "revoke", each["name"])
    assert "You must be logged in" in run("get", "gpujobs").stderr
    text = "".join(log.read_text() for log in machine.directory.glob("serve-*.log"))
    assert "/apis/cumulus.dev/v1alpha1/namespaces/default/gpujobs" in text
    assert "cumulus_" not in text, "no token comes into the log"
