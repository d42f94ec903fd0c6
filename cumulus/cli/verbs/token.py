"""`cumulus token`: what shows the API who asks, over TLS."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus.cli import context, options, terminal
from cumulus.cli.subcommands import subcommands
from cumulus.clock import to_the_second
from cumulus.errors import NotFound
from cumulus.lib import safe_output
from cumulus.lib.fingerprint import fingerprint
from cumulus.lib.table import Heading, Table

if TYPE_CHECKING:
    from cumulus.client.base import Client

app = subcommands(
    "Manage tokens: what shows the API who asks, over TLS. Who has your token is you, so give it to nobody.",
)
Duration = Annotated[str, typer.Option(metavar="TIME", show_default=False, help="How long it lasts: 8h, 90d.")]
User = Annotated[str, typer.Option(metavar="NAME", show_default=False, help="Another user's; only an admin may.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="What to know it by later.")] = "",
    duration: Duration = "",
    user: User = "",
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", show_default=False, help="A group of a user without an account on the server."),
    ] = None,
) -> None:
    """Make a token, and print it: this once. It lasts 30 days unless you say.

    \b
    Examples:
      cumulus token create ci --duration 90d
      cumulus token create --user ci-bot --group labs
    """
    lasts = options.seconds_of(duration, "--duration") if duration else None
    with context.client(objects=False) as client:
        made = client.create_token(
            name,
            user=user,
            groups=tuple(group or ()),
            seconds=lasts,
        )
        used = _login(client)
    terminal.note(
        f"Token {made.info.name} of {made.info.user}, until {to_the_second(made.info.expires)}. It is not shown again."
    )
    if used:
        terminal.note(f"Where commands are to use it: {used}")
    print(made.token)


def _login(client: Client) -> str:
    """The command that takes the token; "" where no daemon answers over TLS."""
    asked = context.endpoint()
    try:
        url, ca = (asked.address, asked.ca) if asked.kind == "https" else client.api_address()
    except NotFound:
        return ""
    return f"cumulus login {url}" + (f" --fingerprint {fingerprint(ca)}" if ca else "")


@app.command("list")
def list_(
    everybody: Annotated[bool, typer.Option("--all-users", "-A", help="Everybody's; only an admin may.")] = False,
    output: options.JsonOutput = "",
) -> None:
    """List tokens by name, never the tokens themselves.

    \b
    Examples:
      cumulus token list
      cumulus token list --all-users
    """
    options.check_json(output)
    with context.client(objects=False) as client:
        found = client.tokens(everybody=everybody)
    if output:
        import json

        safe_output.block(sys.stdout, json.dumps([each._asdict() for each in found], indent=4) + "\n")
        return
    if not found:
        print("No tokens found.", file=sys.stderr)
        return
    headings = (
        "NAME", "USER", Heading("GROUPS", "cut", 2), Heading("CREATED", "whole", 3), Heading("EXPIRES", "whole"),
        Heading("BY", "cut", 1),
    )  # fmt: skip
    Table(headings, sys.stdout).write(
        [
            [
                each.name, each.user, ",".join(each.groups), to_the_second(each.created), to_the_second(each.expires),
                each.created_by,
            ]
            for each in found
        ]
    )  # fmt: skip


@app.command("revoke")
def revoke(name: Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")], user: User = "") -> None:
    """End a token at once, and the tokens that were made with it.

    \b
    Examples:
      cumulus token revoke laptop
      cumulus token revoke ci --user ci-bot
    """
    with context.client(objects=False) as client:
        gone = client.revoke_token(name, user=user)
    print(f"token/{gone.name} of {gone.user} revoked")
