"""Client certificates that were revoked, by their serial numbers.

Whoever signs certificates keeps them; kept here is only which of them opens nothing any more, as a file of the state
directory that its owner alone can read: CUMULUS_HOME/api/revoked/SERIAL.json. Each request looks whether there is one,
so that revoking works at once, in every process. They are no objects of the store, and no backup takes one back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cumulus import paths
from cumulus.answers.certificates import RevokedCertificate
from cumulus.clock import Clock, timestamp
from cumulus.errors import InvalidObject, Unauthenticated
from cumulus.lib.printable import one_line
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.record_files import RecordFiles

_OF_CERTIFICATE = "certificate-"
_SERIAL = re.compile("[0-9A-F]{1,64}")


class Certificates:
    """Those of a state directory. Every method raises CumulusError."""

    def __init__(self, home: Path, access: Access, clock: Clock) -> None:
        self._files = RecordFiles(paths.api_dir(home) / "revoked")
        self._access = access
        self._clock = clock

    def revoke(self, identity: Identity, serial: str) -> RevokedCertificate:
        """End the certificate of that serial number at once, and what was asked for with it. Again changes nothing.
        Raises Forbidden, InvalidObject."""
        serial = checked_serial(serial)
        self._access.check(identity, "delete", "certificates", name=serial)
        made = RevokedCertificate(serial, timestamp(self._clock.now()), identity.name)
        self._files.write(serial, made._asdict(), anew=False)
        self._access.audit.tell(identity, "delete", "certificates", "", serial, "done")
        return self._read(serial)

    def revoked(self, identity: Identity) -> Sequence[RevokedCertificate]:
        """All that were revoked, the first one first. Raises Forbidden."""
        self._access.check(identity, "list", "certificates")
        found = [self._read(serial) for serial in self._files.ids() if _SERIAL.fullmatch(serial)]
        return sorted(found, key=lambda each: (each.revoked, each.serial))

    def check_valid(self, id: str) -> None:
        """Raises Unauthenticated where the certificate with this id (see `id_of`) was revoked."""
        try:
            os.stat(self._files.file(id.removeprefix(_OF_CERTIFICATE)))
        except FileNotFoundError:
            return
        except OSError:
            # Nobody can tell: then it opens nothing.
            pass
        raise Unauthenticated("the certificate was revoked", hint="ask an admin for another one")

    def _read(self, serial: str) -> RevokedCertificate:
        """That the file is there says that it was revoked. What it holds is for people."""
        try:
            found = self._files.read(serial)
            return RevokedCertificate(serial, str(found["revoked"]), str(found["revoked_by"]))
        except (OSError, ValueError, KeyError, TypeError):
            return RevokedCertificate(serial, "", "")


def id_of(serial: str) -> str:
    """What stands in `Identity.token` for who showed the certificate of that serial number."""
    return f"{_OF_CERTIFICATE}{checked_serial(serial)}"


def is_of_certificate(id: str) -> bool:
    """Whether it is `id_of` a certificate, and not a token's."""
    return id.startswith(_OF_CERTIFICATE)


def checked_serial(text: str) -> str:
    """The serial number as openssl prints it (`serial=4A1F…`, `4a:1f:…`), in one form. Raises InvalidObject."""
    serial = text.strip().removeprefix("serial=").replace(":", "").upper()
    if not _SERIAL.fullmatch(serial):
        raise InvalidObject(
            f"{one_line(text)!r} is no serial number; give its hexadecimal digits, as this prints them: openssl x509 "
            "-noout -serial -in CERTIFICATE",
            field="serial",
        )
    return serial.lstrip("0") or "0"
