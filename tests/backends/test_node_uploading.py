"""What a node is asked for a container's checkpoints before it starts, and what is made of the answers. No Swarm."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends import preparing
from cumulus.backends.base import Checkpointing, Workload, WorkloadMount
from cumulus.backends.checkpoints import SealedCheckpoint, document_of
from cumulus.backends.preparing import Preparing
from cumulus.backends.swarm.checkpoint import place_of
from cumulus.backends.swarm.checkpoint_programs import CheckpointPrograms, PlaceAway
from cumulus.backends.swarm.records import SAVED, UPLOADER, Record, Records
from cumulus.backends.swarm.uploading import NodeUploading, noted
from cumulus.blob.s3.bucket import Keys
from cumulus.errors import BackendError, BackendRefused
from cumulus.secrets import JobSecrets
from cumulus.uploader.config import Config
from tests.waiting import PATIENCE

NO_BOTO3 = {"error": "this node can't reach s3://b/p: it has no boto3", "hint": "cumulus node setup", "again": False}
AWAY = {"error": "b does not answer", "hint": "", "again": True}
BUCKET = {"CUMULUS_S3_BUCKET": "bucket", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}


class Node:
    """Answers of its uploader by verb; what it was asked, and with which configuration."""

    def __init__(self, **answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[list[str]] = []
        self.configs: list[Config] = []
        self.checkpoints = CheckpointPrograms(self, "chronos_cli")

    def run(self, command: str, seconds: float) -> tuple[int, str, str]:
        raise AssertionError(command)

    def feed(self, command: str, chunks: Iterable[bytes]) -> tuple[int, str, str]:
        words = command.split()[3:]
        self.asked.append(words)
        self.configs.append(Config.decode(b"".join(chunks)))
        return 0, json.dumps(self.answers.get(words[0], {})), ""

    def read(self, command: str, given: bytes) -> Iterator[bytes]:
        yield b""

    def container(self, id: str) -> dict[str, Any]:
        return {"State": {"Pid": 12}}


class Bed:
    def __init__(self, place: Path) -> None:
        self.records = Records(str(place / "swarm"))
        self.nodes: dict[str, Node] = {}
        self.uploading = NodeUploading(self.nodes.get, JobSecrets(place / "secrets"), BUCKET)  # type: ignore[arg-type]

    def run(self, attempt: int = 1, node: str = "a", *, named: bool = True, job: str = "u1") -> Record:
        work = workload(attempt, node, uri="s3://b/p", named=named, job_uid=job, name=f"{job}-a{attempt}")
        record = self.records.create(work, noted(work))
        assert record is not None
        return record

    def fetch(self, record: Record) -> None:
        runs = self.records.of_job(record.start["job_uid"])
        earlier = [run for run in runs if run.start["attempt"] < record.start["attempt"]]
        self.uploading.fetch(record, earlier, threading.Event())


def workload(attempt: int = 1, node: str = "a", *, uri: str = "", named: bool = True, **more: Any) -> Workload:
    fields: dict[str, Any] = {
        "name": f"w-a{attempt}-{node}", "namespace": "team", "job": "j", "job_uid": "u1", "attempt": attempt,
        "replica": 0, "replicas": 1, "node": node, "command": ("true",), "leases": (), "image": "i",
        "mounts": (WorkloadMount("/data/ann", "/data"),), "checkpoint_path": "/data/run/c", "submitter": "ann",
        "submitter_uid": 4242, "checkpointing": Checkpointing(uri=uri, named=named, keep=2),
    }  # fmt: skip
    return Workload(**{**fields, **more})


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({}, "/data/ann/run/c"),
        ({"checkpoint_path": "/data"}, "/data/ann"),
        ({"checkpoint_path": "/database/c"}, ""),
        ({"checkpoint_path": "run/c"}, ""),
        ({"checkpoint_path": "run/c", "working_dir": "/data"}, "/data/ann/run/c"),
        ({"checkpoint_path": ""}, ""),
        ({"mounts": (WorkloadMount("/x", "/data"), WorkloadMount("/y", "/data/run"))}, "/y/c"),
    ],
)
def test_where_a_containers_checkpoints_are_on_its_node(more: dict[str, Any], place: str) -> None:
    assert place_of(workload(**more)) == place


def test_what_the_job_names_must_be_reached_before_it_starts(bed: Bed) -> None:
    bed.nodes["a"] = Node(check=NO_BOTO3)
    with pytest.raises(BackendRefused, match="has no boto3"):
        bed.fetch(bed.run())
    # What only the daemon has is not asked for: the job's status says why nothing is copied.
    bed.nodes["b"] = Node(check=NO_BOTO3, start=NO_BOTO3)
    bed.fetch(quiet := bed.run(node="b", named=False, job="u2"))
    assert bed.uploading.follow(quiet, "c1").endswith("it has no boto3 (cumulus node setup)")
    with pytest.raises(BackendRefused, match="no SSH address"):
        bed.fetch(bed.run(node="far", job="u3"))
    bed.fetch(bed.run(node="far", named=False, job="u4"))


def test_a_later_attempt_needs_a_place_only_where_something_is_there(bed: Bed) -> None:
    bed.nodes["a"] = Node(check=NO_BOTO3, restore=NO_BOTO3, start=NO_BOTO3)
    bed.uploading.follow(bed.run(named=False), "c1")
    bed.fetch(bed.run(2, named=False))
    bed.nodes["b"] = Node(start={"user": None})
    bed.uploading.follow(bed.run(3, "b", named=False), "c1")
    with pytest.raises(BackendRefused, match="has no boto3"):
        bed.fetch(bed.run(4, named=False))


def test_a_place_that_is_away_holds_up_later_attempts_alone(bed: Bed) -> None:
    bed.nodes["a"] = Node(check=AWAY, restore=AWAY, start={"user": None})
    bed.fetch(first := bed.run())
    assert bed.uploading.follow(first, "c1") == ""
    with pytest.raises(PlaceAway):
        bed.fetch(bed.run(2))
    # One whose checkpoints are beyond the nodes never begins anew.
    with pytest.raises(BackendRefused, match="no SSH address"):
        bed.fetch(bed.run(3, node="far", named=False))


def test_it_says_since_when_all_ran_here_and_goes_as_the_submitter(bed: Bed) -> None:
    bed.nodes["a"], bed.nodes["b"] = Node(restore={"step": 1}), Node(restore={"step": 1})
    for attempt, node in ((1, "b"), (2, "a"), (3, "a")):
        bed.run(attempt, node)
    bed.fetch(bed.run(4, "a"))
    assert bed.nodes["a"].asked == [["restore", "/data/ann/run/c", "2"]]
    (config,) = bed.nodes["a"].configs
    assert config.user is not None
    assert (config.user.uid, config.within) == (4242, "bucket/checkpoints/team/u1")
    assert config.keys is not None


def test_an_uploader_is_started_once_and_again_where_that_failed(bed: Bed) -> None:
    node = bed.nodes["a"] = Node(start=AWAY)
    record = bed.run()
    assert bed.uploading.follow(record, "c1") == "b does not answer"
    node.answers["start"] = {"user": [7, 8, [], "7", "/", "/bin/sh", "/bin", 18]}
    assert bed.uploading.follow(record, "c1") == ""
    assert bed.uploading.follow(record, "c1") == ""
    assert node.asked == [["start", "/data/ann/run/c", "12"]] * 2
    assert (record.read(UPLOADER) or {})["user"][0] == 7


def test_an_uploader_with_old_keys_is_replaced_once_for_new_ones(bed: Bed, tmp_path: Path) -> None:
    node = bed.nodes["a"] = Node(start={"user": None})
    record = bed.run()
    bed.uploading.follow(record, "c1")

    def followed(error: str) -> list[list[str]]:
        saved = SealedCheckpoint(1, "2030-01-01T00:00:00Z", 1, 1.0, "/c", upload_error=error)
        record.write(SAVED, dict(document_of(saved) or {}))
        node.asked.clear()
        assert [bed.uploading.follow(record, "c1") for _ in range(2)] == ["", ""]
        return node.asked

    again = [["start", "/data/ann/run/c", "12", "instead"]]
    assert followed("the keys have expired") == []
    renewed = {**BUCKET, "AWS_SECRET_ACCESS_KEY": "new"}
    bed.uploading = NodeUploading(bed.nodes.get, JobSecrets(tmp_path / "secrets"), renewed)  # type: ignore[arg-type]
    assert followed("") == []
    assert followed("the keys have expired") == again
    assert node.configs[-1].keys == Keys("a", "new")
    # One that can't be replaced stays; it is tried at the next look.
    bed.uploading.forget(record)
    node.answers["start"] = AWAY
    assert followed("the keys have expired") == again * 2
    assert record.read(UPLOADER) == {"error": "", "user": None}


def test_an_old_chronos_is_told(bed: Bed) -> None:
    node = bed.nodes["a"] = Node()
    node.feed = lambda command, chunks: (2, "", "usage\nchronos_cli: invalid choice: 'checkpoints'")  # type: ignore[method-assign]
    with pytest.raises(BackendRefused, match="invalid choice") as refused:
        bed.fetch(bed.run())
    assert "cumulus node setup" in str(refused.value.hint)


class TestPreparing:
    def test_what_is_quick_is_waited_for(self) -> None:
        done: list[str] = []
        made = Preparing()
        made.run("a", lambda: done.append("work"), lambda error: done.append("failed"), lambda: done.append("ended"))
        assert done == ["work"]
        assert "a" not in made

        def fails() -> None:
            raise BackendError("no")

        with pytest.raises(BackendError, match="no"):
            made.run("a", fails, lambda error: done.append("failed"), lambda: done.append("ended"))
        assert done == ["work"]
        assert "a" not in made

    def test_what_is_slow_goes_on_and_its_failure_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(preparing, "WAIT_SECONDS", 0.01)
        go, ended, told = threading.Event(), threading.Event(), list[tuple[str, bool]]()
        made = Preparing()

        def slow() -> None:
            go.wait(PATIENCE)
            raise BackendError("late")

        made.run("a", slow, lambda error: told.append((str(error), "a" in made)), ended.set)
        assert "a" in made
        # Once is enough.
        made.run("a", lambda: told.append(("twice", True)), lambda error: None, lambda: None)
        go.set()
        assert ended.wait(PATIENCE)
        assert told == [("late", True)]
        assert "a" not in made
