"""Jobs cannot change while they are stored: what a commit that changes one does, and that none runs twice."""

from __future__ import annotations

import pytest

from cumulus.cli.diff import diff as differences
from cumulus.manifest import load_text
from cumulus.resources.key import Key
from tests.gitops.cluster import ME, Cluster, Repo, job

HOLD = {"suspend": "true"}
MARKS = ("---", "+++")


def test_ignore_leaves_it(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a", **HOLD)})
    cluster.add(url=repo.url, onChange="Ignore")
    cluster.sync()
    uid = cluster.get("a")["metadata"]["uid"]
    repo.commit({"a.yaml": job("a", command="other.py", **HOLD), "b.yaml": job("b", **HOLD)})
    cluster.sync(seconds=60)
    assert cluster.get("a")["metadata"]["uid"] == uid
    assert cluster.names() == ["a", "b"]
    assert [item.state for item in cluster.source().status.inventory] == ["Ignored", ""]
    assert cluster.condition("Synced") == ("True", "Synced")


def test_fail_refuses_the_commit(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a", **HOLD)})
    cluster.add(url=repo.url, onChange="Fail")
    cluster.sync()
    repo.commit({"a.yaml": job("a", command="other.py", **HOLD), "b.yaml": job("b", **HOLD)})
    cluster.sync()
    assert cluster.names() == ["a"]
    error = cluster.source().status.last_error
    assert error is not None
    assert "spec.command: is immutable" in error.message


def test_the_annotation_says_it_for_one_object(cluster: Cluster, repo: Repo) -> None:
    said = {"cumulus.dev/on-change": "Ignore"}
    repo.commit({"a.yaml": job("a", **HOLD), "b.yaml": job("b", annotations=said, **HOLD)})
    cluster.add(url=repo.url)
    cluster.sync()
    uids = {name: cluster.get(name)["metadata"]["uid"] for name in "ab"}
    repo.commit({f"{name}.yaml": job(name, command="other.py", annotations=said if name == "b" else {}, **HOLD)
                 for name in "ab"})  # fmt: skip
    cluster.sync()
    cluster.sync(seconds=10)
    assert cluster.get("a")["metadata"]["uid"] != uids["a"]
    assert cluster.get("b")["metadata"]["uid"] == uids["b"]


def test_the_successor_waits_until_its_predecessor_is_gone(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a", **HOLD)})
    cluster.add(url=repo.url)
    cluster.sync()
    old = cluster.get("a")
    held = {**old, "metadata": {**old["metadata"], "finalizers": ["example.org/wait"]}}
    cluster.store.update(held)
    repo.commit({"a.yaml": job("a", command="other.py", **HOLD), "b.yaml": job("b", **HOLD)})
    cluster.sync()
    cluster.sync(seconds=60)
    # All else of the commit is there, in the same transaction as the deletion.
    assert cluster.names() == ["a", "b"]
    assert cluster.get("a")["metadata"]["deletionTimestamp"]
    assert cluster.condition("Synced") == ("False", "Replacing")
    first = cluster.source().status.synced
    assert first is not None
    assert first.revision != repo.head
    current = cluster.get("a")
    cluster.store.update({**current, "metadata": {**current["metadata"], "finalizers": []}})
    cluster.sync(seconds=10)
    assert cluster.get("a")["spec"]["command"] == ["python", "other.py"]
    assert cluster.condition("Synced") == ("True", "Synced")
    assert cluster.source().status.synced.revision == repo.head  # type: ignore[union-attr]


def test_a_job_that_ended_is_made_anew_by_a_commit_that_changes_it(running: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a")})
    running.add(url=repo.url)
    running.sync()
    running.sync(seconds=120)
    assert running.get("a")["status"]["phase"] == "Succeeded"
    uid = running.get("a")["metadata"]["uid"]
    repo.commit({"README": "x"})
    running.sync(seconds=60)
    assert running.get("a")["metadata"]["uid"] == uid
    repo.commit({"a.yaml": job("a", command="other.py")})
    running.sync()
    running.sync(seconds=60)
    assert running.get("a")["metadata"]["uid"] != uid


def test_a_job_that_fails_makes_the_source_unhealthy(running: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a")})
    running.add(url=repo.url)
    running.sync()
    document = running.get("a")
    running.service.objects.update_status(ME, {**document, "status": {**document["status"], "phase": "Failed"}})
    running.sync(seconds=2)
    assert running.condition("Healthy") == ("False", "ObjectsFailed")


@pytest.mark.parametrize("word", ["recreate", "Delete", ""])
def test_an_annotation_that_is_none_is_told(cluster: Cluster, repo: Repo, word: str) -> None:
    repo.commit({"a.yaml": job("a", annotations={"cumulus.dev/on-change": word or "-"}, **HOLD)})
    cluster.add(url=repo.url)
    cluster.sync()
    error = cluster.source().status.last_error
    assert error is not None
    assert "must be Recreate, Ignore or Fail" in error.message


def test_a_diff_of_what_would_be_made_anew_shows_what_changes_alone(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a", suspend="true", labels={"team": "red"})})
    cluster.add(url=repo.url)
    cluster.sync()
    wanted = load_text(job("a", suspend="true", labels={"team": "red"}, command="other.py"))
    found = cluster.service.sources.diff(ME, Key("Source", "default", "cluster"), wanted)
    assert [change.action for change in found.changes] == ["recreated"]
    lines = [line for line in differences(found.changes).splitlines() if line[0] in "+-" and line[:3] not in MARKS]
    assert lines == ["-    - train.py", "+    - other.py"]


def test_a_job_comes_back_when_it_is_taken_out_and_put_in_again(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a", **HOLD), "b.yaml": job("b", **HOLD)})
    cluster.add(url=repo.url, prune="Auto")
    cluster.sync()
    repo.commit({"a.yaml": None})
    cluster.sync()
    assert cluster.names() == ["b"]
    repo.git("revert", "--no-edit", "HEAD")
    cluster.sync()
    assert cluster.names() == ["a", "b"]


def test_only_labels_change(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a", **HOLD)})
    cluster.add(url=repo.url)
    cluster.sync()
    uid = cluster.get("a")["metadata"]["uid"]
    repo.commit({"a.yaml": job("a", labels={"team": "red"}, **HOLD)})
    cluster.sync()
    assert cluster.get("a")["metadata"]["labels"] == {"team": "red"}
    assert cluster.store.get(Key("GPUJob", "default", "a"))["metadata"]["uid"] == uid
