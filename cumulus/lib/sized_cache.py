"""What was made once and is wanted again, within so many bytes: the latest stays."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
EACH = 200
"""Bytes that an entry takes beside its content."""


class SizedCache(Generic[K, V]):
    """Safe for threads. A value that is always the same for a key may be made twice, and is kept once."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        found = self._kept.get(key)
        return None if found is None else found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """`size`: of its content, in bytes."""
        size += EACH
        with self._lock:
            if key in self._kept or size > self._most:
                return
            self._kept[key] = value, size
            self._bytes += size
            while self._bytes > self._most:
                self._bytes -= self._kept.popitem(last=False)[1][1]
