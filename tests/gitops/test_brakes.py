"""Every brake, on every path to a deletion: nothing goes until somebody approves that very sync."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cumulus.gitops.directory import MOST_FILES
from cumulus.resources.annotations import SYNC_REQUESTED
from cumulus.resources.key import Key
from cumulus.secrets import JobSecrets
from tests.controllers.driver import settle
from tests.gitops.cluster import ME, Cluster, Repo, job

IDLE = {"suspend": "true"}
ALL = ["a", "b", "c"]


@pytest.fixture
def synced(cluster: Cluster, repo: Repo) -> Cluster:
    """Three jobs that wait."""
    repo.commit({f"jobs/{name}.yaml": job(name, **IDLE) for name in ALL})
    cluster.add(url=repo.url, path="jobs", branch="main", prune="Auto")
    cluster.sync()
    assert cluster.names() == ALL
    return cluster


def manual(cluster: Cluster) -> None:
    cluster.service.objects.set_annotations(
        ME, Key("Source", "default", "cluster"), {SYNC_REQUESTED: f"x{cluster.store.revision()}"}, overwrite=True
    )


def asks(cluster: Cluster, *, deletes: int, because: str) -> str:
    pending = cluster.source().status.pending_sync
    assert pending is not None
    assert pending.deletes == deletes
    assert any(because in reason for reason in pending.reasons), pending.reasons
    assert cluster.condition("Synced") == ("False", "NeedsApproval")
    return pending.hash


def again(cluster: Cluster) -> None:
    """Suspended, and resumed."""
    cluster.change(suspend=True)
    cluster.sync()
    cluster.change(suspend=None)


PATHS: list[Callable[[Cluster], object]] = [
    lambda cluster: None, manual, lambda cluster: cluster.new_daemon(), again,
    lambda cluster: cluster.change(approve="0123456789abcdef"),
]  # fmt: skip
"""On which a deletion could come: by time, by hand, after a crash, by a change of the Source, by another approval."""


def holds(cluster: Cluster, names: list[str]) -> None:
    """On no path is anything deleted, nor made anew."""
    uids = [cluster.get(name)["metadata"]["uid"] for name in names]
    approved = cluster.source().spec.approve
    for number, step in enumerate(PATHS):
        step(cluster)
        cluster.sync(seconds=5 if number else 20)
        assert cluster.names() == names
        assert [cluster.get(name)["metadata"]["uid"] for name in names] == uids
    cluster.change(approve=approved)


def test_never_is_what_a_source_does_unless_it_is_told(cluster: Cluster, repo: Repo) -> None:
    repo.commit({f"{name}.yaml": job(name, **IDLE) for name in ALL})
    cluster.add(url=repo.url)
    cluster.sync()
    repo.commit({"a.yaml": None})
    cluster.sync()
    holds(cluster, ALL)
    assert cluster.source().status.pending_sync is None
    assert cluster.source().status.counts.unpruned == 1
    assert cluster.condition("Synced") == ("True", "Synced")
    # Once it may prune, what is left over is pruned too.
    cluster.change(prune="Auto")
    cluster.sync()
    assert cluster.names() == ["b", "c"]


def test_auto_deletes_within_its_limits(synced: Cluster, repo: Repo) -> None:
    repo.commit({"jobs/a.yaml": None})
    synced.sync()
    assert synced.names() == ["b", "c"]
    assert synced.source().status.history[-1].deleted == 1


def test_confirm_asks_for_the_whole_commit(synced: Cluster, repo: Repo) -> None:
    synced.change(prune="Confirm")
    synced.sync()
    repo.commit({"jobs/a.yaml": None, "jobs/d.yaml": job("d", **IDLE)})
    synced.sync()
    hash = asks(synced, deletes=1, because="prune is Confirm")
    holds(synced, ALL)
    synced.change(approve="0123456789abcdef")
    holds(synced, ALL)
    # The approval is for that very sync: another commit asks anew.
    repo.commit({"jobs/b.yaml": None})
    synced.sync()
    synced.change(approve=hash)
    synced.sync()
    assert synced.names() == ALL
    synced.change(approve=asks(synced, deletes=2, because="prune is Confirm"))
    synced.sync()
    assert synced.names() == ["c", "d"]
    assert synced.source().status.pending_sync is None


def test_an_empty_source(synced: Cluster, repo: Repo) -> None:
    repo.commit({"jobs/a.yaml": "# nothing\n", "jobs/b.yaml": None, "jobs/c.yaml": None})
    synced.sync()
    asks(synced, deletes=3, because="holds no objects")
    holds(synced, ALL)


def test_a_missing_path(synced: Cluster, repo: Repo) -> None:
    repo.git("rm", "-rq", "jobs")
    repo.commit({"README": "gone"})
    synced.sync()
    asks(synced, deletes=3, because="the path is not in the revision")
    holds(synced, ALL)


def test_a_missing_path_where_nothing_is_pruned(synced: Cluster, repo: Repo) -> None:
    synced.change(prune="Never")
    repo.git("mv", "jobs", "work")
    repo.commit({})
    synced.sync()
    assert synced.condition("Synced") == ("False", "InvalidManifests")
    holds(synced, ALL)


def test_a_folder_that_is_renamed_is_no_deletion(synced: Cluster, repo: Repo) -> None:
    uids = [synced.get(name)["metadata"]["uid"] for name in ALL]
    repo.git("mv", "jobs/a.yaml", "jobs/z.yaml")
    repo.git("mv", "jobs", "work")
    repo.commit({})
    synced.change(git={"path": "work"})
    synced.sync()
    assert synced.condition("Synced") == ("True", "Synced")
    assert [synced.get(name)["metadata"]["uid"] for name in ALL] == uids


def test_what_cannot_be_parsed(synced: Cluster, repo: Repo) -> None:
    repo.commit({"jobs/a.yaml": "kind: [", "jobs/b.yaml": None})
    synced.sync()
    assert synced.condition("Synced") == ("False", "InvalidManifests")
    holds(synced, ALL)


def force_push(repo: Repo) -> None:
    """Another history, which never had the job."""
    repo.git("checkout", "-q", "--orphan", "other")
    repo.git("rm", "-q", "--cached", "jobs/a.yaml")
    (repo.path / "jobs/a.yaml").unlink()
    repo.commit({})
    repo.git("branch", "-f", "main", "other")


def rebase(repo: Repo) -> None:
    """What came after the commit that made the job is put upon the one before it."""
    repo.commit({"README": "later"})
    repo.git("rebase", "-q", "--onto", "HEAD~2", "HEAD~1")


def back(repo: Repo) -> None:
    """A push by force of an older commit: one that the synced one descends from, and not the other way."""
    repo.git("reset", "-q", "--hard", "HEAD^")


@pytest.mark.parametrize("rewrite", [force_push, rebase, back])
def test_a_rewritten_history(cluster: Cluster, repo: Repo, rewrite: Callable[[Repo], None]) -> None:
    repo.commit({f"jobs/{name}.yaml": job(name, **IDLE) for name in ("b", "c")})
    repo.commit({"jobs/a.yaml": job("a", **IDLE)})
    cluster.add(url=repo.url, path="jobs", branch="main", prune="Auto")
    synced = cluster
    synced.sync()
    assert synced.names() == ALL
    rewrite(repo)
    synced.sync()
    hash = asks(synced, deletes=1, because="history was rewritten")
    holds(synced, ALL)
    synced.change(approve=hash)
    synced.sync()
    assert synced.names() == ["b", "c"]


def test_a_rewritten_history_that_deletes_nothing(synced: Cluster, repo: Repo) -> None:
    repo.commit({"jobs/d.yaml": job("d", **IDLE)}, "Another history", "--amend")
    synced.sync()
    assert synced.names() == [*ALL, "d"]


def test_a_branch_that_is_deleted_and_comes_back(synced: Cluster, repo: Repo) -> None:
    repo.git("checkout", "-q", "-b", "other")
    repo.git("branch", "-D", "main")
    synced.sync()
    assert synced.condition("Ready") == ("False", "RefNotFound")
    holds(synced, ALL)
    repo.git("branch", "main")
    synced.sync()
    assert synced.condition("Ready") == ("True", "Fetched")


def test_a_repository_that_goes_and_comes_back(synced: Cluster, repo: Repo, tmp_path: Any) -> None:
    repo.path.rename(tmp_path / "away")
    synced.sync()
    assert synced.condition("Ready") == ("False", "FetchFailed")
    holds(synced, ALL)
    # Another repository in its place has another history.
    fresh = Repo(repo.path)
    fresh.commit({"jobs/x.yaml": job("x", **IDLE)})
    synced.sync()
    asks(synced, deletes=3, because="history was rewritten")
    holds(synced, ALL)
    shutil.rmtree(repo.path)
    (tmp_path / "away").rename(repo.path)
    synced.sync()
    assert synced.condition("Synced") == ("True", "Synced")
    assert synced.names() == ALL


@pytest.mark.parametrize(
    ("limit", "because"), [({"count": 1}, "pruneLimit.count 1"), ({"percent": 50}, "pruneLimit.percent 50")]
)
def test_the_limits_on_how_many(synced: Cluster, repo: Repo, limit: dict[str, int], because: str) -> None:
    synced.change(pruneLimit=limit)
    repo.commit({"jobs/a.yaml": None, "jobs/b.yaml": None})
    synced.sync()
    hash = asks(synced, deletes=2, because=because)
    holds(synced, ALL)
    synced.change(approve=hash)
    synced.sync()
    assert synced.names() == ["c"]


def test_running_work_is_not_lost_without_being_asked_for(running: Cluster, repo: Repo) -> None:
    cluster = running
    cluster.job_seconds = 100_000.0
    repo.commit({"a.yaml": job("a").replace("duration: 1h", "duration: 9h"), "b.yaml": job("b", **IDLE)})
    cluster.add(url=repo.url, prune="Auto", pruneLimit={"gpuHours": 0.1})
    cluster.sync()
    cluster.sync(seconds=900)
    assert cluster.get("a")["status"]["phase"] == "Running"
    repo.commit({"a.yaml": None})
    cluster.sync()
    asks(cluster, deletes=1, because="GPU hours of running work would be lost")
    holds(cluster, ["a", "b"])
    # A job that would be made anew loses as much.
    repo.commit({"a.yaml": job("a", command="other.py").replace("duration: 1h", "duration: 9h")})
    cluster.sync()
    pending = cluster.source().status.pending_sync
    assert pending is not None
    assert (pending.recreates, pending.deletes) == (1, 0)
    holds(cluster, ["a", "b"])
    cluster.change(approve=pending.hash)
    cluster.sync()
    cluster.sync(seconds=60)
    assert cluster.get("a")["spec"]["command"] == ["python", "other.py"]


def unsigned(cluster: Cluster, repo: Repo) -> None:
    """A commit without the signature that the Source demands takes the job out."""
    JobSecrets(cluster.home / "job-secrets").of("default").set("signers", "allowed_signers", "# nobody\n")
    cluster.change(verify={"keys": "signers"})
    repo.commit({"a.yaml": None})


def leaked(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": None, "d.yaml": job("d", env=f'[{{name: T, value: "ghp_{"a" * 36}"}}]', **IDLE)})


def too_large(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": None, "d.yaml": "#" * (5 * 2**20)})


def no_secret(cluster: Cluster, repo: Repo) -> None:
    cluster.change(git={"credentials": "nothing"})
    repo.commit({"a.yaml": None})


def elsewhere(cluster: Cluster, repo: Repo) -> None:
    """Another repository, which never had the job."""
    other = Repo(repo.path.with_name("elsewhere"))
    other.commit({f"{name}.yaml": job(name, **IDLE) for name in "bc"})
    cluster.change(git={"url": other.url})


def no_such_tag(cluster: Cluster, repo: Repo) -> None:
    cluster.change(git={"tag": "v1"})
    repo.commit({"a.yaml": None})


def immutable(cluster: Cluster, repo: Repo) -> None:
    """One mistake, beside a deletion that would be allowed."""
    cluster.change(onChange="Fail")
    repo.commit({"a.yaml": None, "b.yaml": job("b", command="other.py", **IDLE)})


@pytest.mark.parametrize(
    "brake", [unsigned, leaked, too_large, no_secret, elsewhere, no_such_tag, immutable], ids=lambda it: it.__name__
)
def test_what_is_not_as_it_should_be_deletes_nothing(
    cluster: Cluster, repo: Repo, brake: Callable[[Cluster, Repo], None]
) -> None:
    repo.commit({f"{name}.yaml": job(name, **IDLE) for name in ALL})
    cluster.add(url=repo.url, prune="Auto", pruneLimit={"count": 100, "percent": 100})
    cluster.sync()
    assert cluster.names() == ALL
    brake(cluster, repo)
    cluster.sync()
    holds(cluster, ALL)
    assert "False" in {cluster.condition(type)[0] for type in ("Ready", "Synced")}


def test_a_directory_that_is_empty_or_gone(cluster: Cluster, tmp_path: Path) -> None:
    place = tmp_path / "manifests"
    place.mkdir()
    for name in ALL:
        (place / f"{name}.yaml").write_text(job(name, **IDLE))
    cluster.add(directory=place, prune="Auto", pruneLimit={"count": 100, "percent": 100})
    cluster.sync()
    place.rename(tmp_path / "away")
    cluster.sync(seconds=400)
    assert cluster.condition("Ready") == ("False", "FetchFailed")
    holds(cluster, ALL)
    place.mkdir()
    cluster.sync(seconds=400)
    asks(cluster, deletes=3, because="holds no objects")
    holds(cluster, ALL)


def test_objects_that_are_marked_stay(synced: Cluster, repo: Repo) -> None:
    synced.service.objects.set_annotations(ME, Key("GPUJob", "default", "a"), {"cumulus.dev/keep": "true"})
    repo.commit({"jobs/a.yaml": None, "jobs/b.yaml": None})
    synced.sync()
    holds(synced, ["a", "c"])


def test_an_object_that_was_made_anew_by_somebody_is_not_the_sources(synced: Cluster, repo: Repo) -> None:
    synced.change(suspend=True)
    synced.sync()
    key = Key("GPUJob", "default", "a")
    document = synced.get("a")
    synced.service.objects.delete(ME, key)
    synced.sync()
    given = {name: document[name] for name in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "a"}}
    synced.service.objects.create(ME, given)
    repo.commit({"jobs/a.yaml": None})
    synced.change(suspend=False)
    synced.sync()
    holds(synced, ALL)


def test_a_source_that_is_deleted_leaves_its_objects(synced: Cluster) -> None:
    synced.service.objects.delete(ME, Key("Source", "default", "cluster"))
    synced.sync(seconds=60)
    assert synced.names() == ALL


def test_pin_and_unpin(synced: Cluster, repo: Repo) -> None:
    first = repo.head
    repo.commit({"jobs/d.yaml": job("d", **IDLE)})
    synced.sync()
    synced.change(pin=first)
    synced.sync()
    holds(synced, ALL)
    assert synced.source().status.history[-1].why == "pinned by root"
    repo.commit({"jobs/e.yaml": job("e", **IDLE)})
    synced.sync()
    holds(synced, ALL)
    synced.change(pin=None)
    synced.sync()
    assert synced.names() == [*ALL, "d", "e"]


def test_history_says_who_approved_and_who_pinned(cluster: Cluster, repo: Repo) -> None:
    first = repo.commit({"a.yaml": job("a", suspend="true"), "b.yaml": job("b", suspend="true")})
    cluster.add(url=repo.url, prune="Confirm")
    cluster.sync()
    repo.commit({"b.yaml": None})
    cluster.sync()
    pending = cluster.source().status.pending_sync
    assert pending is not None
    assert f"cumulus source approve cluster {pending.hash}" in str(
        [c.message for c in cluster.source().status.conditions if c.type == "Synced"]
    )
    cluster.service.objects.patch(
        ME, Key("Source", "default", "cluster"),
        {"spec": {"approve": pending.hash}, "metadata": {"annotations": {"cumulus.dev/approved-by": "somebody"}}},
    )  # fmt: skip
    cluster.sync()
    assert cluster.source().status.history[-1].why == f"approved by root: {pending.hash}"
    cluster.change(pin=first)
    cluster.sync()
    assert cluster.source().status.history[-1].why == "pinned by root"
    annotations = cluster.source().metadata.annotations
    assert annotations["cumulus.dev/approved-by"] == annotations["cumulus.dev/pinned-by"] == "root"
    cluster.change(pin=None)
    assert "cumulus.dev/pinned-by" not in cluster.source().metadata.annotations


def test_a_request_is_done_once_the_server_was_asked(cluster: Cluster, repo: Repo) -> None:
    def ask(mark: str) -> None:
        cluster.service.objects.set_annotations(
            ME, Key("Source", "default", "cluster"), {"cumulus.dev/sync-requested": mark}, overwrite=True
        )

    repo.commit({"a.yaml": job("a", suspend="true")})
    cluster.add(url=repo.url)
    cluster.sync()
    # Also where nothing is new, where a manifest is wrong, and where nothing can be read.
    for number, change in enumerate([lambda: None, lambda: repo.commit({"b.yaml": "x: ["}),
                                     lambda: repo.path.rename(repo.path.with_name("away"))]):  # fmt: skip
        change()
        ask(f"mark-{number}")
        settle(cluster.world, cluster.daemon, seconds=0.0)
        assert cluster.source().status.sync_request == f"mark-{number}"
        assert cluster.source().status.sync_done != f"mark-{number}"
        assert cluster.following.step()
        settle(cluster.world, cluster.daemon, seconds=0.0)
        assert cluster.source().status.sync_done == f"mark-{number}"
    assert cluster.condition("Ready") == ("False", "FetchFailed")


def test_a_server_that_answers_during_a_look_does_not_make_an_old_look_an_answer(
    cluster: Cluster, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit({"a.yaml": "x: ["})
    cluster.add(url=repo.url)
    cluster.sync()
    repo.commit({"a.yaml": job("a", **IDLE)})
    follow = cluster.following.follow

    def slow(*given: Any, **more: Any) -> Any:
        found = follow(*given, **more)
        cluster.following.step()
        return found

    monkeypatch.setattr(cluster.following, "follow", slow)
    before = cluster.store.revision()
    manual(cluster)
    settle(cluster.world, cluster.daemon, seconds=0.0)
    source = cluster.source()
    assert source.status.sync_done == source.status.sync_request != ""
    assert cluster.names() == ["a"]
    done = [it["status"] for it in cluster.written(before) if it["kind"] == "Source" and it["status"].get("syncDone")]
    assert done
    assert all(status["observed"]["revision"] == repo.head for status in done)


def alias_bomb(repo: Repo) -> None:
    """Nine levels of ten aliases each: a billion words in a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    repo.commit({"bomb.yaml": "\n".join(lines), "a.yaml": None})


def deep_value(repo: Repo) -> None:
    repo.commit({"bomb.yaml": "x: " + "[" * 100_000, "a.yaml": None})


def many_files(repo: Repo) -> None:
    """One file more than is read, all with the same content."""
    blob = repo.git("hash-object", "-w", "b.yaml")
    listed = "".join(f"100644 blob {blob}\tx{n}.yaml\n" for n in range(MOST_FILES + 1))
    tree = subprocess.run(["git", "mktree"], cwd=repo.path, input=listed, capture_output=True, text=True, check=True)
    commit = repo.git("commit-tree", tree.stdout.strip(), "-p", "HEAD", "-m", "many")
    repo.git("update-ref", "refs/heads/main", commit)


def links_and_modules(repo: Repo) -> None:
    """All that is left is what is not followed: a loop, a link to elsewhere, a submodule."""
    (repo.path / "loop").symlink_to(".")
    (repo.path / "link.yaml").symlink_to("/etc/hostname")
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},m")
    gone: dict[str, str | None] = {f"{name}.yaml": None for name in ALL}
    repo.commit({".gitmodules": '[submodule "m"]\n\tpath = m\n\turl = https://169.254.169.254/m\n', **gone})


@pytest.mark.parametrize("bomb", [alias_bomb, deep_value, many_files, links_and_modules], ids=lambda it: it.__name__)
def test_a_bomb_changes_nothing_and_stops_no_other(
    cluster: Cluster, repo: Repo, tmp_path: Path, bomb: Callable[[Repo], None]
) -> None:
    repo.commit({f"{name}.yaml": job(name, **IDLE) for name in ALL})
    cluster.add(url=repo.url, prune="Auto", pruneLimit={"count": 100, "percent": 100})
    cluster.sync()
    bomb(repo)
    other = Repo(tmp_path / "other")
    other.commit({"x.yaml": job("x", **IDLE)})
    cluster.add("other", url=other.url)
    cluster.sync()
    assert cluster.names() == [*ALL, "x"]
    said = [condition.message for condition in cluster.source().status.conditions if condition.status == "False"]
    assert said
    assert all(len(message) < 10_000 for message in said)
