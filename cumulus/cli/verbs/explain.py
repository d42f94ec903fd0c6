"""`cumulus explain`: what a kind or field is, read off the models."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cumulus.cli import completion
from cumulus.lib import safe_output


def explain(
    path: Annotated[
        str,
        typer.Argument(
            metavar="KIND[.FIELD…]", help="For example gpujob or gpujob.spec.gpu.", autocompletion=completion.fields
        ),
    ],
    recursive: Annotated[
        bool, typer.Option("--recursive", help="The fields at every depth, with types alone.")
    ] = False,
) -> None:
    """Describe a kind or one of its fields.

    \b
    Examples:
      cumulus explain gpujob
      cumulus explain gpujob.spec.gpu
      cumulus explain job.spec --recursive
    """
    from cumulus.resources.explain import explain as text_of

    width = safe_output.width(sys.stdout)
    safe_output.block(sys.stdout, text_of(path, recursive=recursive, width=min(width, 100) if width else 80))
