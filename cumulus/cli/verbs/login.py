"""`cumulus login`: makes a context of a server that is asked over TLS."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cumulus import paths
from cumulus.cli import confirm, terminal
from cumulus.client import contexts
from cumulus.client.connect import connect
from cumulus.client.contexts import Context
from cumulus.client.endpoint import Endpoint, checked_token, given_token, parse_server
from cumulus.errors import CumulusError, Unauthenticated, UsageError


def login(
    server: Annotated[str, typer.Argument(metavar="https://HOST:PORT", help="The server.", show_default=False)],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="The name of the context; the host if left out.", show_default=False)
    ] = "",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAME", show_default=False, help="Its default namespace.")
    ] = "",
    ca_file: Annotated[
        str,
        typer.Option(metavar="FILE", show_default=False, help="The certificates to trust the server by, as PEM."),
    ] = "",
    fingerprint: Annotated[
        str,
        typer.Option(
            metavar="SHA256:…", show_default=False, help="Trust the authority that the server shows, if it is this."
        ),
    ] = "",
) -> None:
    """Log in to a server, and make it the one that commands ask.

    You need a token; somebody on the server's machine gets one by `cumulus token create`. It is asked for without being
    shown, or read from CUMULUS_TOKEN or from stdin. A server whose certificate this system does not trust shows the
    fingerprint of its own authority; compare it with what an administrator tells you.

    \b
    Examples:
      cumulus login https://gpu.example.org:6443
      cumulus login https://10.0.0.5:6443 --name lab -n vision --ca-file lab-ca.pem
      cumulus login https://10.0.0.5:6443 < token.txt
    """
    address = parse_server(server, "SERVER")
    if address.startswith("unix:"):
        raise UsageError("one logs in to a server over TLS", hint="a socket knows who you are: --server unix:PATH")
    file = paths.contexts_file()
    known = contexts.read(file)
    earlier = known.of_server(address)
    name = name or (earlier.name if earlier else address.removeprefix("https://").rpartition(":")[0])
    ca = _read(ca_file) if ca_file else earlier.ca if earlier else ""
    found = Endpoint("https", address, _trusted(Endpoint("https", address, ca), fingerprint), _token())
    with connect(found) as client:
        try:
            user = client.who_am_i()
        except Unauthenticated as error:
            raise CumulusError(f"{address} does not know that token: {error}", hint=error.hint) from None
    namespace = namespace or (earlier.namespace if earlier else "")
    contexts.write(file, known.with_context(Context(name, address, found.ca, found.token, namespace)))
    print(f"Logged in to {address} as {user.name}; context {name} is the current one.")


def _trusted(found: Endpoint, wanted: str) -> str:
    """The certificates to trust the server by. Raises CumulusError where it is not to be trusted."""
    from cumulus.client.http import trust
    from cumulus.lib.fingerprint import fingerprint

    if trust.is_trusted(found):
        return found.ca
    if found.ca:
        raise CumulusError(
            f"the certificate of {found.address} is not signed by the authority that you trust for it",
            hint="if it has a new one, give it: --ca-file FILE; else somebody may be in between",
        )
    shown = trust.shown_authority(found)
    seen = fingerprint(shown)
    if wanted:
        if not trust.same(wanted, seen):
            raise CumulusError(f"{found.address} shows another authority: {seen}", hint="do not log in there")
    else:
        terminal.note(f"This system does not trust the certificate of {found.address}. The server shows the authority")
        terminal.note(f"  {seen}")
        if not confirm.possible():
            raise CumulusError("nobody can confirm it here", hint="give --ca-file FILE, or --fingerprint SHA256:…")
        if not confirm.confirmed("Is that the fingerprint that its administrator told you?"):
            raise CumulusError("nothing was changed")
    if not trust.is_trusted(found._replace(ca=shown)):
        raise CumulusError(
            f"the certificate of {found.address} is not good even by the authority that it shows",
            hint="is that the name that the server goes by? else give --ca-file FILE",
        )
    return shown


def _token() -> str:
    token = given_token()
    if not token and sys.stdin.isatty():
        from getpass import getpass

        token = getpass("Token: ", sys.stderr)
    elif not token:
        token = sys.stdin.readline()
    token = checked_token(token, "that")
    if not token:
        raise UsageError("that is no token", hint="cumulus token create, on the server's machine, makes one")
    return token


def _read(file: str) -> str:
    try:
        return Path(file).read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CumulusError(f"{file} cannot be read: {error}") from None
