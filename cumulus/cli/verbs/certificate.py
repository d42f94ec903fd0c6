"""`cumulus certificate`: client certificates that are to open nothing any more."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cumulus.cli import context, options
from cumulus.cli.subcommands import subcommands
from cumulus.clock import to_the_second
from cumulus.lib import safe_output
from cumulus.lib.table import Heading, Table

app = subcommands("Revoke client certificates, which show the API who asks. docs/api.md says how to make one.")


@app.command("revoke")
def revoke(
    serial: Annotated[str, typer.Argument(metavar="SERIAL", help="Its serial number, in hexadecimal digits.")],
) -> None:
    """End a client certificate at once, and the tokens that were made with it. Only an admin may.

    \b
    Examples:
      cumulus certificate revoke "$(openssl x509 -noout -serial -in ann.crt)"
    """
    with context.client(objects=False) as client:
        gone = client.revoke_certificate(serial)
    print(f"certificate/{gone.serial} revoked")


@app.command("list")
def list_(
    output: options.JsonOutput = "",
) -> None:
    """List the client certificates that were revoked.

    \b
    Examples:
      cumulus certificate list
    """
    options.check_json(output)
    with context.client(objects=False) as client:
        found = client.revoked_certificates()
    if output:
        import json

        safe_output.block(sys.stdout, json.dumps([each._asdict() for each in found], indent=4) + "\n")
        return
    if not found:
        print("No revoked certificates found.", file=sys.stderr)
        return
    Table([Heading("SERIAL", "whole"), Heading("REVOKED", "whole"), Heading("BY", "cut", 1)], sys.stdout).write(
        [[each.serial, to_the_second(each.revoked) if each.revoked else "", each.revoked_by] for each in found]
    )
