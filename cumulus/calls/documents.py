"""JSON documents that others wrote: read with every field checked, and with what does not belong there refused."""

from __future__ import annotations

import json
import re
from typing import Any

LARGEST = 256 * 1024
"""Bytes of a document at most."""

_ENCODER = json.JSONEncoder(sort_keys=True)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def load(content: bytes, what: str, names: frozenset[str], formats: int) -> DocumentFields:
    """The fields of the JSON object in `content`, all of `names` and of a format that is known. Raises ValueError."""
    if len(content) > LARGEST:
        raise ValueError(f"{what} is larger than {LARGEST} bytes")
    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise ValueError(f"{what} is no JSON") from None
    if not isinstance(document, dict):
        raise ValueError(f"{what} is no JSON object")
    fields = DocumentFields(what, document)
    number = fields.number("format")
    if not 1 <= number <= formats:
        raise ValueError(f"{what} has format {number}; this version knows formats up to {formats}")
    if unknown := document.keys() - names - {"format"}:
        raise ValueError(f"{what} has the unknown field {min(unknown)[:80]!r}")
    return fields


def dump(document: dict[str, Any]) -> bytes:
    """A document as bytes, without what is empty."""
    kept = {name: value for name, value in document.items() if value not in ("", None)}
    return _ENCODER.encode(kept).encode()


class DocumentFields:
    """The fields of a document. Each method raises ValueError where the field is not as it should be."""

    def __init__(self, what: str, document: dict[str, Any]) -> None:
        self._what = what
        self._document = document

    def text(self, name: str, longest: int = 1024) -> str:
        """A text, "" where it is not given."""
        value = self._document.get(name, "")
        if not isinstance(value, str) or len(value) > longest:
            raise self.wrong(name, f"a text of at most {longest} characters")
        return value

    def digest(self, name: str) -> str:
        """A sha256 in hex, "" where it is not given."""
        value = self.text(name, 64)
        if value and not is_digest(value):
            raise self.wrong(name, "64 hexadecimal digits")
        return value

    def number(self, name: str) -> int:
        """At least 0, and 0 where it is not given."""
        value = self._document.get(name, 0)
        if type(value) is not int or not 0 <= value < 2**63:
            raise self.wrong(name, "a whole number of at least 0")
        return value

    def flag(self, name: str) -> bool:
        """False where it is not given."""
        value = self._document.get(name, False)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def wrong(self, name: str, right: str) -> ValueError:
        return ValueError(f"{self._what}: {name} is not {right}")


def is_digest(text: str) -> bool:
    """Whether it is a sha256 in hex."""
    return _SHA256.fullmatch(text) is not None
