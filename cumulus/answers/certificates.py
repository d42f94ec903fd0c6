"""What the service tells about client certificates."""

from __future__ import annotations

from typing import NamedTuple


class RevokedCertificate(NamedTuple):
    """A certificate that opens nothing any more. The time as in objects."""

    serial: str
    """As hexadecimal digits."""
    revoked: str
    revoked_by: str
