"""`cumulus kubeconfig`: how kubectl and everything like it gets in."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from cumulus.answers.server import ApiAddress
from cumulus.answers.tokens import KUBECONFIG_SECONDS
from cumulus.cli import context, options, terminal
from cumulus.cli.verbs.token import Duration
from cumulus.client import contexts, endpoint
from cumulus.client.contexts import Context, Contexts
from cumulus.clock import to_the_second
from cumulus.lib import safe_output


def kubeconfig(
    duration: Duration = "",
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", show_default=False, help="Write it to this file, with mode 0600."
        ),
    ] = "",
    server: Annotated[
        str,
        typer.Option(
            "--address",
            metavar="https://HOST:PORT",
            show_default=False,
            help="Where clients find the server, if that is not where it says that it listens.",
        ),
    ] = "",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAME", show_default=False, help="The namespace to begin in.")
    ] = "",
) -> None:
    """Print a kubeconfig with a fresh token of yours, for kubectl, k9s and client libraries.

    Say it to kubectl by --kubeconfig FILE or in KUBECONFIG. The token lasts a day unless you say. `cumulus token list`
    shows it, `cumulus token revoke` ends it.

    \b
    Examples:
      cumulus kubeconfig -o ~/.kube/cumulus
      cumulus kubeconfig --duration 7d --address https://gpu.example.org:6443 -o laptop.kubeconfig
    """
    if server:
        server = endpoint.parse_server(server, "--address")
    asked = context.endpoint()
    with context.client(objects=False) as client:
        # Where it is asked over TLS already, kubectl finds it at the same address.
        address = ApiAddress(asked.address, asked.ca) if asked.kind == "https" else client.api_address()
        name = f"kubeconfig-{secrets.token_hex(3)}"
        lasts = options.seconds_of(duration, "--duration") if duration else None
        made = client.create_token(name, seconds=KUBECONFIG_SECONDS if lasts is None else lasts)
    namespace = namespace or asked.namespace
    found = Contexts((Context("cumulus", server or address.url, address.ca, made.token, namespace),), "cumulus")
    if output and output != "-":
        contexts.write(Path(output), found)
        terminal.note(f"{output} opens {server or address.url} until {to_the_second(made.info.expires)}.")
    else:
        safe_output.block(sys.stdout, json.dumps(contexts.to_kubeconfig(found), indent=2) + "\n")
