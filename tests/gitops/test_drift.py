"""Fields of a Source that somebody else changed, objects that somebody else deleted, and objects that two claim."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from cumulus.manifest import InvalidManifest, load_text
from cumulus.resources.event import Event
from cumulus.resources.key import Key
from cumulus.service.identity import Identity
from tests.gitops.cluster import ME, Cluster, Repo, job
from tests.service.test_access import binding

HOLD = {"suspend": "true"}
A = Key("GPUJob", "default", "a")


def started(cluster: Cluster, repo: Repo, drift: str = "Correct") -> None:
    repo.commit({"a.yaml": job("a", priority=5, labels={"team": "red"}, **HOLD)})
    cluster.add(url=repo.url, drift=drift)
    cluster.sync()


def cron(name: str) -> str:
    """The manifest of what nobody runs to its end."""
    return (
        f"apiVersion: cumulus.dev/v1alpha1\nkind: GPUCronJob\nmetadata: {{name: {name}}}\nspec:\n"
        "  schedule: 0 3 * * *\n  jobTemplate: {spec: {command: [a], gpu: {memory: 0.1, duration: 1h}}}\n"
    )


def writes(cluster: Cluster) -> int:
    return int(cluster.get("a")["metadata"]["resourceVersion"])


def events(cluster: Cluster, reason: str) -> list[str]:
    return [event.message for event in cluster.world.client.list(Event) if event.reason == reason]


def test_somebody_elses_field_stays(cluster: Cluster, repo: Repo) -> None:
    started(cluster, repo)
    cluster.service.objects.set_labels(ME, A, {"mine": "yes"})
    before = cluster.store.revision()
    cluster.sync(seconds=60)
    # Of no object at all, not even of its own status.
    assert cluster.written(before) == []
    assert cluster.get("a")["metadata"]["labels"] == {"team": "red", "mine": "yes"}


def test_a_field_of_the_source_is_changed_back_once(cluster: Cluster, repo: Repo) -> None:
    started(cluster, repo)
    cluster.service.objects.patch(ME, A, {"spec": {"priority": 9}}, field_manager="kubectl-edit")
    before, edited = cluster.store.revision(), cluster.get("a")["metadata"]
    cluster.sync(seconds=60)
    assert cluster.get("a")["spec"]["priority"] == 5
    # The job's own controller writes status beside it.
    names = ("generation", "managedFields", "labels", "annotations")
    said = [edited, *(it["metadata"] for it in cluster.written(before) if it["kind"] == "GPUJob")]
    changes = [[old.get(name) for name in names] != [new.get(name) for name in names] for old, new in pairwise(said)]
    assert changes.count(True) == 1
    assert said[-1]["generation"] == edited["generation"] + 1
    rest = cluster.store.revision()
    cluster.sync(seconds=60)
    assert cluster.written(rest) == []
    assert cluster.source().status.history[-1].result == "Corrected"
    assert any(
        f"spec.priority, changed by {ME.name} with kubectl-edit" in message for message in events(cluster, "DriftFound")
    )


def test_the_person_is_told_beside_the_program(cluster: Cluster, repo: Repo) -> None:
    cluster.store.create(binding("admin", "User", "ann", "default", "ann"))
    cluster.service.access.bindings_changed()
    started(cluster, repo, "Report")
    ann = Identity("ann", 1001)
    forged = {"annotations": {"cumulus.dev/edited-by": '{"kubectl-edit": "bob"}'}}
    cluster.service.objects.patch(
        ann, A, {"spec": {"priority": 9}, "metadata": forged}, field_manager="kubectl-edit"
    )  # fmt: skip
    cluster.sync(seconds=60)
    assert any("spec.priority, changed by ann with kubectl-edit" in told for told in events(cluster, "DriftFound"))
    # What is changed back needs no name any more, and what belongs to no Source never had one.
    cluster.change(drift="Correct")
    cluster.sync()
    assert cluster.get("a")["spec"]["priority"] == 5
    cluster.service.objects.set_labels(ME, A, {"mine": "yes"})
    names = cluster.get("a")["metadata"]["annotations"]["cumulus.dev/edited-by"]
    assert json.loads(names) == {"cumulus": ME.name, "kubectl-edit": "ann"}


def test_drift_is_only_reported(cluster: Cluster, repo: Repo) -> None:
    started(cluster, repo, "Report")
    cluster.service.objects.patch(ME, A, {"spec": {"priority": 9}}, field_manager="kubectl-edit")
    before = cluster.get("a")["metadata"]["generation"]
    cluster.sync(seconds=60)
    assert cluster.get("a")["metadata"]["generation"] == before
    assert cluster.condition("Synced") == ("False", "Drifted")
    assert cluster.source().status.counts.drifted == 1
    assert any(
        f"spec.priority, changed by {ME.name} with kubectl-edit" in message for message in events(cluster, "DriftFound")
    )
    # A new commit sets all fields.
    repo.commit({"b.yaml": job("b", **HOLD)})
    cluster.sync()
    assert cluster.get("a")["spec"]["priority"] == 5
    assert cluster.condition("Synced") == ("True", "Synced")


def test_drift_is_left(cluster: Cluster, repo: Repo) -> None:
    started(cluster, repo, "Off")
    cluster.service.objects.set_labels(ME, A, {"team": "blue"}, overwrite=True)
    before = writes(cluster)
    cluster.sync(seconds=60)
    cluster.new_daemon()
    cluster.sync(seconds=60)
    assert writes(cluster) == before
    assert cluster.condition("Synced") == ("True", "Synced")


def test_a_field_that_is_gone_from_the_source_goes(cluster: Cluster, repo: Repo) -> None:
    started(cluster, repo)
    repo.commit({"a.yaml": job("a", **HOLD)})
    cluster.sync()
    assert cluster.get("a")["spec"].get("priority", 0) == 0
    assert cluster.get("a")["metadata"].get("labels", {}) == {}


NIGHTLY = Key("GPUCronJob", "default", "nightly")


@pytest.mark.parametrize("drift", ["Correct", "Report"])
def test_who_deleted_an_object_is_told(cluster: Cluster, repo: Repo, drift: str) -> None:
    cluster.store.create(binding("admin", "User", "ann", "default", "ann"))
    cluster.service.access.bindings_changed()
    repo.commit({"n.yaml": cron("nightly"), "m.yaml": cron("monthly")})
    cluster.add(url=repo.url, drift=drift, prune="Auto")
    cluster.sync()
    cluster.service.objects.delete(Identity("ann", 1001), NIGHTLY)
    cluster.sync(seconds=60)
    told = [message for message in events(cluster, "DriftFound") if message.startswith("gpucronjob/default/nightly")]
    if drift == "Correct":
        assert cluster.names("GPUCronJob") == ["monthly", "nightly"]
        assert told == ["gpucronjob/default/nightly: was deleted by ann; made anew"]
        last = cluster.source().status.history[-1]
        assert (last.result, last.why) == ("Corrected", "was deleted by ann")
    else:
        assert cluster.names("GPUCronJob") == ["monthly"]
        assert told[0] == "gpucronjob/default/nightly: was deleted by ann"
    # Where nobody's hand did it nobody is named, and a Source that prunes is nobody's hand.
    cluster.store.delete(Key("GPUCronJob", "default", "monthly"))
    cluster.sync(seconds=60)
    ending = "; made anew" if drift == "Correct" else ""
    assert f"gpucronjob/default/monthly: was deleted{ending}" in events(cluster, "DriftFound")
    repo.commit({"m.yaml": None})
    cluster.sync()
    assert len(events(cluster, "ChangedByAnother")) == 1
    # Who deletes what is theirs is told of too.
    cluster.service.objects.delete(ME, NIGHTLY)
    assert events(cluster, "DeletedByHand") == [f"{ME.name} deleted this cron job"]
    assert events(cluster, "ChangedByAnother") == ["ann deleted this cron job"]


def test_an_object_that_ran_and_was_deleted_stays_away(cluster: Cluster, repo: Repo) -> None:
    started(cluster, repo)
    cluster.service.objects.delete(ME, A)
    cluster.sync(seconds=60)
    assert cluster.names() == []
    assert [item.state for item in cluster.source().status.inventory] == ["Gone"]


def test_what_others_own_is_not_taken_by_force(cluster: Cluster, repo: Repo) -> None:
    cluster.service.objects.apply(ME, load_text(job("a", priority=1, **HOLD)), field_manager="ci")
    started(cluster, repo)
    assert cluster.condition("Synced") == ("False", "InvalidManifests")
    error = cluster.source().status.last_error
    assert error is not None
    assert 'spec.priority: has another value, which "ci" set' in error.message
    assert (error.file, error.line) == ("a.yaml", 10)
    assert cluster.get("a")["spec"]["priority"] == 1


def test_what_is_there_and_the_same_is_taken_over(cluster: Cluster, repo: Repo) -> None:
    cluster.service.objects.apply(ME, load_text(job("a", priority=5, labels={"team": "red"}, **HOLD)))
    uid = cluster.get("a")["metadata"]["uid"]
    started(cluster, repo)
    assert cluster.condition("Synced") == ("True", "Synced")
    assert [item.uid for item in cluster.source().status.inventory] == [uid]


def test_two_sources_claim_one_object(cluster: Cluster, repo: Repo) -> None:
    started(cluster, repo)
    repo.commit({"a.yaml": None, "one/a.yaml": job("a", priority=5, labels={"team": "red"}, **HOLD)})
    repo.commit({"two/a.yaml": job("a", priority=7, **HOLD), "two/b.yaml": job("b", **HOLD)})
    cluster.change(git={"path": "one"})
    cluster.add("other", url=repo.url, path="two")
    cluster.sync()
    cluster.sync(seconds=60)
    assert cluster.condition("Synced", "other") == ("False", "InvalidManifests")
    error = cluster.source("other").status.last_error
    assert error is not None
    said = "job default/a belongs to the Source default/cluster, and default/other claims it too"
    assert said in error.message
    assert cluster.names() == ["a"]
    # Nor do they fight: nobody writes anything, whatever time passes and whoever asks.
    rest = cluster.store.revision()
    cluster.sync(seconds=60)
    assert cluster.written(rest) == []
    # Who asks before they commit is told the same.
    with pytest.raises(InvalidManifest, match=said):
        cluster.service.sources.diff(ME, Key("Source", "default", "other"), load_text(job("a", priority=7, **HOLD)))
    assert cluster.get("a")["spec"]["priority"] == 5


def test_sources_with_one_name_in_two_namespaces_are_two(cluster: Cluster, repo: Repo) -> None:
    started(cluster, repo)
    document = {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "Source", "metadata": {"name": "cluster", "namespace": "team"},
        "spec": {"git": {"url": repo.url}},
    }  # fmt: skip
    repo.commit({"a.yaml": job("a", priority=5, labels={"team": "red"}, **HOLD)})
    cluster.service.objects.create(ME, document)
    cluster.sync()
    assert cluster.store.get(Key("GPUJob", "team", "a"))["metadata"]["managedFields"][0]["manager"] == (
        "source/team/cluster"
    )
    assert cluster.condition("Synced") == ("True", "Synced")


def test_a_claim_is_looked_at_again_when_the_other_lets_go(cluster: Cluster, repo: Repo) -> None:
    repo.commit(
        {"one/a.yaml": job("a", suspend="true"), "two/a.yaml": job("a", suspend="true"), "one/b.yaml": job("b")}
    )
    cluster.add(url=repo.url, path="one")
    cluster.sync()
    uid = cluster.get("a")["metadata"]["uid"]
    cluster.add("other", url=repo.url, path="two")
    cluster.sync()
    assert cluster.condition("Synced", "other") == ("False", "InvalidManifests")
    # Prune is Never: the object stays, and the other one may have it now.
    repo.commit({"one/a.yaml": None})
    cluster.sync()
    cluster.sync()
    assert cluster.condition("Synced", "other") == ("True", "Synced")
    assert [item.name for item in cluster.source("other").status.inventory] == ["a"]
    # Nor does the first one delete later what is another's.
    cluster.change(prune="Auto")
    cluster.sync()
    assert cluster.get("a")["metadata"]["uid"] == uid
    assert [item.name for item in cluster.source().status.inventory] == ["b"]
    # It does not get it back either while the other has it.
    repo.commit({"one/a.yaml": job("a", suspend="true")})
    cluster.sync()
    assert cluster.condition("Synced") == ("False", "InvalidManifests")
    cluster.service.objects.delete(ME, Key("Source", "default", "other"))
    cluster.sync(seconds=5)
    assert cluster.condition("Synced") == ("True", "Synced")
    assert cluster.get("a")["metadata"]["uid"] == uid


def test_an_object_that_is_kept_moves_to_another_source(cluster: Cluster, repo: Repo) -> None:
    kept = job("a", suspend="true", annotations={"cumulus.dev/keep": "true"})
    repo.commit({"one/a.yaml": kept, "one/b.yaml": job("b", **HOLD), "two/c.yaml": job("c", **HOLD)})
    for name in ("one", "two"):
        cluster.add(name, url=repo.url, path=name, prune="Auto")
    cluster.sync()
    uid = cluster.get("a")["metadata"]["uid"]
    repo.commit({"one/a.yaml": None, "two/a.yaml": job("a", suspend="true", priority=3)})
    cluster.sync()
    cluster.sync(seconds=5)
    assert (cluster.get("a")["metadata"]["uid"], cluster.condition("Synced", "two")) == (uid, ("True", "Synced"))
    assert [item.name for item in cluster.source("two").status.inventory] == ["a", "c"]
    assert cluster.get("a")["spec"]["priority"] == 3
