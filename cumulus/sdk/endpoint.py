"""Whom the SDK asks: the same server as the command line, at its gRPC address."""

from __future__ import annotations

import os
from typing import NamedTuple

from cumulus import environment, paths
from cumulus.client import contexts, endpoint
from cumulus.client.endpoint import GRPC_PORT, Endpoint
from cumulus.errors import CumulusError, UsageError
from cumulus.resources.key import DEFAULT_NAMESPACE


class ServerAddress(NamedTuple):
    """Where, and as whom."""

    target: str
    """As gRPC writes it: unix:PATH or HOST:PORT."""
    namespace: str
    ca: str = ""
    """PEM; "" for those that the system trusts. Of no use on a socket."""
    token: str = ""
    api: Endpoint | None = None
    """On a socket: who gives tickets."""

    @property
    def is_local(self) -> bool:
        return self.target.startswith("unix:")


def find(address: str | ServerAddress | None = None, token: str | None = None) -> ServerAddress:
    """The address that `address` names: HOST:PORT of gRPC, https://HOST:PORT of the API, or unix:PATH of its socket. If
    left out: as the command line finds it. Raises CumulusError where nobody is there to be asked."""
    if isinstance(address, ServerAddress):
        return address
    token = endpoint.checked_token(token, "token=") if token else None
    given = address if address is not None else os.environ.get(environment.SERVER_URL, "")
    if given and "://" not in given and not given.startswith("unix:"):
        source = "address" if address is not None else environment.SERVER_URL
        return _of_grpc(given, token, source)
    found = endpoint.find(given if address is not None else "", source="address")
    if found.kind == "embedded":
        raise CumulusError(f"no daemon runs that could run a function ({found.why})", hint="start it: cumulus serve")
    namespace = found.namespace or DEFAULT_NAMESPACE
    if found.kind == "unix":
        return ServerAddress(
            f"unix:{os.path.join(os.path.dirname(found.address), paths.GRPC_SOCKET)}", namespace, api=found
        )
    host = found.address.removeprefix("https://").rpartition(":")[0]
    found = found._replace(token=token or found.token)
    return ServerAddress(f"{host}:{GRPC_PORT}", namespace, found.ca, found.token, found)


def _of_grpc(text: str, token: str | None, source: str) -> ServerAddress:
    host, port = _host_and_port(text.strip(), source)
    context = contexts.read(paths.contexts_file()).of_host(host)
    ca_file = os.environ.get(environment.CA_FILE, "")
    ca = endpoint.text_of(ca_file) if ca_file else context.ca if context else ""
    shown = token or endpoint.given_token() or (context.token if context else "")
    if not shown:
        raise CumulusError(
            f"{source} names {text}, and there is no token for it",
            hint=f"give token=…, set {environment.TOKEN}, or log in: cumulus login https://{host}:6443",
        )
    namespace = context.namespace if context and context.namespace else DEFAULT_NAMESPACE
    return ServerAddress(f"{host}:{port}", namespace, ca, shown)


def _host_and_port(text: str, source: str) -> tuple[str, int]:
    host, port = endpoint.split_host(text)
    if not host or any(char.isspace() or char in "/@" or not char.isprintable() for char in text):
        raise UsageError(f"{source} must be HOST:PORT, https://HOST:PORT or unix:PATH, not {text!r}")
    endpoint.check_port(port, source)
    return host, int(port or GRPC_PORT)
