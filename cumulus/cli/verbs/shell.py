"""`cumulus version` and `cumulus completion`: what runs here, whom it asks, and completion."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from cumulus import __version__
from cumulus.cli import context, terminal
from cumulus.errors import CumulusError, UsageError
from cumulus.lib import safe_output


class CompletionShell(StrEnum):
    """Shells that completion is known for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def version(
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FORM", help="json or yaml", show_default=False)
    ] = "",
    client: Annotated[bool, typer.Option("--client", help="Ask no server.")] = False,
) -> int:
    """Show versions: of this command, of the server that commands ask, and why it is that one.

    \b
    Examples:
      cumulus version
      cumulus version -o json
      cumulus version --client
    """
    import platform
    import sqlite3

    from cumulus.resources.key import API_VERSION

    if output not in ("", "json", "yaml"):
        raise UsageError(f"there is no output format {output!r} here", hint="the formats are json and yaml")
    found = {
        "cumulus": __version__,
        "apiVersion": API_VERSION,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": f"{platform.system()} {platform.machine()}",
    }
    problem = None if client else _add_server(found)
    if output == "json":
        import json

        safe_output.block(sys.stdout, json.dumps(found, indent=4) + "\n")
    elif output == "yaml":
        from cumulus.cli import printers

        safe_output.block(sys.stdout, printers.to_yaml(found) + "\n")
    else:
        width = max(map(len, found))
        for name, value in found.items():
            print(f"{name:<{width}}   {value}")
    if problem is not None:
        terminal.error(problem)
    return 0 if problem is None else 1


def _add_server(found: dict[str, str]) -> CumulusError | None:
    """Whom commands ask, and what that server says; what is wrong where it says nothing."""
    try:
        asked = context.endpoint()
        found |= {"asks": asked.address, "because": asked.why}
        if asked.kind == "embedded":
            found["server"] = "none: the store is opened by each command"
            return None
        import json

        with context.client() as opened:
            said = json.loads(opened.raw("/version"))
        found["server"] = str(said["gitVersion"]).rpartition("+cumulus-")[2]
    except CumulusError as error:
        return error
    except (ValueError, KeyError, TypeError):
        return CumulusError(f"{found['asks']} is no Cumulus server")
    return None


def completion(shell: Annotated[CompletionShell, typer.Argument(help="bash, zsh or fish.")]) -> None:
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
