"""The page for browsers of this machine, without TLS: a browser would not trust our own authority. Users of other
machines have the page at the API's address.

It is served at 127.0.0.1 alone, and the API is not. Whose browser it is, the kernel says: see `http.ui.sign_in`.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cumulus import paths
from cumulus.lib import addresses
from cumulus.server.http.app import make_page_app
from cumulus.server.http.listener import Listener
from cumulus.service.addresses import PageAddress, page_address

if TYPE_CHECKING:
    from cumulus.server.api import Api

_log = structlog.get_logger("cumulus.ui")


class LocalPage:
    """From `open` to `close`. `listen`: HOST:PORT, "" for nowhere."""

    def __init__(self, home: Path, api: Api, listen: str) -> None:
        self._home = home
        self._api = api
        self._listen = listen
        self._listener: Listener | None = None

    def open(self) -> None:
        """Where that does not work the log says why, and all else goes on."""
        listening: socket.socket | None = None
        try:
            if not self._listen:
                paths.page_address(self._home).unlink(missing_ok=True)
                return
            host, port = addresses.split(self._listen)
            listening = self._bind(host, port)
            url = f"http://{addresses.join(host, listening.getsockname()[1])}"
            self._listener = Listener(make_page_app(self._api), [listening])
            self._listener.start()
            page_address.write(self._home, PageAddress(url))
            _log.info("the page is served", address=f"{url}/ui/")
        except OSError as error:
            if listening is not None and self._listener is None:
                listening.close()
            # Links lead to the address over TLS then.
            paths.page_address(self._home).unlink(missing_ok=True)
            _log.error("the page is not served on this machine", listen=self._listen, error=str(error))

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _bind(self, host: str, port: int) -> socket.socket:
        """At a free port the one that it had before, so that open pages and bookmarks stay right."""
        last = page_address.read(self._home)
        if not port and last is not None:
            with contextlib.suppress(OSError, ValueError):
                return socket.create_server((host, addresses.split(last.url.removeprefix("http://"))[1]))
        return socket.create_server((host, port))
