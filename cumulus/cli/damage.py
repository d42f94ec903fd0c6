"""When a verb stumbles over the shape of an object: which stored object is damaged, and where.

The store answers for each row's identity and checksum. What is in `spec` and `status` it takes as it comes, from older
and newer versions and from other programs, and verbs read it without checking, so that they start fast.
"""

from __future__ import annotations

from cumulus.cli import terminal
from cumulus.cli.context import open_store
from cumulus.errors import InvalidObject, StoreError
from cumulus.resources.registry import KINDS
from cumulus.store.base import Query

MALFORMED = (AttributeError, KeyError, TypeError, ValueError)
"""What a document of another shape than its kind's raises where it is taken apart; and so do defects of ours."""


def tell(caught: Exception) -> int:
    """Say which object is damaged, and return the exit code 1. Raises `caught` where none is: the defect is ours."""
    damaged = _find()
    if damaged is None:
        raise caught
    terminal.error(damaged)
    return 1


def _find() -> InvalidObject | None:
    """The first stored object that is not what its kind says."""
    from cumulus.store.client import decode

    try:
        with open_store() as store:
            for kind in KINDS:
                for document in store.list(Query(kind.name)).items:
                    try:
                        decode(kind.model(), document)
                    except InvalidObject as error:
                        name = document["metadata"]["name"]
                        return InvalidObject(
                            str(error),
                            hint=f"see all of it with `cumulus get {kind.name.lower()} {name} -o yaml`, and delete it",
                        )
    except StoreError:
        return None
    return None
