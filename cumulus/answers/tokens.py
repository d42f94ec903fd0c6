"""What the service tells about tokens."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_SECONDS = 30 * 86400.0
"""How long a token lasts unless it is said."""
KUBECONFIG_SECONDS = 86400.0
"""How long the token of a kubeconfig lasts unless it is said."""


class TokenInfo(NamedTuple):
    """A token as it can be shown: who has it is `user`. Times as in objects."""

    name: str
    user: str
    groups: tuple[str, ...]
    created: str
    expires: str
    created_by: str


class NewToken(NamedTuple):
    """A token that was made just now. `token` is shown this once: only its hash is kept."""

    token: str
    info: TokenInfo
