"""Workers that are reached over SSH: from a GPUNode's address to its agent."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from cumulus import paths
from cumulus.nodes import download, relay, upload
from cumulus.nodes.address import WorkerHost
from cumulus.nodes.agent import Connect, NodeAgent
from cumulus.nodes.connection import NodeConnection
from cumulus.nodes.host_keys import KnownHosts
from cumulus.nodes.leases import RemoteLeases
from cumulus.nodes.settings import SshSettings
from cumulus.resources.node import GPUNode, SshAddress
from cumulus.secrets import SecretStore

SECRET_KEY = "ssh-privatekey"
"""The key of a secret that holds a private key, as in Kubernetes' secrets of type kubernetes.io/ssh-auth."""


def connector(home: Path, settings: SshSettings) -> Connect:
    """How `serve` makes agents: with the host keys and secrets of that state directory."""

    def connect(node: GPUNode) -> NodeAgent:
        assert node.spec.ssh is not None
        link = connection(node.metadata.name, node.spec.ssh, home, settings.key_path)
        leases = RemoteLeases(link, command(node.spec.ssh, settings.chronos_path))
        return NodeAgent(
            node.metadata.name, leases, runtimes=(), facts=lambda: leases.facts, usage=leases.usage,
            set_policy=leases.set_policy, close=leases.close,
        )  # fmt: skip

    return connect


def shell(home: Path, key_path: str, node: GPUNode) -> ConnectionShell | None:
    """A shell on the node, None where it has no SSH address."""
    return (
        None
        if node.spec.ssh is None
        else ConnectionShell(connection(node.metadata.name, node.spec.ssh, home, key_path))
    )


class ConnectionShell:
    """A node's connection as a shell, for what is none of Chronos' business."""

    def __init__(self, connection: NodeConnection) -> None:
        self._connection = connection

    def run(self, command: str, seconds: float) -> tuple[int, str, str]:
        answer = self._connection.run(command, seconds)
        return answer.status, answer.output, answer.errors

    def feed(self, command: str, chunks: Iterable[bytes]) -> tuple[int, str, str]:
        return upload.upload(self._connection, command, chunks)

    def read(self, command: str, given: bytes) -> Iterator[bytes]:
        return download.download(self._connection, command, given)

    def relay(self, command: str) -> socket.socket:
        """For one command: the connection is closed with it."""
        return relay.relay(self._connection, command)

    def close(self) -> None:
        self._connection.close()


def connection(name: str, ssh: SshAddress, home: Path, key_path: str) -> NodeConnection:
    """A connection to the node, opened when it is first used. `key_path`: the private key where `ssh` names no secret;
    "" for the agent and ~/.ssh."""

    def key() -> str | None:
        return (
            None
            if ssh.key_secret is None
            else SecretStore(paths.system_secrets_dir(home)).get(ssh.key_secret, SECRET_KEY)
        )

    return NodeConnection(name, address(ssh), known_hosts(home), key, key_path=key_path)


def address(ssh: SshAddress) -> WorkerHost:
    return WorkerHost(ssh.host, ssh.user, ssh.port)


def known_hosts(home: Path) -> KnownHosts:
    return KnownHosts(paths.known_hosts(home))


def command(ssh: SshAddress, path: str = "") -> str:
    """The shell words that run chronos_cli there. `path`: where it is, if the node does not say."""
    program = path or "chronos_cli"
    return ssh.chronos_cli or (program if ssh.user == "root" else f"sudo -n {program}")
