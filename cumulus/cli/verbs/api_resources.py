"""`cumulus api-resources`: the kinds, and by which words they are called."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cumulus.cli import options
from cumulus.errors import UsageError
from cumulus.lib.table import Table
from cumulus.resources.registry import KINDS


def api_resources(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FORM", show_default=False, help="name.")] = "",
    no_headers: options.NoHeaders = False,
) -> None:
    """List the kinds of objects, with the short words for them. `cumulus explain KIND` describes one.

    \b
    Examples:
      cumulus api-resources
      cumulus api-resources -o name
    """
    if output not in ("", "name"):
        raise UsageError(f"there is no output format {output!r} here", hint="the format is name")
    if output == "name":
        for kind in KINDS:
            print(f"{kind.plural}.cumulus.dev")
        return
    table = Table(["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"], sys.stdout, heading=not no_headers)
    table.write([[k.plural, ",".join(k.short), k.api_version, str(k.namespaced).lower(), k.name] for k in KINDS])
