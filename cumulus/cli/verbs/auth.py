"""`cumulus auth`: as whom the server knows you, and what you may do."""

from __future__ import annotations

from typing import Annotated

import typer

from cumulus.cli import context, options
from cumulus.cli.subcommands import subcommands
from cumulus.errors import UsageError
from cumulus.resources.registry import find_kind

app = subcommands(
    "Show as whom the server knows you, and what you may do there.",
)


@app.command()
def whoami() -> None:
    """Show as whom the server knows you.

    \b
    Examples:
      cumulus auth whoami
    """
    with context.client(quiet=True) as client:
        user = client.who_am_i()
    print(f"User:     {user.name}")
    if user.uid is not None:
        print(f"UID:      {user.uid}")
    if user.groups:
        print(f"Groups:   {', '.join(user.groups)}")


@app.command("can-i")
def can_i(
    verb: Annotated[str, typer.Argument(metavar="VERB", help="get, list, create, update, delete, …")],
    resource: Annotated[str, typer.Argument(metavar="KIND[/SUB]", help="For example jobs, jobs/log, secrets.")],
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One object of that name.", show_default=False)] = "",
    namespace: options.Namespace = "",
    all_namespaces: options.AllNamespaces = False,
) -> int:
    """Say whether you may do something. The exit code is 0 for yes and 1 for no.

    \b
    Examples:
      cumulus auth can-i create jobs
      cumulus auth can-i get jobs/log -n vision
      cumulus auth can-i delete nodes -A
    """
    word, slash, sub = resource.partition("/")
    namespaced = True
    try:
        kind = find_kind(word)
        word, namespaced = kind.plural, kind.namespaced
    except UsageError:
        pass  # What is no kind has roles too: secrets, workers.
    where = "" if all_namespaces or not namespaced else context.namespace(namespace)
    with context.client(quiet=True) as client:
        found = client.may(verb, f"{word}{slash}{sub}", namespace=where, name=name)
    print("yes" if found.allowed else f"no: {found.reason}")
    return 0 if found.allowed else 1
