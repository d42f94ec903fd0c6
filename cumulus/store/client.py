"""Typed reads and writes over a store of documents, for code that works with models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pydantic import ValidationError

from cumulus.errors import InvalidObject
from cumulus.resources.fields import STORED
from cumulus.resources.meta import Resource
from cumulus.store import rules
from cumulus.store.base import Document, Fence, Key, Query, Store

R = TypeVar("R", bound=Resource)


def decode(model: type[R], document: Document) -> R:
    """The model of a stored document, which may break rules that are newer than it is: see `fields.STORED`. Raises
    InvalidObject, naming object and field, where the row is damaged or was written by a newer version."""
    try:
        return model.model_validate(document, context=STORED)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(part if part.isprintable() else repr(part) for part in map(str, first["loc"]))
        problem = " ".join(first["msg"].split())
        raise InvalidObject(
            f"{_named(document)} as stored is not a valid {model.KIND}: {field}: {problem}",
            field=field,
            hint=f"see it with `{_command('get', document)} -o yaml`; `{_command('delete', document)}` deletes it",
        ) from error


def _named(document: Document) -> str:
    """The object's key, or what there is of one."""
    try:
        return str(rules.checked_key(document))
    except InvalidObject:
        return "an object"


def _decoded(
    model: type[R], documents: Iterable[Document], damaged: Callable[[InvalidObject], None] | None
) -> Iterator[R]:
    for document in documents:
        try:
            yield decode(model, document)
        except InvalidObject as error:
            if damaged is None:
                raise
            damaged(error)


def _command(verb: str, document: Document) -> str:
    try:
        key = rules.checked_key(document)
    except InvalidObject:
        return f"cumulus {verb}"
    return f"cumulus {verb} {key.kind.lower()} {key.name}" + (f" -n {key.namespace}" if key.namespace else "")


class StoreClient:
    """A store seen through models. With a fence, every write is refused (`Fenced`) once leadership moved."""

    def __init__(self, store: Store, fence: Fence | None = None) -> None:
        self.store = store
        self.fence = fence

    def create(self, resource: R) -> R:
        return decode(type(resource), self.store.create(resource.to_json(), fence=self.fence))

    def get(self, model: type[R], namespace: str, name: str) -> R:
        return decode(model, self.store.get(Key(model.KIND, namespace, name)))

    def list(
        self, model: type[R], query: Query | None = None, *, damaged: Callable[[InvalidObject], None] | None = None
    ) -> list[R]:
        """All that match, without paging. What is no valid object is left out, and `damaged` told of it; without
        `damaged` it raises InvalidObject."""
        page = self.store.list(query or Query(kind=model.KIND))
        return list(_decoded(model, page.items, damaged))

    def update(self, resource: R) -> R:
        return decode(type(resource), self.store.update(resource.to_json(), fence=self.fence))

    def update_status(self, resource: R) -> R:
        return decode(type(resource), self.store.update_status(resource.to_json(), fence=self.fence))

    def delete(self, resource: Resource) -> None:
        """Delete that very object (its uid is a precondition)."""
        self.store.delete(resource.key, uid=resource.uid, fence=self.fence)
