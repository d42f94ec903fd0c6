"""`cumulus node`: workers that are reached over SSH, from trusting their host key to taking them out again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from cumulus import __version__, daemon_lock, paths
from cumulus.cli import completion, confirm, context, nodes, options, terminal
from cumulus.cli.left_out import LeftOut
from cumulus.cli.verbs.wait import seconds_of
from cumulus.client.embedded import EmbeddedClient
from cumulus.clock import SystemClock, to_the_second
from cumulus.errors import AlreadyExists, ChronosError, CumulusError, NotFound, UsageError
from cumulus.lib import safe_output
from cumulus.nodes import host_keys, workers
from cumulus.nodes.address import Address
from cumulus.nodes.install import Setup, install
from cumulus.nodes.leases import RemoteLeases
from cumulus.resources.documents import condition, lookup
from cumulus.resources.fields import check_name, check_secret_name, check_text
from cumulus.resources.key import Document, Key
from cumulus.resources.node import GPUNode, SshAddress
from cumulus.resources.quantity import format_bytes
from cumulus.service.identity import Identity
from cumulus.service.nodes import Nodes
from cumulus.service.objects import Change, Objects
from cumulus.service.service import Service
from cumulus.store.base import Store
from cumulus.store.client import Client, decode

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Add workers that are reached over SSH, set them up, and take them out again.",
)
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The node.", autocompletion=completion.nodes, show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
POLL_SECONDS = 0.5
LEAVE_SECONDS = 90.0


class Refused(CumulusError):
    """Something speaks against it, or the person said no."""


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the node is to be called.", show_default=False)],
    ssh: Annotated[
        str, typer.Option("--ssh", metavar="USER@HOST[:PORT]", show_default=False, help="Where it is, and who to be.")
    ] = "",
    yes: Yes = False,
    fingerprint: Annotated[
        str,
        typer.Option(metavar="SHA256:…", show_default=False, help="Trust the host key if it is this one; do not ask."),
    ] = "",
    key_secret: Annotated[
        str,
        typer.Option(metavar="SECRET", show_default=False, help="The secret whose ssh-privatekey is the private key."),
    ] = "",
    chronos_cli: Annotated[
        str, typer.Option(metavar="COMMAND", show_default=False, help="What runs chronos_cli there, if not the usual.")
    ] = "",
) -> int:
    """Add a worker: trust its host key, and let the daemon look after it.

    The key's fingerprint is shown for you to compare with what the machine itself says. It is kept in
    CUMULUS_HOME/known_hosts; a machine that later shows another key is refused.

    \b
    Examples:
      cumulus node add gpu-3 --ssh root@gpu-3.lab
      cumulus node add gpu-3 --ssh cumulus@10.0.0.3:2222 --fingerprint SHA256:GmGZ0cYlAA5Z3vJ4rTTCdg2Ck2vK
      cumulus node add gpu-3 --ssh cumulus@10.0.0.3 --key-secret gpu-3 --yes
    """  # fmt: skip
    if not ssh:
        raise UsageError("say where the node is", hint="--ssh USER@HOST or --ssh USER@HOST:PORT")
    _checked(check_name, name)
    _checked(check_text, chronos_cli)
    if key_secret:
        _checked(check_secret_name, key_secret)
    place = Address.parse(ssh)
    with context.open_store(create=True) as store:
        known = _see_that_it_is_new(store, name, place)
        spec = SshAddress(
            host=place.host, port=place.port, user=place.user,
            key_secret=key_secret or (known and known.key_secret),
            chronos_cli=chronos_cli or (known and known.chronos_cli),
        )  # fmt: skip
        _trust(spec, yes, fingerprint)
        _record(store, name, spec)
    try:
        _show_devices(name, spec)
    except ChronosError as error:
        terminal.warning(f"{error}; {error.hint}" if error.hint else str(error))
        terminal.note(f"Chronos is installed there by: cumulus node setup {name}")
    context.note_if_no_daemon("the node is looked after")
    return 0


@app.command()
def setup(
    name: Name,
    prefix: Annotated[
        str,
        typer.Option(metavar="DIR", show_default=False, help="Install there for the SSH user alone, without root."),
    ] = "",
    python: Annotated[
        str, typer.Option(metavar="PATH", show_default=False, help="The Python there to use, if not the first found.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done there, and do nothing.")] = False,
) -> int:
    """Install Chronos on a worker, of the version that runs here, and start its monitor.

    What is needed is carried over; the worker needs no network, only Python 3.11. It is installed for the whole
    machine by root or a user with sudo, who may then ask for leases with sudo; run again, it brings the version up.

    \b
    Examples:
      cumulus node setup gpu-3
      cumulus node setup gpu-3 --dry-run
      cumulus node setup gpu-3 --prefix /home/me/chronos
    """
    with context.open_store() as store:
        ssh = _address(_node(store, name))
        if prefix and not prefix.startswith("/"):
            raise UsageError(f"--prefix takes a whole path on {name}, not {prefix!r}")
        _checked(check_text, prefix)
        connection = workers.connection(name, ssh, paths.home())
        try:
            safe_output.block(sys.stdout, install(connection, Setup(prefix, python, dry_run)))
        finally:
            connection.close()
        if dry_run:
            return 0
        if prefix:
            ssh = ssh.model_copy(update={"chronos_cli": f"{prefix.rstrip('/')}/bin/chronos_cli"})
            _edit(store, name, _with_ssh(ssh))
    _show_devices(name, ssh)
    return 0


@app.command()
def drain(
    name: Name,
    now: Annotated[bool, typer.Option("--now", help="End the leases now instead of waiting for their end.")] = False,
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", show_default=False, help="How long to wait; for ever if left out.")
    ] = "",
) -> int:
    """Place nothing new on a node, and wait until its last lease has ended.

    With --now the partitions there are deleted: jobs get SIGTERM and their grace, and are placed on other nodes.

    \b
    Examples:
      cumulus node drain gpu-3
      cumulus node drain gpu-3 --now --timeout 5m
    """
    clock = SystemClock()
    deadline = clock.monotonic() + (seconds_of(timeout, "--timeout") if timeout else float("inf"))
    with context.open_store() as store:
        _node(store, name)
        _edit(store, name, _cordoned)
        context.note_if_no_daemon("leases are seen to end")
        if now:
            for partition in _holders(store, name):
                _delete(store, partition)
        shown = -1
        while holders := _holders(store, name):
            if len(holders) != shown:
                terminal.note(f"{name} holds {nodes.leases(len(holders))}")
                shown = len(holders)
            if clock.monotonic() >= deadline:
                raise Refused(f"{name} still holds {nodes.leases(len(holders))}", hint="wait on, or give --now")
            clock.sleep(min(POLL_SECONDS, max(0.01, deadline - clock.monotonic())))
        foreign = [x for d in lookup(_node(store, name), "status.devices") or () for x in d.get("foreignLeases") or ()]
    print(f"gpunode.cumulus.dev/{name} drained")
    if foreign:
        last = to_the_second(max(lease["expiresAt"] for lease in foreign))
        terminal.note(f"{len(foreign)} leases there are not this store's and go on; the last ends at {last}")
    return 0


@app.command()
def remove(
    name: Name,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Though it holds leases. They are forgotten here but go on there to their end, and their jobs begin "
            "anew on other nodes at once: for a while both may run.",
        ),
    ] = False,
) -> int:
    """Take a worker out. What Chronos it has stays installed, and its host key known.

    A machine of the Swarm leaves that too, which ends its containers; this waits for it, and says how it went.

    \b
    Examples:
      cumulus node remove gpu-3
      cumulus node remove gpu-3 --force
    """
    with context.open_store() as store:
        node = _node(store, name)
        _address(node)
        holders = _holders(store, name)
        if holders and not force:
            raise Refused(
                f"{name} holds {nodes.leases(len(holders))}",
                hint=f"end them with: cumulus node drain {name} --now; or give --force, if it is gone for good",
            )
        if holders:
            terminal.warning(
                f"{nodes.leases(len(holders))} are forgotten here; if {name} lives, they go on there until their end, "
                "while their jobs begin anew elsewhere"
            )
        since = store.revision()
        marked = store.delete(Key("GPUNode", "", name), uid=node["metadata"]["uid"])
        said = _see_it_leave(store, marked, since) if marked["metadata"].get("finalizers") else ""
    print(f"gpunode.cumulus.dev/{name} removed{said}")
    return 0


def _see_it_leave(store: Store, node: Document, since: int) -> str:
    """Wait until a machine has left the cluster that it is in; what is known of how it did. Raises Refused."""
    name = node["metadata"]["name"]
    if daemon_lock.daemon_pid(paths.home()) is None:
        raise Refused(f"{name} has yet to leave the Swarm", hint="a daemon sees to that; start it: cumulus serve")
    clock = SystemClock()
    deadline = clock.monotonic() + LEAVE_SECONDS
    watch = store.watch(since=since, kinds=frozenset({"GPUNode"}))
    said: Mapping[str, Any] = {}
    try:
        while clock.monotonic() < deadline:
            for event in watch.next(POLL_SECONDS):
                if event.key.name != name:
                    continue
                said = condition(event.document, "ContainersReady") or {}
                if event.type == "DELETED":
                    return f": {said['message']}" if said.get("reason") == "Left" else ""
                if said.get("reason") == "IsManager":
                    raise Refused(f"{name} stays until it can leave the Swarm: {said['message']}")
    finally:
        watch.close()
    raise Refused(f"{name} has not left the Swarm within {LEAVE_SECONDS:.0f} s", hint="read the daemon's log")


@app.command("list")
def list_(output: options.Output = "", watch: options.Watch = False, no_headers: options.NoHeaders = False) -> int:
    """Show the nodes, as `cumulus get nodes` does.

    \b
    Examples:
      cumulus node list
      cumulus node list -o wide
    """
    from cumulus.cli.verbs.get import get

    return get(["nodes"], output=output, watch=watch, no_headers=no_headers)


def _checked(check: Callable[[str], str], text: str) -> None:
    """Raises UsageError."""
    try:
        check(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _see_that_it_is_new(store: Store, name: str, place: Address) -> SshAddress | None:
    """The address that the node has so far, None where it is new. Raises Refused."""
    known = None
    left_out = LeftOut(EmbeddedClient(Service(lambda: store, paths.home()), Identity.of_this_process()))
    for node in Client(store).list(GPUNode, damaged=left_out.add):
        if node.metadata.name == name and node.spec.ssh is None:
            raise Refused(f"the node {name} is there, and a daemon on it looks after it", hint="take another name")
        if node.metadata.name == name:
            known = node.spec.ssh
        elif node.spec.ssh is not None and (node.spec.ssh.host, node.spec.ssh.port) == (place.host, place.port):
            raise Refused(f"{place.host}, port {place.port} is there already, as the node {node.metadata.name}")
    left_out.tell()
    return known


def _trust(spec: SshAddress, yes: bool, fingerprint: str) -> None:
    known = workers.known_hosts(paths.home())
    address = workers.address(spec)
    key = host_keys.fetch(address, 10)
    shown = host_keys.fingerprint(key)
    if fingerprint and shown.split()[0] != fingerprint:
        raise Refused(f"{address.known_as} shows the host key {shown}, not {fingerprint}")
    if known.knows(address, key):
        terminal.note(f"The host key of {address.known_as} is known: {shown}")
        return
    terminal.note(f"{address.known_as} shows the host key {shown}")
    if not (yes or fingerprint):
        terminal.note("Compare it with what the machine itself says: ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub")
        _confirm("Is it the same?")
    known.add(address, key)


def _confirm(question: str) -> None:
    if not confirm.possible():
        raise Refused(
            "nobody is there to confirm it", hint="give --fingerprint SHA256:…, or --yes to trust what is shown"
        )
    if not confirm.confirmed(question):
        raise Refused("nothing was changed")


def _record(store: Store, name: str, spec: SshAddress) -> None:
    node = GPUNode.model_validate({"metadata": {"name": name}, "spec": {"ssh": spec.to_json()}})
    try:
        store.create(node.to_json())
        print(f"gpunode.cumulus.dev/{name} added")
    except AlreadyExists:
        changed = _edit(store, name, _with_ssh(spec))
        print(f"gpunode.cumulus.dev/{name} {'changed' if changed else 'unchanged'}")


def _show_devices(name: str, ssh: SshAddress) -> None:
    """Ask the worker itself, as the daemon will. Raises ChronosError."""
    leases = RemoteLeases(workers.connection(name, ssh, paths.home()), workers.command(ssh))
    try:
        devices = leases.devices()
    finally:
        leases.close()
    facts = leases.facts
    print(f"{name} ({facts.hostname}) answers: Chronos {facts.chronos_version}, clock {facts.clock_skew:+.3f} s")
    for device in devices:
        print(f"  device {device.index}: {device.name}, {format_bytes(device.memory_bytes)}, {device.enforcement}")
    if not devices:
        terminal.warning(f"{name} offers no device")
    if facts.chronos_version != __version__:
        terminal.warning(f"{name} has Chronos {facts.chronos_version}, this is {__version__}; bring it up with: "
                         f"cumulus node setup {name}")  # fmt: skip


def _node(store: Store, name: str) -> Document:
    try:
        return store.get(Key("GPUNode", "", name))
    except NotFound:
        raise NotFound(f"there is no node {name}", hint="see them with: cumulus node list") from None


def _address(document: Document) -> SshAddress:
    node = decode(GPUNode, document)
    if node.spec.ssh is None:
        raise Refused(
            f"the node {node.metadata.name} has no SSH address: a daemon there looks after it",
            hint="once that daemon is stopped: cumulus delete node " + node.metadata.name,
        )
    return node.spec.ssh


def _delete(store: Store, partition: Document) -> None:
    meta = partition["metadata"]
    try:
        store.delete(Key("GPUPartition", meta["namespace"], meta["name"]), uid=meta["uid"])
    except NotFound:
        return


def _edit(store: Store, name: str, change: Change) -> bool:
    return Objects(store, SystemClock()).edit(Identity.of_this_process(), Key("GPUNode", "", name), change)[1]


def _holders(store: Store, name: str) -> list[Document]:
    return Nodes(Objects(store, SystemClock())).holders(Identity.of_this_process(), name)


def _cordoned(node: Document) -> Document:
    spec = node.get("spec") or {}
    return node if spec.get("unschedulable") else {**node, "spec": {**spec, "unschedulable": True}}


def _with_ssh(ssh: SshAddress) -> Callable[[Document], Document]:
    def change(node: Document) -> Document:
        spec = node.get("spec") or {}
        return node if spec.get("ssh") == ssh.to_json() else {**node, "spec": {**spec, "ssh": ssh.to_json()}}

    return change
