"""All objects of a kind, asked of the store itself in pages: what is gone is never believed of a cache."""

from __future__ import annotations

from collections.abc import Iterator

from cumulus.store.base import Page, Query, Store

PAGE = 500


def pages(store: Store, kind: str) -> Iterator[Page]:
    """One after the other, all at the same revision."""
    token = ""
    while True:
        page = store.list(Query(kind, limit=PAGE, continue_token=token))
        yield page
        token = page.continue_token
        if not token:
            return
