"""`cumulus cluster`: creates the Docker Swarm that containers run on, lets machines join, shows it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus import log
from cumulus.cli import confirm, context, terminal
from cumulus.cli.subcommands import subcommands
from cumulus.cli.verbs import image
from cumulus.errors import CumulusError
from cumulus.lib.table import Heading, Table

if TYPE_CHECKING:
    from cumulus.answers.swarm import SwarmOwnership

app = subcommands(
    "Set up a Docker Swarm for jobs in containers, let machines join it, show it, or take it over.",
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

    The manager listens on the address that --advertise names. An address that no interface has is refused. Where a
    daemon is asked, the engine is the daemon's; `cumulus --offline cluster init` takes the one that SWARM_MANAGER names
    here.

    \b
    Examples:
      cumulus cluster init
      cumulus cluster init --advertise 10.0.0.5
      cumulus cluster init --advertise 198.51.100.7 --listen 0.0.0.0
    """  # fmt: skip
    context.note_servers_engine()
    with context.client(objects=False) as client:
        done = client.init_swarm(advertise=advertise, listen=listen)
    print(
        f"The Swarm was made; its manager is {done.address}."
        if done.made
        else f"The Swarm at {done.address} has the right settings."
    )
    print("Let workers join with: cumulus cluster join-token")


@app.command("join-token")
def join_token() -> None:
    """Print the command by which a machine joins as a worker.

    \b
    Examples:
      cumulus cluster join-token
    """
    with context.client(objects=False) as client:
        found = client.swarm_invitation()
    print(f"scripts/setup-worker.sh {found.address} {found.token}")


@app.command()
def status() -> None:
    """Show the Swarm's nodes, and which settings to change.

    \b
    Examples:
      cumulus cluster status
    """
    log.silence()
    with context.client() as client:
        found = client.swarm_status()
    headings = (
        "NAME", Heading("STATE", "whole"), Heading("AVAILABILITY", "whole", 1), Heading("ROLE", "whole", 3),
        Heading("ENGINE", "cut", 4), Heading("ADDRESS", "whole", 2), Heading("GPUS", "whole", 1),
    )  # fmt: skip
    rows = [(m.name, m.state, m.availability, m.role, m.engine, m.address, m.gpus) for m in found.machines]
    Table(headings, sys.stdout).write(rows)
    for problem in found.problems:
        terminal.warning(problem)


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
    log.silence()
    with context.client() as client:
        found = client.swarm_ownership()
        if found.ours:
            print("The Swarm belongs to this control plane already.")
            return
        _tell(found)
        if not yes and not confirm.possible():
            raise CumulusError("nobody can confirm it here, so nothing was changed", hint="give --yes")
        if not yes and not confirm.confirmed("Is that control plane gone for good, and shall this one take over?"):
            raise CumulusError("nothing was changed")
        client.adopt_swarm(found.mark)
        print("The Swarm belongs to this control plane now.")
        context.note_if_no_daemon("it is used", client)


def _tell(found: SwarmOwnership) -> None:
    """Whose it is, and what becomes of what runs there."""
    if found.mark is not None:
        terminal.note(f"The Swarm belongs to the control plane at {found.mark.where}, store {found.mark.store}.")
    if found.own_services:
        terminal.note(f"{found.own_services} of its services are jobs of this store, and go on.")
    if names := found.other_services:
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        terminal.note(f"{len(names)} of its services are not jobs of this store and will be ended: {shown}")
