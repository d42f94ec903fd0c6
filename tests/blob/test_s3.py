"""What only a bucket can show: URLs for clients, outages, keys and clocks that are wrong, what is left behind."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from cumulus.blob.base import BlobInfo, Collected, UploadUrls
from cumulus.blob.s3.bucket import Bucket, Keys
from cumulus.blob.s3.client import S3Client
from cumulus.blob.s3.problems import Missing, problem
from cumulus.blob.s3.transfer import LEAST_PART, MOST_PARTS, PART, part_size
from cumulus.blob.s3_store import PREFIX, S3BlobStore
from cumulus.clock import FakeClock
from cumulus.errors import (
    BlobDamaged,
    BlobMismatch,
    BucketRefused,
    BucketUnavailable,
    NoSuchBlob,
    ObjectChanged,
)
from tests.blob.conftest import LIMITS
from tests.blob.test_conformance import ANN, BEN, put, read, sha
from tests.s3 import KEYS, Proxy, Server

pytestmark = pytest.mark.xdist_group("s3")
FUTURE = timedelta(days=1)
CONTENT = b"0123456789abcdef" * (LEAST_PART // 16) + b"the rest"


@pytest.fixture
def bucket(seaweedfs: Server) -> Bucket:
    return seaweedfs.bucket()


@pytest.fixture
def client(bucket: Bucket) -> S3Client:
    return S3Client(bucket, patience=10)


@pytest.fixture
def store(client: S3Client) -> S3BlobStore:
    return S3BlobStore(client, LIMITS, part=LEAST_PART)


def http_put(url: str, content: bytes) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("PUT", f"{parts.path}?{parts.query}", content)
    return connection.getresponse().status


def http_get(url: str) -> bytes:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("GET", f"{parts.path}?{parts.query}")
    return connection.getresponse().read()


def urls_of(store: S3BlobStore, content: bytes) -> UploadUrls:
    urls = store.upload_urls(ANN, sha(content), len(content))
    assert urls is not None
    return urls


def test_a_client_puts_the_parts_itself(store: S3BlobStore) -> None:
    urls = urls_of(store, CONTENT)
    assert (len(urls.urls), urls.part_size) == (2, LEAST_PART)
    assert not [url for url in urls.urls if KEYS.secret_key in url]
    assert store.find(ANN, sha(CONTENT)) == BlobInfo(len(CONTENT), 0)
    assert http_put(urls.urls[1], CONTENT[LEAST_PART:]) == 200
    assert store.find(ANN, sha(CONTENT)) == BlobInfo(len(CONTENT), 0)
    # Asked again: the same upload.
    again = urls_of(store, CONTENT)
    assert http_put(again.urls[0], CONTENT[:LEAST_PART]) == 200
    with pytest.raises(NoSuchBlob):
        store.open(ANN, sha(CONTENT))
    assert store.find(ANN, sha(CONTENT)) == BlobInfo(len(CONTENT), len(CONTENT))
    assert read(store, ANN, sha(CONTENT)) == CONTENT
    assert store.upload_urls(ANN, sha(CONTENT), len(CONTENT)) is None
    url = store.download_url(ANN, sha(CONTENT))
    assert url is not None
    assert http_get(url) == CONTENT
    assert store.download_url(BEN, sha(CONTENT)) is None


def test_a_client_that_puts_something_else(store: S3BlobStore, client: S3Client) -> None:
    urls = urls_of(store, CONTENT)
    http_put(urls.urls[0], b"x" * LEAST_PART)
    http_put(urls.urls[1], CONTENT[LEAST_PART:])
    with pytest.raises(BlobMismatch):
        store.find(ANN, sha(CONTENT))
    assert store.find(ANN, sha(CONTENT)) is None
    assert [*client.list("")] == []


def test_a_url_is_good_for_its_part_alone(store: S3BlobStore, bucket: Bucket) -> None:
    url = urls_of(store, CONTENT).urls[0]
    assert http_put(url.replace("partNumber=1", "partNumber=2"), b"x") == 403
    assert http_put(url.replace("/data?", "/blob?"), b"") == 403


def test_damage_in_the_bucket(store: S3BlobStore, client: S3Client) -> None:
    name = put(store, ANN, CONTENT)
    (data,) = [found.key for found in client.list(PREFIX) if found.key.endswith("/data")]
    damaged = bytearray(CONTENT)
    damaged[-1] ^= 1
    client.put(data, bytes(damaged))
    with pytest.raises(BlobDamaged, match=name):
        read(store, ANN, name)
    assert store.find(ANN, name) is None
    put(store, ANN, CONTENT)


def test_an_upload_that_goes_on_says_so(client: S3Client, bucket: Bucket) -> None:
    """A daemon beside the one that takes it collects by that."""

    class Slow(FakeClock):
        def monotonic(self) -> float:
            self.advance(61)
            return super().monotonic()

    store = S3BlobStore(client, LIMITS, part=LEAST_PART, clock=Slow(datetime.now(UTC)))
    content, times = CONTENT + CONTENT, []

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(content), LEAST_PART):
            times.extend(found.modified for found in client.list(PREFIX) if "/upload-" in found.key)
            if len(times) == 1:
                time.sleep(1.1)  # The server's times are of whole seconds.
            yield content[start : start + LEAST_PART]

    store.write(ANN, sha(content), len(content), chunks())
    assert times[0] < times[-1]


def test_the_word_that_a_blob_is_whole_without_its_content(store: S3BlobStore, client: S3Client) -> None:
    name = put(store, ANN, b"text")
    client.delete([found.key for found in client.list(PREFIX) if found.key.endswith("/data")])
    assert store.find(ANN, name) is None
    with pytest.raises(NoSuchBlob):
        store.open(ANN, name)
    put(store, ANN, b"text")
    assert read(store, ANN, name) == b"text"


def test_an_upload_goes_on_in_another_process_and_what_is_left_of_others_is_collected(
    bucket: Bucket, client: S3Client
) -> None:
    first, second = (S3BlobStore(S3Client(bucket), LIMITS, part=LEAST_PART) for _ in range(2))
    first.write(ANN, sha(CONTENT), len(CONTENT), [CONTENT[:LEAST_PART]])
    assert second.write(ANN, sha(CONTENT), len(CONTENT), [CONTENT[LEAST_PART:]], LEAST_PART).complete
    assert read(second, ANN, sha(CONTENT)) == CONTENT
    # One that died before it noted what it began, and one that died between the content and the word that it is whole.
    client.begin(f"{PREFIX}{'0' * 32}/{'1' * 64}/data")
    client.put(f"{PREFIX}{'0' * 32}/{'2' * 64}/data", b"123")
    assert second.collect([(ANN, sha(CONTENT))], datetime.now(UTC) + FUTURE) == Collected(1, 0)
    assert [*client.uploads("")] == []
    assert len([*client.list("")]) == 2


def test_an_outage_in_the_middle_of_an_upload(bucket: Bucket, proxy: Proxy) -> None:
    waited: list[BucketUnavailable] = []

    def waiting(error: BucketUnavailable) -> None:
        waited.append(error)
        if len(waited) > 2:
            proxy.up.set()

    through = S3Client(replace(bucket, endpoint=proxy.endpoint), patience=30, waiting=waiting)
    proxy.limit = LEAST_PART // 2
    store = S3BlobStore(through, LIMITS, part=LEAST_PART)
    put(store, ANN, CONTENT)
    assert "does not answer" in str(waited[0])
    assert read(store, ANN, sha(CONTENT)) == CONTENT


def test_a_bucket_that_stays_away(bucket: Bucket, proxy: Proxy) -> None:
    proxy.cut()
    store = S3BlobStore(S3Client(replace(bucket, endpoint=proxy.endpoint), patience=0.3))
    with pytest.raises(BucketUnavailable, match=f"could not list .* in s3://{bucket.name} at .*: it does not answer"):
        put(store, ANN, b"text")


def test_conditions(client: S3Client) -> None:
    etag = client.put("a", b"1", new=True)
    assert client.put("a", b"1", new=True) == etag, "an answer that was lost looks the same"
    with pytest.raises(ObjectChanged):
        client.put("a", b"2", new=True)
    newer = client.put("a", b"2", etag=etag)
    with pytest.raises(ObjectChanged):
        client.put("a", b"3", etag=etag)
    assert client.get("a") == (b"2", newer)
    assert client.get("b") is None
    assert client.head("b") is None
    with pytest.raises(ObjectChanged):
        client.read("a", 0, 1, lambda place, piece: None, etag)


@pytest.mark.parametrize("signed", [True, False])
def test_ranges_come_by_a_signed_url_and_without(
    client: S3Client, monkeypatch: pytest.MonkeyPatch, signed: bool
) -> None:
    if not signed:
        monkeypatch.setattr("cumulus.blob.s3.client._sent", lambda *_: None)
    content = bytes(range(251)) * 20_000
    etag = client.put("a", content)
    got = bytearray(len(content))

    def write(place: int, piece: memoryview) -> None:
        got[place : place + len(piece)] = piece

    for start in range(0, len(content), 3_000_000):
        client.read("a", start, min(3_000_000, len(content) - start), write, etag)
    assert got == content
    client.put("a", b"other")
    with pytest.raises(ObjectChanged):
        client.read("a", 0, 5, write, etag)
    with pytest.raises(Missing):
        client.read("b", 0, 5, write)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keys": Keys("nobody", "x")}, r"the keys are not right \(InvalidAccessKeyId\)"),
        ({"keys": Keys("test-access", "wrong")}, r"the keys are not right \(SignatureDoesNotMatch\)"),
    ],
)
def test_keys_that_are_wrong(bucket: Bucket, change: dict[str, Keys], said: str) -> None:
    with pytest.raises(BucketRefused, match=said) as refused:
        S3Client(replace(bucket, **change)).put("a", b"")
    assert refused.value.hint is not None
    assert "AWS_ACCESS_KEY_ID" in refused.value.hint


def test_no_keys_at_all(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(BucketRefused, match="there are no keys for it"):
        S3Client(replace(bucket, keys=None)).put("a", b"")


def test_a_server_that_is_not_there_may_come_back(bucket: Bucket) -> None:
    """It refuses connections while it is restarted, and its name may be unknown for a while."""
    from botocore.exceptions import ConnectTimeoutError, ProxyConnectionError, SSLError

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        away = replace(bucket, endpoint=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        waited: list[BucketUnavailable] = []
        stop = threading.Event()

        def waiting(told: BucketUnavailable) -> None:
            waited.append(told)
            stop.set()

        client = S3Client(away, stop=stop, waiting=waiting)
        with pytest.raises(BucketUnavailable, match=r"does not answer \(Could not connect"):
            client.get("a")
        assert waited, "it was not tried again"
    for error in (
        ConnectTimeoutError(endpoint_url="http://a"), ProxyConnectionError(proxy_url="http://p", error="x"),
        SSLError(endpoint_url="https://a", error="EOF occurred in violation of protocol"),
    ):  # fmt: skip
        assert isinstance(problem(error, "read a", bucket), BucketUnavailable)
    forged = SSLError(endpoint_url="https://a", error="[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
    told = problem(forged, "read a", bucket)
    assert isinstance(told, BucketRefused)
    assert "its certificate is not trusted here" in str(told)


@pytest.mark.parametrize("endpoint", ["s3.example.org", "http://", "http://[x"])
def test_an_endpoint_that_is_no_url(bucket: Bucket, endpoint: str) -> None:
    client = S3Client(replace(bucket, endpoint=endpoint))
    for ask in (client.prepare, lambda: client.get("a")):
        with pytest.raises(BucketRefused, match="is no URL of a server") as refused:
            ask()
        assert refused.value.hint == "as https://s3.example.org"


def test_a_clock_that_is_wrong(bucket: Bucket) -> None:
    """As Amazon's server says it; this one does not look at the time."""
    from botocore.exceptions import ClientError

    def said(code: str, status: int = 403) -> Exception:
        headers = {"date": "Tue, 01 Jan 2030 01:00:00 GMT"}
        answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers}}
        return problem(ClientError(answer, "PutObject"), "write a", bucket, FakeClock())  # type: ignore[arg-type]

    assert "clock is 3600 s away from the server's" in str(said("RequestTimeTooSkewed"))
    assert "clock is 3600 s away" in str(said("403"))
    assert isinstance(said("SlowDown", 503), BucketUnavailable)
    assert isinstance(said("Whatever", 500), BucketUnavailable)
    near = FakeClock(datetime(2030, 1, 1, 1, tzinfo=UTC))
    answer = {
        "Error": {"Code": "ExpiredToken"},
        "ResponseMetadata": {"HTTPStatusCode": 400, "HTTPHeaders": {"date": "Tue, 01 Jan 2030 01:00:00 GMT"}},
    }
    expired = problem(ClientError(answer, "PutObject"), "write a", bucket, near)  # type: ignore[arg-type]
    assert "the keys have expired" in str(expired)


def test_sizes_of_parts() -> None:
    assert part_size(1) == PART
    assert part_size(PART * MOST_PARTS) == PART
    huge = 5 * 2**40
    assert part_size(huge) * MOST_PARTS >= huge
    assert part_size(huge) % 2**20 == 0


def test_secrets_are_in_no_text(bucket: Bucket) -> None:
    assert KEYS.secret_key not in repr(bucket)
