"""From a query to a page: selectors, the continue token and the limit, the same for every implementation.

A store calls `parse`, reads the candidates after `Listing.after` in (namespace, name) order as they were at the
listing's revision, and hands them to `page`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from typing import TypeVar

import orjson

from cumulus.errors import Expired, UsageError
from cumulus.resources import selectors
from cumulus.resources.key import Document
from cumulus.resources.packed import PackedPage
from cumulus.resources.packed import packed_page as page_of
from cumulus.store.base import Page, Query
from cumulus.store.codec import decode
from cumulus.store.rules import owner_uids

T = TypeVar("T")
ListPosition = tuple[str, str]
"""(namespace, name): the order of a list."""
START: ListPosition = ("", "")

Candidate = tuple[ListPosition, bytes]


@dataclass(frozen=True, slots=True)
class Listing:
    """A query, parsed. `revision` is None for the newest."""

    kind: str
    namespace: str | None
    owner_uid: str | None
    after: ListPosition
    revision: int | None
    limit: int | None
    labels: selectors.LabelSelector
    fields: selectors.FieldSelector

    @property
    def selects(self) -> bool:
        """Whether there are objects that do not match."""
        return bool(self.labels.requirements or self.fields.terms or self.owner_uid is not None)

    def matches(self, document: Document) -> bool:
        return (
            self.labels.matches(document)
            and self.fields.matches(document)
            and (self.owner_uid is None or self.owner_uid in owner_uids(document))
        )


def parse(query: Query) -> Listing:
    """Raises UsageError for a bad selector, one with a field that the kind does not have, limit or continue token."""
    if query.limit is not None and query.limit < 1:
        raise UsageError(f"a page holds at least 1 object, not {query.limit}")
    revision, after = query.revision, START
    if query.continue_token:
        revision, after = _read_token(query.continue_token)
        if query.namespace not in (None, after[0]):
            raise _forged(query.continue_token)
    return Listing(
        query.kind, query.namespace, query.owner_uid, after, revision, query.limit,
        selectors.parse_labels(query.labels), selectors.parse_fields(query.fields, query.kind),
    )  # fmt: skip


def check_revision(revision: int, *, compacted: int, newest: int) -> None:
    """Raises Expired for a revision before `compacted`, and for one after `newest`: only a store that was
    restored from a backup can be asked for a revision it never had."""
    if revision < compacted:
        raise Expired(f"revision {revision} was compacted; the oldest kept is {compacted}", hint="list again")
    if revision > newest:
        raise Expired(f"revision {revision} is not in this store; its newest is {newest}", hint="list again")


def overlaid(
    current: Iterable[Candidate], then: Mapping[ListPosition, bytes | None], listing: Listing
) -> Iterator[Candidate]:
    """Today's candidates with those that changed since the listing's revision put back as they were `then`
    (None: not there then)."""
    kept = (candidate for candidate in current if candidate[0] not in then)
    put_back = (
        (place, document)
        for place, document in sorted(then.items())
        if document is not None and place > listing.after and listing.namespace in (None, place[0])
    )
    return merge(kept, put_back, key=lambda candidate: candidate[0])


def page(listing: Listing, revision: int, candidates: Iterable[Candidate]) -> Page:
    """The first `limit` candidates that match."""
    found, token = _first(listing, revision, ((place, decode(blob)) for place, blob in candidates), listing.matches)
    return Page(found, revision, token)


def packed_page(listing: Listing, revision: int, candidates: Iterable[Candidate]) -> PackedPage:
    """As `page`. Where every object matches none is decoded."""
    if listing.selects:
        candidates = (candidate for candidate in candidates if listing.matches(decode(candidate[1])))
    found, token = _first(listing, revision, candidates, None)
    return page_of(found, revision, token)


def _first(
    listing: Listing, revision: int, candidates: Iterable[tuple[ListPosition, T]], matches: Callable[[T], bool] | None
) -> tuple[list[T], str]:
    """The first `limit` of them that match (None: all do), and what the next page begins with."""
    items: list[T] = []
    last = START
    for place, item in candidates:
        if matches is not None and not matches(item):
            continue
        if len(items) == listing.limit:
            return items, _token(revision, last)
        items.append(item)
        last = place
    return items, ""


def _token(revision: int, last: ListPosition) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([revision, *last])).decode()


def _read_token(token: str) -> tuple[int, ListPosition]:
    try:
        revision, namespace, name = orjson.loads(base64.urlsafe_b64decode(token))
    except (ValueError, TypeError) as error:
        raise _forged(token) from error
    if not (type(revision) is int and 0 <= revision < 2**63 and isinstance(namespace, str) and isinstance(name, str)):
        raise _forged(token)
    return revision, (namespace, name)


def _forged(token: str) -> UsageError:
    return UsageError(f"the continue token {token[:60]!r} was not made by this store for this list", hint="list again")
