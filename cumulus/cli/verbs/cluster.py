"""`cumulus cluster`: the Docker Swarm that containers run on: make one, let machines join, look at it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from cumulus import log, paths
from cumulus.backends.swarm import cluster
from cumulus.backends.swarm.backend import SwarmBackend
from cumulus.backends.swarm.members import Member
from cumulus.backends.swarm.spec import OWNER
from cumulus.cli import confirm, context, terminal
from cumulus.cli.verbs import image
from cumulus.errors import CumulusError
from cumulus.infrastructure import swarm
from cumulus.lib.table import Heading, Table
from cumulus.resources.job import GPUJob
from cumulus.store.base import Query, Store

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Set up a Docker Swarm for jobs in containers, let machines join it, show it, or take it over.",
)
app.add_typer(image.app, name="image")
SHOWN = 5
"""Names of services that a line tells."""


@app.command()
def init(
    advertise: Annotated[
        str, typer.Option(metavar="ADDRESS", show_default=False, help="The address by which workers reach the manager.")
    ] = "",
    listen: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            show_default=False,
            help="The machine's own address, where that is another: behind NAT, 0.0.0.0.",
        ),
    ] = "",
) -> None:
    """Create a Swarm, with the engine's machine as its manager. If it is a manager already, correct the Swarm's
    settings.

    Two settings matter to jobs. A node may be silent for a minute before Swarm takes it for down, since Swarm ends the
    containers of such a node when it returns. And Swarm keeps enough of each service's history to show how its task
    ended.

    The manager listens on the address that --advertise names. An address that no interface has is refused.

    \b
    Examples:
      cumulus cluster init
      cumulus cluster init --advertise 10.0.0.5
      cumulus cluster init --advertise 198.51.100.7 --listen 0.0.0.0
    """  # fmt: skip
    engine = swarm.named_engine()
    made = cluster.initialise(engine, advertise, listen)
    address = engine.info()["Swarm"].get("NodeAddr", "")
    print(
        f"The Swarm was made; its manager is {address}." if made else f"The Swarm at {address} has the right settings."
    )
    print("Let workers join with: cumulus cluster join-token")


@app.command("join-token")
def join_token() -> None:
    """Print the command by which a machine joins as a worker.

    \b
    Examples:
      cumulus cluster join-token
    """
    engine = swarm.named_engine()
    address, token = cluster.invitation(engine)
    print(f"scripts/setup-worker.sh {address} {token}")


@app.command()
def status() -> None:
    """Show the Swarm's nodes, and which settings to change.

    \b
    Examples:
      cumulus cluster status
    """
    engine = swarm.named_engine()
    members = [Member.read(node) for node in engine.nodes()]
    headings = (
        "NAME", Heading("STATE", "whole"), Heading("AVAILABILITY", "whole", 1), Heading("ROLE", "whole", 3),
        Heading("ENGINE", "cut", 4), Heading("ADDRESS", "whole", 2), Heading("GPUS", "whole", 1),
    )  # fmt: skip
    rows = [
        (m.name, m.state, m.availability, m.role, m.engine, m.address, m.labels.get("gpu.count", ""))
        for m in sorted(members, key=lambda m: m.name)
    ]
    Table(headings, sys.stdout).write(rows)
    for trouble in (*_owner(), *cluster.troubles(engine)):
        terminal.warning(trouble)


@app.command()
def adopt(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Take the Swarm over from another control plane. That one must be gone for good.

    The first daemon on a Swarm marks it with its store and its state directory. A daemon that finds the mark of another
    one starts, stops and changes nothing there, so two daemons never end each other's jobs. This verb replaces that
    mark by this state directory's own. You need it after a backup was restored on another machine, after a state
    directory was copied or lost, and for a Swarm that a version without marks used.

    What runs goes on if its job is in this store; everything else is ended. A control plane that is still alive
    elsewhere sees the new mark within seconds and touches nothing any more. Two control planes can share a Swarm
    without adoption: start each with its own SWARM_INSTANCE.

    \b
    Examples:
      cumulus cluster adopt
      cumulus cluster adopt --yes
    """  # fmt: skip
    with context.open_store() as store:
        backend = _backend(store)
        try:
            ownership = backend.ownership
            seen = ownership.mark()
            if seen is not None and ownership.is_ours(seen):
                print("The Swarm belongs to this control plane already.")
                return
            if seen is not None:
                terminal.note(f"The Swarm belongs to the control plane at {seen.where}, store {seen.store}.")
            _tell_what_runs(ownership.services(seen), store)
            if not yes and not confirm.possible():
                raise CumulusError("nobody is there to confirm it, so nothing was changed", hint="give --yes")
            if not yes and not confirm.confirmed("Is that control plane gone for good, and this one to take over?"):
                raise CumulusError("nothing was changed")
            ownership.adopt(seen)
        finally:
            backend.close()
    print("The Swarm belongs to this control plane now.")
    context.note_if_no_daemon("it is used")


def _tell_what_runs(services: Sequence[Mapping[str, Any]], store: Store) -> None:
    jobs = {item["metadata"]["uid"] for item in store.list(Query(GPUJob.KIND)).items}
    names = sorted(s["Spec"]["Name"] for s in services if s["Spec"]["Labels"].get(OWNER) not in jobs)
    if known := len(services) - len(names):
        terminal.note(f"{known} of its services are jobs of this store, and go on.")
    if names:
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        terminal.note(f"{len(names)} of its services are no jobs of this store, and will be ended: {shown}")


def _backend(store: Store) -> SwarmBackend:
    log.silence()
    return swarm.named_backend(paths.home(), store)


def _owner() -> Sequence[str]:
    """Whose the Swarm is, where it is not this control plane's; nothing where it is nobody's yet."""
    with context.open_store() as store:
        backend = _backend(store)
        try:
            trouble = backend.ownership.trouble()
        finally:
            backend.close()
    return [f"{trouble}; {trouble.hint}"] if trouble is not None else []
