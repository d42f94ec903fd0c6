"""The API over TLS: which address, which names, and a certificate that never gets old."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cumulus import paths
from cumulus.answers.server import ApiAddress
from cumulus.clock import SystemClock
from cumulus.errors import CumulusError
from cumulus.lib import addresses
from cumulus.server import host_names
from cumulus.server.http.app import make_app
from cumulus.server.http.identities import by_credentials
from cumulus.server.http.listener import Listener
from cumulus.server.http.tls import Tls
from cumulus.server.settings import ApiSettings
from cumulus.service.addresses import api_address

if TYPE_CHECKING:
    from cumulus.server.api import Api

_log = structlog.get_logger("cumulus.api")
_BACKLOG = 1024


class EncryptedApi:
    """Listens from `open` to `close`. Nobody is answered who does not show a token or a certificate."""

    def __init__(self, home: Path, api: Api, settings: ApiSettings, hosts: Collection[str] = ()) -> None:
        """`hosts`: where other servers listen that show the same certificate."""
        self._home = home
        self._api = api
        self._settings = settings
        self._hosts = hosts
        self._tls = Tls(paths.api_dir(home), settings)
        self._listener: Listener | None = None

    @property
    def is_open(self) -> bool:
        return self._listener is not None

    def open(self) -> ApiAddress:
        """Where it listens. The address is also written into the state directory, for clients. Raises OSError,
        ValueError, CumulusError."""
        host, port = self._settings.address
        # Before the address is taken: the gRPC server needs the certificate also where that fails.
        context = self._tls.context(self._names(), SystemClock().now())
        listening = self._bind(host, port)
        try:
            bound = listening.getsockname()[1]
            address = ApiAddress(
                f"https://{addresses.join(host_names.called(host, self._settings.names), bound)}", self._tls.trusted_by
            )
            listener = Listener(
                make_app(self._api, by_credentials(self._api)), encrypted=[listening], tls=context
            )  # fmt: skip
            listener.start()
        except BaseException:
            listening.close()
            raise
        self._listener = listener
        api_address.write(self._home, address)
        return address

    def renew(self) -> None:
        """Take a certificate in the place of one that gets old or lacks a name. To be called every hour or so."""
        try:
            if self._tls.renew(self._names(), SystemClock().now()):
                _log.info("the API has a new certificate")
        except (OSError, ValueError, CumulusError) as error:
            _log.error("the API's certificate cannot be renewed", error=said(error))

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _bind(self, host: str, port: int) -> socket.socket:
        """At a free port the one that it had before, so that kubeconfigs stay right when the daemon starts again."""
        family, *_, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        both = found[0] == "::" and socket.has_dualstack_ipv6()

        def bound(wanted: int) -> socket.socket:
            address = (found[0], wanted, *found[2:])
            return socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)

        if not port and (last := self._last_port()):
            with contextlib.suppress(OSError):
                return bound(last)
        return bound(port)

    def _last_port(self) -> int | None:
        last = api_address.read(self._home)
        if last is None:
            return None
        try:
            return addresses.split(last.url.removeprefix("https://"))[1]
        except ValueError:
            return None

    def _names(self) -> set[str]:
        return host_names.names({self._settings.address[0], *self._hosts}, self._settings.names)


def said(error: Exception) -> str:
    """In a line of the log."""
    if isinstance(error, ssl.SSLError):
        return f"a certificate is not right: {error.reason}"
    return str(error)
