"""`cumulus context`: the servers that this user has logged in to."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cumulus import paths
from cumulus.cli import completion, context, terminal
from cumulus.cli.subcommands import subcommands
from cumulus.client import contexts
from cumulus.lib.table import Heading, Table

app = subcommands(
    "Manage contexts: a server each, who you are there, and a default namespace. `cumulus login` makes them. They "
    "are kept in ~/.config/cumulus/contexts.json, readable by you alone; kubectl reads that file too.",
)
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The context.", show_default=False, autocompletion=completion.contexts)
]


@app.command("list")
def list_() -> None:
    """List the contexts. The current one has a star.

    \b
    Examples:
      cumulus context list
    """
    known = contexts.read(paths.contexts_file())
    if not known.all:
        print("No contexts found; `cumulus login SERVER` makes one.", file=sys.stderr)
        return
    rows = [
        ["*" if each.name == known.current_name else "", each.name, each.server, each.namespace] for each in known.all
    ]
    Table(["CURRENT", "NAME", Heading("SERVER", "whole"), "NAMESPACE"], sys.stdout).write(rows)


@app.command()
def use(
    name: Annotated[
        str,
        typer.Argument(metavar="[NAME]", help="The context.", show_default=False, autocompletion=completion.contexts),
    ] = "",
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace", "-n", metavar="NAME", show_default=False, help="Its default namespace from now on."
        ),
    ] = "",
    none: Annotated[bool, typer.Option("--none", help="Use no context: ask this machine's own daemon again.")] = False,
) -> None:
    """Make a context the current one.

    Commands ask the server of the current context, unless a flag, CUMULUS_ORCHESTRATOR_URL or CUMULUS_HOME names
    another. `cumulus version` shows which they ask, and why.

    \b
    Examples:
      cumulus context use lab
      cumulus context use lab -n vision
      cumulus context use --none
    """  # fmt: skip
    file = paths.contexts_file()
    known = contexts.read(file)
    if none:
        contexts.write(file, known._replace(current_name=""))
        print("No context is used.")
        return
    chosen = known.named(name or known.current_name)
    if namespace:
        chosen = chosen._replace(namespace=namespace)
    contexts.write(file, known.with_context(chosen))
    print(
        f"context/{chosen.name} is the current one" + (f", in namespace {chosen.namespace}" if chosen.namespace else "")
    )


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The current one if left out.", autocompletion=completion.contexts)
    ] = "",
) -> None:
    """Show a context, without its token.

    \b
    Examples:
      cumulus context show
      cumulus context show lab
    """
    known = contexts.read(paths.contexts_file())
    if not name and not known.current_name:
        print("No context is used. `cumulus version` shows whom commands ask.", file=sys.stderr)
        return
    found = known.named(name or known.current_name)
    for title, value in (
        ("Name", found.name), ("Server", found.server), ("Namespace", found.namespace or "default"),
        ("Token", "kept" if found.token else "none"), ("Trusts", _trusted(found.ca)),
    ):  # fmt: skip
        print(f"{title + ':':<11} {value}")


@app.command()
def delete(name: Name) -> None:
    """Forget a context and its token. The token stays good on the server until `cumulus token revoke` ends it.

    \b
    Examples:
      cumulus context delete lab
    """
    file = paths.contexts_file()
    known = contexts.read(file)
    contexts.write(file, known.without(name))
    print(f"context/{name} deleted")
    if known.current_name == name:
        terminal.note(f"It was the current one; now commands ask {context.endpoint().address}.")


def _trusted(ca: str) -> str:
    if not ca:
        return "what this system trusts"
    from cumulus.lib.fingerprint import fingerprint

    return fingerprint(ca)
