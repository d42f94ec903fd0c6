"""The fingerprint of a certificate, for people to compare. Standard library only."""

from __future__ import annotations

import hashlib
import ssl


def fingerprint(pem: str) -> str:
    """SHA256:… of a certificate, as `openssl x509 -fingerprint -sha256` shows it."""
    return "SHA256:" + hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest().hex(":").upper()
