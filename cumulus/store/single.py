"""Single writes of a store, each a transaction of one, and transactions one after another. Above `base`, below every
store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from cumulus.resources.key import Document, Key
from cumulus.store.base import Documents, Fence, Write


class SingleWrites(ABC):
    """See `base.Store`."""

    @abstractmethod
    def transact(self, writes: Sequence[Write], *, fence: Fence | None = None) -> Documents: ...

    def transact_each(
        self, transactions: Sequence[Sequence[Write]], *, fence: Fence | None = None
    ) -> Sequence[Documents | BaseException]:
        def outcome(writes: Sequence[Write]) -> Documents | BaseException:
            try:
                return self.transact(writes, fence=fence)
            except Exception as error:
                return error

        return [outcome(writes) for writes in transactions]

    def create(self, document: Document, *, fence: Fence | None = None) -> Document:
        return self.transact([Write("create", document)], fence=fence)[0]

    def update(self, document: Document, *, fence: Fence | None = None) -> Document:
        return self.transact([Write("update", document)], fence=fence)[0]

    def update_status(self, document: Document, *, fence: Fence | None = None) -> Document:
        return self.transact([Write("status", document)], fence=fence)[0]

    def delete(
        self, key: Key, *, uid: str | None = None, resource_version: str | None = None, fence: Fence | None = None
    ) -> Document:
        write = Write("delete", key=key, uid=uid, resource_version=resource_version)
        return self.transact([write], fence=fence)[0]
