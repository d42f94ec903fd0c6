"""`cumulus node`: workers that are reached over SSH, from trusting their host key to taking them out again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus.answers.nodes import Cordoned, LeasesForgotten, NodeHolds, WorkerAddress, WorkerSaid
from cumulus.cli import completion, confirm, context, drains, options, terminal
from cumulus.cli.left_out import LeftOut
from cumulus.cli.subcommands import subcommands
from cumulus.errors import ChronosError, CumulusError
from cumulus.lib import safe_output
from cumulus.resources.kinds.gpunode import leases
from cumulus.resources.quantity import format_bytes

if TYPE_CHECKING:
    from cumulus.answers.nodes import WorkerAnswer, WorkerFound

app = subcommands(
    "Add workers that are reached over SSH, set them up, drain and remove them.",
)
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The node.", autocompletion=completion.nodes, show_default=False)
]
DrainNow = Annotated[bool, typer.Option("--now", help="End the leases now instead of waiting for their end.")]
DrainTimeout = Annotated[
    str, typer.Option("--timeout", metavar="DURATION", show_default=False, help="How long to wait; if left out, ever.")
]
DrainAt = Annotated[
    str,
    typer.Option("--at", metavar="TIME", show_default=False, help="Drain it then: 2030-01-31T09:00:00Z, 22:00, or 2h."),
]
DrainFor = Annotated[
    str, typer.Option("--for", metavar="DURATION", show_default=False, help="With --at: so long; or until uncordoned.")
]
DrainCancel = Annotated[bool, typer.Option("--cancel", help="Take back what --at said.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the new node.", show_default=False)],
    ssh: Annotated[
        str, typer.Option("--ssh", metavar="USER@HOST[:PORT]", show_default=False, help="Where to log in, and as whom.")
    ] = "",
    yes: Yes = False,
    fingerprint: Annotated[
        str,
        typer.Option(
            metavar="SHA256:…", show_default=False, help="Trust the host key without asking if it is this one."
        ),
    ] = "",
    key_secret: Annotated[
        str,
        typer.Option(metavar="SECRET", show_default=False, help="The secret whose ssh-privatekey is the private key."),
    ] = "",
    chronos_cli: Annotated[
        str,
        typer.Option(
            metavar="COMMAND", show_default=False, help="The command that runs chronos_cli there, if not the usual one."
        ),
    ] = "",
) -> int:
    """Add a worker and trust its host key. A daemon takes care of it from then on.

    You are shown the fingerprint of the host key; compare it with what the machine itself says. The key is kept in
    CUMULUS_HOME/known_hosts. A machine that later shows another key is refused.

    \b
    Examples:
      cumulus node add gpu-3 --ssh root@gpu-3.lab
      cumulus node add gpu-3 --ssh cumulus@10.0.0.3:2222 --fingerprint SHA256:GmGZ0cYlAA5Z3vJ4rTTCdg2Ck2vK
      cumulus node add gpu-3 --ssh cumulus@10.0.0.3 --key-secret gpu-3 --yes
    """  # fmt: skip
    address = WorkerAddress(ssh, key_secret, chronos_cli)
    with context.client(create=True) as client:
        found = client.find_worker(name, address, fingerprint=fingerprint)
        left_out = LeftOut(client)
        left_out.add(*found.damaged)
        left_out.tell()
        _confirm(found, sure=yes or bool(fingerprint))
        print(f"gpunode.cumulus.dev/{name} {client.add_worker(name, address, found.key)}")
        try:
            _show(name, client.ask_worker(name))
        except ChronosError as error:
            terminal.warning(f"{error}; {error.hint}" if error.hint else str(error))
            terminal.note(f"Chronos is installed there by: cumulus node setup {name}")
        context.note_if_no_daemon("the node is looked after", client)
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
    """Install Chronos on a worker and start its monitor. The worker gets the version that runs here.

    Everything that is needed is copied over SSH: the worker needs Python 3.11 and no network. Root, or a user with
    sudo, installs it for the whole machine, and may then ask for leases with sudo. Run it again to upgrade.

    \b
    Examples:
      cumulus node setup gpu-3
      cumulus node setup gpu-3 --dry-run
      cumulus node setup gpu-3 --prefix /home/me/chronos
    """
    with context.client() as client:
        for step in client.setup_worker(name, prefix=prefix, python=python, dry_run=dry_run):
            if isinstance(step, WorkerSaid):
                safe_output.block(sys.stdout, step.text)
            else:
                _show(name, step)
    return 0


@app.command()
def drain(
    name: Name,
    now: DrainNow = False,
    timeout: DrainTimeout = "",
    at: DrainAt = "",
    duration: DrainFor = "",
    cancel: DrainCancel = False,
) -> int:
    """Stop placing jobs on a node, and wait until it is empty. It is empty when its last lease has ended.

    With --now the partitions there are deleted: jobs are asked for a checkpoint, get SIGTERM and at most their grace
    period, and are placed on other nodes.

    With --at it is drained later: jobs that would still run then do not start there, and from then on none does. Jobs
    that run already go on to the end of their leases. This is the Reservation drain-NAME; --cancel takes it back, and
    so does `cumulus uncordon NAME` once it has begun.

    \b
    Examples:
      cumulus node drain gpu-3
      cumulus node drain gpu-3 --now --timeout 5m
      cumulus node drain gpu-3 --at 22:00 --for 2h
      cumulus node drain gpu-3 --at 2030-01-31T09:00:00Z
    """
    if at or duration or cancel:
        return drains.later(name, at, duration, cancel=cancel, also=now or bool(timeout))
    seconds = options.seconds_of(timeout, "--timeout") if timeout else None
    with context.client() as client:
        held = -1
        for step in client.drain_node(name, now=now, seconds=seconds):
            if isinstance(step, Cordoned):
                context.note_if_no_daemon("leases are seen to end", client)
            elif isinstance(step, NodeHolds):
                if step.leases != held:
                    terminal.note(f"{name} holds {leases(step.leases)}")
                held = step.leases
            else:
                print(f"gpunode.cumulus.dev/{name} drained")
                if step.foreign:
                    terminal.note(
                        f"{step.foreign} leases there are not this store's and go on; the last ends at {step.last_ends}"
                    )
    return 0


@app.command()
def remove(
    name: Name,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Remove it even if it holds leases. They go on there to their end, but are forgotten here, and their "
            "jobs start again on other nodes at once: for a while both may run.",
        ),
    ] = False,
) -> int:
    """Take a worker out. Chronos stays installed there, and its host key stays known.

    A machine of the Swarm leaves the Swarm too, which ends its containers. The command waits for that, and says how it
    went.

    \b
    Examples:
      cumulus node remove gpu-3
      cumulus node remove gpu-3 --force
    """
    with context.client() as client:
        for step in client.remove_node(name, force=force):
            if isinstance(step, LeasesForgotten):
                terminal.warning(
                    f"{leases(step.leases)} are forgotten here; if {name} lives, they go on there until their end, "
                    "while their jobs begin anew elsewhere"
                )
            else:
                print(f"gpunode.cumulus.dev/{name} removed{f': {step.note}' if step.note else ''}")
    return 0


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


def _confirm(found: WorkerFound, *, sure: bool) -> None:
    """Let the person compare a host key that is not known yet. Raises CumulusError where it is not to be trusted."""
    key = found.key
    if found.trusted:
        terminal.note(f"The host key of {key.host} is known: {key.fingerprint}")
        return
    terminal.note(f"{key.host} shows the host key {key.fingerprint}")
    if sure:
        return
    terminal.note("Compare it with what the machine itself says: ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub")
    if not confirm.possible():
        raise CumulusError(
            "nobody can confirm it here", hint="give --fingerprint SHA256:…, or --yes to trust what is shown"
        )
    if not confirm.confirmed("Is it the same?"):
        raise CumulusError("nothing was changed")


def _show(name: str, worker: WorkerAnswer) -> None:
    print(f"{name} ({worker.hostname}) answers: Chronos {worker.chronos_version}, clock {worker.clock_skew:+.3f} s")
    for device in worker.devices:
        print(f"  device {device.index}: {device.name}, {format_bytes(device.memory_bytes)}, {device.enforcement}")
    if not worker.devices:
        terminal.warning(f"{name} offers no device")
    if worker.chronos_version != worker.wanted_version:
        terminal.warning(
            f"{name} has Chronos {worker.chronos_version}, this is {worker.wanted_version}; bring it up with: "
            f"cumulus node setup {name}"
        )
