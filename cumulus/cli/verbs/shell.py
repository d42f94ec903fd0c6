"""`cumulus version` and `cumulus completion`: verbs that need no store."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from cumulus import __version__
from cumulus.lib import safe_output


class Shell(StrEnum):
    """Shells that completion is known for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def version(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FORM", help="json", show_default=False)] = "",
) -> None:
    """Show versions.

    \b
    Examples:
      cumulus version
      cumulus version -o json
    """
    import platform
    import sqlite3

    from cumulus.errors import UsageError
    from cumulus.resources.key import API_VERSION

    found = {
        "cumulus": __version__,
        "apiVersion": API_VERSION,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": f"{platform.system()} {platform.machine()}",
    }
    if output == "json":
        import json

        safe_output.block(sys.stdout, json.dumps(found, indent=4) + "\n")
    elif output:
        raise UsageError(f"there is no output format {output!r} here", hint="the format is json")
    else:
        width = max(map(len, found))
        for name, value in found.items():
            print(f"{name:<{width}}   {value}")


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print the completion script for a shell. It completes verbs, kinds and the names of objects.

    \b
    Examples:
      source <(cumulus completion bash)
      cumulus completion zsh
      cumulus completion fish
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    from cumulus.environment import COMPLETE

    safe_output.block(
        sys.stdout, get_completion_script(prog_name="cumulus", complete_var=COMPLETE, shell=shell.value) + "\n"
    )
