"""Large blobs straight to where they are kept and from there, by URLs that the server gives out for a while."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

from cumulus.client.http.errors import ServerUnavailable
from cumulus.errors import CumulusError
from cumulus.lib.backoff import Backoff
from cumulus.lib.printable import one_line
from cumulus.sdk.packaging.blob import Blob

T = TypeVar("T")
AT_ONCE = 4
TRIES = 5
_AGAIN = Backoff(first=0.1, longest=0.8)
SECONDS = 120.0
CHUNK = 2**20


def put(blob: Blob, urls: Sequence[str], part_size: int) -> None:
    """Send the parts of a blob, each of `part_size` bytes but the last. Raises ServerUnavailable, CumulusError."""
    parts = [(url, list(blob.parts(at * part_size, (at + 1) * part_size, part_size))) for at, url in enumerate(urls)]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="cumulus-put") as pool:
        for done in [pool.submit(_tried, partial(_put, url, part)) for url, part in parts]:
            done.result()


def get(url: str, content: bytearray, size: int) -> None:
    """Append to `content` what it lacks of the blob's `size` bytes. Raises as `put` does."""
    _tried(partial(_get, url, content, size))


def _tried(work: Callable[[], T]) -> T:
    for pause in range(TRIES - 1):
        try:
            return work()
        except (OSError, http.client.HTTPException, ServerUnavailable):
            time.sleep(_AGAIN.seconds(pause))
    try:
        return work()
    except (OSError, http.client.HTTPException) as error:
        raise ServerUnavailable(f"the store of blobs can't be reached: {error}") from None


def _put(url: str, part: Sequence[memoryview]) -> None:
    connection = _connection(url)
    try:
        connection.request("PUT", _target(url), part, {"Content-Length": str(sum(map(len, part)))})
        _checked(connection.getresponse())
    finally:
        connection.close()


def _get(url: str, content: bytearray, size: int) -> None:
    begin = len(content)
    if begin >= size:
        return
    connection = _connection(url)
    try:
        connection.request("GET", _target(url), headers={"Range": f"bytes={begin}-"} if begin else {})
        response = connection.getresponse()
        if begin and response.status == 200:
            # It knows no ranges: all of it comes again.
            del content[:]
        elif response.status != 206:
            _checked(response)
        while data := response.read(CHUNK):
            content.extend(data)
            if len(content) > size:
                raise CumulusError("the store of blobs sent more than the blob has")
        if len(content) < size:
            raise ServerUnavailable("the store of blobs broke off")
    finally:
        connection.close()


def _checked(response: http.client.HTTPResponse) -> None:
    if response.status in (200, 201, 204):
        return
    said = one_line(response.read(300).decode(errors="replace"))
    kind = ServerUnavailable if response.status >= 500 or response.status == 429 else CumulusError
    raise kind(f"the store of blobs answered {response.status}: {said}")


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=SECONDS, context=ssl.create_default_context()
        )
    if parts.scheme == "http" and parts.hostname:
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=SECONDS)
    raise CumulusError("the server gave an address for a blob that is none")


def _target(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
