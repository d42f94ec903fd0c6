"""Checkpoints beyond the node: copied while a run goes on and after its end, and fetched before its program starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import Checkpointing, Workload, WorkloadState
from cumulus.backends.process.uploading import Uploading
from cumulus.blob.s3.bucket import Keys
from cumulus.blob.s3.client import S3Client
from cumulus.checkpoint import layout
from cumulus.lib import locks
from cumulus.resources.reasons import AttemptReason
from cumulus.uploader import catalog, status
from cumulus.uploader.config import Config
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.place import CheckpointName, Unfaithful
from cumulus.uploader.s3_place import S3Place
from tests.backends.process.test_checkpoints import SAVE
from tests.backends.process_bed import ProcessBed
from tests.s3 import KEYS, Server
from tests.unix_users import User
from tests.uploader.saves import save
from tests.waiting import eventually


def work(bed: ProcessBed, script: str, *, uri: str = "", **more: Any) -> Workload:
    asked = Checkpointing(keep=2, uri=uri or f"file://{bed.directory}/shared", **more.pop("asked", {}))
    source = f"{SAVE}TOKEN = {more.get('attempt', 1)}\n{script}"
    return bed.work(sys.executable, "-c", source, checkpoint_path="saved", checkpointing=asked, **more)


def local(bed: ProcessBed, work: Workload) -> Path:
    spec = json.loads((bed.run_directory(work) / "spec.json").read_text())
    return Path(spec["checkpoint"]["path"])


def shared(bed: ProcessBed) -> DirectoryPlace:
    return DirectoryPlace(str(bed.directory / "shared"))


def steps(bed: ProcessBed) -> list[CheckpointName]:
    return [one.name for one in catalog.committed(shared(bed))]


def test_what_a_run_saves_is_copied_also_after_its_end(bed: ProcessBed) -> None:
    script = "save(1)\nready()\nwhile not os.path.exists('go'): time.sleep(0.01)\nsave(2)\n"
    bed.backend.start(run := work(bed, script))
    bed.running(run)
    eventually(lambda: steps(bed) == [CheckpointName(1, 1)])
    (bed.run_directory(run) / "work" / "go").touch()
    assert bed.finish(run).state is WorkloadState.SUCCEEDED
    eventually(lambda: steps(bed) == [CheckpointName(1, 2), CheckpointName(1, 1)])
    eventually(lambda: getattr(status.read(str(local(bed, run))), "step", None) == 2)


def test_it_goes_on_where_the_supervisor_was_killed(bed: ProcessBed) -> None:
    bed.backend.start(run := work(bed, "save(1)\nready()\ntime.sleep(60)\n"))
    bed.running(run)
    eventually(lambda: steps(bed) == [CheckpointName(1, 1)])
    os.kill(bed.supervisor(run), signal.SIGKILL)
    bed.finish(run)
    assert steps(bed) == [CheckpointName(1, 1)]


def test_the_next_attempt_on_another_node_begins_with_it(bed: ProcessBed, tmp_path: Path) -> None:
    bed.backend.start(first := work(bed, "save(5)\n"))
    bed.finish(first)
    eventually(lambda: steps(bed) == [CheckpointName(1, 5)])
    other = ProcessBed(tmp_path / "other")
    try:
        script = "print(sorted(name for name in os.listdir(PATH) if name[0] != '.'), flush=True)\nsave(6)\n"
        run = work(other, script, uri=f"file://{bed.directory}/shared", attempt=2)
        other.backend.start(run)
        assert other.finish(run).state is WorkloadState.SUCCEEDED
        said = b"".join(other.backend.logs(run.job_uid, 2, 0)).decode()
        assert "fetched the checkpoint of step 5 from file://" in said
        assert "['step-000000000005']" in said
        eventually(lambda: steps(bed) == [CheckpointName(2, 6), CheckpointName(1, 5)])
    finally:
        other.close()


def test_a_job_that_goes_on_from_anothers_beyond_this_node(bed: ProcessBed) -> None:
    save(bed.directory / "there", 7, {"x": b"7"}, token=9)
    run = ["-I", "-m", "cumulus.uploader", "run", str(bed.directory / "there")]
    config = Config(f"file://{bed.directory}/elsewhere").encode()
    subprocess.run([sys.executable, *run], input=config, check=True, capture_output=True)
    asked = {"after": "uid-other", "after_path": "saved", "after_uri": f"file://{bed.directory}/elsewhere"}
    bed.backend.start(new := work(bed, "print(os.listdir(PATH)); save(8)\n", asked=asked))
    assert bed.finish(new).state is WorkloadState.SUCCEEDED
    assert layout.verify(str(local(bed, new)), 7).manifest.token == 0
    # What this job saves is newer, though the other's token was greater.
    eventually(lambda: steps(bed)[:1] == [CheckpointName(1, 8)])


def test_a_program_that_saves_a_file_of_that_name(bed: ProcessBed) -> None:
    bed.backend.start(run := work(bed, "time.sleep(1.5)\nopen(PATH, 'w').close()\n"))
    assert bed.finish(run).state is WorkloadState.SUCCEEDED
    assert local(bed, run).is_file()


def test_where_the_place_is_none_the_run_does_not_start(bed: ProcessBed) -> None:
    (bed.directory / "file").touch()
    for uri, said in (
        ("s3://somebodys/prefix", "the daemon's keys are for s3:///checkpoints/default/uid-job-"),
        ("s3://bucket", "no place for checkpoints"),
    ):
        bed.backend.start(run := work(bed, "save(1)\n", uri=uri, job=f"job-{len(uri)}"))
        found = bed.finish(run)
        assert found.reason == AttemptReason.START_ERROR
        assert said in found.message
    asked = {"credentials": "keys"}
    bed.backend.start(run := work(bed, "save(1)\n", uri="s3://somebodys/prefix", job="credentials", asked=asked))
    found = bed.finish(run)
    assert "checkpoint.credentials: secret keys has no keys AWS_ACCESS_KEY_ID" in found.message


def test_a_place_that_does_not_answer_holds_up_an_attempt_on_another_node(bed: ProcessBed, tmp_path: Path) -> None:
    (bed.directory / "file").touch()
    uri = f"file://{bed.directory}/file/below"
    bed.backend.start(first := work(bed, "save(1)\n", uri=uri))
    assert bed.finish(first).state is WorkloadState.SUCCEEDED
    other = ProcessBed(tmp_path / "other")
    try:
        other.backend.start(second := work(other, "save(1)\n", uri=uri, attempt=2))
        found = other.finish(second)
        assert found.reason == AttemptReason.LOST
        assert "not started: its checkpoints can't be fetched" in found.message
    finally:
        other.close()


def test_what_the_last_attempt_saved_on_this_node_needs_no_place(bed: ProcessBed) -> None:
    (bed.directory / "file").touch()
    uri = f"file://{bed.directory}/file/below"
    for attempt, script in enumerate(("save(1)\n", "pass\n", "assert os.listdir(PATH)\nsave(3)\n"), 1):
        bed.backend.start(run := work(bed, script, uri=uri, attempt=attempt))
        assert bed.finish(run).state is WorkloadState.SUCCEEDED
    # One that is damaged may be whole there.
    Path(layout.directory(str(local(bed, run)), 3), "x").write_bytes(b"damaged")
    bed.backend.start(run := work(bed, "pass\n", uri=uri, attempt=4))
    assert bed.finish(run).reason == AttemptReason.LOST


def test_a_place_that_has_anothers_checkpoints_is_refused(bed: ProcessBed) -> None:
    """Tokens are of one job: the later job would be taken for a zombie of the first."""
    bed.backend.start(first := work(bed, "save(5)\n"))
    bed.finish(first)
    eventually(lambda: steps(bed) == [CheckpointName(1, 5)])
    bed.backend.start(second := work(bed, "save(1)\n", job="second"))
    found = bed.finish(second)
    assert found.reason == AttemptReason.START_ERROR
    assert "has checkpoints of another job already, the last of step 5" in found.message


@pytest.mark.xdist_group("s3")
def test_the_daemons_keys_and_a_secrets(bed: ProcessBed, seaweedfs: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first are good for the job's own prefix alone, and the program sees neither."""
    bucket = seaweedfs.bucket()
    variables = {
        "CUMULUS_S3_BUCKET": bucket.name, "CUMULUS_S3_ENDPOINT": bucket.endpoint,
        "AWS_ACCESS_KEY_ID": KEYS.access_key, "AWS_SECRET_ACCESS_KEY": KEYS.secret_key,
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://{bucket.name}/checkpoints/default/uid-job"
    script = "save(3)\nassert not [name for name in os.environ if name.startswith('AWS_')]\n"
    bed.backend.start(run := work(bed, script, uri=uri))
    assert bed.finish(run).state is WorkloadState.SUCCEEDED
    place = S3Place(S3Client(bucket), "checkpoints/default/uid-job")
    eventually(lambda: [one.name for one in catalog.committed(place)] == [CheckpointName(1, 3)])
    other = f"s3://{bucket.name}/checkpoints/other/uid"
    for number, wrong in enumerate((other, uri, f"s3://{bucket.name}/checkpoints/default", f"{uri}-x")):
        bed.backend.start(run := work(bed, script, uri=wrong, job=f"other-{number}"))
        assert "the daemon's keys are for" in bed.finish(run).message
    # Another job's is read where that is the one to go on from.
    for number, (after, said) in enumerate((("uid-job", ""), ("uid-another", "the daemon's keys are for"))):
        name = f"after-{number}"
        own = f"s3://{bucket.name}/checkpoints/default/uid-{name}"
        going_on = {
            "after": after,
            "after_path": "saved",
            "after_uri": f"s3://{bucket.name}/checkpoints/default/uid-job",
        }
        run = work(bed, "assert os.path.isdir(PATH + '/step-000000000003')\n", uri=own, job=name, asked=going_on)
        bed.backend.start(run)
        assert said in bed.finish(run).message
        assert bool(said) == bool(bed.finish(run).reason)
    # A secret of the job's own opens what its keys open.
    for key, value in (("AWS_ACCESS_KEY_ID", KEYS.access_key), ("AWS_SECRET_ACCESS_KEY", "wrong")):
        bed.secrets.set("keys", key, value)
    asked = {"credentials": "keys"}
    bed.backend.start(run := work(bed, script, uri=other, job="wrong", asked=asked))
    assert "the keys are not right (SignatureDoesNotMatch)" in bed.finish(run).message
    bed.secrets.set("keys", "AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    bed.backend.start(run := work(bed, script, uri=other, job="right", asked=asked))
    assert bed.finish(run).state is WorkloadState.SUCCEEDED
    place = S3Place(S3Client(bucket), "checkpoints/other/uid")
    eventually(lambda: [one.name for one in catalog.committed(place)] == [CheckpointName(1, 3)])
    for file in bed.root.rglob("*"):
        assert not file.is_file() or KEYS.secret_key.encode() not in file.read_bytes(), file


def test_an_uploader_that_was_killed_is_replaced_when_the_daemon_looks(bed: ProcessBed) -> None:
    """As after a restart of the machine: the run has ended, and its last checkpoint was never copied."""
    (bed.directory / "shared").touch()
    script = "save(1)\ntime.sleep(1.5)\n"
    bed.backend.start(first := work(bed, script))
    assert bed.finish(first).state is WorkloadState.SUCCEEDED
    note = bed.run_directory(first) / "uploader"
    (pid,) = eventually(lambda: locks.holders(note))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not locks.holders(note))
    (bed.directory / "shared").unlink()
    bed.reopen()
    bed.backend.list()
    eventually(lambda: steps(bed) == [CheckpointName(1, 1)])
    eventually(lambda: note.read_bytes() == b"copied\n")
    eventually(lambda: not locks.holders(note))
    bed.reopen()
    bed.backend.list()
    assert locks.holders(note) == []


def test_an_uploader_that_follows_another_has_the_keys_of_then(bed: ProcessBed) -> None:
    """They were renewed while the run went on. The one before gives up in time for that."""
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        bed.secrets.set("keys", key, "old")
    bed.backend.start(run := work(bed, "save(1)\n", asked={"credentials": "keys"}))
    assert bed.finish(run).state is WorkloadState.SUCCEEDED
    uploading = Uploading(json.loads((bed.run_directory(run) / "spec.json").read_text()), {})
    assert uploading.follower().keys == Keys("old", "old")
    bed.secrets.set("keys", "AWS_SECRET_ACCESS_KEY", "new")
    renewed = uploading.follower()
    assert renewed.keys == Keys("old", "new")
    assert renewed.linger < 3600


@pytest.mark.xdist_group("s3")
def test_keys_that_are_revoked_and_renewed_while_it_runs(bed: ProcessBed, seaweedfs: Server) -> None:
    """The attempt goes on with what is on the node, says what is wrong, and needs nobody once the secret is renewed."""
    bucket = seaweedfs.bucket()
    asked = {"credentials": "keys"}
    for key, value in (
        ("AWS_ACCESS_KEY_ID", KEYS.access_key), ("AWS_SECRET_ACCESS_KEY", KEYS.secret_key),
        ("AWS_ENDPOINT_URL", bucket.endpoint),
    ):  # fmt: skip
        bed.secrets.set("keys", key, value)
    uri = f"s3://{bucket.name}/mine"
    place = S3Place(S3Client(bucket), "mine")
    bed.backend.start(first := work(bed, "save(1)\n", uri=uri, asked=asked))
    assert bed.finish(first).state is WorkloadState.SUCCEEDED
    eventually(lambda: [one.name for one in catalog.committed(place)] == [CheckpointName(1, 1)])
    bed.secrets.set("keys", "AWS_SECRET_ACCESS_KEY", "revoked")
    script = "save(2)\nready()\nwhile not os.path.exists('go'): time.sleep(0.1)\n"
    bed.backend.start(second := work(bed, script, uri=uri, asked=asked, attempt=2))
    bed.running(second)

    def problem() -> str:
        found = bed.backend.get(second.name)
        assert found is not None
        assert found.state is WorkloadState.RUNNING
        return "" if found.checkpoint is None else found.checkpoint.upload_error

    eventually(lambda: "the keys are not right (SignatureDoesNotMatch)" in problem())
    bed.secrets.set("keys", "AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    eventually(lambda: [one.name for one in catalog.committed(place)][:1] == [CheckpointName(2, 2)])
    eventually(lambda: problem() == "")
    (bed.run_directory(second) / "work" / "go").touch()
    assert bed.finish(second).state is WorkloadState.SUCCEEDED


@pytest.mark.users
def test_the_uploader_of_a_submitters_job_is_theirs(shared: ProcessBed, users: tuple[User, User]) -> None:
    """It reads what they may, and what it makes is theirs, where the daemon is root."""
    user = users[0]
    # No library of ours: a user need not be able to read it.
    script = """
import hashlib, json, os
path = os.environ["CUMULUS_CHECKPOINT_PATH"]
os.makedirs(path + "/step-000000000001", 0o700)
open(path + "/step-000000000001/x", "w").write("x")
document = {"format": 1, "step": 1, "savedAt": "2030-01-01T00:00:00Z", "seconds": 0.5, "world": 1, "attempt": 1,
            "token": 1, "files": [{"path": "x", "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}]}
dump = lambda: json.dumps(document, separators=(",", ":"))
document["digest"] = hashlib.sha256(dump().encode()).hexdigest()
open(path + "/step-000000000001/manifest.json", "w").write(dump() + "\\n")
"""
    theirs = user.home / "shared"
    fields = {"checkpoint_path": "saved", "checkpointing": Checkpointing(keep=1, uri=f"file://{theirs}")}
    run = shared.work("/usr/bin/python3", "-c", script, submitter=user.name, submitter_uid=user.uid, **fields)
    shared.backend.start(run)
    assert shared.finish(run).message == ""
    place = DirectoryPlace(str(theirs))
    eventually(lambda: (theirs / "latest").exists())
    assert {path.stat().st_uid for path in (theirs, *theirs.rglob("*"))} == {user.uid}
    # Root is another user: what is not its own, it does not believe.
    with pytest.raises(Unfaithful, match="belongs to another user"):
        place.read("latest")
    assert (shared.run_directory(run) / "uploader").stat().st_uid == 0
    eventually(lambda: (shared.run_directory(run) / "uploader").read_bytes() == b"copied\n")
    # A place that is root's alone is none for them.
    fields["checkpointing"] = Checkpointing(keep=1, uri=f"file://{shared.directory}/roots")
    run = shared.work(
        "/usr/bin/python3", "-c", script, job="other", submitter=user.name, submitter_uid=user.uid, **fields
    )
    shared.backend.start(run)
    shared.finish(run)
    spec = json.loads((shared.run_directory(run) / "spec.json").read_text())
    told = Path(spec["checkpoint"]["path"], status.DIRECTORY, "status.json")
    eventually(lambda: told.exists() and "Permission denied" in told.read_text())
    assert not (shared.directory / "roots").exists()
