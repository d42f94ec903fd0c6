"""`cumulus drain`: `cumulus node drain`, where kubectl has it."""

from __future__ import annotations

from typing import Annotated

import typer

from cumulus.cli.verbs import node


def drain(
    name: node.Name,
    now: Annotated[bool, typer.Option("--now", help="End the leases now instead of waiting for their end.")] = False,
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", show_default=False, help="How long to wait; without a limit if left out.")
    ] = "",
) -> int:
    """Stop placing jobs on a node, and wait until it is empty: the same as `cumulus node drain`.

    \b
    Examples:
      cumulus drain gpu-3
      cumulus drain gpu-3 --now --timeout 5m
    """
    return node.drain(name, now=now, timeout=timeout)
