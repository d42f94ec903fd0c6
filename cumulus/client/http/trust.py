"""The certificates that a server shows to who does not trust it yet, for a person to compare."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from cumulus.client.http.connection import CONNECT_SECONDS, address_of, unreachable
from cumulus.errors import CumulusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cumulus.client.endpoint import Endpoint


def is_trusted(endpoint: Endpoint) -> bool:
    """Whether the server's certificate is good by what the endpoint trusts. Raises CumulusError where it can't be
    reached."""
    try:
        _shake_hands(endpoint, ssl.create_default_context(cadata=endpoint.ca or None)).close()
    except ssl.SSLCertVerificationError:
        return False
    except OSError as error:
        raise unreachable(endpoint, error) from None
    return True


def shown_authority(endpoint: Endpoint) -> str:
    """The certificate, as PEM, at the end of the chain that the server shows. Nothing is sent to it, since who shows it
    may be anybody. Raises CumulusError."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _shake_hands(endpoint, context) as made:
            # Public from Python 3.13 on.
            chain: Any = getattr(made, "get_unverified_chain", None) or made._sslobj.get_unverified_chain  # type: ignore[attr-defined]
            last = chain()[-1]
            shown: bytes = last if isinstance(last, bytes) else ssl.PEM_cert_to_DER_cert(last.public_bytes())
    except OSError as error:
        raise unreachable(endpoint, error) from None
    except (AttributeError, TypeError, IndexError):
        raise CumulusError("the server's certificates can't be read", hint="give them: --ca-file FILE") from None
    return ssl.DER_cert_to_PEM_cert(shown)


def same(one: str, other: str) -> bool:
    """Whether two fingerprints are the same, with or without colons."""
    plain = [text.upper().removeprefix("SHA256").lstrip(":=").replace(":", "") for text in (one, other)]
    return plain[0] == plain[1] and bool(plain[0])


def _shake_hands(endpoint: Endpoint, context: ssl.SSLContext) -> ssl.SSLSocket:
    host, port = address_of(endpoint)
    made = socket.create_connection((host, port), CONNECT_SECONDS)
    try:
        return context.wrap_socket(made, server_hostname=host)
    except BaseException:
        made.close()
        raise
