"""Host keys: what is not known is refused, and the hint is a command that works."""

from __future__ import annotations

import shlex
import stat
import subprocess

import pytest

from cumulus.nodes.host_keys import HostKeyRefused, KnownHosts, fetch, fingerprint
from tests.nodes.conftest import Worker, connect
from tests.waiting import PATIENCE

pytestmark = pytest.mark.ssh


def follow(hint: str | None) -> None:
    """Run the command that the hint gives, as a person would."""
    assert hint is not None
    subprocess.run(["sh", "-c", hint.partition(": ")[2]], check=True, capture_output=True, timeout=PATIENCE)


def test_an_unknown_key_is_refused_with_the_command_that_adds_it(worker: Worker, known_hosts: KnownHosts) -> None:
    leases = connect(worker, known_hosts)
    with pytest.raises(HostKeyRefused, match="is not known") as refused:
        leases.list()
    assert not known_hosts.own.exists()
    follow(refused.value.hint)
    assert connect(worker, known_hosts).list() == []


def test_a_changed_key_is_refused_with_the_command_that_forgets_it(worker: Worker, known_hosts: KnownHosts) -> None:
    old = fetch(worker.address, 5)
    known_hosts.add(worker.address, old)
    worker.stop()
    worker.make_host_key()
    worker.start()
    new = fetch(worker.address, 5)
    with pytest.raises(HostKeyRefused, match="not the one that is known") as refused:
        connect(worker, known_hosts).list()
    assert fingerprint(old) in str(refused.value)
    assert fingerprint(new) in str(refused.value)
    assert refused.value.hint is not None
    assert "ssh-keygen -R" in refused.value.hint
    follow(refused.value.hint)
    known_hosts.add(worker.address, new)
    assert connect(worker, known_hosts).list() == []


def test_the_key_of_another_type_that_is_known_is_asked_for(worker: Worker, known_hosts: KnownHosts) -> None:
    """sshd has two keys, and only the one that it would not show by itself is known."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", worker.directory / "host_ecdsa"], check=True)
    with (worker.directory / "sshd_config").open("a") as config:
        config.write(f"HostKey {worker.directory}/host_ecdsa\n")
    worker.stop()
    worker.start()
    public = (worker.directory / "host_ecdsa.pub").read_text()
    known_hosts.own.write_text(f"{worker.address.known_as} {public}")
    assert connect(worker, known_hosts).list() == []


def test_hashed_names_are_known(worker: Worker, known_hosts: KnownHosts) -> None:
    known_hosts.add(worker.address, fetch(worker.address, 5))
    subprocess.run(["ssh-keygen", "-H", "-f", known_hosts.own], check=True, capture_output=True)
    assert worker.address.host not in known_hosts.own.read_text()
    assert connect(worker, known_hosts).list() == []


def test_the_own_file_decides_before_others(worker: Worker, known_hosts: KnownHosts) -> None:
    stale = known_hosts.own.with_name("stale")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{stale}_key"], check=True)
    stale.write_text(f"{worker.address.known_as} {(stale.with_name('stale_key.pub')).read_text()}")
    both = KnownHosts(known_hosts.own, (stale,))
    with pytest.raises(HostKeyRefused, match="not the one"):
        connect(worker, both).list()
    both.add(worker.address, fetch(worker.address, 5))
    assert connect(worker, both).list() == []


def test_the_fingerprint_is_openssh_s(worker: Worker, known_hosts: KnownHosts) -> None:
    key = fetch(worker.address, 5)
    shown = subprocess.run(
        ["ssh-keygen", "-lf", worker.directory / "host_key.pub"], check=True, capture_output=True, text=True
    )
    assert fingerprint(key).split()[0] in shown.stdout
    known_hosts.add(worker.address, key)
    assert stat.S_IMODE(known_hosts.own.stat().st_mode) == 0o600
    assert shlex.split(known_hosts.own.read_text())[0] == worker.address.known_as
