"""`cumulus secret`: the values that jobs take by `valueFrom.secretKeyRef`. Values never pass through the command line,
where every user of the machine could read them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cumulus import paths
from cumulus.answers.secrets import MAX_BYTES
from cumulus.cli import context
from cumulus.cli.options import AllNamespaces, Namespace
from cumulus.cli.subcommands import subcommands
from cumulus.errors import CumulusError, UsageError
from cumulus.lib.table import Heading, Table
from cumulus.resources.key import DEFAULT_NAMESPACE

app = subcommands(
    "Manage secrets. A job takes those of its own namespace; no job can name those of --system, which the daemon "
    "itself uses, for example to reach nodes.",
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The secret.")]
System = Annotated[bool, typer.Option("--system", help="One of the daemon's own, which no job can name.")]


@app.command("create")
def create(
    name: Name,
    from_file: Annotated[
        list[str] | None,
        typer.Option(
            "--from-file", metavar="KEY=FILE", show_default=False,
            help="Read the value of KEY from this file; - is stdin. May be given several times.",
        ),
    ] = None,
    namespace: Namespace = "",
    system: System = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Change these keys of a secret that is there; its other keys stay.")
    ] = False,
) -> None:  # fmt: skip
    """Write a secret.

    \b
    Examples:
      cumulus secret create hub --from-file token=token.txt
      cumulus secret create hub --from-file token=- --overwrite < token.txt
      cumulus secret create gpu-3 --system --from-file ssh-privatekey=id_ed25519
    """
    if not from_file:
        raise UsageError("say where the values are", hint="--from-file KEY=FILE, or --from-file KEY=- for stdin")
    values = {}
    for given in from_file:
        key, separator, file = given.partition("=")
        if not separator or not key or not file:
            raise UsageError(f"--from-file takes KEY=FILE, not {given!r}")
        if key in values:
            raise UsageError(f"--from-file gives the key {key} twice")
        values[key] = _value(file)
    with context.client(objects=False) as client:
        client.create_secret("" if system else context.namespace(namespace), name, values, overwrite=overwrite)
    print(f"secret/{name} {'changed' if overwrite else 'created'}")


@app.command("list")
def list_(namespace: Namespace = "", all_namespaces: AllNamespaces = False, system: System = False) -> None:
    """List the names and keys of secrets, never their values.

    \b
    Examples:
      cumulus secret list -n team
    """
    with context.client(objects=False) as client:
        found = client.secrets(None if all_namespaces else "" if system else context.namespace(namespace))
    if not found:
        print("No secrets found.", file=sys.stderr)
        return
    first = 0 if all_namespaces else 1
    headings: list[Heading | str] = ["NAMESPACE", "NAME", Heading("KEY", "whole")]
    Table(headings[first:], sys.stdout).write([list(each[first:]) for each in found])


@app.command("delete")
def delete(
    name: Name, key: Annotated[str, typer.Argument(metavar="[KEY]", help="All keys if left out.")] = "",
    namespace: Namespace = "", system: System = False,
) -> None:  # fmt: skip
    """Delete one key of a secret, or all of it.

    \b
    Examples:
      cumulus secret delete hub token
      cumulus secret delete hub -n team
    """
    with context.client(objects=False) as client:
        client.delete_secret("" if system else context.namespace(namespace), name, key)
    print(f"secret/{name} {key or 'all keys'} deleted")


@app.command("migrate")
def migrate(
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAME", help="Where secrets go that no job and no node names.")
    ] = DEFAULT_NAMESPACE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go where.")] = False,
) -> None:
    """Move secrets from before they had namespaces. No daemon may run.

    Each goes to the namespaces whose jobs name it, and to the daemon's own where a node names it. What was cut short is
    finished by the next run.

    \b
    Examples:
      cumulus secret migrate --dry-run
    """
    from cumulus.client import offline

    moves = offline.migrate_secrets(paths.home(), namespace, dry_run=dry_run)
    if not moves:
        print("No secret has to move.", file=sys.stderr)
    for name, to in moves:
        places = ", ".join(f"namespace {place}" if place else "the daemon's own" for place in to)
        print(f"secret/{name} {'would go' if dry_run else 'went'} to {places}")


def _value(file: str) -> str:
    try:
        if file == "-":
            value = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                value = opened.read(MAX_BYTES + 1)
        return value.decode()
    except OSError as error:
        raise CumulusError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CumulusError(f"{file} is not UTF-8 text", hint="encode binary values, as base64 does") from None
