"""The loop: what is saved gets to the place, whatever happens meanwhile, and nothing is sent twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cumulus.blob.s3.bucket import Bucket, Keys
from cumulus.blob.s3.client import Part, S3Client
from cumulus.blob.s3.transfer import LEAST_PART
from cumulus.checkpoint import layout
from cumulus.checkpoint.layout import File
from cumulus.clock import FakeClock
from cumulus.uploader import catalog, status
from cumulus.uploader.config import Config
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.following import RunFollower
from cumulus.uploader.place import CheckpointName, Notes, Place
from cumulus.uploader.restore import restore
from cumulus.uploader.s3_place import S3Place
from cumulus.uploader.upload import Journal
from tests.s3 import KEYS, Proxy, Server, refusal
from tests.uploader.saves import contents, loaded, save
from tests.waiting import eventually


class Running:
    """A follower in a thread."""

    def __init__(self, place: Place, path: Path, keep: int = 3, linger: float = 60.0) -> None:
        self.over, self.stop = threading.Event(), threading.Event()
        self.path = path
        self.follower = RunFollower(place, str(path), keep, over=self.over, stop=self.stop, linger=linger)
        self.ended: bool | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.ended = self.follower.run()

    def end(self) -> bool | None:
        """The run ends; whether all was copied."""
        self.over.set()
        self._thread.join()
        return self.ended

    def abort(self) -> None:
        self.stop.set()
        self.end()

    @property
    def status(self) -> status.UploadStatus:
        return status.read(str(self.path)) or status.UploadStatus()


@contextmanager
def running(place: Place, path: Path, keep: int = 3, linger: float = 60.0) -> Iterator[Running]:
    made = Running(place, path, keep, linger)
    try:
        yield made
    finally:
        made.abort()


def test_what_is_saved_meanwhile_and_what_is_left_at_the_end(place: Place, tmp_path: Path) -> None:
    with running(place, tmp_path / "a") as run:
        save(tmp_path / "a", 1)
        eventually(lambda: run.status.step == 1)
        save(tmp_path / "a", 2)
        assert run.end() is True
    now = run.status
    assert (now.uri, now.step, now.token, now.size) == (place.uri, 2, 1, sum(map(len, contents(2).values())))
    assert now.uploaded_at
    assert now.uploading is None
    assert now.error == ""
    assert [one.name.step for one in catalog.committed(place)] == [2, 1]
    restore(place, str(tmp_path / "b"))
    assert loaded(tmp_path / "b", 2) == contents(2)
    # Another one finds nothing to do.
    with running(place, tmp_path / "a") as run:
        assert run.end() is True


class Slow(DirectoryPlace):
    """Takes no file until it may `go` on."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.go = threading.Event()

    def send(self, key: str, file: File, descriptor: int, notes: Notes, sent: Callable[[int], None]) -> None:
        self.go.wait()
        super().send(key, file, descriptor, notes, sent)


def test_what_is_on_its_way_is_told_before_any_of_it_has_arrived(tmp_path: Path) -> None:
    place = Slow(str(tmp_path / "shared"))
    save(tmp_path / "a", 1)
    with running(place, tmp_path / "a") as run:
        try:
            eventually(lambda: run.status.uploading == 1)
            assert run.status.step is None
        finally:
            place.go.set()
        assert run.end() is True
    assert (run.status.step, run.status.uploading) == (1, None)


def test_nothing_was_ever_saved(tmp_path: Path) -> None:
    with running(DirectoryPlace(str(tmp_path / "shared")), tmp_path / "a") as run:
        assert run.end() is True


def test_damage_on_the_node_is_told_and_the_one_before_is_copied(tmp_path: Path) -> None:
    place = DirectoryPlace(str(tmp_path / "shared"))
    for step in (1, 2):
        save(tmp_path / "a", step, {"x": b"%d" % step})
    (tmp_path / "a" / "step-000000000002" / "x").write_bytes(b"!")
    with running(place, tmp_path / "a") as run:
        assert run.end() is True
    assert [one.name.step for one in catalog.committed(place)] == [1]


def test_one_at_a_time_and_the_next_takes_over(tmp_path: Path) -> None:
    place = DirectoryPlace(str(tmp_path / "shared"))
    with running(place, tmp_path / "a") as first:
        save(tmp_path / "a", 1, {"x": b"1"})
        eventually(lambda: first.status.step == 1)
        with running(place, tmp_path / "a") as second:
            assert first.end() is True
            save(tmp_path / "a", 2, {"x": b"2"})
            assert second.end() is True
    assert [one.name.step for one in catalog.committed(place)] == [2, 1]


def test_a_zombie_beside_the_attempt_that_follows_it_says_so_and_ends(place: Place, tmp_path: Path) -> None:
    """As where two daemons each took themselves for the leader. What the later attempt saves is the newest, whatever
    the other one still copies."""
    with running(place, tmp_path / "a") as zombie, running(place, tmp_path / "b") as new:
        save(tmp_path / "a", 9, {"x": b"9"}, token=1)
        eventually(lambda: zombie.status.step == 9)
        save(tmp_path / "b", 5, {"x": b"5"}, token=2)
        eventually(lambda: new.status.step == 5)
        save(tmp_path / "a", 10, {"x": b"10"}, token=1)
        eventually(lambda: "a later attempt (token 2, this one: 1) has saved step 5" in zombie.status.error)
        save(tmp_path / "a", 11, {"x": b"11"}, token=1)
        assert zombie.end() is True
        save(tmp_path / "b", 6, {"x": b"6"}, token=2)
        assert new.end() is True
    assert catalog.latest(place)[0] == CheckpointName(2, 6)
    assert [one.name for one in catalog.committed(place)][:2] == [CheckpointName(2, 6), CheckpointName(2, 5)]
    restore(place, str(tmp_path / "c"))
    assert loaded(tmp_path / "c", 6) == {"x": b"6"}


class Counting(S3Client):
    """Counts the parts that arrived."""

    def __init__(self, bucket: Bucket, **more: object) -> None:
        super().__init__(bucket, **more)  # type: ignore[arg-type]
        self.counts: Counter[tuple[str, int]] = Counter()

    def put_part(self, key: str, upload: str, number: int, content: bytes | bytearray) -> Part:
        part = super().put_part(key, upload, number, content)
        self.counts[key, number] += 1
        return part


def s3_place(bucket: Bucket, patience: float = 0.5, threads: int = 4) -> tuple[S3Place, Counting]:
    client = Counting(bucket, patience=patience, threads=threads)
    return S3Place(client, "checkpoints/team/uid", part=LEAST_PART), client


@pytest.mark.xdist_group("s3")
def test_s3_is_away_for_a_while(seaweedfs: Server, proxy: Proxy, tmp_path: Path) -> None:
    bucket = seaweedfs.bucket()
    place, client = s3_place(replace(bucket, endpoint=proxy.endpoint))
    # It goes away in the middle of the upload.
    proxy.limit = 7 * 2**20
    with running(place, tmp_path / "a") as run:
        # The program waits for nothing: the server is away until it has saved.
        save(tmp_path / "a", 1)
        eventually(lambda: "does not answer" in run.status.error)
        assert run.status.uploading == 1
        proxy.up.set()
        assert run.end() is True
    assert run.status.error == ""
    assert set(client.counts.values()) == {1}, "a part was sent twice"
    direct, _ = s3_place(bucket)
    restore(direct, str(tmp_path / "b"))
    assert loaded(tmp_path / "b", 1) == contents(1)


class Passing(threading.Event):
    """Waits in no time: a clock moves on instead, and `then` is asked after each wait."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        self.then: Callable[[], None] = lambda: None

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self.clock.advance(timeout or 1.0)
            self.then()
        return self.is_set()


@pytest.mark.xdist_group("s3")
@pytest.mark.parametrize("minutes", [5, 20])
def test_s3_is_away_for_minutes(seaweedfs: Server, proxy: Proxy, tmp_path: Path, minutes: int) -> None:
    """With the patience that it has, and a clock on which that costs no minute. The longer outage is longer than any
    request is tried for."""
    clock = FakeClock()
    stop = Passing(clock)
    bucket = seaweedfs.bucket()
    client = Counting(replace(bucket, endpoint=proxy.endpoint), clock=clock, stop=stop)
    place = S3Place(client, "checkpoints/team/uid", part=LEAST_PART)
    proxy.limit = 7 * 2**20
    away = clock.monotonic() + minutes * 60
    errors: set[str] = set()

    def look() -> None:
        errors.add((status.read(str(tmp_path / "a")) or status.UploadStatus()).error)
        if clock.monotonic() >= away:
            proxy.up.set()

    stop.then = look
    over = threading.Event()
    over.set()
    save(tmp_path / "a", 1)
    follower = RunFollower(place, str(tmp_path / "a"), 3, over=over, stop=stop, linger=86400.0)
    assert follower.run() is True
    assert clock.monotonic() >= away
    assert any("does not answer" in error for error in errors)
    assert set(client.counts.values()) == {1}, "a part was sent twice"
    now = status.read(str(tmp_path / "a"))
    assert now is not None
    assert (now.step, now.error) == (1, "")


@pytest.mark.xdist_group("s3")
@pytest.mark.parametrize(
    ("code", "status_code", "said"),
    [
        ("SlowDown", 503, "the server says SlowDown"),
        ("ServiceUnavailable", 503, "the server says ServiceUnavailable"),
        ("ExpiredToken", 403, "the keys have expired (renew them)"),
        ("AccessDenied", 403, "the keys do not allow it (AccessDenied)"),
    ],
)
def test_a_server_that_refuses_everything_for_twenty_minutes(
    seaweedfs: Server, proxy: Proxy, tmp_path: Path, code: str, status_code: int, said: str
) -> None:
    """From the middle of an upload on: it is said, and nothing that is there is sent again."""
    clock = FakeClock()
    stop = Passing(clock)
    bucket = seaweedfs.bucket()
    client = Counting(replace(bucket, endpoint=proxy.endpoint), clock=clock, stop=stop)
    place = S3Place(client, "checkpoints/team/uid", part=LEAST_PART)
    proxy.limit, proxy.answer_after_limit = 7 * 2**20, refusal(status_code, code)
    over_at = clock.monotonic() + 20 * 60
    errors: set[str] = set()

    def look() -> None:
        errors.add((status.read(str(tmp_path / "a")) or status.UploadStatus()).error)
        if clock.monotonic() >= over_at:
            proxy.answer = None

    stop.then = look
    over = threading.Event()
    over.set()
    save(tmp_path / "a", 1)
    follower = RunFollower(place, str(tmp_path / "a"), 3, over=over, stop=stop, linger=86400.0)
    assert follower.run() is True
    assert clock.monotonic() >= over_at
    assert any(said in error for error in errors), errors
    assert proxy.answered < 400, "that is a storm of its own"
    assert set(client.counts.values()) == {1}, "a part was sent twice"
    assert (status.read(str(tmp_path / "a")) or status.UploadStatus()).error == ""
    restore(s3_place(bucket)[0], str(tmp_path / "b"))
    assert loaded(tmp_path / "b", 1) == contents(1)


@pytest.mark.xdist_group("s3")
def test_keys_that_are_renewed_are_used_at_the_next_try(seaweedfs: Server, tmp_path: Path) -> None:
    bucket = replace(seaweedfs.bucket(), keys=Keys("test-access", "revoked"))
    place, client = s3_place(bucket)
    client.prepare()
    save(tmp_path / "a", 1)
    with running(place, tmp_path / "a") as run:
        eventually(lambda: "the keys are not right" in run.status.error)
        place.renew(Config(place.uri, keys=KEYS))
        assert run.end() is True
    assert (run.status.step, run.status.error) == (1, "")


@pytest.mark.parametrize("server", [pytest.param("seaweedfs", marks=pytest.mark.xdist_group("s3")), "moto"])
def test_a_bucket_that_is_deleted_and_made_again(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """While the job saves: that goes on, and what it saves last gets there as soon as there is a bucket."""
    found: Server = request.getfixturevalue(server)
    bucket = found.bucket()
    place, client = s3_place(bucket)
    save(tmp_path / "a", 1)
    with running(place, tmp_path / "a") as run:
        eventually(lambda: run.status.step == 1)
        client.delete([each.key for each in client.list("")])
        found.client().delete_bucket(Bucket=bucket.name)
        save(tmp_path / "a", 2)
        eventually(lambda: "there is no such bucket (make it, or name another)" in run.status.error)
        save(tmp_path / "a", 3)
        found.client().create_bucket(Bucket=bucket.name)
        assert run.end() is True
    assert (run.status.step, run.status.error) == (3, "")
    restore(s3_place(bucket)[0], str(tmp_path / "b"))
    assert loaded(tmp_path / "b", 3) == contents(3)


@pytest.mark.xdist_group("s3")
@pytest.mark.parametrize("hours", [-50, 50])
def test_a_clock_that_is_days_off_deletes_nothing_that_others_still_send(seaweedfs: Server, hours: int) -> None:
    """This server, unlike Amazon's, takes what comes with any time."""
    clock = FakeClock(datetime.now(UTC) + timedelta(hours=hours))
    bucket = seaweedfs.bucket()
    other = S3Client(bucket, patience=10)
    other.put("checkpoints/team/uid/steps/000000000009-1/rank-1/x", b"x")
    other.begin("checkpoints/team/uid/steps/000000000009-1/rank-1/y")
    place = S3Place(S3Client(bucket, patience=10, clock=clock), "checkpoints/team/uid")
    assert all(abs(found.age) < 120 for found in place.list(""))
    catalog.prune(place, 1, CheckpointName(1, 1))
    assert [found.key for found in place.list("")] == ["steps/000000000009-1/rank-1/x"]
    assert len([*other.uploads("checkpoints/team/uid/")]) == 1


def test_neither_does_it_in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = DirectoryPlace(str(tmp_path / "shared"))
    place.put("latest", b"{}")
    sent = tmp_path / "shared" / CheckpointName(1, 9).prefix / "rank-1"
    sent.parent.mkdir(parents=True)
    sent.write_bytes(b"x")
    (tmp_path / "shared" / ".partial" / "half").write_bytes(b"x")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 50 * 3600)
    catalog.prune(place, 1, CheckpointName(1, 1))
    assert sent.exists()
    assert (tmp_path / "shared" / ".partial" / "half").exists()
    monkeypatch.setattr(DirectoryPlace, "_now", lambda self: real() + 50 * 3600)
    catalog.prune(place, 1, CheckpointName(1, 1))
    assert not sent.exists()
    assert not (tmp_path / "shared" / ".partial" / "half").exists()


@pytest.mark.xdist_group("s3")
def test_an_uploader_that_is_replaced_sends_no_part_again(seaweedfs: Server, proxy: Proxy, tmp_path: Path) -> None:
    bucket = seaweedfs.bucket()
    place, first = s3_place(replace(bucket, endpoint=proxy.endpoint), threads=1)
    save(tmp_path / "a", 1)
    proxy.limit = 9 * 2**20
    with running(place, tmp_path / "a") as run:
        eventually(lambda: run.status.error)
    proxy.cut()
    place, second = s3_place(bucket)
    with running(place, tmp_path / "a") as run:
        assert run.end() is True
    assert first.counts
    assert set((first.counts + second.counts).values()) == {1}


@pytest.mark.xdist_group("s3")
def test_a_slow_bucket_gets_the_newest_and_pruning_takes_nothing_away(
    seaweedfs: Server, proxy: Proxy, tmp_path: Path
) -> None:
    bucket = seaweedfs.bucket()
    place, _ = s3_place(replace(bucket, endpoint=proxy.endpoint), patience=30)
    proxy.bytes_per_second = 20e6
    with running(place, tmp_path / "a", keep=10) as run:
        save(tmp_path / "a", 1)
        eventually(lambda: proxy.sent > 2**20)
        for step in range(2, 9):
            save(tmp_path / "a", step)
            for old in layout.steps(str(tmp_path / "a"))[1:]:
                layout.delete(str(tmp_path / "a"), old)
            time.sleep(0.1)
        assert run.end() is True
    there = [one.name.step for one in catalog.committed(place)]
    assert there[0] == 8
    assert there[-1] == 1, "the first was pruned while it was sent"
    assert run.status.error == ""


@pytest.mark.xdist_group("s3")
@pytest.mark.parametrize(
    ("keys", "said"),
    [(Keys("nobody", "x" * 20), "InvalidAccessKeyId"), (Keys("test-access", "wrong"), "SignatureDoesNotMatch")],
)
def test_wrong_credentials(seaweedfs: Server, tmp_path: Path, keys: Keys, said: str) -> None:
    place, _ = s3_place(replace(seaweedfs.bucket(), keys=keys))
    save(tmp_path / "a", 1)
    with running(place, tmp_path / "a", linger=0.0) as run:
        assert run.end() is False
    assert f"the keys are not right ({said})" in run.status.error
    assert "AWS_ACCESS_KEY_ID" in run.status.error
    assert keys.secret_key not in run.status.error


@pytest.mark.xdist_group("s3")
def test_the_second_server_and_a_bucket_that_is_not_there(moto: Server, tmp_path: Path) -> None:
    bucket = moto.bucket()
    place, _ = s3_place(bucket)
    save(tmp_path / "a", 1)
    with running(place, tmp_path / "a") as run:
        assert run.end() is True
    restore(place, str(tmp_path / "b"))
    assert loaded(tmp_path / "b", 1) == contents(1)
    place, _ = s3_place(replace(bucket, name="nobody-made-it"))
    with running(place, tmp_path / "b", linger=0.0) as run:
        assert run.end() is False
    assert "there is no such bucket" in run.status.error


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    place = DirectoryPlace(str(small_disk / "shared"))
    hog = small_disk / "hog"
    hog.write_bytes(b"x" * 6 * 2**20)
    save(tmp_path / "a", 1, contents(1, big=4 * 2**20))
    with running(place, tmp_path / "a") as run:
        eventually(lambda: "No space left" in run.status.error)
        assert not [path for path in (small_disk / "shared" / ".partial").iterdir() if path.stat().st_size]
        hog.unlink()
        assert run.end() is True
    restore(place, str(tmp_path / "b"))
    assert loaded(tmp_path / "b", 1) == contents(1, big=4 * 2**20)


def test_a_status_that_the_job_has_written(tmp_path: Path) -> None:
    (tmp_path / ".uploader").mkdir()
    file = tmp_path / ".uploader" / "status.json"
    assert status.read(str(tmp_path)) is None
    for text in ("", "{", "[]", "{}", '{"format": 1, "step": "x"}', '{"format": 1, "sent": -1}', "[" * 10000):
        file.write_text(text)
        assert status.read(str(tmp_path)) is None
    file.unlink()
    file.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        status.read(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 10000])
def test_notes_that_the_job_has_written_are_none(tmp_path: Path, text: str) -> None:
    notes = tmp_path / "notes.json"
    notes.write_text(text)
    journal = Journal(str(notes))
    assert journal.get("key") == ""
    journal.set("key", "note")
    assert Journal(str(notes)).get("key") == "note"


def test_a_rank_that_never_comes_holds_up_nothing(tmp_path: Path) -> None:
    place = DirectoryPlace(str(tmp_path / "shared"))
    files = {"rank-0/x": b"0", "rank-1/x": b"1"}
    save(tmp_path / "a", 1, files, world=2, here=frozenset({"rank-0/x"}))
    with running(place, tmp_path / "a") as run:
        eventually(lambda: "on another node" in run.status.error)
        save(tmp_path / "a", 2, files, world=2)
        assert run.end() is True
    assert [one.name.step for one in catalog.committed(place)] == [2]


def test_a_name_that_no_object_can_have_is_told(tmp_path: Path) -> None:
    place = DirectoryPlace(str(tmp_path / "shared"))
    save(tmp_path / "a", 1, {"b\udcff": b"1"})
    with running(place, tmp_path / "a") as run:
        eventually(lambda: "no UTF-8" in run.status.error)
        save(tmp_path / "a", 2, {"weights": b"2"})
        assert run.end() is True
    assert [one.name.step for one in catalog.committed(place)] == [2]
