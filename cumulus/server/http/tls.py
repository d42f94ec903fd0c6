"""How the server proves who it is, and whose certificates it takes."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from cumulus.errors import UsageError
from cumulus.server.http.certificates import Authority, private, trusted_by_files
from cumulus.server.settings import ApiSettings


class Tls:
    """`directory`: where the own authority is kept. Files that the settings name are taken instead of its own."""

    def __init__(self, directory: Path, settings: ApiSettings) -> None:
        self._settings = settings
        self._directory = directory
        self._authority = Authority(directory)
        self._context: ssl.SSLContext | None = None

    @property
    def trusted_by(self) -> str:
        """What clients trust the server by, as PEM; "": what the system trusts. Raises OSError, ValueError."""
        return trusted_by_files(self._directory, self._settings.tlsCert)

    def context(self, names: Collection[str], now: datetime) -> ssl.SSLContext:
        """Raises OSError (also as ssl.SSLError), CumulusError."""
        private(self._directory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(["http/1.1"])
        if not self._settings.clientCA:
            self._authority.ensure()
        # A client may show a certificate; one that it shows must be good.
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(self._settings.clientCA or str(self._authority.certificate))
        self._context = context
        self.renew(names, now, first=True)
        return context

    def renew(self, names: Collection[str], now: datetime, *, first: bool = False) -> bool:
        """Load the server's certificate where it is new: whether it was. Given files may have been replaced, as by
        certbot, and are always loaded. Connections that are open keep theirs. Raises what `context` raises."""
        assert self._context is not None
        if self._settings.tlsCert:
            self._context.load_cert_chain(self._settings.tlsCert, self._settings.tlsKey, _no_password)
            return False
        made = self._authority.ensure_server(names, now)
        if made or first:
            self._context.load_cert_chain(self._authority.server)
        return made


def check_files(settings: ApiSettings) -> None:
    """Raises UsageError where files that the settings name are not what they should be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if settings.tlsCert:
            context.load_cert_chain(settings.tlsCert, settings.tlsKey, _no_password)
    except OSError as error:
        raise UsageError(
            f"{settings.tlsCert} and {settings.tlsKey} are no certificate and its key: {_why(error)}",
            hint="give both as PEM, the key without a password",
        ) from None
    try:
        if settings.clientCA:
            context.load_verify_locations(settings.clientCA)
    except OSError as error:
        raise UsageError(f"{settings.clientCA} is no certificate: {_why(error)}", hint="give it as PEM") from None


def _no_password() -> str:
    """OpenSSL would ask for it at the terminal."""
    return ""


def _why(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)
