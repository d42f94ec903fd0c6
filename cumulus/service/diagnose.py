"""When a verb stumbles over the shape of an object: which stored object is damaged, and where.

The store answers for each row's identity and checksum. What is in `spec` and `status` it takes as it comes, from older
and newer versions and from other programs, and verbs read it without checking, so that
they start fast. An object that is damaged hides no other.
"""

from __future__ import annotations

from collections.abc import Iterator

from cumulus.cli import terminal
from cumulus.cli.context import open_store
from cumulus.errors import InvalidObject, StoreError
from cumulus.resources.key import Document
from cumulus.resources.registry import BY_NAME, KINDS
from cumulus.store.base import Query, Store

MALFORMED = (AttributeError, KeyError, TypeError, ValueError)
"""What a document of another shape than its kind's raises where it is taken apart; and so do defects of ours."""


_NAMED = 5


class LeftOut:
    """Damaged objects that a verb met beside others: those are shown, and one warning names these."""

    def __init__(self) -> None:
        self._found: dict[str, InvalidObject] = {}

    def add(self, error: InvalidObject) -> None:
        self._found.setdefault(str(error), error)

    def blame(self, caught: Exception, document: Document) -> None:
        """What was raised where `document` was shown is told of it, or of whatever stored object is damaged. Raises
        `caught` where none is: the defect is ours."""
        error = _wrong(document) or _find()
        if error is None:
            raise caught
        self.add(error)

    def look(self, document: Document) -> None:
        """Some of it could not be shown: that is told where it, or another object, is damaged."""
        error = _wrong(document) or _find()
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
    damaged = _find()
    if damaged is None:
        raise caught
    terminal.error(damaged)
    return 1


def damaged(store: Store) -> Iterator[InvalidObject]:
    """The stored objects that are not what their kind says."""
    for kind in KINDS:
        for document in store.list(Query(kind.name)).items:
            error = _wrong(document)
            if error is not None:
                yield error


def _find() -> InvalidObject | None:
    """The first stored object that is not what its kind says."""
    try:
        with open_store() as store:
            return next(damaged(store), None)
    except StoreError:
        return None


def _wrong(document: Document) -> InvalidObject | None:
    from cumulus.store.client import decode

    kind = BY_NAME[document["kind"]]
    try:
        decode(kind.model(), document)
    except InvalidObject as error:
        return error
    return None
