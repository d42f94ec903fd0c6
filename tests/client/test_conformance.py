"""What every transport of `Client` must do, whatever store is behind it. Objects reach it as controllers write them."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cumulus import manifest
from cumulus.answers.logs import AttemptEnded, LogBytes
from cumulus.answers.nodes import Cordoned, Drained, DrainPlanned, Removed, WorkerAddress, WorkerFound, WorkerSaid
from cumulus.answers.objects import Extended
from cumulus.answers.secrets import SecretKey
from cumulus.answers.server import ApiAddress
from cumulus.answers.swarm import ImagePushed, SwarmInvitation, SwarmMade, SwarmStatus
from cumulus.client.base import Applied, Client, ConditionMet, StillWaiting
from cumulus.clock import FakeClock, to_the_second
from cumulus.daemon_lock import DaemonLock
from cumulus.errors import (
    AlreadyExists,
    AlreadySet,
    ConditionUnreachable,
    Conflict,
    Expired,
    InvalidObject,
    JobFinished,
    NodeRefused,
    NoLog,
    NotExtended,
    NotFound,
    StoreUnavailable,
    UsageError,
    WaitTimedOut,
)
from cumulus.lib import unix_socket
from cumulus.lib.returned import Returned
from cumulus.resources.key import Document, Key
from cumulus.resources.query import Query
from cumulus.secrets import SecretUnavailable
from cumulus.service.addresses import api_address
from cumulus.store.base import Store
from tests.documents import NOW, active, ago, ahead, event, failed, job, lease, node, partition, running
from tests.service.conftest import FakeInfrastructure, host_key
from tests.waiting import PATIENCE

TRAIN = Key("GPUJob", "default", "train")
KINDS = frozenset({"GPUJob"})


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def finish(document: Document) -> Document:
    """As the controllers do once a job has ended well."""
    status = {**document["status"], "phase": "Succeeded", "conditions": [{"type": "Succeeded", "status": "True"}]}
    return {**document, "status": status}


class TestReading:
    def test_one_object(self, client: Client, store: Store) -> None:
        made = store.create(job("train"))
        assert client.get(TRAIN) == made

    def test_one_that_is_not_there(self, client: Client) -> None:
        with pytest.raises(NotFound, match=r"^gpujob.cumulus.dev 'train' not found in namespace default$"):
            client.get(TRAIN)
        with pytest.raises(NotFound, match=r"^gpunode.cumulus.dev 'n' not found$"):
            client.get(Key("GPUNode", "", "n"))

    def test_a_list_with_selectors(self, client: Client, store: Store) -> None:
        store.create(job("a", labels={"team": "x"}))
        store.create(running("b", labels={"team": "x"}))
        store.create(running("c"))
        found = client.list(Query("GPUJob", "default", labels="team=x", fields="status.phase=Running"))
        assert [item["metadata"]["name"] for item in found.items] == ["b"]
        with pytest.raises(UsageError):
            client.list(Query("GPUJob", fields="status.phse=Running"))

    def test_pages_are_of_one_revision(self, client: Client, store: Store) -> None:
        for name in "abc":
            store.create(job(name))
        first = client.list(Query("GPUJob", limit=2))
        store.create(job("d"))
        second = client.list(Query("GPUJob", limit=2, continue_token=first.continue_token))
        names = [item["metadata"]["name"] for page in (first, second) for item in page.items]
        assert names == ["a", "b", "c"]
        assert (first.revision, second.continue_token) == (second.revision, "")

    def test_a_watch_misses_nothing(self, client: Client, store: Store) -> None:
        since = client.revision()
        made = store.create(job("train"))
        store.create(node("n"))
        watch = client.watch(since=since, kinds=KINDS)
        store.delete(TRAIN)
        seen = []
        while len(seen) < 2:
            seen += watch.next(timeout=PATIENCE)
        watch.close()
        assert [(event.type, event.key) for event in seen] == [("ADDED", TRAIN), ("DELETED", TRAIN)]
        assert seen[0].document == made
        assert watch.closed

    def test_a_watch_from_what_is_forgotten(self, client: Client, store: Store) -> None:
        for name in "abc":
            store.create(job(name))
        store.compact(client.revision())
        with pytest.raises(Expired):
            client.watch(since=0, kinds=KINDS).next(timeout=PATIENCE)


class TestWriting:
    def test_what_is_created_is_complete(self, client: Client) -> None:
        made = client.create(job("train", status={"phase": "Running"}))
        assert made["spec"]["retry"]
        assert made["status"]["phase"] == "Pending", "users do not write status"
        assert client.get(TRAIN) == made
        with pytest.raises(AlreadyExists):
            client.create(job("train"))

    def test_what_is_not_valid_is_not_stored(self, client: Client) -> None:
        with pytest.raises(InvalidObject, match=r"spec\.gpu\.memory") as raised:
            client.create(job("train", gpu={"memory": "nonsense"}))
        assert raised.value.field == "spec.gpu.memory"
        with pytest.raises(InvalidObject, match="there is no kind 'Pod'"):
            client.create({**job("train"), "kind": "Pod"})
        with pytest.raises(InvalidObject, match="metadata"):
            client.update({"kind": "GPUJob"})
        assert client.revision() == 0

    def test_an_update_loses_once_the_object_has_moved_on(self, client: Client) -> None:
        made = client.create(job("train"))
        changed = client.update({**made, "spec": {**made["spec"], "priority": 5}})
        assert changed["spec"]["priority"] == 5
        with pytest.raises(Conflict):
            client.update({**made, "spec": {**made["spec"], "priority": 6}})

    def test_an_immutable_field_stays(self, client: Client) -> None:
        made = client.create(job("train"))
        with pytest.raises(InvalidObject, match=r"spec\.command: is immutable"):
            client.update({**made, "spec": {**made["spec"], "command": ["false"]}})
        with pytest.raises(InvalidObject, match=r"spec\.command: is immutable"):
            client.patch(TRAIN, {"spec": {"command": ["false"]}})
        assert client.get(TRAIN) == made

    def test_a_merge_patch(self, client: Client) -> None:
        client.create(job("train", labels={"a": "1", "b": "2"}))
        patched = client.patch(TRAIN, {"metadata": {"labels": {"a": None, "c": "3"}}, "spec": {"priority": 7}})
        assert patched["metadata"]["labels"] == {"b": "2", "c": "3"}
        assert patched["spec"]["priority"] == 7
        assert client.patch(TRAIN, {"spec": {"priority": 7}}) == patched

    def test_a_patch_with_a_precondition(self, client: Client) -> None:
        made = client.create(job("train"))
        version = made["metadata"]["resourceVersion"]
        client.patch(TRAIN, {"spec": {"priority": 1}}, resource_version=version)
        with pytest.raises(Conflict):
            client.patch(TRAIN, {"spec": {"priority": 2}}, resource_version=version)

    def test_a_type_of_patch_that_there_is_not(self, client: Client) -> None:
        with pytest.raises(UsageError):
            client.patch(TRAIN, {}, type="strategic")  # type: ignore[arg-type]

    @pytest.mark.parametrize(("name", "wrong"), [("name", "other"), ("namespace", "other"), ("namespace", None)])
    def test_a_patch_moves_no_object(self, client: Client, name: str, wrong: object) -> None:
        client.create(job("train"))
        with pytest.raises(InvalidObject, match=r"metadata.name and metadata.namespace cannot change"):
            client.patch(TRAIN, {"metadata": {name: wrong}})

    @pytest.mark.parametrize("given", [None, [], "train", 5])
    def test_what_is_no_object(self, client: Client, given: Any) -> None:
        client.create(job("train"))
        for write in (client.create, client.update, partial(client.patch, TRAIN)):
            with pytest.raises(InvalidObject, match=r"^(an object|a merge patch) is a JSON object, not "):
                write(given)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("\ud800", "holds text that is not Unicode"),
            (b"bytes", "cannot be written as JSON"),
            (nested(300), "is nested (too deeply|more than)"),
            (nested(100_000), "is nested too deeply"),
        ],
        ids=["surrogate", "bytes", "deep", "deeper"],
    )
    def test_what_json_cannot_say(self, client: Client, value: object, message: str) -> None:
        client.create(job("train"))
        since = client.revision()
        with pytest.raises((InvalidObject, UsageError), match=message):
            client.patch(TRAIN, {"metadata": {"annotations": {"a": value}}})
        with pytest.raises((InvalidObject, UsageError), match=message):
            client.patch(TRAIN, {"spec": {"command": [value]}})
        assert client.revision() == since

    def test_no_namespace_is_the_default_one(self, client: Client) -> None:
        made = client.create(job("train"))
        metadata = {"name": "train", "labels": {"team": "x"}}
        assert client.update({**made, "metadata": metadata})["metadata"]["labels"] == {"team": "x"}

    def test_a_dry_run_writes_nothing(self, client: Client) -> None:
        assert client.create(job("train"), dry_run=True)["metadata"]["uid"]
        assert client.revision() == 0
        made = client.create(job("train"))
        assert client.patch(TRAIN, {"spec": {"priority": 3}}, dry_run=True)["spec"]["priority"] == 3
        assert client.update({**made, "spec": {**made["spec"], "priority": 4}}, dry_run=True)["spec"]["priority"] == 4
        assert client.delete(TRAIN, dry_run=True)["metadata"]["name"] == "train"
        with pytest.raises(AlreadyExists):
            client.create(job("train"), dry_run=True)
        assert client.get(TRAIN) == made

    def test_labels_and_annotations(self, client: Client, store: Store) -> None:
        store.create(job("train", labels={"a": "1"}))
        assert client.set_labels(TRAIN, {"b": "2"})
        assert not client.set_labels(TRAIN, {"b": "2", "c": None})
        with pytest.raises(AlreadySet, match="has a=1 already"):
            client.set_labels(TRAIN, {"a": "2"})
        assert client.set_labels(TRAIN, {"a": "2", "b": None}, overwrite=True)
        assert client.set_annotations(TRAIN, {"note": "x"})
        metadata = client.get(TRAIN)["metadata"]
        assert (metadata["labels"], metadata["annotations"]) == ({"a": "2"}, {"note": "x"})
        with pytest.raises(NotFound):
            client.set_labels(Key("GPUJob", "default", "nope"), {"a": "1"})

    def test_changes_by_many_at_once_are_all_made(self, client: Client, store: Store) -> None:
        store.create(job("train"))
        threads = [threading.Thread(target=client.set_labels, args=(TRAIN, {f"l{n}": ""})) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(client.get(TRAIN)["metadata"]["labels"]) == {"l0", "l1", "l2", "l3"}


class TestApplying:
    @staticmethod
    def load(spec: str = "", name: str = "train") -> list[manifest.Manifest]:
        return manifest.load_text(
            f"{{apiVersion: cumulus.dev/v1alpha1, kind: GPUJob, metadata: {{name: {name}, labels: {{app: x}}}}, "
            f"spec: {{command: [a], gpu: {{memory: 1Gi, duration: 1h}}{spec}}}}}"
        )

    def test_all_or_nothing(self, client: Client) -> None:
        dry = client.apply(self.load(), dry_run=True)
        assert [str(each) for each in dry] == ["gpujob.cumulus.dev/train created"]
        assert client.revision() == 0
        (made,) = client.apply(self.load())
        assert made == Applied("created", TRAIN, None, client.get(TRAIN))
        assert client.apply(self.load())[0].action == "unchanged"
        assert client.apply(self.load(", priority: 2"))[0].action == "configured"
        with pytest.raises(manifest.InvalidManifest, match="is immutable"):
            client.apply(self.load(", image: x"))

    def test_what_cannot_change_can_be_made_anew(self, client: Client) -> None:
        (made,) = client.apply(self.load())
        assert made.after is not None
        dry = client.apply(self.load(", image: x"), recreate=True, dry_run=True)
        assert [each.action for each in dry] == ["recreated"]
        assert client.get(TRAIN) == made.after
        (anew,) = client.apply(self.load(", image: x"), recreate=True)
        assert anew.after == client.get(TRAIN)
        assert anew.after["status"]["earlierRuns"][0]["uid"] == made.after["metadata"]["uid"]
        assert client.apply(self.load(", image: x"), recreate=True)[0].action == "unchanged"

    def test_a_conflict_has_its_place_and_can_be_forced(self, client: Client) -> None:
        client.apply(self.load(", priority: 2"), field_manager="ci")
        with pytest.raises(manifest.InvalidManifest) as raised:
            client.apply(self.load(", priority: 3"))
        (problem,) = raised.value.problems
        assert str(problem).startswith('manifest:1:158: spec.priority: has another value, which "ci" set at ')
        assert client.get(TRAIN)["spec"]["priority"] == 2
        client.apply(self.load(", priority: 3"), force_conflicts=True)
        assert client.get(TRAIN)["spec"]["priority"] == 3

    def test_pruning(self, client: Client) -> None:
        client.apply(self.load())
        assert [each.action for each in client.apply(self.load(name="other"), prune="app=x")] == ["created", "pruned"]
        with pytest.raises(NotFound):
            client.get(TRAIN)


class TestDeleting:
    def test_at_once_or_marked(self, client: Client, store: Store) -> None:
        store.create(job("train"))
        client.delete(TRAIN)
        with pytest.raises(NotFound):
            client.get(TRAIN)
        store.create({**job("train"), "metadata": {**job("train")["metadata"], "finalizers": ["a.b/c"]}})
        marked = client.delete(TRAIN, grace_seconds=7)["metadata"]
        assert marked["deletionTimestamp"]
        assert marked["deletionGracePeriodSeconds"] == 7
        with pytest.raises(NotFound):
            client.delete(Key("GPUJob", "default", "nope"))

    def test_preconditions(self, client: Client, store: Store) -> None:
        made = store.create(job("train"))
        version = made["metadata"]["resourceVersion"]
        store.update({**made, "metadata": {**made["metadata"], "labels": {"a": "b"}}})
        with pytest.raises(NotFound):
            client.delete(TRAIN, uid="another")
        with pytest.raises(Conflict):
            client.delete(TRAIN, resource_version=version)
        client.delete(
            TRAIN, uid=made["metadata"]["uid"], resource_version=client.get(TRAIN)["metadata"]["resourceVersion"]
        )

    def test_what_there_is_not(self, client: Client, store: Store) -> None:
        store.create(job("train"))
        with pytest.raises(UsageError, match=r"^there is no propagation 'foreground'$"):
            client.delete(TRAIN, propagation="foreground")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"^a grace period cannot be negative, got -1$"):
            client.delete(TRAIN, grace_seconds=-1)
        assert client.get(TRAIN)

    def test_orphans_stay(self, client: Client, store: Store) -> None:
        owner = store.create(job("train"))
        store.create(active("mine", owner=owner))
        client.delete(TRAIN, propagation="orphan")
        assert not client.get(Key("GPUPartition", "default", "mine"))["metadata"].get("ownerReferences")


class TestJobs:
    def test_suspend_and_resume(self, client: Client, store: Store) -> None:
        store.create(running("train"))
        assert client.suspend(TRAIN, suspended=True)
        assert not client.suspend(TRAIN, suspended=True)
        assert client.get(TRAIN)["spec"]["suspend"] is True
        assert client.suspend(TRAIN, suspended=False)

    def test_what_is_over_is_not_suspended(self, client: Client, store: Store) -> None:
        store.create(failed("train"))
        with pytest.raises(JobFinished, match="is over"):
            client.suspend(TRAIN, suspended=True)

    def test_a_rerun_is_another_job_of_the_same_name(
        self, client: Client, store: Store, outside: FakeInfrastructure
    ) -> None:
        made = store.create({**running("train", labels={"a": "1"})})
        bound = store.update({**made, "metadata": {**made["metadata"], "finalizers": ["cumulus.dev/job"]}})
        again = client.rerun(TRAIN, changes={"args": ["--fast"]})
        assert again == client.get(TRAIN)
        assert again["metadata"]["uid"] != bound["metadata"]["uid"]
        assert (again["metadata"]["labels"], again["spec"]["args"]) == ({"a": "1"}, ["--fast"])
        assert (again["status"]["run"], again["status"]["phase"]) == (2, "Pending")
        (run,) = again["status"]["earlierRuns"]
        assert (run["number"], run["uid"], run["phase"]) == (1, made["metadata"]["uid"], "Running")
        outside.logs.chunks[1, 0] = [b"old"]
        pieces = list(client.logs(TRAIN, run=1))
        assert b"".join(p.data for p in pieces if isinstance(p, LogBytes)) == b"old"
        with pytest.raises(NoLog, match=r"^there is no log of run 7 of gpujob/train$"):
            list(client.logs(TRAIN, run=7))

    def test_a_longer_lease(self, client: Client, store: Store) -> None:
        store.create(node("gpu-1"))
        store.create(running("train"))
        with pytest.raises(NotExtended, match="has not begun, or is over"):
            client.extend(TRAIN, 60.0)
        held = active("train-a1-r0-d0", owner=store.get(TRAIN))
        held["status"]["startedAt"] = ago(minutes=5)
        store.create(held)
        assert client.extend(TRAIN, 3600.0, dry_run=True) == Extended(ahead(minutes=115))
        store.create(partition("next", memory="100%"))
        with pytest.raises(NotExtended, match=r"^gpujob/train cannot have 1h more: job default/next is told "):
            client.extend(TRAIN, 3600.0)
        store.delete(Key("GPUPartition", "default", "next"))
        assert client.extend(TRAIN, 3600.0).until == ahead(minutes=115)
        assert client.get(Key("GPUPartition", "default", "train-a1-r0-d0"))["spec"]["until"] == ahead(minutes=115)
        with pytest.raises(UsageError, match="by more than no time"):
            client.extend(TRAIN, 0.0)

    def test_the_timeline_and_what_is_summed_of_it(self, client: Client, store: Store) -> None:
        holder = store.create(running("train"))
        store.create(active("train-a1-r0-d0", owner=holder, user="alice"))
        store.create(node("gpu-1"))
        now = round(NOW.timestamp() * 1000)
        found = client.timeline(now - 3_600_000, now + 3_600_000, pixels=100)
        (lane,) = found["lanes"]
        (span,) = lane["spans"]
        assert (found["now"], lane["node"], span["kind"], span["job"]) == (now, "gpu-1", "Lease", "default/train")
        assert (span["start"], span["end"]) == (now - 300_000, now + 3_300_000)
        assert client.report(now - 1000, by="queue")["rows"] == []
        assert client.lease_rows(now - 1000) == {"whole": True, "rows": [], "next": None}
        assert client.job_use(TRAIN)["leases"] == []
        assert client.held_over_time(now - 1000, now, points=2, by="node")["series"] == []
        with pytest.raises(UsageError):
            client.timeline(5, 4, pixels=1)

    def test_what_is_used_now(self, client: Client, store: Store) -> None:
        there = node("gpu-1")
        there["status"]["devices"][0]["figures"] = {"usedMemoryBytes": 10 * 2**30, "busy": 420, "powerWatts": 300.5}
        store.create(there)
        held = active("train-a1-r0-d0", owner=store.create(running("train")))
        held["metadata"]["annotations"] = {"cumulus.dev/submitter": "ann"}
        store.create(held)
        store.create(partition("waits"))
        found = client.usage()
        (device,) = found.devices
        assert (device.node, device.leased_bytes, device.leased_compute) == ("gpu-1", 40 * 2**30, 500)
        assert (device.used_bytes, device.idle_bytes, device.busy, device.power_watts) == (
            10 * 2**30, 30 * 2**30, 420, 300.5
        )  # fmt: skip
        (share,) = found.shares
        assert (share.name, share.user, share.until) == ("train", "ann", ahead(minutes=55))
        assert (share.devices, share.memory_bytes, share.over) == (1, 40 * 2**30, False)

    def test_what_cannot_be_rerun(self, client: Client, store: Store) -> None:
        made = store.create(job("train"))
        with pytest.raises(InvalidObject, match=r"spec\.gpu\.memory"):
            client.rerun(TRAIN, changes={"gpu": {"memory": "nonsense"}})
        with pytest.raises(UsageError, match=r"^gpujob/train has no spec\.checkpoint to go on from$"):
            client.rerun(TRAIN, from_checkpoint=True)
        with pytest.raises(Conflict, match="is another job by now"):
            client.rerun(TRAIN, uid="other")
        with pytest.raises(UsageError, match="only jobs"):
            client.rerun(Key("GPUPartition", "default", "train"))
        with pytest.raises(NotFound):
            client.rerun(Key("GPUJob", "default", "nope"))
        assert client.get(TRAIN) == made

    def test_why(self, client: Client, store: Store) -> None:
        store.create(node("gpu-1"))
        store.create(job("train", gpu={"memory": "10Gi"}))
        assert client.why(TRAIN).lines[0] == "gpujob/train: fits now, on device 0 of gpu-1."
        assert not client.why(TRAIN).over
        store.create(failed("old"))
        assert client.why(Key("GPUJob", "default", "old")).over
        with pytest.raises(UsageError):
            client.why(Key("GPUNode", "", "gpu-1"))

    def test_files(self, client: Client, home: Path, store: Store) -> None:
        uid = store.create(job("train"))["metadata"]["uid"]
        (files,) = client.job_files([uid])
        assert (files.working_directories, files.filled) == ((), False)
        work = Path(files.directory) / "a1-r0" / "work"
        work.mkdir(parents=True)
        assert client.job_files([uid])[0].working_directories == (str(work),)
        (work / "result").touch()
        assert client.job_files([uid])[0].filled

    def test_a_description(self, client: Client, store: Store) -> None:
        made = store.create(job("train"))
        mine = store.create(partition("mine", owner=made))
        store.create(partition("other"))
        late = store.create(event("late", made, "Second", "", seconds=1))
        early = store.create(event("early", made, "First", "", hours=1))
        found = client.describe(TRAIN)
        assert (found.document, found.related, found.events) == (made, (mine,), (early, late))
        assert found.waiting
        assert not found.incomplete
        assert found.files is not None

    def test_a_description_of_what_is_damaged(self, client: Client, store: Store) -> None:
        store.create(job("train", gpu={"memory": "nonsense"}))
        found = client.describe(TRAIN)
        assert found.incomplete
        assert "spec.gpu.memory" in str(found.damaged[0])


class TestNodes:
    def test_cordon(self, client: Client, store: Store) -> None:
        store.create(node("gpu-1"))
        assert client.cordon("gpu-1", unschedulable=True)
        assert not client.cordon("gpu-1", unschedulable=True)
        assert client.get(Key("GPUNode", "", "gpu-1"))["spec"]["unschedulable"] is True
        with pytest.raises(NotFound):
            client.cordon("nope", unschedulable=True)

    def test_losses(self, client: Client, store: Store) -> None:
        store.create(node("gpu-1"))
        assert client.delete_losses(Key("GPUNode", "", "gpu-1")) == []
        store.create(node("gpu-2", unschedulable=True, ssh={"host": "h", "user": "u"}))
        store.create(active("p", node="gpu-2"))
        assert client.delete_losses(Key("GPUNode", "", "gpu-2")) == [
            "was added by hand", "is cordoned",
            "holds 1 lease, which go on there while their jobs start again elsewhere",
        ]  # fmt: skip

    def test_a_description(self, client: Client, store: Store) -> None:
        store.create(node("gpu-1"))
        held = store.create(active("p", node="gpu-1"))
        store.create(partition("over", status={"phase": "Expired", "node": "gpu-1"}))
        assert client.describe(Key("GPUNode", "", "gpu-1")).related == (held,)


class TestWaiting:
    def test_what_is_true_already(self, client: Client, store: Store) -> None:
        store.create(running("train"))
        assert list(client.wait([TRAIN], "condition=Running", seconds=0)) == [ConditionMet(TRAIN, False)]

    def test_it_comes_true_meanwhile(self, client: Client, store: Store) -> None:
        made = store.create(running("train"))
        steps = client.wait([TRAIN], "condition=Succeeded", seconds=60)
        assert next(steps) == StillWaiting("gpujob/train", "Running (Started)")
        store.update_status(finish(made))
        assert next(step for step in steps if isinstance(step, ConditionMet)) == ConditionMet(TRAIN, False)
        assert list(steps) == []

    def test_time_is_up(self, client: Client, store: Store) -> None:
        store.create(running("train"))
        with pytest.raises(WaitTimedOut, match=r"^timed out: waiting for gpujob/train: Running \(Started\)$"):
            list(client.wait([TRAIN], "condition=Succeeded", seconds=0))

    def test_it_can_not_come_true_any_more(self, client: Client, store: Store) -> None:
        store.create(failed("train"))
        with pytest.raises(ConditionUnreachable, match="can't meet condition=Succeeded any more: Failed"):
            list(client.wait([TRAIN], "condition=Succeeded", seconds=60))

    def test_nobody_made_it(self, client: Client) -> None:
        with pytest.raises(NotFound):
            list(client.wait([TRAIN], "condition=Succeeded", seconds=60))
        assert list(client.wait([TRAIN], "delete", seconds=0)) == [ConditionMet(TRAIN, True)]

    def test_a_bad_condition_is_said_before_the_wait(self, client: Client) -> None:
        with pytest.raises(UsageError, match="has no condition 'Succedded'"):
            client.wait([TRAIN], "condition=Succedded", seconds=60)

    def test_all_that_a_query_finds(self, client: Client, store: Store) -> None:
        store.create(running("a", labels={"team": "x"}))
        store.create(failed("b"))
        steps = list(client.wait([Query("GPUJob", "default", labels="team=x")], "condition=Running", seconds=0))
        assert steps == [ConditionMet(Key("GPUJob", "default", "a"), False)]
        with pytest.raises(WaitTimedOut, match="there is none yet"):
            list(client.wait([Query("GPUNode")], "condition=Ready", seconds=0))

    def test_deletion_is_of_the_object_and_not_of_its_name(self, client: Client, store: Store) -> None:
        first = store.create(job("train"))["metadata"]["uid"]
        store.delete(TRAIN)
        store.create(job("train"))
        assert list(client.wait([TRAIN], "delete", seconds=0, uids={TRAIN: first})) == [ConditionMet(TRAIN, True)]


class TestLogs:
    def test_pieces(self, client: Client, store: Store, outside: FakeInfrastructure) -> None:
        store.create(failed("train"))
        outside.logs.chunks = {(1, 0): [b"one\n", b"two\n"]}
        assert list(client.logs(TRAIN)) == [LogBytes(1, b"one\n"), LogBytes(1, b"two\n")]
        list(client.logs(TRAIN, since=12.5, timestamps=True))
        assert outside.logs.times_asked[-1] == (12.5, True)
        followed = Returned(client.logs(TRAIN, follow=True))
        *_, last = followed
        assert last == AttemptEnded(1, "Error, exit code 3", wrote=True)
        assert followed.value == store.get(TRAIN), "how it ended need not be asked for"

    def test_what_is_wrong_is_said_before_there_is_a_piece(self, client: Client, store: Store) -> None:
        with pytest.raises(NotFound):
            client.logs(TRAIN)
        store.create(failed("train"))
        with pytest.raises(UsageError):
            client.logs(TRAIN, replica=7)
        with pytest.raises(NoLog):
            list(client.logs(TRAIN, attempt=9))


class TestWorkers:
    def test_from_found_to_removed(self, client: Client, store: Store, outside: FakeInfrastructure) -> None:
        outside.workers.keys["h"] = host_key("h")
        address = WorkerAddress("root@h")
        found = client.find_worker("gpu-1", address, fingerprint="SHA256:abc")
        assert found == WorkerFound(host_key("h"), trusted=False)
        assert client.add_worker("gpu-1", address, found.key) == "added"
        assert client.ask_worker("gpu-1").hostname == "h"
        assert list(client.setup_worker("gpu-1", dry_run=True)) == [WorkerSaid("Chronos is ready.\n")]
        store.create(active("p"))
        with pytest.raises(NodeRefused, match="still holds 1 lease"):
            list(client.drain_node("gpu-1", seconds=0))
        assert list(client.drain_node("gpu-1", now=True)) == [Cordoned(), Drained()]
        assert list(client.remove_node("gpu-1")) == [Removed()]
        with pytest.raises(NotFound):
            client.ask_worker("gpu-1")

    def test_a_drain_is_planned_and_taken_back(self, client: Client, store: Store) -> None:
        store.create(node("gpu-1"))
        store.create(active("p"))
        assert client.plan_drain("gpu-1", at="2099-01-31T09:00:00Z", duration="2h") == DrainPlanned()
        assert client.end_drain("gpu-1") == "2099-01-31T09:00:00.000000Z"
        assert [client.cancel_drain("gpu-1"), client.cancel_drain("gpu-1")] == [True, False]
        with pytest.raises(NotFound):
            client.end_drain("gpu-1")
        found = client.plan_drain("gpu-1", at=ahead(minutes=30))
        assert found == DrainPlanned(1, to_the_second(ahead(minutes=55)))
        with pytest.raises(UsageError, match="is over"):
            client.plan_drain("gpu-1", at="2001-01-31T09:00:00Z")


class TestTokens:
    def test_made_listed_and_revoked(self, client: Client) -> None:
        made = client.create_token("laptop", seconds=3600)
        assert [*client.tokens()] == [*client.tokens(everybody=True)] == [made.info]
        with pytest.raises(AlreadyExists, match="has a token laptop already"):
            client.create_token("laptop")
        with pytest.raises(InvalidObject, match="lasts from"):
            client.create_token(seconds=1)
        bot = client.create_token("ci", user="ci-bot", groups=("labs",))
        assert (bot.info.user, bot.info.groups) == ("ci-bot", ("labs",))
        assert client.revoke_token("ci", user="ci-bot") == bot.info
        assert client.revoke_token("laptop") == made.info
        with pytest.raises(NotFound, match="has no token laptop"):
            client.revoke_token("laptop")

    def test_a_certificate_is_revoked_by_its_serial_number(self, client: Client) -> None:
        assert list(client.revoked_certificates()) == []
        made = client.revoke_certificate("serial=00:4a:1f")
        assert made.serial == "4A1F"
        assert client.revoke_certificate("4A1F") == made, "again changes nothing"
        assert list(client.revoked_certificates()) == [made]
        for wrong in ("", "ann.crt", "../../x", "4" * 65):
            with pytest.raises(InvalidObject, match="is no serial number"):
                client.revoke_certificate(wrong)

    def test_where_the_api_is(self, client: Client, home: Path) -> None:
        with pytest.raises(NotFound, match="no daemon answers over TLS"):
            client.api_address()
        address = ApiAddress("https://127.0.0.1:4711", "")
        lock = DaemonLock(home)
        try:
            with pytest.raises(NotFound, match="does not answer over TLS"):
                client.api_address()
            api_address.write(home, address)
            assert client.api_address() == address
        finally:
            lock.close()


class TestSecrets:
    def test_what_is_no_text(self, client: Client) -> None:
        with pytest.raises(SecretUnavailable, match=r"is not UTF-8 text"):
            client.create_secret("team", "registry", {"token": "\udc80"})

    def test_values_do_not_come_back(self, client: Client, home: Path) -> None:
        client.create_secret("team", "registry", {"token": "s3cret"})
        with pytest.raises(AlreadyExists, match="secret registry in the namespace team is there"):
            client.create_secret("team", "registry", {"user": "me"})
        client.create_secret("team", "registry", {"user": "me"}, overwrite=True)
        found = [SecretKey("team", "registry", "token"), SecretKey("team", "registry", "user")]
        assert [*client.secrets("team")] == [*client.secrets(None)] == found
        assert (home / "job-secrets" / "team" / "registry" / "token").read_text() == "s3cret"
        client.delete_secret("team", "registry", "token")
        client.delete_secret("team", "registry")
        assert [*client.secrets("team")] == []
        with pytest.raises(NotFound, match="there is no secret registry in the namespace team"):
            client.delete_secret("team", "registry")
        for namespace, name in (("team", "../x"), ("..", "x"), ("../team", "x")):
            with pytest.raises((SecretUnavailable, InvalidObject)):
                client.create_secret(namespace, name, {"k": "v"})

    def test_each_namespace_has_its_own_and_so_does_the_daemon(self, client: Client, home: Path) -> None:
        for namespace in ("ann", "bob", ""):
            client.create_secret(namespace, "key", {"k": f"of {namespace}"})
        client.delete_secret("bob", "key")
        assert [*client.secrets(None)] == [SecretKey("ann", "key", "k")]
        assert [*client.secrets("")] == [SecretKey("", "key", "k")]
        assert (home / "system-secrets" / "key" / "k").read_text() == "of "


class TestSwarm:
    def test_made_looked_at_and_taken_over(self, client: Client, store: Store, outside: FakeInfrastructure) -> None:
        swarm = outside.swarm
        assert client.init_swarm(advertise="10.0.0.5") == SwarmMade(True, "10.0.0.5")
        assert client.swarm_invitation() == SwarmInvitation("10.0.0.5:2377", "token")
        assert client.swarm_status() == SwarmStatus((), ("nobody's",))
        uid = store.create(job("train"))["metadata"]["uid"]
        swarm.services = {"mine": uid, "theirs": "other"}
        found = client.swarm_ownership()
        assert (found.ours, found.own_services, found.other_services) == (False, 1, ("theirs",))
        client.adopt_swarm(found.mark)
        assert client.swarm_ownership().ours

    def test_images_go_to_the_nodes_that_are_named(
        self, client: Client, store: Store, outside: FakeInfrastructure
    ) -> None:
        store.create(node("gpu-1", ssh={"host": "h", "user": "u"}))
        assert list(client.push_image("x:1", ["gpu-1"], every=1)) == [ImagePushed("gpu-1", "x:1", sent=True)]
        assert [address.host for address in outside.swarm.addresses.values()] == ["h"]


class TestServer:
    def test_nobody_ever_led(self, client: Client, home: Path) -> None:
        state = client.server_state()
        assert (state.home, state.pid, state.silent_seconds) == (str(home), None, None)

    def test_the_last_leader_fell_silent(self, client: Client, store: Store, clock: FakeClock) -> None:
        store.create(lease(ahead(seconds=0)))
        clock.advance(90)
        assert client.server_state().silent_seconds == 90
        assert clock.now() > NOW

    def test_who_leads_is_told_once_its_api_answers(
        self, client: Client, store: Store, home: Path, clock: FakeClock
    ) -> None:
        store.create(lease(ahead(seconds=0)))
        assert client.server_state().term is None, "no daemon runs"
        lock = DaemonLock(home)
        try:
            assert client.server_state().term is None, "one that has just begun answers soon"
            with unix_socket.listen(str(home / "api.sock")):
                assert client.server_state().term == 1
            clock.advance(11)
            assert client.server_state().term == 1, "one that could not open its API leads without"
            clock.advance(90)
            assert client.server_state().term is None, "one that does not renew its lead has none"
        finally:
            lock.close()

    def test_what_is_damaged(self, client: Client, store: Store) -> None:
        made = store.create(job("whole"))
        assert client.find_damaged() is None
        store.create(job("torn", gpu={"memory": "nonsense"}))
        assert "gpujob/default/torn" in str(client.find_damaged())
        assert "gpujob/default/torn" in str(client.find_damaged(made)), "the first found, where this one is whole"

    def test_a_backup(self, client: Client, store: Store, home: Path, tmp_path: Path) -> None:
        store.create(job("train"))
        if not (home / "store").exists():
            with pytest.raises(StoreUnavailable, match="there is no store in"):
                client.backup(tmp_path / "b")
            return
        client.backup(tmp_path / "b")
        assert (tmp_path / "b").stat().st_size
        with pytest.raises(UsageError, match="is there already"):
            client.backup(tmp_path / "b")
