"""Finds what looks like a secret in a manifest: keys and tokens by their form. It never repeats what it found."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FORMS: tuple[tuple[str, bytes], ...] = (
    ("a private key", rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    ("an AWS access key", rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("a GitHub token", rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,255})\b"),
    ("a GitLab token", rb"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("a Slack token", rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("a Hugging Face token", rb"\bhf_[A-Za-z0-9]{30,}\b"),
    ("a Google API key", rb"\bAIza[0-9A-Za-z_-]{35}\b"),
    ("an API key", rb"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}\b"),
    ("a token of this server", rb"\bcumulus_[A-Za-z0-9_-]{30,}\b"),
    ("a JSON web token", rb"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}"),
    ("a URL with a password", rb"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,64}:[^\s:/@]{3,128}@[A-Za-z0-9]"),
)
_ANY = re.compile(b"|".join(b"(" + form + b")" for _, form in _FORMS))


def find(data: bytes) -> Iterator[tuple[int, str]]:
    """Where each begins in the data, and its name, in order."""
    for found in _ANY.finditer(data):
        assert found.lastindex is not None
        yield found.start(), _FORMS[found.lastindex - 1][0]
