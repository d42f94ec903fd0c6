"""Work that survives the end of a lease, on the real daemon with real processes and the library that people use."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cumulus.blob.s3.client import S3Client
from cumulus.uploader import catalog
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.s3_place import S3Place
from tests.e2e.conftest import Machine, manifest, serving
from tests.s3 import KEYS, Server
from tests.waiting import eventually

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("e2e-checkpoints")]

ROOT = Path(__file__).parents[2]

TRAIN = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from cumulus import checkpoint
log = sys.argv[1]
step = (checkpoint.load_checkpoint() or {{"step": 0}})["step"]
while not os.path.exists(log + ".end"):
    with open(log, "a") as file:
        file.write(f"{{step}}\\n")
    time.sleep(0.05)
    step += 1
    if checkpoint.should_checkpoint():
        checkpoint.save_checkpoint({{"step": step}}, step=step)
        checkpoint.exit_if_ending()
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One daemon for all of these tests."""
    with serving(Machine(tmp_path_factory.mktemp("checkpoints") / "m")) as made:
        yield made


@pytest.fixture
def machine(served: Machine) -> Iterator[Machine]:
    """Without a job, before and after."""
    yield served
    served.ok("delete", "jobs", "--all")


def training(name: str, log: Path, *, duration: str = "1h", **checkpoint: str) -> dict[str, Any]:
    """It goes on until `end` says so, however fast the machine is."""
    made = manifest(name, "", duration=duration, checkpoint=checkpoint)
    made["spec"]["command"] = [sys.executable, "-c", TRAIN, str(log)]
    return made


def end(log: Path) -> None:
    log.with_name(f"{log.name}.end").touch()


def steps(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_training_goes_on_in_the_next_lease_where_it_stopped(machine: Machine, tmp_path: Path) -> None:
    log = tmp_path / "steps"
    # A busy machine's Python takes seconds to start, and to save.
    machine.apply(training("t", log, duration="8s", gracePeriod="60s"))
    eventually(lambda: len(machine.get("job", "t").get("status", {}).get("attempts", ())) > 1, what="its second lease")
    end(log)
    machine.ok("wait", "gpujob/t", "--for=condition=Succeeded", "--timeout=150s")
    assert steps(log) == list(range(len(steps(log))))
    job = machine.get("job", "t")
    status = job["status"]
    assert len(status["attempts"]) > 1
    assert {a["reason"] for a in status["attempts"][:-1]} <= {"Saved", "LeaseExpired"}
    assert status["checkpoint"]["step"] > 0
    assert "next" not in status
    assert "CheckpointSaved" in {
        e["reason"] for e in machine.items("events") if e["involvedObject"]["uid"] == job["metadata"]["uid"]
    }
    eventually(lambda: not machine.leases(), what="all leases given back")


def test_a_suspended_job_is_let_go_as_soon_as_it_has_saved(machine: Machine, tmp_path: Path) -> None:
    log = tmp_path / "steps"
    machine.apply(training("s", log, gracePeriod="5m"))
    eventually(lambda: len(steps(log)) > 3, what="running")
    assert "would lose" in machine.ok("why", "s")
    machine.ok("suspend", "job", "s")
    machine.ok("wait", "gpujob/s", "--for=condition=Suspended", "--timeout=150s")
    eventually(lambda: not machine.leases(), what="lease released while suspended")
    saved = machine.get("job", "s")["status"]["checkpoint"]
    assert saved["step"] == steps(log)[-1] + 1
    assert f"step {saved['step']}" in machine.ok("describe", "job", "s")
    assert f"step {saved['step']}" in machine.ok("get", "jobs", "-o", "wide")
    listed = machine.ok("checkpoints", "s").splitlines()
    assert [line.split()[0] for line in listed][:2] == ["STEP", str(saved["step"])]
    assert machine.ok("checkpoints", "verify", "job/s").count("\n") == len(listed)
    place = machine.ok("checkpoints", "fetch", "s", "--to", str(tmp_path / "mine")).strip()
    assert (Path(place) / "manifest.json").is_file()
    offline = machine.ok("--offline", "checkpoints", "fetch", "s", "--to", str(tmp_path / "too")).strip()
    assert Path(offline).name == Path(place).name
    assert "Nothing" in machine.run("checkpoints", "prune", "s", "--keep", "9").stderr
    machine.ok("resume", "job", "s")
    eventually(lambda: steps(log)[-1] > saved["step"], what="goes on")
    assert steps(log) == list(range(len(steps(log))))


def test_a_drained_node_is_free_as_soon_as_its_jobs_have_saved(machine: Machine, tmp_path: Path) -> None:
    log = tmp_path / "steps"
    machine.apply(training("d", log, gracePeriod="5m"))
    eventually(lambda: len(steps(log)) > 3, what="running")
    node = machine.items("nodes")[0]["metadata"]["name"]
    machine.ok("node", "drain", node, "--now", "--timeout", "150s")
    saved = machine.get("job", "d")["status"]["checkpoint"]
    assert saved["step"] == steps(log)[-1] + 1
    machine.ok("uncordon", node)
    eventually(lambda: steps(log)[-1] > saved["step"], what="goes on")
    assert steps(log) == list(range(len(steps(log))))


def test_what_is_saved_leaves_the_node_and_comes_back(machine: Machine, tmp_path: Path) -> None:
    """Between two leases the node loses its disk."""
    log, shared = tmp_path / "steps", tmp_path / "shared"
    machine.apply(training("t", log, every="500ms", gracePeriod="5m", uri=f"file://{shared}"))
    place = DirectoryPlace(str(shared))
    eventually(lambda: catalog.committed(place))
    machine.ok("suspend", "t")
    machine.ok("wait", "gpujob/t", "--for=condition=Suspended", "--timeout=150s")
    newest = machine.get("job", "t")["status"]["checkpoint"]
    eventually(lambda: catalog.committed(place)[0].name.step == newest["step"])
    lost = Path(newest["path"]).parent
    # The uploader may still write down there what it has sent.
    eventually(lambda: (shutil.rmtree(lost, ignore_errors=True), not lost.exists())[1], what="lost")
    machine.ok("resume", "t")
    eventually(lambda: steps(log)[-1] > newest["step"], what="goes on")
    end(log)
    machine.ok("wait", "gpujob/t", "--for=condition=Succeeded", "--timeout=150s")
    assert steps(log) == list(range(len(steps(log))))
    assert f"fetched the checkpoint of step {newest['step']} from file://" in machine.ok("logs", "t")
    eventually(lambda: f"Beyond it: file://{shared} (step " in machine.run("checkpoints", "t").stderr)


def test_a_bucket_that_is_deleted_under_a_job_and_made_again(machine: Machine, tmp_path: Path, moto: Server) -> None:
    """The job trains on and saves on its node. What is wrong is said wherever people look, and passes by itself."""
    bucket, log = moto.bucket(), tmp_path / "steps"
    keys = {"AWS_ACCESS_KEY_ID": KEYS.access_key, "AWS_SECRET_ACCESS_KEY": KEYS.secret_key}
    words = []
    for name, value in {**keys, "AWS_ENDPOINT_URL": bucket.endpoint}.items():
        (tmp_path / name).write_text(value)
        words += ["--from-file", f"{name}={tmp_path / name}"]
    machine.ok("secret", "create", "s3-keys", *words)
    where = f"s3://{bucket.name}/run7"
    machine.apply(training("b", log, every="500ms", gracePeriod="1m", uri=where, credentials="s3-keys"))
    place = S3Place(S3Client(bucket), "run7")

    def newest() -> int:
        return catalog.committed(place)[0].name.step

    def seen() -> dict[str, Any]:
        found: dict[str, Any] = machine.get("job", "b")["status"].get("checkpoint") or {}
        return found

    eventually(lambda: catalog.committed(place), what="the first is copied")
    client = S3Client(bucket)

    def deleted() -> bool:
        client.delete([each.key for each in client.list("")])
        try:
            moto.client().delete_bucket(Bucket=bucket.name)
        except ClientError:  # Something came meanwhile.
            return False
        return True

    eventually(deleted, what="the bucket is gone")
    eventually(lambda: "there is no such bucket" in seen().get("uploadError", ""), what="it is seen")
    trained = steps(log)[-1]
    eventually(lambda: "there is no such bucket (make it, or name another)" in machine.ok("describe", "job", "b"))
    eventually(lambda: f"What it saves does not get to {where}: " in machine.ok("why", "b"))
    uid = machine.get("job", "b")["metadata"]["uid"]
    eventually(
        lambda: (
            ("CheckpointNotCopied", uid)
            in {(each["reason"], each["involvedObject"]["uid"]) for each in machine.items("events")}
        )
    )
    eventually(lambda: steps(log)[-1] > trained, what="it trains on")
    assert machine.get("job", "b")["status"]["phase"] == "Running"
    saved = seen()["step"]
    moto.client().create_bucket(Bucket=bucket.name)
    eventually(lambda: catalog.committed(place) and newest() >= saved, what="copied again")
    eventually(lambda: not seen().get("uploadError"), what="and that is seen")
    assert len(machine.get("job", "b")["status"]["attempts"]) == 1
