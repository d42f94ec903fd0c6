"""Manifests against the store in memory: what each apply prints, writes, refuses and prunes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.apply.apply import PruneRefused, PruneScope, apply
from cumulus.apply.plan import ApplyResult
from cumulus.cli import diff as cli_diff
from cumulus.client.base import Applied
from cumulus.clock import FakeClock
from cumulus.errors import Conflict, Fenced, InvalidObject, UsageError
from cumulus.manifest import InvalidManifest, Manifest, dump, load_text
from cumulus.resources.annotations import LAST_APPLIED
from cumulus.resources.key import Document, Key
from cumulus.store.base import Fence, Query, Store, Write
from cumulus.store.memory import MemoryStore
from cumulus.store.sqlite import SqliteStore

KEY = Key("GPUJob", "default", "train")


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store: Store
    if request.param == "memory":
        store = MemoryStore(FakeClock())
    else:
        store = SqliteStore(tmp_path, FakeClock())
    yield store
    store.close()


def diff(results: Iterable[ApplyResult]) -> str:
    return cli_diff.diff(Applied(result.action, result.key, result.before, result.after) for result in results)


def job(spec: str = "", *, name: str = "train", labels: str = "app: x", gpu: str = "memory: 0.5, duration: 1h") -> str:
    text = "apiVersion: cumulus.dev/v1alpha1\nkind: GPUJob\n"
    text += f"metadata: {{name: {name}, labels: {{{labels}}}}}\nspec:\n  command: [python]\n  gpu: {{{gpu}}}\n"
    return text + "".join(f"  {line}\n" for line in spec.splitlines())


def applied(store: Store, *texts: str, **options: Any) -> list[str]:
    return [str(result) for result in apply(store, load_text("---\n".join(texts)), **options)]


def refused(store: Store, *texts: str, **options: Any) -> list[str]:
    revision = store.revision()
    with pytest.raises(InvalidManifest) as caught:
        applied(store, *texts, **options)
    assert store.revision() == revision
    return str(caught.value).splitlines()


def edit(store: Store, change: Callable[[Document], None], key: Key = KEY) -> None:
    document = store.get(key)
    change(document)
    store.update(document)


def names(store: Store, kind: str = "GPUJob") -> list[str]:
    return [item["metadata"]["name"] for item in store.list(Query(kind)).items]


# What is done


def test_created_then_unchanged_then_configured(store: Store) -> None:
    assert applied(store, job()) == ["gpujob.cumulus.dev/train created"]
    revision = store.revision()
    assert applied(store, job()) == ["gpujob.cumulus.dev/train unchanged"]
    assert store.revision() == revision
    assert applied(store, job("priority: 5")) == ["gpujob.cumulus.dev/train configured"]
    stored = store.get(KEY)
    assert stored["spec"]["priority"] == 5
    assert stored["metadata"]["generation"] == 2
    assert stored["spec"]["replicas"] == 1


def test_the_result_holds_what_is_stored(store: Store) -> None:
    (created,) = apply(store, load_text(job()))
    assert (created.before, created.after) == (None, store.get(KEY))
    (configured,) = apply(store, load_text(job("priority: 5")))
    assert (configured.before, configured.after) == (created.after, store.get(KEY))
    (unchanged,) = apply(store, load_text(job("priority: 5")))
    assert unchanged.after == store.get(KEY)


def test_all_are_written_in_one_transaction(store: Store) -> None:
    lines = applied(store, job(name="a"), job(name="b"), job(name="c"))
    assert lines == [f"gpujob.cumulus.dev/{name} created" for name in "abc"]
    # Gapless revisions: three writes, one each.
    assert store.revision() == 3


def test_a_dry_run_writes_nothing(store: Store) -> None:
    assert applied(store, job(), dry_run=True) == ["gpujob.cumulus.dev/train created"]
    assert store.revision() == 0


def test_another_word_for_the_same_value_changes_nothing(store: Store) -> None:
    applied(store, job(gpu="memory: 0.5, compute: 50%, duration: 1h, selector: {minMemory: 1Gi}"))
    before = store.get(KEY)
    again = job(gpu="memory: 50%, compute: 0.5, duration: 60m, selector: {minMemory: 1024Mi}")
    assert applied(store, again) == ["gpujob.cumulus.dev/train unchanged"]
    assert diff(apply(store, load_text(again), dry_run=True)) == ""
    assert store.get(KEY) == before
    # A change beside it is one, and only that.
    assert applied(store, again + "  priority: 3\n") == ["gpujob.cumulus.dev/train configured"]
    assert store.get(KEY)["spec"] == before["spec"] | {"priority": 3}


def test_the_order_of_named_items_changes_nothing(store: Store) -> None:
    env = ["{name: A, value: '1'}", "{name: B, value: '2'}"]
    mounts = ["{source: /a, target: a}", "{source: /b, target: b}"]
    applied(store, job(f"env: [{', '.join(env)}]\nmounts: [{', '.join(mounts)}]"))
    before = store.get(KEY)
    turned = job(f"env: [{', '.join(env[::-1])}]\nmounts: [{', '.join(mounts[::-1])}]")
    assert applied(store, turned) == ["gpujob.cumulus.dev/train unchanged"]
    assert diff(apply(store, load_text(turned), dry_run=True)) == ""
    assert applied(store, turned + "  priority: 3\n") == ["gpujob.cumulus.dev/train configured"]
    assert store.get(KEY)["spec"] == before["spec"] | {"priority": 3}
    [other] = refused(
        store, job("env: [{name: B, value: '1'}, {name: A, value: '2'}]\nmounts: [" + ", ".join(mounts) + "]")
    )
    assert "spec.env: is immutable" in other
    # The order of what has no names means something.
    applied(store, job("args: [a, b]", name="other"))
    [order] = refused(store, job("args: [b, a]", name="other"))
    assert "spec.args: is immutable" in order


def test_a_default_written_out_changes_no_spec(store: Store) -> None:
    applied(store, job())
    assert applied(store, job("replicas: 1\nsuspend: false\nenv: []")) == ["gpujob.cumulus.dev/train configured"]
    assert store.get(KEY)["metadata"]["generation"] == 1


def test_what_others_set_survives_and_what_was_removed_goes(store: Store) -> None:
    applied(store, job("priority: 3\nretry: {limit: 2}", labels="app: x, team: a"))

    def others(document: Document) -> None:
        document["spec"]["suspend"] = True
        document["metadata"]["labels"]["seen"] = "yes"
        document["metadata"]["annotations"] = {"note": "hello"}
        document["metadata"]["finalizers"] = ["cumulus.dev/job"]
        document["metadata"]["ownerReferences"] = [
            {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "name": "o", "uid": "1"}
        ]

    edit(store, others)
    stored = store.get(KEY)
    store.update_status(stored | {"status": stored["status"] | {"phase": "Running"}})
    assert applied(store, job("ttlAfterFinished: 1h")) == ["gpujob.cumulus.dev/train configured"]
    stored = store.get(KEY)
    assert stored["spec"] | {"suspend": True, "priority": 0, "ttlAfterFinished": "1h"} == stored["spec"]
    assert stored["spec"]["retry"]["limit"] == 0
    assert stored["metadata"]["labels"] == {"app": "x", "seen": "yes"}
    assert stored["metadata"]["annotations"]["note"] == "hello"
    assert stored["metadata"]["finalizers"] == ["cumulus.dev/job"]
    assert stored["metadata"]["ownerReferences"][0]["name"] == "o"
    assert stored["status"]["phase"] == "Running"
    assert applied(store, job("ttlAfterFinished: 1h")) == ["gpujob.cumulus.dev/train unchanged"]


def test_an_object_that_was_never_applied_loses_nothing(store: Store) -> None:
    document = load_text(job("priority: 3", labels="made: byhand"))[0].resource.to_json()
    store.create(document)
    assert applied(store, job()) == ["gpujob.cumulus.dev/train configured"]
    stored = store.get(KEY)
    assert stored["spec"]["priority"] == 3
    assert stored["metadata"]["labels"] == {"made": "byhand", "app": "x"}


@pytest.mark.parametrize("note", ["{", "[]", "null", '{"metadata": 3, "spec": []}', '{"spec": {"env": 1, "retry": 2}}'])
def test_a_damaged_note_counts_as_none(store: Store, note: str) -> None:
    document = load_text(job("priority: 3"))[0].resource.to_json()
    store.create({**document, "metadata": {**document["metadata"], "annotations": {LAST_APPLIED: note}}})
    assert applied(store, job()) == ["gpujob.cumulus.dev/train configured"]
    assert store.get(KEY)["spec"]["priority"] == 3
    assert applied(store, job()) == ["gpujob.cumulus.dev/train unchanged"]


def test_what_get_prints_applies_as_unchanged(store: Store) -> None:
    applied(store, job("priority: 3"))
    edit(store, lambda document: document["metadata"].update(finalizers=["cumulus.dev/job"]))
    edit(store, lambda document: document["spec"].update(suspend=True))
    revision = store.revision()
    printed = dump({"apiVersion": "v1", "kind": "List", "items": [store.get(KEY)]})
    assert applied(store, printed) == ["gpujob.cumulus.dev/train unchanged"]
    assert store.revision() == revision
    # Nothing became the user's by that: the first manifest takes nothing away.
    assert applied(store, job("priority: 3")) == ["gpujob.cumulus.dev/train unchanged"]
    assert store.get(KEY)["spec"]["suspend"] is True


def test_what_get_printed_can_be_edited_and_applied(store: Store) -> None:
    applied(store, job("priority: 3"))
    edit(store, lambda document: document["metadata"].update(finalizers=["cumulus.dev/job"]))
    printed = dump(store.get(KEY)).replace("priority: 3", "priority: 4").replace("app: x", "app: z")
    assert applied(store, printed) == ["gpujob.cumulus.dev/train configured"]
    stored = store.get(KEY)
    assert (stored["spec"]["priority"], stored["metadata"]["labels"]) == (4, {"app": "z"})
    assert applied(store, job("priority: 3")) == ["gpujob.cumulus.dev/train configured"]
    assert store.get(KEY)["metadata"]["finalizers"] == ["cumulus.dev/job"]


def test_what_get_printed_makes_a_deleted_object_again(store: Store) -> None:
    applied(store, job("priority: 3"))
    printed = dump(store.get(KEY))
    store.delete(KEY)
    assert applied(store, printed) == ["gpujob.cumulus.dev/train created"]
    assert store.get(KEY)["spec"]["priority"] == 3


def test_a_block_taken_out_of_the_manifest_goes_with_its_defaults(store: Store) -> None:
    partition = (
        "apiVersion: cumulus.dev/v1alpha1\nkind: GPUPartition\nmetadata: {name: p}\nspec: {memory: 0.5, duration: 1h"
    )
    applied(store, partition + ", renewal: {policy: WhileIdle, maximum: 8h}}\n")
    assert applied(store, partition + "}\n") == ["gpupartition.cumulus.dev/p configured"]
    assert store.get(Key("GPUPartition", "default", "p"))["spec"]["renewal"] == {"policy": "Never"}


# What is refused


def test_immutable_fields_say_so_each_at_its_place(store: Store) -> None:
    applied(store, job())
    other = job("replicas: 2\nenv: [{name: A, value: '1'}]\npriority: 4", gpu="memory: 0.25, duration: 1h")
    advice = "; delete and apply it again (cumulus delete gpujob/train), or give the new one another name"
    assert refused(store, other) == [
        'manifest:6:17: spec.gpu.memory: is immutable and cannot change from "0.5" to "0.25"' + advice,
        "manifest:7:13: spec.replicas: is immutable and cannot change from 1 to 2" + advice,
        'manifest:8:3: spec.env: is immutable and cannot change from nothing to [{"name": "A", "value": "1"}]' + advice,
    ]
    assert store.get(KEY)["spec"]["priority"] == 0


def test_what_a_container_was_given_is_immutable_and_a_store_from_before_changes_nothing(store: Store) -> None:
    applied(store, job("image: x\nports: [{containerPort: 80, hostPort: 8080}]"))
    other = job("image: x\nports: [{containerPort: 80, hostPort: 8081}]\nrunAsUser: 0\nplacement: Spread")
    assert [problem.split(" cannot")[0] for problem in refused(store, other)] == [
        "manifest:8:3: spec.ports: is immutable and",
        "manifest:9:14: spec.runAsUser: is immutable and",
        "manifest:10:14: spec.placement: is immutable and",
    ]
    document = store.get(KEY)
    for field in ("preemptible", "hostNetwork"):
        del document["spec"][field]
    store.update(document)
    assert applied(store, job("image: x\nports: [{containerPort: 80, hostPort: 8080}]")) == [
        "gpujob.cumulus.dev/train unchanged"
    ]


def test_an_immutable_field_cannot_be_taken_out(store: Store) -> None:
    applied(store, job("replicas: 2\nworkingDir: /x"))
    assert [line.split(";")[0] for line in refused(store, job())] == [
        "manifest:4:1: spec.replicas: is immutable and cannot change from 2 to 1",
        'manifest:4:1: spec.workingDir: is immutable and cannot change from "/x" to nothing',
    ]


def test_an_immutable_block_goes_with_the_defaults_that_nobody_set(store: Store) -> None:
    applied(store, job("checkpoint: {path: /x}"))
    assert [line.split(";")[0] for line in refused(store, job())] == [
        "manifest:4:1: spec.checkpoint: is immutable and cannot change from "
        '{"path": "/x", "keep": 2, "whenDeleted": "Delete", "grace... to nothing'
    ]


def test_one_refused_object_holds_back_all(store: Store) -> None:
    applied(store, job(name="a"), job(name="b"))
    problems = refused(store, job("replicas: 2", name="a"), job(name="new"), job("replicas: 3", name="b"))
    assert [line.split(": ")[0] for line in problems] == ["manifest:7:13", "manifest:22:13"]
    assert names(store) == ["a", "b"]


def test_an_object_that_is_being_deleted_is_refused(store: Store) -> None:
    applied(store, job())
    edit(store, lambda document: document["metadata"].update(finalizers=["cumulus.dev/job"]))
    store.delete(KEY)
    assert refused(store, job()) == [
        "manifest:3:18: metadata.name: is being deleted since 2030-01-01T00:00:00Z; "
        "wait until it is gone: cumulus wait gpujob/train --for=delete"
    ]


def test_nodes_are_made_only_where_it_is_said_how_to_reach_them(store: Store) -> None:
    node = "apiVersion: cumulus.dev/v1alpha1\nkind: GPUNode\nmetadata: {name: n1, labels: {zone: a}}\n"
    node += "spec: {unschedulable: true}\n"
    assert refused(store, node) == [
        "manifest:3:18: metadata.name: there is no GPUNode n1; nodes are made by discovery, or by apply with "
        "spec.ssh, where they are to be found"
    ]
    far = node.replace("n1", "n2").replace("spec: {", "spec: {ssh: {host: gpu-2, user: root}, ")
    assert applied(store, far) == ["gpunode.cumulus.dev/n2 created"]
    store.create({"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": "n1"}, "spec": {}})
    assert applied(store, node) == ["gpunode.cumulus.dev/n1 configured"]
    assert store.get(Key("GPUNode", "", "n1"))["spec"] == {"unschedulable": True}


def test_a_merge_that_gives_an_invalid_object_is_refused(store: Store) -> None:
    text = "apiVersion: cumulus.dev/v1alpha1\nkind: GPUPartition\nmetadata: {name: p}\nspec:\n  memory: 0.5\n"
    text += "  duration: 1h\n  renewal: {maximum: 8h}\n"
    applied(store, text)
    key = Key("GPUPartition", "default", "p")
    edit(store, lambda document: document["spec"]["renewal"].update(policy="WhileIdle"), key)
    assert refused(store, text[: text.index("  renewal")]) == [
        "manifest:4:1: spec.renewal.maximum: does not go with what others set on gpupartition/default/p: "
        "is required for policy WhileIdle; add maximum: 8h"
    ]


def test_a_damaged_object_is_told(store: Store) -> None:
    store.create(
        {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": {"name": "train", "namespace": "default"}}
    )
    with pytest.raises(InvalidObject, match="as stored is not a valid GPUJob"):
        applied(store, job())


# Racing with others


class Racing(MemoryStore):
    """Lets `interfere` act just before a transaction, as often as `times` says."""

    def __init__(self, interfere: Callable[[Store], None], times: int) -> None:
        super().__init__(FakeClock())
        self.interfere, self.times, self.racing = interfere, 0, times

    def transact(self, writes: Any, *, fence: Fence | None = None) -> Any:
        if self.times < self.racing and any(write.document is None or write.verb != "status" for write in writes):
            self.times += 1
            self.racing, racing = 0, self.racing
            self.interfere(self)
            self.racing = racing
        return super().transact(writes, fence=fence)


def bump(store: Store) -> None:
    edit(store, lambda document: document["metadata"]["labels"].update(seen=str(store.revision())))


def test_an_apply_that_lost_a_race_reads_again() -> None:
    racing = Racing(bump, 0)
    applied(racing, job())
    racing.racing = 3
    assert applied(racing, job("priority: 1"), job(name="other")) == [
        "gpujob.cumulus.dev/train configured",
        "gpujob.cumulus.dev/other created",
    ]
    assert racing.times == 3
    stored = racing.get(KEY)
    assert stored["spec"]["priority"] == 1
    assert stored["metadata"]["labels"]["seen"]


def test_an_object_made_meanwhile_is_merged_with() -> None:
    racing = Racing(lambda store: applied(store, job(labels="made: first")) and None, 1)
    assert applied(racing, job()) == ["gpujob.cumulus.dev/train configured"]
    # It was applied by the other before: its label is not in this manifest, so it goes.
    assert racing.get(KEY)["metadata"]["labels"] == {"app": "x"}


def test_an_object_deleted_meanwhile_is_made_again() -> None:
    racing = Racing(lambda store: store.delete(KEY) and None, 0)
    applied(racing, job())
    racing.racing = 1
    assert applied(racing, job("priority: 1")) == ["gpujob.cumulus.dev/train created"]


def test_an_endless_race_ends_with_conflict() -> None:
    racing = Racing(bump, 0)
    applied(racing, job())
    racing.racing = 1000
    with pytest.raises(Conflict, match="kept changing"):
        applied(racing, job("priority: 1"))
    assert racing.times == 10
    assert racing.get(KEY)["spec"]["priority"] == 0


def test_a_fence_holds(store: Store) -> None:
    with pytest.raises(Fenced):
        applied(store, job(), fence=Fence("", "cumulus-controller", 3))
    assert names(store) == []


# Pruning


def jobs(count: int, labels: str = "app: x") -> str:
    return "---\n".join(job(name=f"j{number:02}", labels=labels) for number in range(count))


def test_prune_deletes_what_is_not_in_the_set(store: Store) -> None:
    applied(store, jobs(3))
    applied(store, job(name="elsewhere", labels="app: y"))
    store.create(load_text(job(name="by-hand"))[0].resource.to_json())
    assert applied(store, jobs(1), prune=PruneScope("app=x")) == [
        "gpujob.cumulus.dev/j00 unchanged",
        "gpujob.cumulus.dev/j01 pruned",
        "gpujob.cumulus.dev/j02 pruned",
    ]
    assert names(store) == ["by-hand", "elsewhere", "j00"]


def test_prune_looks_at_every_kind_in_the_manifests_namespaces(store: Store) -> None:
    partition = "apiVersion: cumulus.dev/v1alpha1\nkind: GPUPartition\nmetadata: {name: p, labels: {app: x}}\n"
    partition += "spec: {memory: 0.5, duration: 1h}\n"
    applied(store, jobs(1), partition)
    apply(store, load_text(jobs(1), namespace="other"))
    assert applied(store, job(name="new"), prune=PruneScope("app=x")) == [
        "gpujob.cumulus.dev/new created",
        "gpujob.cumulus.dev/j00 pruned",
        "gpupartition.cumulus.dev/p pruned",
    ]
    assert [item["metadata"]["namespace"] for item in store.list(Query("GPUJob")).items] == ["default", "other"]


def test_prune_leaves_alone_what_others_own_or_delete(store: Store) -> None:
    applied(store, jobs(3))
    owner = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "name": "o", "uid": "1"}
    edit(store, lambda d: d["metadata"].update(ownerReferences=[owner]), Key("GPUJob", "default", "j01"))
    edit(store, lambda d: d["metadata"].update(finalizers=["x/y"]), Key("GPUJob", "default", "j02"))
    store.delete(Key("GPUJob", "default", "j02"))
    assert applied(store, jobs(1), prune=PruneScope("app=x")) == ["gpujob.cumulus.dev/j00 unchanged"]


def test_a_dry_run_tells_what_would_be_pruned(store: Store) -> None:
    applied(store, jobs(2))
    assert applied(store, jobs(1), prune=PruneScope("app=x"), dry_run=True)[1] == "gpujob.cumulus.dev/j01 pruned"
    assert len(names(store)) == 2


@pytest.mark.parametrize(
    ("before", "after", "limit", "allowed"),
    [(11, 1, None, True), (12, 1, None, False), (30, 15, None, True), (30, 14, None, False), (30, 14, 16, True),
     (30, 14, 15, False), (3, 1, 1, False)],
)  # fmt: skip
def test_prune_is_capped(store: Store, before: int, after: int, limit: int | None, allowed: bool) -> None:
    applied(store, jobs(before))
    prune = PruneScope("app=x", limit)
    if allowed:
        applied(store, jobs(after), prune=prune)
        assert len(names(store)) == after
    else:
        with pytest.raises(PruneRefused) as caught:
            applied(store, jobs(after), job(name="new"), prune=prune)
        assert f"{before - after} of the {before} applied objects that match app=x would be pruned" in str(caught.value)
        assert caught.value.hint == f"if that is meant, allow it with --prune-limit={before - after}"
        assert len(names(store)) == before


def test_prune_needs_a_selector(store: Store) -> None:
    with pytest.raises(UsageError, match="needs a label selector"):
        applied(store, job(), prune=PruneScope(" "))


def test_pruning_loses_a_race_with_a_change() -> None:
    racing = Racing(lambda store: edit(store, lambda d: d["metadata"].update(labels={}), KEY), 0)
    applied(racing, job(), job(name="kept"))
    racing.racing = 1
    # Its label was taken off meanwhile: it is not ours to prune any more.
    assert applied(racing, job(name="kept"), prune=PruneScope("app=x")) == ["gpujob.cumulus.dev/kept unchanged"]
    assert names(racing) == ["kept", "train"]


# Differences


def test_diff_shows_what_would_change_and_nothing_else(store: Store) -> None:
    manifests = load_text(job("priority: 1"))
    assert diff(apply(store, manifests, dry_run=True)).startswith(
        "--- live/gpujob/default/train\n+++ merged/gpujob/default/train\n@@ -0,0 +1,"
    )
    apply(store, manifests)
    assert diff(apply(store, manifests, dry_run=True)) == ""
    changed = diff(apply(store, load_text(job("priority: 2")), dry_run=True)).splitlines()
    assert [line for line in changed[2:] if line[0] in "+-"] == ["-  priority: 1", "+  priority: 2"]
    pruned = diff(apply(store, load_text(job(name="new")), dry_run=True, prune=PruneScope("app=x"))).splitlines()
    assert "-  name: train" in pruned


def manifest_of(text: str) -> Manifest:
    (manifest,) = load_text(text)
    return manifest


def test_writes_carry_what_they_read(store: Store) -> None:
    applied(store, job())
    (result,) = apply(store, [manifest_of(job("priority: 1"))], dry_run=True)
    write = result.write()
    assert isinstance(write, Write)
    assert write.document is not None
    assert write.document["metadata"]["resourceVersion"] == store.get(KEY)["metadata"]["resourceVersion"]


def test_a_manifest_that_leaves_its_status_no_room_is_refused(store: Store) -> None:
    large = job().replace("labels: {app: x}", f"labels: {{app: x}}, annotations: {{note: {'x' * 1_048_000}}}")
    (said,) = refused(store, large)
    assert "bytes of JSON without its status, more than the 1048576 that may be given; keep large data" in said
    assert said.startswith("<stdin>:1:1: ") or ":1:" in said
    fits = large.replace("x" * 1_048_000, "x" * 1_000_000)
    assert applied(store, fits) == ["gpujob.cumulus.dev/train created"]
    (said,) = refused(store, fits.replace("x" * 1_000_000, "y" * 1_048_000))
    assert "may be given" in said


def test_a_kind_without_a_spec_is_changed_by_its_own_fields(store: Store) -> None:
    def binding(role: str, *names: str) -> list[Manifest]:
        subjects = "".join(f"\n- {{kind: User, name: {name}}}" for name in names)
        text = (
            "apiVersion: cumulus.dev/v1alpha1\nkind: RoleBinding\nmetadata: {name: team}\n"
            f"roleRef: {{name: {role}}}\nsubjects:{subjects}\n"
        )
        return load_text(text)

    key = Key("RoleBinding", "default", "team")
    actions = [apply(store, binding("viewer", *names))[0].action for names in (["ann"], ["ann"], ["ann", "bob"])]
    assert actions == ["created", "unchanged", "configured"]
    assert [subject["name"] for subject in store.get(key)["subjects"]] == ["ann", "bob"]
    with pytest.raises(InvalidManifest, match=r"manifest:4:17: roleRef[.]name: is immutable"):
        apply(store, binding("admin", "bob"))
    apply(store, binding("viewer", "bob"))
    assert [subject["name"] for subject in store.get(key)["subjects"]] == ["bob"]
    assert "spec" not in store.get(key)


# Who owns what


def test_conflicts_are_told_each_at_its_place(store: Store) -> None:
    partition = "apiVersion: cumulus.dev/v1alpha1\nkind: GPUPartition\nmetadata: {name: p, labels: {team: %s}}\n"
    partition += "spec: {memory: 0.5, duration: 1h, priority: %s, renewal: {policy: WhileIdle, maximum: 8h}}\n"
    applied(store, partition % ("a", 1), field_manager="ci")
    [label, priority] = refused(store, partition % ("b", 2), field_manager="me")
    assert label.startswith('manifest:3:36: metadata.labels[team]: has another value, which "ci" set at ')
    assert priority.startswith('manifest:4:45: spec.priority: has another value, which "ci" set at ')
    # The same value is shared, so each of both may leave it.
    applied(store, partition % ("a", 1), field_manager="me")
    applied(store, (partition % ("a", 1)).replace(", priority: 1", ""), field_manager="ci")
    assert store.get(Key("GPUPartition", "default", "p"))["spec"]["priority"] == 1
    applied(store, (partition % ("a", 1)).replace(", priority: 1", ""), field_manager="me")
    assert store.get(Key("GPUPartition", "default", "p"))["spec"]["priority"] == 0


def test_what_an_earlier_version_applied_is_taken_over_once(store: Store) -> None:
    document = load_text(job("priority: 3\nretry: {limit: 2}"))[0]
    stored = document.resource.to_json()
    note = {LAST_APPLIED: json.dumps(document.document), "mine": "x"}
    store.create({**stored, "metadata": {**stored["metadata"], "annotations": note}})
    assert applied(store, job("priority: 3\nretry: {limit: 2}")) == ["gpujob.cumulus.dev/train unchanged"]
    assert store.revision() == 1
    assert applied(store, job("priority: 3")) == ["gpujob.cumulus.dev/train configured"]
    after = store.get(KEY)
    assert after["spec"]["retry"]["limit"] == 0
    assert after["metadata"]["annotations"] == {"mine": "x"}
    assert [entry["manager"] for entry in after["metadata"]["managedFields"]] == ["cumulus"]
    assert applied(store, job("priority: 3")) == ["gpujob.cumulus.dev/train unchanged"]


def test_what_an_earlier_version_applied_is_pruned_too(store: Store) -> None:
    (manifest,) = load_text(job(name="old"))
    stored = manifest.resource.to_json()
    note = {LAST_APPLIED: json.dumps(manifest.document)}
    store.create({**stored, "metadata": {**stored["metadata"], "annotations": note}})
    applied(store, job(name="cis"), field_manager="ci")
    assert applied(store, job(name="new"), prune=PruneScope("app=x"))[1:] == ["gpujob.cumulus.dev/old pruned"]
    assert names(store) == ["cis", "new"], "what another manager applied is theirs to prune"
