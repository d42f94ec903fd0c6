"""What is sent: bytes, named by their sha256."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Blob(NamedTuple):
    """Bytes, and what they are named by."""

    sha256: str
    content: bytes

    @classmethod
    def of(cls, content: bytes) -> Blob:
        return cls(hashlib.sha256(content).hexdigest(), content)
