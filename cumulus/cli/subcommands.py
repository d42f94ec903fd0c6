"""A verb that has verbs of its own, as `cumulus node` has."""

from __future__ import annotations

import typer


def subcommands(help: str) -> typer.Typer:
    """Without any of them it shows its help."""
    return typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True, help=help
    )
