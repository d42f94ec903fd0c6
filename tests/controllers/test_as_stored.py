"""What is read from the store before something is done that cannot be taken back."""

from __future__ import annotations

import pytest

from cumulus.errors import NotFound, Replaced
from cumulus.machinery.cache import as_stored
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from tests.controllers.objects import a_partition


def test_what_has_not_changed_is_what_was_seen() -> None:
    client = StoreClient(MemoryStore())
    seen = client.create(a_partition())
    assert as_stored(client.store, seen) is seen


def test_what_has_changed_is_read_anew() -> None:
    client = StoreClient(MemoryStore())
    seen = client.create(a_partition())
    client.update_status(seen.replace(status=seen.status.model_copy(update={"node": "gpu-1"})))
    assert as_stored(client.store, seen).status.node == "gpu-1"


def test_another_object_of_that_name_is_not_taken_for_it() -> None:
    client = StoreClient(MemoryStore())
    seen = client.create(a_partition())
    client.delete(seen)
    with pytest.raises(NotFound):
        as_stored(client.store, seen)
    client.create(a_partition())
    with pytest.raises(Replaced):
        as_stored(client.store, seen)
