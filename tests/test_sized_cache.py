"""What is kept stays within its bytes, and the latest stays."""

from __future__ import annotations

from cumulus.lib.sized_cache import EACH, SizedCache


def test_the_oldest_goes_when_there_are_too_many_bytes() -> None:
    cache: SizedCache[str, bytes] = SizedCache(3 * (EACH + 100))
    for name in "abcd":
        cache.put(name, name.encode(), 100)
        cache.put(name, b"again", 100)
    assert [cache.get(name) for name in "abcd"] == [None, b"b", b"c", b"d"]
    cache.put("large", b"", EACH + 100)
    assert [cache.get(name) for name in ("b", "c", "d", "large")] == [None, None, b"d", b""]


def test_what_is_too_large_is_not_kept_and_displaces_nothing() -> None:
    cache: SizedCache[str, bytes] = SizedCache(1000)
    cache.put("small", b"small", 10)
    cache.put("large", b"large", 1000)
    assert (cache.get("small"), cache.get("large")) == (b"small", None)
