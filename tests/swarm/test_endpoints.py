"""The ways to a manager: a socket, TLS with certificates of one's own, SSH; and who is not let in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cumulus.backends.base import WorkloadState
from cumulus.backends.swarm.engine import Engine, EngineUnavailable, from_settings
from cumulus.backends.swarm.settings import SwarmSettings
from cumulus.errors import BackendError
from tests.commands import CUMULUS
from tests.lab.lab import Lab
from tests.lab.node import TLS_PORT
from tests.swarm.bed import SwarmBed
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]


def runs_a_job(bed: SwarmBed, engine: Engine) -> None:
    bed.backend.close()
    bed.backend = bed.open(engine=engine)
    work = bed.work("echo", "hello")
    bed.backend.start(work)
    assert bed.finish(work).state is WorkloadState.SUCCEEDED
    assert bed.log(work) == b"hello\n"


def over_tls(lab: Lab, certificates: str) -> Engine:
    engine = from_settings(
        SwarmSettings(
            manager=f"tcp://{lab.manager.address}:{TLS_PORT}",
            tls_verify="1",
            certificates=str(lab.directory / certificates),
        )
    )
    assert engine is not None
    return engine


def test_a_manager_over_tls(bed: SwarmBed, swarm: Lab) -> None:
    runs_a_job(bed, over_tls(swarm, "tls"))


def test_a_client_whose_certificate_nobody_vouches_for_is_not_let_in(swarm: Lab, tmp_path: Path) -> None:
    (swarm.directory / "mixed").mkdir(exist_ok=True)
    for name, place in (("ca.pem", "tls"), ("cert.pem", "stranger"), ("key.pem", "stranger")):
        (swarm.directory / "mixed" / name).write_bytes((swarm.directory / place / name).read_bytes())
    with pytest.raises(EngineUnavailable):
        over_tls(swarm, "mixed").nodes()


def test_an_engine_whose_certificate_nobody_vouches_for_is_not_believed(swarm: Lab) -> None:
    with pytest.raises(EngineUnavailable, match=r"(?i)certificate"):
        over_tls(swarm, "stranger").nodes()


def test_tcp_without_certificates_is_refused_by_an_engine_that_wants_them(swarm: Lab) -> None:
    with pytest.raises(BackendError):
        Engine([f"tcp://{swarm.manager.address}:{TLS_PORT}"]).nodes()


@pytest.fixture
def ssh_home(swarm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose ~/.ssh opens the lab's nodes."""
    place = tmp_path / ".ssh"
    place.mkdir(mode=0o700)
    (place / "known_hosts").write_bytes(swarm.known_hosts.read_bytes())
    (place / "config").write_text(f"Host *\n  IdentityFile {swarm.key}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    return place


@pytest.mark.usefixtures("ssh_home")
def test_a_manager_over_ssh(bed: SwarmBed, swarm: Lab) -> None:
    engine = from_settings(SwarmSettings(manager=f"ssh://root@{swarm.manager.address}"))
    assert engine is not None
    runs_a_job(bed, engine)


def test_a_manager_over_ssh_whose_host_key_is_unknown_is_not_believed(swarm: Lab, ssh_home: Path) -> None:
    (ssh_home / "known_hosts").unlink()
    with pytest.raises(BackendError):
        Engine([f"ssh://root@{swarm.manager.address}"]).nodes()


def test_dev_setup_takes_certificates_and_does_not_say_it_is_set_up_when_it_is_not(swarm: Lab, tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("dev-setup.sh", "_dev.sh"):
        shutil.copy(ROOT / "scripts" / name, scripts)
    (scripts / "_python.sh").write_text(f"VENV={Path(CUMULUS).parents[1]}\nmake_venv() {{ :; }}\n")

    def set_up(**variables: str) -> subprocess.CompletedProcess[str]:
        command = [str(scripts / "dev-setup.sh"), f"tcp://{swarm.manager.address}:{TLS_PORT}", "--no-image"]
        env = {**os.environ, "DOCKER_CONFIG": str(tmp_path / "docker"), **variables}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)

    refused = set_up()
    assert refused.returncode == 1
    assert "does not answer" in refused.stderr
    assert "Set up" not in refused.stdout
    try:
        done = set_up(DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(swarm.directory / "tls"))
    finally:
        # The tests of nodes that fall silent wait for Swarm's own fifteen seconds.
        swarm.manager.docker("swarm", "update", "--dispatcher-heartbeat", "5s")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Set up. Start the controllers with scripts/dev-start.sh\n")
    assert f"certificates={swarm.directory}/tls" in (tmp_path / ".dev" / "settings").read_text()
