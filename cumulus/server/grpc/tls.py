"""TLS for gRPC, with the certificate that the HTTP API has: its own authority's, or the files that the settings name.

The files are looked at for each connection, so that one that was renewed counts at once. gRPC for Python can either
demand a client certificate of everybody or of nobody. So nobody shows one here: who has one asks the HTTP API with it
for a ticket, and shows that.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import structlog

_log = structlog.get_logger("cumulus.grpc")
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\s*", re.DOTALL)


class ServerCertificate:
    """Of a file with the chain, and one with the key, which may be the same."""

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain = chain
        self._key = key
        self._seen: object = None

    def credentials(self) -> grpc.ServerCredentials:
        """Raises OSError while there is no certificate, ValueError where it is none."""
        return grpc.dynamic_ssl_server_credentials(self._read(), self._renewed, require_client_authentication=False)

    def _renewed(self) -> Any:
        """None: it is as it was. Called in a thread of gRPC's, for each connection."""
        try:
            return None if self._stamp() == self._seen else self._read()
        except (OSError, ValueError) as error:
            _log.error("the certificate cannot be read; the one before is shown", error=str(error))
            return None

    def _stamp(self) -> object:
        return [(found.st_ino, found.st_mtime_ns) for found in (self._chain.stat(), self._key.stat())]

    def _read(self) -> grpc.ServerCertificateConfiguration:
        stamp = self._stamp()
        chain, found = self._chain.read_bytes(), _KEY.search(self._key.read_bytes())
        if found is None:
            raise ValueError(f"there is no key in {self._key}")
        if b"-----BEGIN CERTIFICATE-----" not in chain:
            raise ValueError(f"there is no certificate in {self._chain}")
        self._seen = stamp
        return grpc.ssl_server_certificate_configuration([(found[0], _KEY.sub(b"", chain))])
