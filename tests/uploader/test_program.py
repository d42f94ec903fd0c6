"""The uploader as a process: its end with its standard input, kill -9 at each step, whose it is, and what it hides."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from cumulus.blob.s3.bucket import Keys
from cumulus.blob.s3.client import S3Client
from cumulus.checkpoint import layout
from cumulus.cli.verbs.checkpoints import receive
from cumulus.errors import BackendError
from cumulus.infrastructure import node_files
from cumulus.infrastructure.checkpoints import CheckpointsBeyond
from cumulus.lib import locks
from cumulus.lib.unix_user import UnixUser
from cumulus.nodes import distribution
from cumulus.uploader import __main__ as program
from cumulus.uploader import catalog, files, here, status
from cumulus.uploader.config import Config
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.owner import owner_of, user_of_process
from cumulus.uploader.place import CheckpointName
from cumulus.uploader.restore import restore
from cumulus.uploader.s3_place import S3Place
from cumulus.uploader.upload import Journal, Upload
from tests.s3 import KEYS, Proxy, Server
from tests.unix_users import User
from tests.uploader.saves import contents, loaded, save
from tests.waiting import PATIENCE, eventually

PROGRAM = [sys.executable, "-I", program.__file__]


def ask(config: Config, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = subprocess.run([*PROGRAM, *arguments], input=config.encode(), capture_output=True, check=False, timeout=100)
    assert done.returncode == code, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def said_of(path: Path) -> status.UploadStatus:
    return status.read(str(path)) or status.UploadStatus()


def test_run_restore_list_and_verify(tmp_path: Path) -> None:
    config = Config(f"file://{tmp_path}/shared", keep=2)
    process = subprocess.Popen([*PROGRAM, "run", str(tmp_path / "a")], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(config.encode())
    process.stdin.flush()
    for step in (1, 2):
        save(tmp_path / "a", step)
        eventually(lambda step=step: getattr(status.read(str(tmp_path / "a")), "step", None) == step)
    save(tmp_path / "a", 3)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    answer = ask(config, "list", "-")
    assert [(one["step"], one["latest"]) for one in answer["checkpoints"]] == [(3, True), (2, False)]
    assert ask(config, "verify", str(tmp_path), "3")["files"] == 3
    assert "no checkpoint of that step" in ask(config, "verify", str(tmp_path), "1", code=1)["error"]
    assert ask(config, "restore", str(tmp_path / "b"))["restored"] is True
    assert loaded(tmp_path / "b", 3) == contents(3)
    again = ask(config, "restore", str(tmp_path / "b"))
    assert (again["step"], again["restored"]) == (3, False)


def test_what_this_node_has_is_enough_where_all_ran_here(tmp_path: Path) -> None:
    """No place is asked, none is loaded, and as long as it is fresh its bytes are left to the program."""
    config = Config("s3://nobody/asks/this", endpoint="http://127.0.0.1:1", keys=Keys("a", "b"))
    save(tmp_path / "a", 1)  # Of attempt 1.
    bare = [sys.executable, "-I", "-S", program.__file__, "restore", str(tmp_path / "a"), "1"]
    done = subprocess.run(bare, input=config.encode(), capture_output=True, check=True, timeout=PATIENCE)
    assert json.loads(done.stdout) == {"step": 1, "restored": False, "size": 0, "refused": []}
    done = subprocess.run([*bare[:-1], "2"], input=config.encode(), capture_output=True, check=False, timeout=PATIENCE)
    assert "it has no boto3" in json.loads(done.stdout)["error"], "the place is needed"


@pytest.mark.parametrize("fresh", [True, False])
def test_how_much_of_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool) -> None:
    monkeypatch.setattr(here, "FRESH", 3600.0 if fresh else 0.0)
    path, model = str(tmp_path / "a"), tmp_path / "a" / "step-000000000001" / "model.bin"
    save(tmp_path / "a", 1)
    found = here.newest_since(path, 1)
    assert (found and found.step, here.step_since(path, 1, None)) == (1, 1)
    assert here.newest_since(path, 2) is here.step_since(path, 2, None) is None
    model.write_bytes(b"!" + model.read_bytes()[1:])
    assert (here.newest_since(path, 1) is not None) is fresh
    model.write_bytes(b"shorter")
    assert here.newest_since(path, 1) is None
    model.unlink()
    assert here.step_since(path, 1, None) is None


def test_a_look_is_ended_by_whoever_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Over(Exception):
        pass

    def check() -> None:
        raise Over

    monkeypatch.setattr(here, "newest_since", lambda path, since: Event().wait())
    with pytest.raises(Over):
        here.step_since(str(tmp_path), 1, None, check)


def test_what_is_wrong_is_said_in_one_line() -> None:
    done = subprocess.run([*PROGRAM, "run", "/x"], input=b"{nonsense}\n", capture_output=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == "the configuration on standard input is none of an uploader"
    answer = ask(Config("s3://bucket/checkpoints/other/uid", within="bucket/checkpoints/team"), "list", "-", code=1)
    assert answer["error"].startswith("the daemon's keys are for s3://bucket/checkpoints/team alone")
    assert "checkpoint.credentials" in answer["hint"]
    answer = ask(Config("ftp://x"), "list", "-", code=1)
    assert "no place for checkpoints" in answer["error"]
    assert subprocess.run(PROGRAM, capture_output=True, check=False).returncode == 2


def test_keys_are_in_no_text_of_a_config() -> None:
    config = Config("s3://bucket/x", keys=Keys("the-access", "the-secret", "the-token"))
    assert "the-" not in repr(config)
    assert Config.decode(config.encode()) == config


KILLED = """
import os, signal, sys, threading
sys.path.insert(0, {root!r})
from cumulus.nodes import distribution
from cumulus.uploader import __main__ as program
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.owner import owner_of, user_of_process
from cumulus.uploader.place import CheckpointName
from cumulus.uploader.s3_place import S3Place
from cumulus.uploader.upload import Journal, Upload
from cumulus.blob.s3 import transfer
from cumulus.uploader import s3_place
s3_place.PART = transfer.PART = 5 * 2**20
S3Place.__init__.__kwdefaults__["part"] = 5 * 2**20
left = [{count}]
def counted(real):
    def step(*arguments, **more):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)
    return step
if {s3}:
    from cumulus.blob.s3.client import S3Client
    for name in ("put", "begin", "put_part", "complete", "delete"):
        setattr(S3Client, name, counted(getattr(S3Client, name)))
else:
    from cumulus.uploader import directory_place
    os.rename, os.fsync, os.pwrite = map(counted, (os.rename, os.fsync, os.pwrite))
    os.link, os.unlink = map(counted, (os.link, os.unlink))
sys.exit(program.main(sys.argv[1:]))
"""


S3 = pytest.mark.xdist_group("s3")


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        pytest.param("directory", range(0, 64, 9), id="directory"),
        pytest.param("directory", range(0, 60, 3), id="directory, more steps", marks=pytest.mark.slow),
        pytest.param("seaweedfs", range(0, 13, 3), id="seaweedfs", marks=S3),
        pytest.param("seaweedfs", range(12), id="seaweedfs, each step", marks=[S3, pytest.mark.slow]),
    ],
)
def test_kill_9_at_each_step(kind: str, steps: range, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Whatever was done, a reader finds the last commit, byte for byte, and the next uploader gets to the end."""
    if kind == "directory":
        config = Config(f"file://{tmp_path}/shared", keep=2)
        place: Any = DirectoryPlace(str(tmp_path / "shared"))
    else:
        server: Server = request.getfixturevalue(kind)
        bucket = server.bucket()
        config = Config(
            f"s3://{bucket.name}/c/u", keep=2, region=bucket.region, endpoint=bucket.endpoint, keys=bucket.keys
        )
        place = S3Place(S3Client(bucket), "c/u")
    root = str(Path(program.__file__).parents[2])
    source = tmp_path / "a"
    committed, number, killed = 0, 0, 0
    for count in steps:
        if committed == number:
            number += 1
            save(source, number, contents(number, big=2**20 * 6))
        script = KILLED.format(root=root, count=count, s3=kind != "directory")
        done = subprocess.run(
            [sys.executable, "-c", script, "run", str(source)], input=config.encode(), capture_output=True, check=False
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
        killed += done.returncode != 0
        names = [one.name.step for one in catalog.committed(place)]
        committed = max(names, default=0)
        assert names == sorted(names, reverse=True)
        if done.returncode == 0:
            assert committed == number
        target = tmp_path / f"restored-{count}"
        found = restore(place, str(target))
        assert (found.step if found else 0) == committed
        if found:
            assert loaded(target, found.step) == contents(found.step, big=2**20 * 6)
    assert killed > len(steps) // 3
    assert committed == number, "the last of them was not killed"


@pytest.mark.xdist_group("s3")
def test_one_at_work_is_told_the_keys_of_now(tmp_path: Path, seaweedfs: Server) -> None:
    bucket = seaweedfs.bucket()
    old = Config(f"s3://{bucket.name}/c/u", endpoint=bucket.endpoint, keys=Keys(KEYS.access_key, "revoked"))
    save(tmp_path / "a", 1)
    process = subprocess.Popen([*PROGRAM, "run", str(tmp_path / "a")], stdin=subprocess.PIPE)
    try:
        assert process.stdin is not None
        process.stdin.write(old.encode())
        process.stdin.flush()
        eventually(lambda: "the keys are not right" in said_of(tmp_path / "a").error)
        # What is none is passed over.
        process.stdin.write(b"{}\n" + dataclasses.replace(old, keys=KEYS).encode())
        process.stdin.flush()
        eventually(lambda: said_of(tmp_path / "a").step == 1)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.xdist_group("s3")
def test_one_that_nobody_can_tell_is_replaced(tmp_path: Path, seaweedfs: Server) -> None:
    """As beside a container: nobody holds its standard input."""
    bucket = seaweedfs.bucket()
    old = Config(f"s3://{bucket.name}/c/u", endpoint=bucket.endpoint, keys=Keys(KEYS.access_key, "revoked"))
    new, lock = dataclasses.replace(old, keys=KEYS), tmp_path / "a" / ".uploader" / "lock"
    save(tmp_path / "a", 1)
    container = subprocess.Popen(["sleep", "1000"])
    try:
        ask(old, "start", str(tmp_path / "a"), str(container.pid))
        eventually(lambda: "the keys are not right" in said_of(tmp_path / "a").error)
        (before,) = eventually(lambda: locks.holders(lock))
        ask(new, "start", str(tmp_path / "a"), str(container.pid), "instead")
        eventually(lambda: said_of(tmp_path / "a").step == 1)
        (after,) = eventually(lambda: locks.holders(lock))
        assert after != before
        save(tmp_path / "a", 2)
        eventually(lambda: said_of(tmp_path / "a").step == 2)
    finally:
        container.kill()
        container.wait()
    eventually(lambda: not locks.holders(lock), what="it has ended")


@pytest.mark.users
@pytest.mark.xdist_group("s3")
def test_it_is_the_users_and_hides_its_keys_from_them(users: tuple[User, User], seaweedfs: Server) -> None:
    """As root starts it: with keys that are not the user's, and files that are."""
    user = UnixUser.find(users[0].uid)
    place = users[0].home
    bucket = seaweedfs.bucket()
    config = Config(
        f"s3://{bucket.name}/checkpoints/team/uid", keep=2, region=bucket.region, endpoint=bucket.endpoint,
        keys=bucket.keys, within=f"{bucket.name}/checkpoints/team", user=user,
    )  # fmt: skip
    process = subprocess.Popen([*PROGRAM, "run", str(place / "a")], stdin=subprocess.PIPE, cwd="/")
    try:
        assert process.stdin is not None
        process.stdin.write(config.encode())
        process.stdin.flush()
        theirs = "Uid:" + f"\t{user.uid}" * 4
        eventually(lambda: theirs in Path(f"/proc/{process.pid}/status").read_text())
        shown = Path(f"/proc/{process.pid}/status").read_text()
        assert "Gid:" + f"\t{user.gid}" * 4 in shown
        spied = users[0].sh(
            "cd /proc/$1 && for name in environ mem maps auxv; do head -c 1 $name && echo read $name; done; ls fd",
            str(process.pid),
        )
        assert spied.returncode != 0
        assert spied.stdout == ""
        assert spied.stderr.count("Permission denied") == 5, spied.stderr
        command_line = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert KEYS.secret_key not in command_line
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def test_a_node_without_boto3_says_so(tmp_path: Path) -> None:
    bare = [sys.executable, "-I", "-S", program.__file__, "list", "-"]
    done = subprocess.run(bare, input=Config("s3://bucket/x").encode(), capture_output=True, check=False)
    answer = json.loads(done.stdout)
    assert answer["error"] == "this node can't reach s3://bucket/x: it has no boto3"
    assert "cumulus node setup" in answer["hint"]
    done = subprocess.run(bare, input=Config(f"file://{tmp_path}").encode(), capture_output=True, check=False)
    assert json.loads(done.stdout)["checkpoints"] == []


def test_a_worker_has_it_in_its_distribution(tmp_path: Path) -> None:
    """With nothing of the control plane, and no library but the standard one."""
    wheel = distribution.build(tmp_path)
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, tmp_path / "worker"], check=True)
    save(tmp_path / "a", 1)
    main = tmp_path / "worker" / "cumulus" / "uploader" / "__main__.py"
    config = Config(f"file://{tmp_path}/shared").encode()
    for verb in ("run", "list"):
        done = subprocess.run(
            [sys.executable, "-I", "-S", main, verb, str(tmp_path / "a")],
            input=config,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
    assert [one["step"] for one in json.loads(done.stdout)["checkpoints"]] == [1]


def test_started_it_follows_a_process_to_its_end(tmp_path: Path) -> None:
    """As over SSH: who started it does not wait for it."""
    place = DirectoryPlace(str(tmp_path / "shared"))
    container = subprocess.Popen(["sleep", "100"])
    try:
        answer = ask(Config(place.uri, owner=True), "start", str(tmp_path / "a"), str(container.pid))
        assert answer["user"] is None or answer["user"][0] == os.getuid()
        save(tmp_path / "a", 1)
        eventually(lambda: [one.name.step for one in catalog.committed(place)] == [1])
        save(tmp_path / "a", 2)
    finally:
        container.kill()
        container.wait()
    eventually(lambda: [one.name.step for one in catalog.committed(place)][:1] == [2])
    lock = tmp_path / "a" / ".uploader" / "lock"
    with open(lock) as file:
        eventually(lambda: locks.try_lock(file.fileno()), what="it has ended")
    # Of a container that has ended already it copies what is left.
    save(tmp_path / "a", 3)
    ask(Config(place.uri), "start", str(tmp_path / "a"), "0")
    eventually(lambda: [one.name.step for one in catalog.committed(place)][:1] == [3])


class TestFiles:
    """What a node is asked of the checkpoints on its disk."""

    def ask(self, given: bytes, *words: str, code: int = 0) -> bytes:
        program = [sys.executable, "-I", "-S", files.__file__]
        done = subprocess.run([*program, *words], input=given, capture_output=True, check=False, timeout=PATIENCE)
        assert done.returncode == code, done.stderr.decode()
        return done.stdout

    def sent(self, path: Path, step: int) -> bytes:
        return self.ask(b"null\n", "send", str(path), str(step))

    def test_one_node_sends_what_another_receives(self, tmp_path: Path) -> None:
        save(tmp_path / "a", 4, token=3)
        sent = self.sent(tmp_path / "a", 4)
        said = json.loads(self.ask(b'"owner"\n' + sent, "receive", str(tmp_path / "b")))
        assert said["step"] == 4
        assert loaded(tmp_path / "b", 4) == contents(4)
        assert layout.read_manifest(str(tmp_path / "b"), 4).token == 3
        assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700
        # Once more, as the second replica of a node does, and as a job's that goes on from it.
        self.ask(b"null\n" + sent, "receive", str(tmp_path / "b"))
        assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["step-000000000004"]
        self.ask(b"null\n" + sent, "adopt", str(tmp_path / "c"))
        layout.verify(str(tmp_path / "c"), 4)
        assert layout.read_manifest(str(tmp_path / "c"), 4).token == 0

    @pytest.mark.parametrize("at", [0, 30, 200, -2_000_000, -30])
    def test_what_is_cut_off_or_changed_on_the_way_leaves_nothing(self, tmp_path: Path, at: int) -> None:
        save(tmp_path / "a", 4)
        sent = self.sent(tmp_path / "a", 4)
        for wrong in (sent[:at], sent[:at] + bytes([sent[at] ^ 1]) + sent[at:][1:]):
            said = json.loads(self.ask(b"null\n" + wrong, "receive", str(tmp_path / "b"), code=3))
            assert said["error"]
            assert not (tmp_path / "b").exists() or list((tmp_path / "b").iterdir()) == []

    def test_a_file_that_would_lie_elsewhere_is_refused(self, tmp_path: Path) -> None:
        save(tmp_path / "a", 4, {"x": b"1"})
        sent = self.sent(tmp_path / "a", 4).replace(b'"x"', b'"../y"')
        assert b"error" in self.ask(b"null\n" + sent, "receive", str(tmp_path / "b"), code=3)
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "b") == ["a"]

    def test_the_owner_of_the_files_is_who_looks(self, tmp_path: Path) -> None:
        assert owner_of(str(tmp_path / "not" / "there")).uid == os.getuid()
        assert user_of_process(os.getpid())[:2] == (os.geteuid(), os.getegid())


class TestBeyond:
    """What people are told of a place, and get from it."""

    @pytest.fixture
    def beyond(self, tmp_path: Path) -> CheckpointsBeyond:
        config = Config(f"file://{tmp_path}/shared", keep=9)
        for step in (1, 2, 3):
            save(tmp_path / "a", step)
            subprocess.run([*PROGRAM, "run", str(tmp_path / "a")], input=config.encode(), check=True, timeout=PATIENCE)
        return CheckpointsBeyond(config, {})

    def test_it_is_listed_verified_fetched_and_pruned(self, beyond: CheckpointsBeyond, tmp_path: Path) -> None:
        assert [(one.step, one.size, one.attempt) for one in beyond.list()] == [
            (step, sum(map(len, contents(step).values())), 1) for step in (3, 2, 1)
        ]
        damaged = tmp_path / "shared" / CheckpointName(1, 3).prefix / "model.bin"
        damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
        assert [bool(one.problem) for one in beyond.verify(None)] == [True, False, False]
        # The newest that is whole, and one by its step.
        place = receive(beyond.send(None), tmp_path / "got")
        assert place.name == "step-000000000002"
        assert loaded(tmp_path / "got", 2) == contents(2)
        receive(beyond.send(1), tmp_path / "got")
        for step, told in ((3, "does not match"), (9, "no checkpoint of that step")):
            with pytest.raises(BackendError, match=told):
                list(beyond.send(step))
        assert [*beyond.verify(9)] == []
        # What is damaged is nobody's newest, and the newest that is whole stays.
        assert beyond.prune(1) == [1]
        assert [one.step for one in beyond.list()] == [3, 2]

    def test_a_place_that_does_not_answer_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(node_files.LONGEST, "list", 0.5)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
            beyond = CheckpointsBeyond(Config("s3://bucket/x/y", endpoint=endpoint, keys=Keys("a", "b")), {})
            # What would be tried again for minutes begins with the same.
            for ask in (beyond.list, lambda: beyond.prune(1), lambda: [*beyond.send(None)]):
                with pytest.raises(BackendError, match="does not answer"):
                    ask()

    def test_one_that_refuses_connections_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(node_files.LONGEST, "list", PATIENCE)
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
            beyond = CheckpointsBeyond(Config("s3://bucket/x/y", endpoint=endpoint, keys=Keys("a", "b")), {})
            with pytest.raises(BackendError, match=rf"at {endpoint}: it does not answer \(Could not connect"):
                beyond.list()


@pytest.mark.xdist_group("s3")
def test_what_is_fetched_ahead_is_given_up_where_its_input_ends(
    tmp_path: Path, seaweedfs: Server, proxy: Proxy
) -> None:
    bucket = seaweedfs.bucket()
    save(tmp_path / "a", 1)
    client = S3Client(bucket, patience=10)
    Upload(S3Place(client, "c/u"), Journal(str(tmp_path / "notes"))).run(str(tmp_path / "a"), 1, 2)
    config = Config(f"s3://{bucket.name}/c/u", region="us-east-1", endpoint=proxy.endpoint, keys=KEYS)

    def begun() -> subprocess.Popen[bytes]:
        words = [*PROGRAM, "prefetch", str(tmp_path / "b"), "2"]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(config.encode())
        process.stdin.flush()
        return process

    # The bucket is away, and it would wait for minutes.
    proxy.cut()
    with begun() as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 1
    assert layout.steps(str(tmp_path / "b")) == []
    proxy.up.set()
    with begun() as process:
        # Its input stays open all the while.
        assert process.wait(PATIENCE) == 0
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["restored"] is True
    assert loaded(tmp_path / "b", 1) == contents(1)


class TestSending:
    def test_who_waits_while_all_is_read_sees_that_it_lives(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path, 1)
        breath, written, verify = Event(), files._write, layout.verify

        def write(data: bytes) -> None:
            written(data)
            breath.set()

        def slowly(path: str, step: int) -> layout.Checkpoint:
            assert breath.wait(PATIENCE)
            return verify(path, step)

        monkeypatch.setattr(files, "BREATH", 0.01)
        monkeypatch.setattr(files, "_write", write)
        monkeypatch.setattr(layout, "verify", slowly)
        said = tmp_path / "said"
        with said.open("wb") as target, monkeypatch.context() as patch:
            patch.setattr("sys.stdout", SimpleNamespace(buffer=target))
            files._send(str(tmp_path), ["1"])
        line = said.read_bytes().split(b"\n")[0]
        assert (line[:1], json.loads(line)["step"]) == (b" ", 1)

    def test_a_receiver_tells_what_is_damaged_from_what_could_not_be_read(self, tmp_path: Path) -> None:
        def received(head: dict[str, object]) -> dict[str, object]:
            program = [sys.executable, "-I", "-S", files.__file__, "receive", str(tmp_path / "c")]
            given = b"null\n   " + json.dumps(head).encode() + b"\n"
            done = subprocess.run(program, input=given, capture_output=True, check=False, timeout=PATIENCE)
            assert done.returncode == 3
            found: dict[str, object] = json.loads(done.stdout)
            return found

        assert received({"error": "step 5 is not whole", "damaged": True}).get("sent") is True
        assert "sent" not in received({"error": "/d: Input/output error"})
