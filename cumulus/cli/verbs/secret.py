"""`cumulus secret`: the values that jobs take by `valueFrom.secretKeyRef`. Values never pass through the command line,
where every user of the machine could read them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cumulus.answers.secrets import MAX_BYTES
from cumulus.cli import context
from cumulus.errors import CumulusError, UsageError
from cumulus.lib.table import Heading, Table

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Manage secrets that jobs may use. They are kept in CUMULUS_HOME/secrets of this node.",
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The secret.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The key within the secret.")]


@app.command("set")
def set_(
    name: Name,
    key: Key,
    from_file: Annotated[
        str,
        typer.Option(
            "--from-file", metavar="FILE", show_default=False, help="Read the value from this file; - is stdin."
        ),
    ] = "",
) -> None:
    """Write one key of a secret.

    \b
    Examples:
      cumulus secret set registry token --from-file token.txt
      cumulus secret set registry token --from-file - < token.txt
    """
    if not from_file:
        raise UsageError("say where the value is", hint="--from-file FILE, or --from-file - for stdin")
    try:
        if from_file == "-":
            value = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(from_file).open("rb") as file:
                value = file.read(MAX_BYTES + 1)
        text = value.decode()
    except OSError as error:
        raise CumulusError(f"{from_file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CumulusError(f"{from_file} is not UTF-8 text", hint="encode binary values, as base64 does") from None
    with context.client(objects=False) as client:
        client.set_secret(name, key, text)
    print(f"secret/{name} {key} set")


@app.command("list")
def list_() -> None:
    """List the names and keys of secrets, never their values.

    \b
    Examples:
      cumulus secret list
    """
    with context.client(objects=False) as client:
        found = client.secrets()
    if not found:
        print("No secrets found.", file=sys.stderr)
        return
    Table(["NAME", Heading("KEY", "whole")], sys.stdout).write([list(pair) for pair in found])


@app.command("delete")
def delete(name: Name, key: Annotated[str, typer.Argument(metavar="[KEY]", help="All keys if left out.")] = "") -> None:
    """Delete one key of a secret, or all of it.

    \b
    Examples:
      cumulus secret delete registry token
      cumulus secret delete registry
    """
    with context.client(objects=False) as client:
        client.delete_secret(name, key)
    print(f"secret/{name} {key or 'all keys'} deleted")
