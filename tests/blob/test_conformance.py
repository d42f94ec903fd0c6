"""What every BlobStore does, whatever it keeps blobs in."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from cumulus.blob.base import CHUNK, BlobInfo, BlobStore, Collected
from cumulus.errors import BlobBusy, BlobError, BlobMismatch, BlobOffset, BlobTooLarge, NoSuchBlob, UsageError
from tests.blob.conftest import LARGEST, PART
from tests.waiting import PATIENCE

ANN, BEN = "1000:ann", "1001:ben"
FUTURE = timedelta(days=1)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(store: BlobStore, owner: str, content: bytes) -> str:
    assert store.write(owner, sha(content), len(content), [content]) == BlobInfo(len(content), len(content))
    return sha(content)


def read(store: BlobStore, owner: str, name: str, offset: int = 0) -> bytes:
    return b"".join(store.open(owner, name, offset))


def broken(*chunks: bytes) -> Iterator[bytes]:
    yield from chunks
    raise ConnectionResetError("the client is gone")


@pytest.mark.parametrize("size", [0, 1, 100, CHUNK, PART + 17])
def test_what_is_written_is_read(store: BlobStore, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    name = put(store, ANN, content[:size])
    assert store.find(ANN, name) == BlobInfo(size, size)
    assert read(store, ANN, name) == content[:size]
    assert read(store, ANN, name, size // 2) == content[size // 2 : size]
    assert read(store, ANN, name, size) == b""
    path = store.path(ANN, name)
    assert path is None or path.read_bytes() == content[:size]


def test_another_owner_neither_has_nor_sees_it(store: BlobStore) -> None:
    name = put(store, ANN, b"secret")
    assert store.find(BEN, name) is None
    assert store.path(BEN, name) is None
    assert not store.delete(BEN, name)
    with pytest.raises(NoSuchBlob):
        store.open(BEN, name)
    put(store, BEN, b"secret")
    assert store.delete(BEN, name)
    assert read(store, ANN, name) == b"secret"


def test_what_is_there_is_not_taken_again(store: BlobStore) -> None:
    name = put(store, ANN, b"text")
    assert store.write(ANN, name, 4, broken()) == BlobInfo(4, 4)


def test_an_upload_that_broke_off_goes_on(store: BlobStore) -> None:
    content = b"a" * PART + b"b" * PART + b"c" * 10
    name = sha(content)
    with pytest.raises(ConnectionResetError):
        store.write(ANN, name, len(content), broken(content[:PART], content[PART : 2 * PART]))
    begun = store.find(ANN, name)
    assert begun == BlobInfo(len(content), 2 * PART)
    with pytest.raises(NoSuchBlob):
        store.open(ANN, name)
    assert store.path(ANN, name) is None
    with pytest.raises(BlobOffset) as wrong:
        store.write(ANN, name, len(content), [b"x"], offset=1)
    assert wrong.value.received == 2 * PART
    assert store.write(ANN, name, len(content), [content[2 * PART :]], offset=2 * PART).complete
    assert read(store, ANN, name) == content


def test_an_upload_may_begin_anew(store: BlobStore) -> None:
    content = b"a" * PART + b"b"
    store.write(ANN, sha(content), len(content), [content[:PART]])
    assert store.write(ANN, sha(content), len(content), [content]).complete
    assert read(store, ANN, sha(content)) == content


def test_chunks_that_end_early(store: BlobStore) -> None:
    content = b"a" * PART + b"b"
    assert store.write(ANN, sha(content), len(content), [content[:PART]]) == BlobInfo(len(content), PART)


def test_an_offset_without_a_beginning(store: BlobStore) -> None:
    with pytest.raises(BlobOffset) as wrong:
        store.write(ANN, sha(b"text"), 4, [b"xt"], offset=2)
    assert wrong.value.received == 0


@pytest.mark.parametrize("content", [b"texx", b"textt", b"text and more" * 1000], ids=["other", "longer", "much"])
def test_other_content_than_was_announced_leaves_nothing(store: BlobStore, content: bytes) -> None:
    with pytest.raises(BlobMismatch):
        store.write(ANN, sha(b"text"), 4, [content])
    assert store.find(ANN, sha(b"text")) is None
    put(store, ANN, b"text")


def test_other_content_after_a_break_leaves_nothing(store: BlobStore) -> None:
    content = b"a" * PART + b"b"
    store.write(ANN, sha(content), len(content), [b"z" * PART])
    with pytest.raises(BlobMismatch):
        store.write(ANN, sha(content), len(content), [b"b"], offset=PART)
    assert store.find(ANN, sha(content)) is None


def test_one_upload_at_a_time(store: BlobStore) -> None:
    content, arrived, go_on = b"a" * 100, threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        yield content[:50]
        arrived.set()
        assert go_on.wait(PATIENCE)
        yield content[50:]

    results: list[BlobInfo] = []
    writer = threading.Thread(target=lambda: results.append(store.write(ANN, sha(content), 100, slow())))
    writer.start()
    try:
        assert arrived.wait(PATIENCE)
        with pytest.raises(BlobBusy):
            store.write(ANN, sha(content), 100, [content])
        with pytest.raises(BlobBusy):
            store.delete(ANN, sha(content))
        assert store.collect([], datetime.now(UTC) + FUTURE) == Collected(0, 0)
        put(store, BEN, content)
    finally:
        go_on.set()
        writer.join()
    assert results == [BlobInfo(100, 100)]
    assert read(store, ANN, sha(content)) == content


def test_many_at_once(store: BlobStore) -> None:
    contents = [bytes([n]) * (n + 1) for n in range(8)]
    problems: list[BaseException] = []

    def write(content: bytes) -> None:
        for owner in (ANN, BEN):
            try:
                put(store, owner, content)
            except BaseException as error:
                problems.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert [read(store, BEN, sha(content)) for content in contents] == contents


def test_deletion(store: BlobStore) -> None:
    name = put(store, ANN, b"text")
    assert store.delete(ANN, name)
    assert store.find(ANN, name) is None
    assert not store.delete(ANN, name)
    store.write(ANN, sha(b"a" * PART + b"b"), PART + 1, [b"a" * PART])
    assert store.delete(ANN, sha(b"a" * PART + b"b"))
    assert store.find(ANN, sha(b"a" * PART + b"b")) is None


def test_collection_by_reference(store: BlobStore) -> None:
    named, other = put(store, ANN, b"named"), put(store, ANN, b"other")
    put(store, BEN, b"named")
    store.write(BEN, sha(b"a" * PART + b"b"), PART + 1, [b"a" * PART])
    assert store.collect([(ANN, named)], datetime.now(UTC) - FUTURE) == Collected(0, 0)
    assert store.collect([(ANN, named)], datetime.now(UTC) + FUTURE) == Collected(3, 10 + PART)
    assert read(store, ANN, named) == b"named"
    assert store.find(ANN, other) is None
    assert store.find(BEN, named) is None
    assert store.find(BEN, sha(b"a" * PART + b"b")) is None


def test_collection_where_there_is_nothing(store: BlobStore) -> None:
    assert store.collect([], datetime.now(UTC)) == Collected(0, 0)


@pytest.mark.parametrize("name", ["", "../../x", "A" * 64, "a" * 63, "a" * 64 + "\n"], ids=range(5))
def test_a_name_that_is_none(store: BlobStore, name: str) -> None:
    for ask in (store.find, store.open, store.path, store.delete):
        with pytest.raises(UsageError):
            ask(ANN, name)
    with pytest.raises(UsageError):
        store.write(ANN, name, 1, [b"x"])


@pytest.mark.parametrize(("size", "offset"), [(-1, 0), (4, -1), (4, 5)])
def test_sizes_that_are_none(store: BlobStore, size: int, offset: int) -> None:
    with pytest.raises(UsageError):
        store.write(ANN, sha(b"text"), size, [], offset)


def test_reading_from_the_end_on_gives_nothing(store: BlobStore) -> None:
    store.write(ANN, sha(b"text"), 4, [b"text"])
    assert [read(store, ANN, sha(b"text"), offset) for offset in (3, 4, 5, 2**62)] == [b"t", b"", b"", b""]


def test_a_blob_that_is_too_large(store: BlobStore) -> None:
    with pytest.raises(BlobTooLarge, match=r"at most .*"):
        store.write(ANN, sha(b"x"), LARGEST + 1, [])


def test_owners_have_a_limit_each(store: BlobStore) -> None:
    """Of 2 x LARGEST; what has been announced counts."""
    store.write(ANN, sha(b"1"), LARGEST, [])
    store.write(ANN, sha(b"2"), LARGEST, [])
    with pytest.raises(BlobTooLarge, match="your blobs have"):
        store.write(ANN, sha(b"3"), 1, [b"3"])
    put(store, BEN, b"3")
    assert store.delete(ANN, sha(b"1"))
    put(store, ANN, b"3")


def test_odd_owners_are_kept_apart(store: BlobStore) -> None:
    owners = ["", ":", "a/b", "../x", "ünï", "a\nb", "x" * 5000, "\udc80"]
    for number, owner in enumerate(owners):
        put(store, owner, b"%d" % number)
    for number, owner in enumerate(owners):
        assert [store.find(owner, sha(b"%d" % other)) is not None for other in range(len(owners))] == [
            other == number for other in range(len(owners))
        ]


def test_errors_have_one_base() -> None:
    for error in (NoSuchBlob, BlobBusy, BlobMismatch, BlobOffset, BlobTooLarge):
        assert issubclass(error, BlobError)
