"""Workers over SSH, with the host keys and secrets of a state directory."""

from __future__ import annotations

import base64
from pathlib import Path

import paramiko

from cumulus import __version__
from cumulus.answers.nodes import HostKey, WorkerAnswer, WorkerDevice
from cumulus.nodes import host_keys, workers
from cumulus.nodes.address import WorkerHost
from cumulus.nodes.install import Setup, install
from cumulus.nodes.leases import RemoteLeases
from cumulus.nodes.settings import SshSettings
from cumulus.resources.node import SshAddress

_SECONDS = 10.0
"""For a machine to show its host key."""


class SshWorkers:
    """See `service.infrastructure.WorkerInfrastructure`."""

    def __init__(self, home: Path, settings: SshSettings) -> None:
        self._home = home
        self._settings = settings

    def parse(self, ssh: str) -> tuple[str, str, int]:
        place = WorkerHost.parse(ssh)
        return place.user, place.host, place.port

    def shown_key(self, ssh: SshAddress) -> HostKey:
        address = workers.address(ssh)
        key = host_keys.fetch(address, _SECONDS)
        return HostKey(address.known_as, key.get_name(), key.get_base64(), host_keys.fingerprint(key))

    def trusts(self, ssh: SshAddress, key: HostKey) -> bool:
        return workers.known_hosts(self._home).knows(workers.address(ssh), _key(key))

    def trust(self, ssh: SshAddress, key: HostKey) -> None:
        workers.known_hosts(self._home).add(workers.address(ssh), _key(key))

    def ask(self, name: str, ssh: SshAddress) -> WorkerAnswer:
        link = workers.connection(name, ssh, self._home, self._settings.key_path)
        leases = RemoteLeases(link, workers.command(ssh, self._settings.chronos_path))
        try:
            devices = leases.devices()
        finally:
            leases.close()
        facts = leases.facts
        return WorkerAnswer(
            facts.hostname, facts.chronos_version, __version__, facts.clock_skew,
            tuple(WorkerDevice(d.index, d.name, d.memory_bytes, str(d.enforcement)) for d in devices),
        )  # fmt: skip

    def install(self, name: str, ssh: SshAddress, *, prefix: str, python: str, dry_run: bool) -> str:
        link = workers.connection(name, ssh, self._home, self._settings.key_path)
        try:
            return install(link, Setup(prefix, python, dry_run))
        finally:
            link.close()


def _key(key: HostKey) -> paramiko.PKey:
    return paramiko.PKey.from_type_string(key.type, base64.b64decode(key.base64))
