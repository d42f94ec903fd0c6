"""One bucket, one request a method; each is tried again for a while where the server does not answer.

boto3 is told to do without its own checksums, which break other servers than Amazon's, and without signing bodies: who
reads checks a sha256 of the whole content. Objects whose put might have been repeated are compared, not failed.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse
from typing import Any, TypeVar

from cumulus.blob.s3.bucket import Bucket, Keys
from cumulus.blob.s3.problems import Missing, problem
from cumulus.clock import Clock, SystemClock
from cumulus.errors import BucketUnavailable, ObjectChanged
from cumulus.lib.backoff import Backoff

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds for which a request is tried again."""
THREADS = 4
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_PAUSE = Backoff(0.2, 15.0, jitter=0.5)
_PIECE = 2**20
_URL_SECONDS = 900
"""For which a URL to read with is good."""


@dataclass(frozen=True, slots=True)
class Object:
    key: str
    size: int
    etag: str
    modified: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Only `head` tells it."""


@dataclass(frozen=True, slots=True)
class MultipartUpload:
    """In parts, and not complete yet."""

    key: str
    id: str
    begun: datetime


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    """From 1 on."""
    size: int
    etag: str


class S3Client:
    """May be used from any thread. Every method raises BucketUnavailable where the bucket did not answer for `patience`
    seconds, and BucketRefused where trying again does not help.

    `waiting` is told each time that a request is about to be tried again. `stop` ends a wait early.
    """

    def __init__(
        self, bucket: Bucket, *, patience: float = PATIENCE, threads: int = THREADS, clock: Clock | None = None,
        waiting: Callable[[BucketUnavailable], None] = lambda problem: None, stop: threading.Event | None = None,
    ) -> None:  # fmt: skip
        self.bucket = bucket
        self.threads = threads
        self._patience = patience
        self._clock = clock or SystemClock()
        self._waiting = waiting
        self._stop = stop or threading.Event()
        self._mutex = threading.Lock()
        self._made: Any = None
        self._credentials: Any = None
        """What boto3 signs with, as it was made."""
        self._told: tuple[str, datetime] | None = None
        """What the server said last of the time, and when that was here."""
        self._readable: tuple[str, str, float] | None = None
        """The object that was read last, a URL that reads it, and when that was signed."""

    def prepare(self) -> None:
        """Load all that is needed now, so that a process may become another user after that. Raises what a request
        does."""
        try:
            assert self._client is not None
        except Exception as error:
            raise problem(error, "begin", self.bucket, self._clock) from None

    def renew(self, keys: Keys) -> None:
        """Sign with these keys from now on. Nothing is loaded for that: this process may be another user by now."""
        with self._mutex:
            self.bucket = replace(self.bucket, keys=keys)
            self._readable = None
            if self._credentials is not None:
                # A request that is signed meanwhile may get half of them: it is refused, and tried again.
                new = keys.access_key, keys.secret_key, keys.session_token or None
                self._credentials.access_key, self._credentials.secret_key, self._credentials.token = new

    def put(
        self, key: str, content: bytes | bytearray, *, new: bool = False, etag: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        """Write a whole object; its etag. `new`: only where there is none; `etag`: only over the object with that one.

        Raises ObjectChanged where that is not so, and what is there is something else."""
        condition = {"IfNoneMatch": "*"} if new else {"IfMatch": etag} if etag else {}
        more = {"Metadata": dict(metadata)} if metadata else {}
        try:
            answer = self._ask(f"write {key}", "put_object", Key=key, Body=content, **condition, **more)
        except (ObjectChanged, Missing):
            # An answer that was lost on its way looks the same.
            found = self.get(key)
            if found is None or found[0] != content:
                raise ObjectChanged(f"{key} in {self.bucket.place} has changed meanwhile") from None
            return found[1]
        return str(answer["ETag"])

    def get(self, key: str) -> tuple[bytes, str] | None:
        """A small object and its etag; None where there is none."""

        def read() -> tuple[bytes, str]:
            answer = self._client.get_object(Bucket=self.bucket.name, Key=key)
            with answer["Body"] as body:
                return body.read(), str(answer["ETag"])

        try:
            return self._again(f"read {key}", read)
        except Missing:
            return None

    def head(self, key: str) -> Object | None:
        """What is known of an object; None where there is none."""
        try:
            answer = self._ask(f"look at {key}", "head_object", Key=key)
        except Missing:
            return None
        metadata = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
        return Object(key, int(answer["ContentLength"]), str(answer["ETag"]), answer["LastModified"], metadata)

    def read(self, key: str, offset: int, length: int, into: Callable[[int, memoryview], None], etag: str = "") -> None:
        """Hand the bytes from `offset` on to `into`, in pieces, each with its place; after a break from there on.

        Raises Missing, and ObjectChanged where the object has not that etag any more."""
        place = offset
        buffer = memoryview(bytearray(min(_PIECE, max(1, length))))

        def receive() -> None:
            nonlocal place
            if place == offset + length:
                return
            with self._range(key, f"bytes={place}-{offset + length - 1}", etag) as body:
                direct = _direct(body)
                while place < offset + length:
                    count = direct.readinto(buffer[: offset + length - place])
                    if not count:
                        raise ConnectionError("the answer ended early")
                    into(place, buffer[:count])
                    place += count
                if direct is not body and direct.isclosed():
                    # All of it was read, which urllib3 has not seen: the next request may have the connection.
                    body.release_conn()

        self._again(f"read {key}", receive)

    def _range(self, key: str, bytes: str, etag: str) -> Any:
        """The body of an answer to a read, as urllib3 has it.

        By a URL that is signed once for all ranges of an object: what boto3 makes of each request takes a tenth of the
        time in which a part comes. Where the server does not take that, boto3 asks, and says what is wrong."""
        with self._mutex:
            known, now = self._readable, self._clock.monotonic()
        if known is None or known[0] != key or now - known[2] > _URL_SECONDS / 3:
            url = self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket.name, "Key": key}, ExpiresIn=_URL_SECONDS
            )
            known = key, url, now
            with self._mutex:
                self._readable = known
        found = _sent(self._client, known[1], {"Range": bytes, **({"If-Match": etag} if etag else {})})
        if found is not None:
            return found
        condition = {"IfMatch": etag} if etag else {}
        return self._client.get_object(Bucket=self.bucket.name, Key=key, Range=bytes, **condition)["Body"]

    def list(self, prefix: str) -> Iterator[Object]:
        """Those whose keys begin so, by key."""
        more: dict[str, str] = {}
        while True:
            answer = self._ask(f"list {prefix}", "list_objects_v2", Prefix=prefix, **more)
            for found in answer.get("Contents", ()):
                yield Object(found["Key"], int(found["Size"]), str(found["ETag"]), found["LastModified"])
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def delete(self, keys: Sequence[str]) -> None:
        """Those that are gone are no error."""
        for first in range(0, len(keys), 1000):
            some = [{"Key": key} for key in keys[first : first + 1000]]
            answer = self._ask(f"delete {keys[first]}", "delete_objects", Delete={"Objects": some, "Quiet": True})
            for failed in answer.get("Errors", ()):
                if failed.get("Code") not in ("NoSuchKey", "404"):
                    raise BucketUnavailable(
                        f"could not delete {failed.get('Key')} in {self.bucket.place}: {failed.get('Code')}"
                    )

    def begin(self, key: str, metadata: Mapping[str, str] | None = None) -> str:
        """Begin an upload in parts; its id."""
        more = {"Metadata": dict(metadata)} if metadata else {}
        return str(self._ask(f"begin {key}", "create_multipart_upload", Key=key, **more)["UploadId"])

    def put_part(self, key: str, upload: str, number: int, content: bytes | bytearray) -> Part:
        """Raises Missing where there is no such upload."""
        answer = self._ask(
            f"write part {number} of {key}", "upload_part", Key=key, UploadId=upload, PartNumber=number, Body=content
        )
        return Part(number, len(content), str(answer["ETag"]))

    def parts(self, key: str, upload: str) -> dict[int, Part] | None:
        """Those that are there, by number; None where there is no such upload."""
        found: dict[int, Part] = {}
        more: dict[str, int] = {}
        while True:
            try:
                answer = self._ask(f"list the parts of {key}", "list_parts", Key=key, UploadId=upload, **more)
            except Missing:
                return None
            for part in answer.get("Parts", ()):
                found[int(part["PartNumber"])] = Part(int(part["PartNumber"]), int(part["Size"]), str(part["ETag"]))
            if not answer.get("IsTruncated"):
                return found
            more = {"PartNumberMarker": int(answer["NextPartNumberMarker"])}

    def complete(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """Make the object of its parts. Raises Missing where there is neither such an upload nor the object of it."""
        listed = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        try:
            self._ask(
                f"complete {key}", "complete_multipart_upload", Key=key, UploadId=upload,
                MultipartUpload={"Parts": listed},
            )  # fmt: skip
        except Missing:
            # An answer that was lost on its way looks the same.
            found = self.head(key)
            if found is None or found.size != sum(part.size for part in parts):
                raise

    def abort(self, key: str, upload: str) -> None:
        """Let the parts go. One that is gone is no error."""
        try:
            self._ask(f"abort {key}", "abort_multipart_upload", Key=key, UploadId=upload)
        except Missing:
            return

    def uploads(self, prefix: str) -> Iterator[MultipartUpload]:
        """Those that are not complete, of keys that begin so."""
        more: dict[str, str] = {}
        while True:
            answer = self._ask(f"list the uploads of {prefix}", "list_multipart_uploads", Prefix=prefix, **more)
            for found in answer.get("Uploads", ()):
                if found["Key"].startswith(prefix):
                    yield MultipartUpload(found["Key"], str(found["UploadId"]), found["Initiated"])
            if not answer.get("IsTruncated"):
                return
            more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer.get("NextUploadIdMarker", "")}

    def url_to_read(self, key: str, seconds: int) -> str:
        """With it, whoever has it reads the object for so long."""
        return self._url("get_object", seconds, Key=key)

    def url_to_write(self, key: str, upload: str, number: int, seconds: int) -> str:
        """With it, whoever has it puts that part for so long."""
        return self._url("upload_part", seconds, Key=key, UploadId=upload, PartNumber=number)

    def _url(self, verb: str, seconds: int, **parameters: Any) -> str:
        made = self._again(
            "sign a URL",
            lambda: self._client.generate_presigned_url(
                verb, Params={"Bucket": self.bucket.name, **parameters}, ExpiresIn=seconds
            ),
        )
        return str(made)

    def now(self) -> datetime:
        """By the server's clock, as far as that is known: what it says of when something was made is compared with it,
        and this machine's clock may be wrong."""
        here = self._clock.now()
        if self._told is None:
            return here
        said, then = self._told
        try:
            return here + (parsedate_to_datetime(said) - then)
        except (ValueError, TypeError):
            return here

    def _ask(self, what: str, verb: str, **parameters: Any) -> Any:
        answer = self._again(what, lambda: getattr(self._client, verb)(Bucket=self.bucket.name, **parameters))
        said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if said:
            self._told = str(said), self._clock.now()
        return answer

    def _again(self, what: str, ask: Callable[[], T]) -> T:
        start, failures = self._clock.monotonic(), 0
        while True:
            try:
                return ask()
            except Exception as error:
                told = problem(error, what, self.bucket, self._clock)
            if not isinstance(told, BucketUnavailable):
                raise told
            pause = _PAUSE.seconds(failures, random.random())
            if self._clock.monotonic() - start + pause > self._patience or self._stop.is_set():
                raise told
            failures += 1
            self._waiting(told)
            self._stop.wait(pause)

    @property
    def _client(self) -> Any:
        with self._mutex:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> Any:
        import boto3
        from botocore.config import Config

        keys = self.bucket.keys
        session = boto3.session.Session(
            aws_access_key_id=keys.access_key if keys else None,
            aws_secret_access_key=keys.secret_key if keys else None,
            aws_session_token=(keys.session_token or None) if keys else None,
            region_name=self.bucket.region or None,
        )
        self._credentials = session.get_credentials() if keys else None
        return session.client(
            "s3",
            endpoint_url=self.bucket.endpoint or None,
            # Servers of one's own have no region, and a signature needs one.
            region_name=self.bucket.region or session.region_name or "us-east-1",
            config=Config(
                signature_version="s3v4",
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                max_pool_connections=self.threads + 4,
                retries={"mode": "standard", "max_attempts": 1},
                s3={
                    "payload_signing_enabled": False,
                    # A host's name for each bucket needs DNS that servers of one's own seldom have.
                    "addressing_style": "path" if self.bucket.endpoint else "auto",
                },
            ),
        )


def _sent(client: Any, url: str, headers: Mapping[str, str]) -> Any:
    """What a GET gives by the connections of boto3's client, which know of proxies, certificates and time-outs; None
    where the answer is not the range that was asked for, or where this boto3 has no such connections."""
    from botocore.awsrequest import AWSRequest

    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    if session is None:
        return None
    answer = session.send(AWSRequest("GET", url, headers=dict(headers), stream_output=True).prepare())
    if answer.status_code == 206:
        return answer.raw
    answer.raw.close()
    return None


def _direct(body: Any) -> Any:
    """What reads an answer's bytes into memory of ours: the standard library's response, below urllib3's. That one
    makes a new object of each piece and copies it, and no other thread runs meanwhile. Where nothing of that kind is
    below, the body itself."""
    below = getattr(body, "_fp", None)
    return below if isinstance(below, HTTPResponse) else body
