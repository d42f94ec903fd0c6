"""Fixtures and small helpers of the store's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.clock import FakeClock
from cumulus.resources.key import Document
from cumulus.store.base import Retention, Store
from cumulus.store.memory import MemoryStore
from cumulus.store.sqlite import SqliteStore

Make = Callable[..., Store]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Make]:
    """Opens stores of one implementation; all are closed at the end."""
    made: list[Store] = []

    def open_store(retention: Retention | None = None) -> Store:
        store: Store
        if request.param == "memory":
            store = MemoryStore(clock, retention)
        else:
            store = SqliteStore(tmp_path / f"store{len(made)}", clock, retention)
        made.append(store)
        return store

    yield open_store
    for store in made:
        store.close()


@pytest.fixture
def store(make: Make) -> Store:
    return make()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "store")
    yield store
    store.close()


def thing(name: str, namespace: str | None = "default", kind: str = "Thing", **parts: Any) -> Document:
    """An object. `labels`, `finalizers`, `owners` (uids) go to metadata, everything else to the top level."""
    metadata: dict[str, Any] = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    for part in ("labels", "annotations", "finalizers", "resourceVersion", "uid"):
        if part in parts:
            metadata[part] = parts.pop(part)
    if "owners" in parts:
        metadata["ownerReferences"] = [
            {"apiVersion": "cumulus.dev/v1alpha1", "kind": "Thing", "name": "owner", "uid": uid}
            for uid in parts.pop("owners")
        ]
    return {"apiVersion": "cumulus.dev/v1alpha1", "kind": kind, "metadata": metadata, **parts}


def version(document: Document) -> int:
    return int(document["metadata"]["resourceVersion"])
