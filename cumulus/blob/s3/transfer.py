"""Large objects in parts, several at a time, in bounded memory: a part for each thread and one that is being filled."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from cumulus.blob.s3.client import Part, S3Client

PART = 32 * 2**20
"""Bytes. Larger ones take more memory, and smaller ones more requests, with no gain in speed."""
MOST_PARTS = 10_000
LEAST_PART = 5 * 2**20
"""What S3 takes for a part that is not the last."""


class Digest(Protocol):
    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...


def part_size(size: int, least: int = PART) -> int:
    """Of each part but the last, for an object of `size` bytes: S3 takes 10,000 parts."""
    each = -(-size // MOST_PARTS)
    return max(least, -(-each // 2**20) * 2**20)


class PartSender:
    """Sends parts of one upload by threads of its own. A block: at its end they have ended.

    `sent` is told of each part that the server has, from those threads.
    """

    def __init__(
        self, client: S3Client, key: str, upload: str, part: int, *, sent: Callable[[Part], None] = lambda part: None
    ) -> None:
        self._client = client
        self._key = key
        self._upload = upload
        self._part = part
        self._sent = sent
        self._free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
        for _ in range(client.threads + 1):
            self._free.put(None)
        self._pool = ThreadPoolExecutor(client.threads, thread_name_prefix="s3-part")
        self._futures: list[Future[None]] = []
        self.parts: dict[int, Part] = {}
        """Those that the server has."""

    def __enter__(self) -> PartSender:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def buffer(self) -> bytearray:
        """One of a part's size to fill; waits until one is free. Raises what a part raised."""
        found = self._free.get()
        self._raise()
        return bytearray(self._part) if found is None else found

    def give_back(self, buffer: bytearray) -> None:
        """A buffer that is not to be sent."""
        self._free.put(buffer)

    def send(self, number: int, buffer: bytearray, length: int) -> None:
        """Send the first `length` bytes of a buffer, which is not touched by the caller any more."""
        self._futures.append(self._pool.submit(self._put, number, buffer, length))

    def finish(self) -> None:
        """Wait until the server has all that was sent. Raises what a part raised."""
        for future in self._futures:
            future.result()

    def _put(self, number: int, buffer: bytearray, length: int) -> None:
        try:
            content = buffer if length == len(buffer) else bytes(memoryview(buffer)[:length])
            part = self._client.put_part(self._key, self._upload, number, content)
            self.parts[number] = part
            self._sent(part)
        finally:
            self._free.put(buffer)

    def _raise(self) -> None:
        for future in [future for future in self._futures if future.done()]:
            future.result()
            self._futures.remove(future)


def filled(
    sender: PartSender, chunks: Iterable[bytes], seen: Callable[[bytes], None]
) -> Iterator[tuple[bytearray, int]]:
    """The chunks' bytes in buffers of the sender, each full but the last, with its length. `seen` gets each chunk.

    Who takes a buffer sends it or gives it back."""
    buffer, length = None, 0
    try:
        for chunk in chunks:
            seen(chunk)
            view = memoryview(chunk)
            while view:
                if buffer is None:
                    buffer, length = sender.buffer(), 0
                count = min(len(view), len(buffer) - length)
                buffer[length : length + count] = view[:count]
                view, length = view[count:], length + count
                if length == len(buffer):
                    full, buffer = buffer, None
                    yield full, length
        if buffer is not None:
            full, buffer = buffer, None
            yield full, length
    finally:
        if buffer is not None:
            sender.give_back(buffer)


def send_file(
    client: S3Client, key: str, descriptor: int, size: int, upload: str, there: dict[int, Part], digest: Digest, *,
    part: int, sent: Callable[[Part], None] = lambda part: None,
) -> None:  # fmt: skip
    """Send the parts of an open file that are not `there`, and note them there. `digest` gets all bytes, in order, so
    that the caller knows what it completes. `sent` is told of each part by other threads.

    Raises Missing where there is no such upload, ValueError where the file ends early."""
    with PartSender(client, key, upload, part, sent=sent) as sender:
        for number, start in enumerate(range(0, size, part), 1):
            length = min(part, size - start)
            buffer = sender.buffer()
            view = memoryview(buffer)[:length]
            filled_to = 0
            while filled_to < length:
                count = os.preadv(descriptor, [view[filled_to:]], start + filled_to)
                if not count:
                    raise ValueError("the file has become shorter")
                filled_to += count
            digest.update(view)
            view.release()
            known = there.get(number)
            if known is not None and known.size == length:
                sender.give_back(buffer)
            else:
                sender.send(number, buffer, length)
        sender.finish()
        there.update(sender.parts)


def fetch(
    client: S3Client, key: str, size: int, descriptor: int, digest: Digest | None, *,
    etag: str = "", part: int = PART,
) -> None:  # fmt: skip
    """Write an object into an open file, ranges at a time, each at its place; `digest`, if there is one, gets the bytes
    in order.

    Raises Missing, ObjectChanged, OSError."""

    def write(place: int, piece: memoryview) -> None:
        while piece:
            count = os.pwrite(descriptor, piece, place)
            piece, place = piece[count:], place + count

    def range_of(start: int) -> None:
        client.read(key, start, min(part, size - start), write, etag)

    with ThreadPoolExecutor(client.threads, thread_name_prefix="s3-range") as pool:
        futures = [pool.submit(range_of, start) for start in range(0, size, part)]
        buffer = memoryview(bytearray(2**20))
        try:
            for number, future in enumerate(futures):
                future.result()
                if digest is None:
                    continue
                place, end = number * part, min(size, (number + 1) * part)
                while place < end:
                    count = os.preadv(descriptor, [buffer[: end - place]], place)
                    if not count:
                        raise ValueError("the file has become shorter")
                    digest.update(buffer[:count])
                    place += count
        except BaseException:
            for future in futures:
                future.cancel()
            raise
