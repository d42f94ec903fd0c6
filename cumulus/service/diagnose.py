"""Finds stored objects that are damaged, and says where.

The store answers for each row's identity and checksum. What is in `spec` and `status` it takes as it comes, from older
and newer versions and from other programs, and readers take it without checking, so that
they start fast. An object that is damaged hides no other.
"""

from __future__ import annotations

from collections.abc import Iterator

from cumulus.errors import InvalidObject
from cumulus.resources.key import Document
from cumulus.resources.query import Query
from cumulus.resources.registry import BY_NAME, KINDS
from cumulus.store.base import Store


def find_damaged(store: Store, document: Document | None = None) -> InvalidObject | None:
    """What is wrong with `document`, else with the first stored object that is not what its kind says; None where all
    are."""
    error = problem_of(document) if document is not None else None
    return error or next((found for _, found in damaged(store)), None)


def damaged(store: Store) -> Iterator[tuple[Document, InvalidObject]]:
    """The stored objects that are not what their kind says, and why."""
    for kind in KINDS:
        for document in store.list(Query(kind.name)).items:
            error = problem_of(document)
            if error is not None:
                yield document, error


def problem_of(document: Document) -> InvalidObject | None:
    """Why the document is not what its kind says, None where it is."""
    from cumulus.store.client import decode

    kind = BY_NAME[document["kind"]]
    try:
        decode(kind.model(), document)
    except InvalidObject as error:
        return error
    return None
