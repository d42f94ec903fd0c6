"""What the service tells a client that wants to open the page in a browser."""

from __future__ import annotations

from typing import NamedTuple

LINK_SECONDS = 120.0
"""How long a link that signs in lasts."""


class PageLink(NamedTuple):
    """Signs a browser in, once: at `url` + ENTER + `code`."""

    url: str
    """Where the page is on the daemon's machine: `http://127.0.0.1:PORT`, or its address over TLS."""
    code: str
    """Whoever has it is signed in as who asked for it."""
    expires: str
    """A time as in objects."""


ENTER = "/ui/enter?code="
