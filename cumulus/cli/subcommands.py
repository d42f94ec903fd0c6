"""A verb that has verbs of its own, as `cumulus node` has."""

from __future__ import annotations

import typer
from typer.core import TyperGroup


def subcommands(help: str, cls: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """Without any of them it shows its help. `cls`: what chooses among them."""
    return typer.Typer(
        cls=cls, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True,
        help=help,
    )  # fmt: skip
