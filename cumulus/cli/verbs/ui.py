"""`cumulus ui`: opens the page in a browser, signed in."""

from __future__ import annotations

import os
import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cumulus.answers.sessions import ENTER
from cumulus.cli import context, terminal

_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")


def ui(
    only_print: Annotated[bool, typer.Option("--print", help="Print the link, and open no browser.")] = False,
) -> None:
    """Open the page in a browser: who has which GPU, until when, and when it is your turn.

    The link signs you in, once, within two minutes: who opens it is you, so give it to nobody. Over SSH it is printed,
    with the command that forwards the page's port to your own machine.

    \b
    Examples:
      cumulus ui
      cumulus ui --print
    """
    asked = context.endpoint()
    with context.client(objects=False) as client:
        made = client.page_link()
    url = asked.address if asked.kind == "https" else made.url
    link = url + ENTER + made.code
    if asked.ca:
        terminal.note("Your browser warns of the server's certificate unless it trusts the server's own authority.")
    if not only_print and not _far_away() and _open(link):
        terminal.note(f"The page opens in your browser. Later it is at {url}/ui/")
        return
    print(link)
    if asked.kind != "https" and _far_away():
        port = urlsplit(url).port
        terminal.note(f"On your own machine, forward its port first: ssh -L {port}:127.0.0.1:{port} {_here()}")


def _far_away() -> bool:
    """Whether this is a session over SSH: a browser would open on this machine's screen, if at all."""
    return bool(os.environ.get("SSH_CONNECTION"))


def _here() -> str:
    import getpass
    import socket

    return f"{getpass.getuser()}@{socket.gethostname()}"


def _open(link: str) -> bool:
    import webbrowser

    if sys.platform == "linux" and not any(map(os.environ.get, _SCREENS)):
        # What is left then are browsers that draw in this terminal.
        return False
    return webbrowser.open(link)
