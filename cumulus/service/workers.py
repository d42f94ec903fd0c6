"""Finds, adds and sets up workers that are reached over SSH."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cumulus.answers.nodes import (
    HostKey,
    NodeChange,
    SetupStep,
    WorkerAddress,
    WorkerAnswer,
    WorkerFound,
    WorkerSaid,
)
from cumulus.errors import AlreadyExists, InvalidObject, NodeRefused, UsageError
from cumulus.resources.fields import check_name, check_secret_name, check_text
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds import gpunode
from cumulus.resources.node import GPUNode, SshAddress
from cumulus.service import infrastructure
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.nodes import Nodes, ssh_address
from cumulus.service.objects import Objects
from cumulus.store.base import Store
from cumulus.store.client import StoreClient


class Workers:
    def __init__(
        self, may: Access, store: Store, objects: Objects, nodes: Nodes, access: infrastructure.WorkerInfrastructure
    ) -> None:
        self._may = may
        self._store = store
        self._objects = objects
        self._nodes = nodes
        self._access = access

    def find(self, identity: Identity, name: str, address: WorkerAddress, *, fingerprint: str = "") -> WorkerFound:
        """The machine that is to be the node `name`, and the host key that it shows. Nothing is trusted or stored.

        Raises UsageError; NodeRefused where the name or the machine is another node's, or where a fingerprint is given
        and the key has another; NodeUnreachable, also where another key is known.
        """
        self._may.check(identity, "create", "workers")
        damaged: list[InvalidObject] = []
        ssh = self._ssh(name, address, damaged)
        key = self._access.shown_key(ssh)
        if fingerprint and key.fingerprint.split()[0] != fingerprint:
            raise NodeRefused(f"{key.host} shows the host key {key.fingerprint}, not {fingerprint}")
        return WorkerFound(key, self._access.trusts(ssh, key), tuple(damaged))

    def add(self, identity: Identity, name: str, address: WorkerAddress, key: HostKey) -> NodeChange:
        """Trust the host key, which `find` gave and a person has confirmed, and store the node with this address.
        Raises what `find` raises."""
        self._may.check(identity, "create", "workers")
        ssh = self._ssh(name, address, [])
        if not self._access.trusts(ssh, key):
            self._access.trust(ssh, key)
        node = GPUNode.model_validate({"metadata": {"name": name}, "spec": {"ssh": ssh.to_json()}})
        try:
            self._objects.create(identity, node.to_json())
            return "added"
        except AlreadyExists:
            return "changed" if self._objects.edit(identity, node.key, _with_ssh(ssh))[1] else "unchanged"

    def ask(self, identity: Identity, name: str) -> WorkerAnswer:
        """What the worker says of itself, asked as the daemon will. Raises NotFound, NodeRefused, ChronosError."""
        self._may.check(identity, "get", "workers")
        return self._access.ask(name, ssh_address(self._nodes.get(identity, name)))

    def setup(
        self, identity: Identity, name: str, *, prefix: str = "", python: str = "", dry_run: bool = False
    ) -> Iterator[SetupStep]:
        """Install Chronos on a worker, and ask it then. `prefix`: only for the SSH user, there. With `dry_run` it only
        says what it would do. Raises NotFound, NodeRefused, UsageError, NodeUnreachable."""
        self._may.check(identity, "update", "workers")
        ssh = ssh_address(self._nodes.get(identity, name))
        if prefix and not prefix.startswith("/"):
            raise UsageError(f"--prefix takes a whole path on {name}, not {prefix!r}")
        _checked(check_text, prefix)
        yield WorkerSaid(self._access.install(name, ssh, prefix=prefix, python=python, dry_run=dry_run))
        if dry_run:
            return
        if prefix:
            ssh = ssh.model_copy(update={"chronos_cli": f"{prefix.rstrip('/')}/bin/chronos_cli"})
            self._objects.edit(identity, Key(gpunode.KIND.name, "", name), _with_ssh(ssh))
        yield self._access.ask(name, ssh)

    def _ssh(self, name: str, address: WorkerAddress, damaged: list[InvalidObject]) -> SshAddress:
        """The address, with what the node has of it already. Raises UsageError, NodeRefused."""
        if not address.ssh:
            raise UsageError("say where the node is", hint="--ssh USER@HOST or --ssh USER@HOST:PORT")
        _checked(check_name, name)
        _checked(check_text, address.chronos_cli)
        if address.key_secret:
            _checked(check_secret_name, address.key_secret)
        user, host, port = self._access.parse(address.ssh)
        known = self._known(name, host, port, damaged)
        return SshAddress(
            host=host, port=port, user=user,
            key_secret=address.key_secret or (known and known.key_secret),
            chronos_cli=address.chronos_cli or (known and known.chronos_cli),
        )  # fmt: skip

    def _known(self, name: str, host: str, port: int, damaged: list[InvalidObject]) -> SshAddress | None:
        """The address that the node has so far, None where it is new. Raises NodeRefused."""
        known = None
        for node in StoreClient(self._store).list(GPUNode, damaged=damaged.append):
            ssh = node.spec.ssh
            if node.metadata.name == name and ssh is None:
                raise NodeRefused(f"the node {name} exists, and a daemon there manages it", hint="take another name")
            if node.metadata.name == name:
                known = ssh
            elif ssh is not None and (ssh.host, ssh.port) == (host, port):
                raise NodeRefused(f"{host}, port {port} is there already, as the node {node.metadata.name}")
        return known


def _checked(check: Callable[[str], str], text: str) -> None:
    """Raises UsageError."""
    try:
        check(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _with_ssh(ssh: SshAddress) -> Callable[[Document], Document]:
    def change(node: Document) -> Document:
        spec = node.get("spec") or {}
        return node if spec.get("ssh") == ssh.to_json() else {**node, "spec": {**spec, "ssh": ssh.to_json()}}

    return change
