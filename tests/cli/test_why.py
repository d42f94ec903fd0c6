from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.cli import targets
from cumulus.clock import FakeClock
from cumulus.resources.kinds import gpujob
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.base import Document
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import NOW, active, ago, condition, failed, job, node, partition, running

RAISED = {"outcome": "Raised", "type": "builtins.ValueError", "text": "no row"}


def why(store: SqliteStore, *words: str) -> str:
    key = targets.key(targets.parse_one(words, default=gpujob.KIND), "default")
    service = Service(lambda: store, Path("/nowhere"), FakeClock(NOW))
    return "\n".join(service.explanations.why(Identity("tester", 0), key).lines)


@pytest.fixture
def full(store: SqliteStore) -> SqliteStore:
    """One node, half of it held until 55 minutes from now."""
    holder = store.create(running("holder"))
    store.create(active("holder-a1-r0-d0", owner=holder, user="alice"))
    store.create(node("gpu-1"))
    return store


def test_it_waits_for_a_lease_and_says_until_when(full: SqliteStore) -> None:
    full.create(job("train", gpu={"memory": "60Gi"}))
    said = why(full, "train")
    assert said.startswith("gpujob/train: starts by 2030-01-01T12:55")
    assert "at the latest" in said
    assert "job default/holder of alice: 40Gi and 50% of device 0 of gpu-1" in said
    assert "gpu-1: InsufficientMemory" in said


def test_others_are_ahead(full: SqliteStore) -> None:
    for name in ("first", "second"):
        made = full.create(job(name, gpu={"memory": "60Gi"}))
        full.create(partition(f"{name}-a1-r0-d0", owner=made, memory="60Gi", status={"phase": "Pending"}))
    assert "place 2 of 2 in the queue, behind job default/first" in why(full, "second")


def test_it_will_never_fit(full: SqliteStore) -> None:
    full.create(job("train", gpu={"memory": "200Gi"}))
    assert "no node could ever hold it" in why(full, "train")


@pytest.mark.usefixtures("still")
def test_it_fits_and_only_a_daemon_is_missing(full: SqliteStore, home: Path, run: Run) -> None:
    full.create(job("train", gpu={"memory": "10Gi"}))
    assert run("why", "train").out == (
        "gpujob/train: fits now, on device 0 of gpu-1.\nplace 1 of 1 in the queue\n"
        f"No daemon runs on {home}: nothing happens until `cumulus serve` is started.\n"
    )


def test_no_node_is_known(store: SqliteStore) -> None:
    store.create(job("train"))
    assert why(store, "train").startswith("gpujob/train waits for a node: none is known.")


def test_a_node_that_answers_but_grants_no_lease_says_why(full: SqliteStore) -> None:
    text = "the disk of the ledger is full; free some space"
    status = {
        "phase": "Bound",
        "node": "gpu-1",
        "conditions": [condition("Bound", True, "Bound"), condition("Active", False, "LedgerFull", text)],
    }
    placed = {"phase": "Scheduled", "attemptCount": 1, "conditions": [condition("Scheduled", True, "Bound")]}
    owner = full.create(job("train", status=placed, replicas=2))
    for replica in range(2):
        full.create(partition(f"train-a1-r{replica}-d0", owner=owner, status=status))
    assert why(full, "train") == (
        "gpujob/train has its place; its leases are being granted.\n" + f"gpu-1 grants no lease now: {text}."
    )
    assert why(full, "partition", "train-a1-r0-d0") == (
        "gpupartition/train-a1-r0-d0 is bound to gpu-1; its lease is being granted.\n"
        f"gpu-1 grants no lease now: {text}."
    )


def test_a_partition_waits_too(full: SqliteStore) -> None:
    full.create(partition("mine", memory="60Gi", status={"phase": "Pending"}))
    assert "job default/holder" in why(full, "partition", "mine")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (running("train"), "gpujob/train has been running on gpu-1 for 5m."),
        (
            job("train", status={**running("train")["status"], "phase": "Checkpointing"}),
            "gpujob/train has been running on gpu-1 for 5m, and is saving a checkpoint now.",
        ),
        (job("train", status={"phase": "Running"}), "gpujob/train is running."),
        (
            failed("train"),
            "gpujob/train is over: Failed (Error: attempt 1 ended with exit code 3), 4m ago.\n"
            "Attempt 1 ended with Error, exit code 3: ended with exit code 3.",
        ),
        (
            job("train", status={**failed("train")["status"], "call": RAISED}),
            "gpujob/train is over: Failed (Error: attempt 1 ended with exit code 3), 4m ago.\n"
            "Attempt 1 ended with Error, exit code 3: ended with exit code 3.\n"
            "Outcome of the call: Raised, builtins.ValueError: no row",
        ),
        (job("train", suspend=True), "gpujob/train is suspended: spec.suspend is true."),
        (
            job("train", status={"phase": "Scheduled", "conditions": [condition("Scheduled", True, "Bound")]}),
            "gpujob/train has its place; its leases are being granted.",
        ),
        (
            job(
                "train",
                status={
                    "phase": "Pending",
                    "conditions": [condition("Scheduled", False, "BackingOff", "attempt 2 waits after Error")],
                    "failures": 1,
                    "attempts": [{"number": 1, "endTime": ago(seconds=3), "exitCode": 3, "reason": "Error"}],
                },
            ),
            "gpujob/train is between attempts: attempt 2 waits after Error. The next begins in 7s.\n"
            "Attempt 1 ended with Error, exit code 3.",
        ),
        (
            job("train", status={"conditions": [condition("Scheduled", False, "NameTaken", "a/b is there")]}),
            "gpujob/train waits: a/b is there.",
        ),
        (active("train"), "gpupartition/train is active on gpu-1; its lease ends in 55m."),
        (
            partition("train", status={"phase": "Expired", "endedAt": ago(minutes=2)}),
            "gpupartition/train is over: Expired",
        ),
    ],
)
def test_every_state_has_an_answer(store: SqliteStore, document: Document, said: str) -> None:
    store.create(document)
    assert why(store, document["kind"], "train").startswith(said)


def test_the_command(full: SqliteStore, run: Run, home: Path) -> None:
    full.create(job("train", gpu={"memory": "60Gi"}))
    done = run("why", "train")
    assert done.code == 0
    assert "holder" in done.out
    assert f"No daemon runs on {home}" in done.out
    assert run("why", "nope").code == 1
    assert run("why", "node/gpu-1").code == 2


def test_a_running_gang_says_how_its_devices_are_linked(store: SqliteStore) -> None:
    gang = store.create(running("gang"))
    for device in range(2):
        made = active(f"gang-a1-r{device}-d0", owner=gang)
        store.create({**made, "status": {**made["status"], "device": device}})
    machine = node("gpu-1")
    (first,) = machine["status"]["devices"]
    devices = [{**first, "index": n, "links": [{"over": "NVLink", "devices": [1 - n]}]} for n in range(2)]
    store.create({**machine, "status": {**machine["status"], "devices": devices}})
    assert "Its devices are linked by NVLink." in why(store, "gang")


def parked(store: SqliteStore, name: str, reason: str = "Requested", **phase: object) -> Document:
    """A job whose program waits in main memory of gpu-1, with the partition that it has there."""
    made = running(name)
    conditions = [condition("Parked", True, reason, "its GPU did nothing for 20m; 40Gi in main memory")]
    status = {**made["status"], "phase": "Parked", "conditions": conditions}
    document = store.create({**made, "status": status})
    share = active(f"{name}-a1-r0-d0", owner=document)
    kept = {"since": ago(minutes=10), "memoryBytes": 40 * 2**30}
    store.create({**share, "status": {**share["status"], "phase": "Parked", "parked": kept, **phase}})
    return document


def test_a_parked_job_says_why_and_what_brings_it_back(store: SqliteStore) -> None:
    store.create(node("gpu-1"))
    parked(store, "notebook", "Idle")
    assert why(store, "notebook") == (
        "gpujob/notebook is parked: its GPU did nothing for 20m; 40Gi in main memory.\n"
        "`cumulus unpark notebook` brings it back."
    )
    parked(store, "back", phase="Unparking")
    assert why(store, "back").endswith("It has its share again on gpu-1; its node is bringing it back.")
    assert "is parked on gpu-1" in why(store, "partition/notebook-a1-r0-d0")


def test_what_could_not_be_parked_says_why(store: SqliteStore) -> None:
    made = running("train")
    refused = condition("Parked", False, "ParkRefused", "MPSClient: it uses MPS")
    store.create({**made, "status": {**made["status"], "conditions": [*made["status"].get("conditions", ()), refused]}})
    assert "It could not be parked, and goes on: MPSClient: it uses MPS." in why(store, "train")


def test_who_waits_learns_what_is_parked_and_what_would_have_to_be(store: SqliteStore) -> None:
    holder = store.create(running("holder"))
    gang = {"name": "holder-a1", "size": 1, "since": ago(minutes=1)}
    store.create(active("holder-a1-r0-d0", owner=holder, gang=gang))
    store.create(node("gpu-1"))
    parked(store, "notebook")
    store.create(job("train", gpu={"memory": "60Gi"}))
    said = why(store, "train")
    assert "a parked program of the devices it waits for is in main memory (40Gi)" in said
    assert "would start now if these could be parked: default/holder (cumulus park JOB)" in said


def test_an_array_does_not_wait_and_its_jobs_are_named_elsewhere(run: Run) -> None:
    done = run("why", "array/sweep")
    assert done.code == 2
    assert "only jobs and partitions wait, not a GPUJobArray" in done.err
    assert "`cumulus describe` lists those of an array or a cron job" in done.err
