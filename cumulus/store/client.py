"""Typed reads and writes over a store of documents, for code that works with models."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from cumulus.errors import InvalidObject
from cumulus.resources.meta import Resource
from cumulus.store import rules
from cumulus.store.base import Document, Fence, Key, Query, Store

R = TypeVar("R", bound=Resource)


def decode(model: type[R], document: Document) -> R:
    """The model of a stored document. Raises InvalidObject, naming object and field, where the row is damaged
    or was written by a newer version."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(part if part.isprintable() else repr(part) for part in map(str, first["loc"]))
        problem = " ".join(first["msg"].split())
        raise InvalidObject(
            f"{_named(document)} as stored is not a valid {model.KIND}: {field}: {problem}", field=field
        ) from error


def _named(document: Document) -> str:
    """The object's key, or what there is of one."""
    try:
        return str(rules.checked_key(document))
    except InvalidObject:
        return "an object"


class Client:
    """A store seen through models. With a fence, every write is refused (`Fenced`) once leadership moved."""

    def __init__(self, store: Store, fence: Fence | None = None) -> None:
        self.store = store
        self.fence = fence

    def create(self, resource: R) -> R:
        return decode(type(resource), self.store.create(resource.to_json(), fence=self.fence))

    def get(self, model: type[R], namespace: str, name: str) -> R:
        return decode(model, self.store.get(Key(model.KIND, namespace, name)))

    def list(self, model: type[R], query: Query | None = None) -> list[R]:
        """All that match, without paging."""
        page = self.store.list(query or Query(kind=model.KIND))
        return [decode(model, item) for item in page.items]

    def update(self, resource: R) -> R:
        return decode(type(resource), self.store.update(resource.to_json(), fence=self.fence))

    def update_status(self, resource: R) -> R:
        return decode(type(resource), self.store.update_status(resource.to_json(), fence=self.fence))

    def delete(self, resource: Resource) -> None:
        """Delete that very object (its uid is a precondition)."""
        self.store.delete(resource.key, uid=resource.uid, fence=self.fence)
