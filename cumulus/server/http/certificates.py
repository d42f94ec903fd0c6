"""The server's own certificate authority: made on first use, kept in the state directory, readable by its owner alone.

    ca.key, ca.crt    the authority: what clients trust, and what may sign client certificates
    server.pem        the server's key and certificates, which are made anew before they expire and for new names

The only module that knows `cryptography`, which takes its time to load: it is imported where something is made.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
import stat
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cumulus.errors import CumulusError
from cumulus.lib.files import write_durably

if TYPE_CHECKING:
    from cryptography import x509

CA_LIFE, SERVER_LIFE = timedelta(days=3650), timedelta(days=365)
RENEW_BEFORE = timedelta(days=90)
_SKEW = timedelta(hours=1)
"""How far clocks of clients may be behind."""


class Authority:
    """That of the directory, which only its owner may enter. Every method raises OSError, CumulusError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.certificate = directory / "ca.crt"
        self._key = directory / "ca.key"
        self.server = directory / "server.pem"
        """The server's key and certificate, once `ensure_server` has made them."""

    def ensure(self) -> None:
        """Make the authority unless it is there."""
        private(self._directory)
        if not self.certificate.exists():
            # The key first: an authority whose certificate is there is whole.
            key = _new_key()
            write_durably(str(self._key), _key_pem(key))
            write_durably(str(self.certificate), _pem(_authority(key)))

    def ensure_server(self, names: Collection[str], now: datetime) -> bool:
        """Make the server's certificate for these names and addresses, unless it is there and lasts. Whether it is a
        new one."""
        self.ensure()
        if self._serves(names, now):
            return False
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            signer: Any = load_pem_private_key(self._key.read_bytes(), None)
        except (FileNotFoundError, ValueError) as error:
            raise CumulusError(
                f"{self._key} is missing or damaged, so no certificate can be made: {error}",
                hint=f"put it back; or remove {self.certificate} too, and every client must trust the new one",
            ) from None
        authority = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        key = _new_key()
        made = _server_certificate(key.public_key(), signer, authority, names, now)
        # With the authority, for a client that has yet to trust it: a person compares its fingerprint.
        write_durably(str(self.server), _key_pem(key) + _pem(made) + _pem(authority))
        return True

    def _serves(self, names: Collection[str], now: datetime) -> bool:
        from cryptography import x509

        try:
            found = x509.load_pem_x509_certificate(self.server.read_bytes())
            authority = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            found.verify_directly_issued_by(authority)
            held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except Exception:
            # Not there, damaged, or of another authority: whatever it is, a new one takes its place.
            return False
        return set(held) >= set(_names(names)) and found.not_valid_after_utc - now > RENEW_BEFORE


def private(directory: Path) -> None:
    """Make the directory, its owner's alone. Raises CumulusError where others may enter one that is there, OSError."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.stat()
    if found.st_mode & 0o077:
        raise CumulusError(
            f"{directory} holds keys, and other users may enter it (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"run: chmod 700 {directory}",
        )


def trusted_by(chain: bytes) -> str:
    """What clients need to trust the server whose certificate file this is, as PEM: the authority at its end, or a
    certificate that signed itself. "" where there is neither: its authority is one that systems know."""
    from cryptography import x509

    last = x509.load_pem_x509_certificates(chain)[-1]
    signs_others = False
    with contextlib.suppress(x509.ExtensionNotFound):
        signs_others = last.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    return _pem(last).decode() if signs_others or last.issuer == last.subject else ""


def trusted_by_files(directory: Path, given: str) -> str:
    """What clients trust a server by that shows the certificate in the file `given`, or, where that is "", one of the
    authority in `directory`; as `trusted_by`. Raises OSError, ValueError."""
    return trusted_by(Path(given).read_bytes()) if given else Authority(directory).certificate.read_text()


def _new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _authority(key: Any) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    # Each state directory has its own: clients that know several must not confuse them.
    name = _name(f"cumulus {socket.gethostname()[:30]} {secrets.token_hex(4)}")
    now = _now()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    key: Any, signer: Any, authority: x509.Certificate, names: Collection[str], now: datetime
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    return (
        x509.CertificateBuilder()
        .subject_name(_name("cumulus"))
        .issuer_name(authority.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(min(now + SERVER_LIFE, authority.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        # Not for clients: it must not pass for a user's.
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _names(names: Collection[str]) -> list[x509.GeneralName]:
    from cryptography import x509

    found: list[x509.GeneralName] = []
    for name in sorted(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _name(common: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made


def _now() -> datetime:
    from cumulus.clock import SystemClock

    return SystemClock().now()
