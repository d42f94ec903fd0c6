"""What a generator returns, for who takes its items in a `for` loop. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Returned(Generic[T]):
    """The items, and after the last of them in `value` what the generator returned; None of any other iterable."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items: Any = items
        self.value: Any = None

    def __iter__(self) -> Iterator[T]:
        self.value = yield from self._items
