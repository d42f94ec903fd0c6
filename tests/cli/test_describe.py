from __future__ import annotations

import pytest

from cumulus.clock import to_the_second
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import NOW, active, ago, ahead, condition, event, failed, job, node, partition, running

pytestmark = pytest.mark.usefixtures("still")


@pytest.mark.usefixtures("served")
def test_a_running_job(store: SqliteStore, run: Run) -> None:
    train = store.create(
        running(
            "train",
            labels={"team": "vision"},
            command=["python", "train.py"],
            args=["--rate", "0.1", "import os\nprint(os)\n"],
            env=[{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            mounts=[{"source": "/data", "target": "data", "readOnly": True}],
            retry={"limit": 2, "backoff": "10s"},
        )
    )
    store.create(active("train-a1-r0-d0", owner=train))
    store.create(active("other", node="gpu-1"))
    store.create(event("e1", train, "Started", "attempt 1 runs on gpu-1", minutes=5))
    done = run("describe", "job", "train")
    uid = train["metadata"]["uid"]
    assert done == (
        0,
        f"""\
Name:          train
Namespace:     default
Labels:        team=vision
UID:           {uid}
Created:       2030-01-01T11:50:00Z (10m ago)
Phase:         Running
Started:       2030-01-01T11:55:00Z (5m ago)
Spec:
  Command:       python train.py --rate 0.1 '<script of 2 lines>'
  gpu.duration:  1h
  gpu.memory:    50%
  retry.backoff: 10s
  retry.limit:   2
  Env:           A=1
                 B from secret s, key k
  Mounts:        /data at data (read only)
Attempts:
  NUMBER   NODE    STARTED   LASTED   EXIT   REASON   MESSAGE
  1        gpu-1   5m ago    5m       -      -
Partitions:
  NAME             PHASE    NODE    DEVICE   MEMORY   ENFORCEMENT   ENDS IN   AGE
  train-a1-r0-d0   Active   gpu-1   0        40Gi     guarded       55m       10m
Conditions:
  TYPE              STATUS   REASON    SINCE   MESSAGE
  Scheduled         True     Bound     6m
  PartitionsReady   True     Active    5m
  Running           True     Started   5m
Events:
  LAST SEEN   COUNT   TYPE     REASON    MESSAGE
  5m          2       Normal   Started   attempt 1 runs on gpu-1
""".replace("'<script of 2 lines>'", "<script of 2 lines>"),
        "",
    )


def test_a_failed_job(store: SqliteStore, run: Run) -> None:
    store.create(failed("train"))
    out = run("describe", "job/train").out
    assert "Completed:     2030-01-01T11:56:00Z (4m ago)\n" in out
    assert "1        gpu-1   5m ago    1m       3      Error    ended with exit code 3" in out
    assert "Events: none\n" in out
    assert "Waiting" not in out


def test_a_waiting_job_says_for_whom_and_why_not_each_node(store: SqliteStore, run: Run) -> None:
    holder = store.create(running("holder"))
    store.create(active("holder-a1-r0-d0", owner=holder))
    store.create(node("gpu-1"))
    store.create(node("gpu-2", ready=False))
    store.create(job("train", gpu={"memory": "60Gi"}))
    out = run("describe", "job", "train").out
    waiting = out.partition("Waiting:\n")[2]
    assert "job default/holder" in waiting
    assert "gpu-1: InsufficientMemory" in waiting
    assert "gpu-2: NodeNotReady" in waiting


def test_a_job_between_attempts_fits_nowhere_yet(store: SqliteStore, run: Run) -> None:
    store.create(node("gpu-1"))
    backing = condition("Scheduled", False, "BackingOff", "attempt 2 waits after Lost")
    attempt = {"number": 1, "endTime": ago(seconds=1), "reason": "Lost"}
    store.create(job("train", status={"phase": "Pending", "conditions": [backing], "attempts": [attempt]}))
    waiting = run("describe", "job", "train").out.partition("Waiting:\n")[2].partition("Events")[0]
    assert waiting == "  it is between attempts: attempt 2 waits after Lost.\n"


def test_a_partition(store: SqliteStore, run: Run) -> None:
    store.create(active("mine", user="alice"))
    out = run("describe", "part", "mine").out
    assert "Device:        0, H100\n" in out
    assert "Memory:        40Gi\n" in out
    assert f"Ends:          {to_the_second(ahead(minutes=55))} (in 55m)\n" in out
    assert "  User:          alice\n" in out


def test_a_node_with_its_leases(store: SqliteStore, run: Run) -> None:
    machine = node("gpu-1", unschedulable=True)
    machine["status"]["devices"][0]["foreignLeases"] = [
        {"partitionId": "f-1", "memoryBytes": 2**30, "compute": 100, "expiresAt": ahead(hours=1), "user": "bob"}
    ]
    store.create(machine)
    store.create(active("mine"))
    store.create(partition("gone", status={"phase": "Expired", "node": "gpu-1"}))
    out = run("describe", "node", "gpu-1").out
    assert "Schedulable:   no, it is cordoned\n" in out
    assert "0        H100   NVIDIA   gpu    80Gi     40Gi   50%            guarded       580" in out
    assert "0        f-1     bob    1Gi      10%       1h" in out
    assert "  mine   Active" in out
    assert "gone" not in out


def test_what_stands_at_the_left_is_one_column(store: SqliteStore, run: Run) -> None:
    there = node("gpu-1")
    there["status"]["checkpointPlaces"] = ["file", "s3"]
    store.create(there)
    lines = run("describe", "node", "gpu-1").out.partition("Devices:")[0].splitlines()
    assert "Checkpoints to: file,s3" in lines
    assert {len(line) - len(line.partition(":")[2].lstrip()) for line in lines} == {16}


def test_several_and_missing(store: SqliteStore, run: Run) -> None:
    store.create(job("a"))
    store.create(job("b"))
    done = run("describe", "job", "a", "nope", "b")
    assert done.code == 1
    assert done.out.count("Name:") == 2
    assert "----" in done.out
    assert "'nope' not found" in done.err
    assert run("describe", "nodes") == (0, "", "No resources found.\n")
    assert run("describe").code == 2


def test_an_object_held_by_a_finalizer(store: SqliteStore, run: Run) -> None:
    held = job("a")
    held["metadata"]["finalizers"] = ["cumulus.dev/job"]
    store.create(held)
    run("delete", "job", "a")
    assert "held by cumulus.dev/job" in run("describe", "job", "a").out


def test_events_of_an_earlier_object_of_that_name_are_not_shown(store: SqliteStore, run: Run) -> None:
    train = store.create(job("train"))
    store.create(event("e1", train, "Mine", "shown"))
    train["metadata"]["uid"] = "another"
    store.create(event("e2", train, "Old", "not shown"))
    out = run("describe", "job", "train").out
    assert "Mine" in out
    assert "not shown" not in out
    assert NOW.year == 2030


def test_what_only_a_container_has(store: SqliteStore, run: Run) -> None:
    ports = [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 81}]
    store.create(running("web", image="x", runAsUser=0, shmSize="1Gi", hostNetwork=False, ports=ports))
    lines = [" ".join(line.split()) for line in run("describe", "job", "web").out.splitlines()]
    assert {"Run as user: 0", "Shm size: 1Gi", "Ports: 8080 to 80, 81 to 81"} <= set(lines)
    assert not any(line.startswith("Host network") for line in lines)


def test_the_largest_objects_are_described_in_bounded_text(store: SqliteStore, run: Run) -> None:
    store.create(job("word", command=["echo", "x" * 700_000]))
    store.create(job("wide", command=["echo", "日本 " * 70_000]))
    store.create(job("many", env=[{"name": f"A{n}", "value": "y" * 20} for n in range(10_000)]))
    word, wide, many = (run("describe", "job", name).out for name in ("word", "wide", "many"))
    assert "… (700,005 characters; all of it is in -o yaml)\n" in word
    assert "all of it is in -o yaml" in wide
    assert "… and 9,800 more; all are in -o yaml\n" in many
    assert all(len(text) < 20_000 for text in (word, wide, many))
    columns = run("get", "jobs", "-o", "custom-columns=NAME:.metadata.name,COMMAND:.spec.command").out
    assert len(columns) > 900_000


def test_a_call(store: SqliteStore, run: Run) -> None:
    document = running("fit", call={"payload": "a" * 64, "python": "3.12"})
    del document["spec"]["command"]
    document["status"]["call"] = {"outcome": "Raised", "type": "builtins.ValueError", "text": "no\nrow"}
    store.create(document)
    out = run("describe", "job", "fit").out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "Command: python3.12 runner.pyz" in lines
    assert "Outcome: Raised, builtins.ValueError: no" in lines
    assert "a" * 64 in out
