"""`cumulus help`: what `--help` shows."""

from __future__ import annotations

from typing import Annotated

import typer


def help(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]", show_default=False, help="As in: run, node drain.")
    ] = None,
) -> int:
    """Show the help of a command.

    \b
    Examples:
      cumulus help
      cumulus help run
      cumulus help node drain
    """
    from cumulus.cli.main import main

    return main([*(words or ()), "--help"])
