"""A commit is the change: what is committed is applied, in one transaction, and nothing else is touched."""

from __future__ import annotations

from tests.gitops.cluster import Cluster, Repo, job


def test_a_commit_is_applied(cluster: Cluster, repo: Repo) -> None:
    commit = repo.commit({"a.yaml": job("a"), "team/b.yaml": job("b")}, "Two jobs")
    cluster.add(url=repo.url)
    cluster.sync()
    assert cluster.names() == ["a", "b"]
    status = cluster.source().status
    assert status.synced is not None
    assert (status.synced.revision, status.synced.subject) == (commit, "Two jobs")
    assert status.synced.author == "Ada <ada@example.org>"
    assert cluster.condition("Ready") == ("True", "Fetched")
    assert cluster.condition("Synced") == ("True", "Synced")
    assert [(item.name, item.uid) for item in status.inventory] == [
        (name, cluster.get(name)["metadata"]["uid"]) for name in ("a", "b")
    ]
    assert cluster.get("a")["metadata"]["annotations"]["cumulus.dev/submitter"] == "root"


def test_nothing_new_writes_nothing(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"here/a.yaml": job("a", suspend="true")})
    cluster.add(url=repo.url, path="here")
    cluster.sync()
    before = cluster.source().metadata.resource_version
    for _ in range(3):
        cluster.sync(seconds=60)
    repo.commit({"README": "of no matter"})
    cluster.sync()
    assert cluster.source().metadata.resource_version == before


def test_one_mistake_changes_nothing_and_all_are_told(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a")})
    cluster.add(url=repo.url)
    cluster.sync()
    bad = repo.commit({"b.yaml": job("b"), "c.yaml": job("c", retrry=1), "d.yaml": job("d", prio=1)})
    cluster.sync()
    assert cluster.names() == ["a"]
    error = cluster.source().status.last_error
    assert error is not None
    assert (error.file, error.line, error.revision, error.problems) == ("c.yaml", 10, bad, 2)
    assert "c.yaml:10:3: spec.retrry: unknown field" in error.message
    assert "d.yaml:10:3: spec.prio: unknown field" in error.message
    assert cluster.condition("Synced") == ("False", "InvalidManifests")
    repo.commit({"c.yaml": None, "d.yaml": None})
    cluster.sync()
    assert cluster.names() == ["a", "b"]
    assert cluster.source().status.last_error is None


def test_what_only_the_store_can_refuse_is_told_at_its_place(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a"), "b.yaml": job("b", queue="lab")})
    cluster.add(url=repo.url)
    cluster.sync()
    assert cluster.names() == []
    error = cluster.source().status.last_error
    assert error is not None
    assert (error.file, error.line, error.problems) == ("b.yaml", 10, 1)
    assert "b.yaml:10:10: spec.queue: there is no queue lab" in error.message
    lab = "apiVersion: cumulus.dev/v1alpha1\nkind: Queue\nmetadata: {name: lab}\nspec: {}\n"
    repo.commit({"queues/lab.yaml": lab})
    cluster.sync()
    assert cluster.names() == ["a", "b"]
    assert cluster.condition("Synced") == ("True", "Synced")


def test_a_changed_job_is_made_anew_once_the_old_one_is_gone(running: Cluster, repo: Repo) -> None:
    cluster = running
    repo.commit({"a.yaml": job("a")})
    cluster.add(url=repo.url)
    cluster.sync()
    old = cluster.get("a")["metadata"]["uid"]
    repo.commit({"a.yaml": job("a", command="other.py")})
    cluster.sync(seconds=1)
    cluster.sync(seconds=60)
    assert cluster.get("a")["metadata"]["uid"] != old
    assert cluster.get("a")["spec"]["command"] == ["python", "other.py"]
    assert cluster.condition("Synced") == ("True", "Synced")


def test_a_job_that_ended_is_not_run_again(running: Cluster, repo: Repo) -> None:
    cluster = running
    repo.commit({"a.yaml": job("a", ttlAfterFinished="10s")})
    cluster.add(url=repo.url)
    cluster.sync()
    assert cluster.names() == ["a"]
    cluster.sync(seconds=600)
    assert cluster.names() == []
    repo.commit({"b.yaml": job("b", suspend="true")})
    cluster.sync()
    assert cluster.names() == ["b"]
    cluster.new_daemon()
    cluster.sync(seconds=60)
    assert cluster.names() == ["b"]
    repo.commit({"a.yaml": job("a", ttlAfterFinished="10s", annotations={"cumulus.dev/run": "2"})})
    cluster.sync()
    assert cluster.names() == ["a", "b"]
