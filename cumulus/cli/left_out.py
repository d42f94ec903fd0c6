"""Names damaged objects in one warning, while all others are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cumulus.cli import context, terminal
from cumulus.errors import InvalidObject, StoreError
from cumulus.resources.key import Document

if TYPE_CHECKING:
    from cumulus.client.base import Client

_NAMED = 5


class LeftOut:
    """Gathers them; `client` finds what is wrong with them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._found: dict[str, InvalidObject] = {}

    def add(self, *errors: InvalidObject) -> None:
        for error in errors:
            self._found.setdefault(str(error), error)

    def blame(self, caught: Exception, document: Document) -> None:
        """What was raised where `document` was shown is told of it, or of whatever stored object is damaged. Raises
        `caught` where none is: the defect is ours."""
        error = self._client.find_damaged(document)
        if error is None:
            raise caught
        self.add(error)

    def look(self, document: Document) -> None:
        """Some of it could not be shown: that is told where it, or another object, is damaged."""
        error = self._client.find_damaged(document)
        if error is not None:
            self.add(error)

    def tell(self) -> None:
        """Say it once; what is found after that is said by the next call."""
        if self._found:
            first, *others = self._found.values()
            also = "".join(f"; {other}" for other in others[: _NAMED - 1])
            more = f"; and {len(others) - _NAMED + 1} more" if len(others) >= _NAMED else ""
            terminal.warning(f"{first}; {first.hint}{also}{more}")
        self._found = {}


def tell(caught: Exception) -> int:
    """Say which object is damaged, and return the exit code 1. Raises `caught` where none is: the defect is ours."""
    try:
        with context.client() as client:
            damaged = client.find_damaged()
    except StoreError:
        damaged = None
    if damaged is None:
        raise caught
    terminal.error(damaged)
    return 1
