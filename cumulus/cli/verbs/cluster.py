"""`cumulus cluster`: the Docker Swarm that containers run on: make one, let machines join, look at it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cumulus.backends.swarm import cluster
from cumulus.backends.swarm.engine import Engine, from_environment
from cumulus.backends.swarm.members import Member
from cumulus.cli import terminal
from cumulus.cli.table import Table
from cumulus.errors import CumulusError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Make a Docker Swarm for containers, let machines join it, and look at it.",
)


@app.command()
def init(
    advertise: Annotated[
        str, typer.Option(metavar="ADDRESS", show_default=False, help="The address by which workers reach the manager.")
    ] = "",
) -> None:
    """Make the engine's machine the manager of a new Swarm, or put the settings of the one it manages right.

    A node may be silent for a minute before it is taken for down, since Swarm ends the containers of a node that
    was; and enough of each service's history is kept to see how its task ended.

    \b
    Examples:
      cumulus cluster init
      cumulus cluster init --advertise 10.0.0.5
    """  # fmt: skip
    engine = _engine()
    made = cluster.initialise(engine, advertise)
    print("The Swarm was made." if made else "The engine manages a Swarm; its settings are right.")
    print("Let workers join with: cumulus cluster join-token")


@app.command("join-token")
def join_token() -> None:
    """Print what a machine needs to join as a worker.

    \b
    Examples:
      cumulus cluster join-token
    """
    engine = _engine()
    address, token = cluster.invitation(engine)
    print(f"scripts/setup-worker.sh {address} {token}")


@app.command()
def status() -> None:
    """Show the Swarm's nodes, and what of its settings is not as jobs need it.

    \b
    Examples:
      cumulus cluster status
    """
    engine = _engine()
    members = [Member.read(node) for node in engine.nodes()]
    header = ("NAME", "STATE", "AVAILABILITY", "ROLE", "ENGINE", "ADDRESS", "GPUS")
    rows = [
        (m.name, m.state, m.availability, m.role, m.engine, m.address, m.labels.get("gpu.count", ""))
        for m in sorted(members, key=lambda m: m.name)
    ]
    Table(header, sys.stdout).write(rows)
    for trouble in cluster.troubles(engine):
        terminal.warning(trouble)


def _engine() -> Engine:
    engine = from_environment(os.environ)
    if engine is None:
        raise CumulusError(
            "no Docker engine is named",
            hint="set SWARM_MANAGER to a manager: unix:///var/run/docker.sock, tcp://HOST:2376 or ssh://USER@HOST",
        )
    return engine
