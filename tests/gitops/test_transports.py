"""What happens to a repository, over https (git http-backend with TLS) and ssh (sshd): one server of each. The same
over file, and more, is in test_brakes.py and test_crashes.py."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cumulus.gitops.git import Repository
from cumulus.secrets import JobSecrets
from tests.gitops.cluster import Cluster, Repo, job
from tests.gitops.https_server import PASSWORD, USER, git_server
from tests.gitops.test_brakes import asks, back, force_push, rebase
from tests.nodes.conftest import Worker, client_key

__all__ = ["client_key"]
pytestmark = pytest.mark.xdist_group("git servers")
IDLE = {"suspend": "true"}
ALL = ["a", "b", "c"]


@dataclass(frozen=True)
class Server:
    """Repositories below `root`, and what a Source's secret says of them."""

    root: Path
    url: Callable[[Path], str]
    secret: dict[str, str]


def https(root: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    with git_server(root, root) as server:
        secret = {"username": USER, "password": PASSWORD, "ca.crt": server.ca.read_text()}
        yield Server(root, lambda path: server.url(str(path.relative_to(root))), secret)


def ssh(root: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    key: Path = request.getfixturevalue("client_key")
    worker = Worker(root / "worker", key)
    try:
        address = worker.address
        host_key = " ".join((worker.directory / "host_key.pub").read_text().split()[:2])
        secret = {"ssh-privatekey": key.read_text(), "known_hosts": f"[127.0.0.1]:{address.port} {host_key}\n"}
        yield Server(root, lambda path: f"ssh://{address.user}@127.0.0.1:{address.port}{path}", secret)
    finally:
        worker.stop()


@pytest.fixture(
    scope="module", params=[https, pytest.param(ssh, marks=pytest.mark.ssh)], ids=lambda it: str(it.__name__)
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from request.param(tmp_path_factory.mktemp("git"), request)


@pytest.fixture
def repo(server: Server, tmp_path: Path) -> Repo:
    # Each test's own: the name of its directory is taken once.
    made = Repo(server.root / tmp_path.name)
    made.git("config", "uploadpack.allowFilter", "true")
    return made


@pytest.fixture
def followed(cluster: Cluster, server: Server, repo: Repo) -> Cluster:
    """Three jobs that wait, the first of a later commit than the others."""
    for name, value in server.secret.items():
        JobSecrets(cluster.home / "job-secrets").of("default").set("git", name, value)
    repo.commit({f"jobs/{name}.yaml": job(name, **IDLE) for name in ("b", "c")})
    repo.commit({"jobs/a.yaml": job("a", **IDLE)})
    cluster.add(url=server.url(repo.path), path="jobs", branch="main", prune="Auto", credentials="git")
    cluster.sync()
    assert cluster.names() == ALL
    return cluster


def test_a_rewritten_history(followed: Cluster, repo: Repo) -> None:
    old = repo.head
    for rewrite in (force_push, rebase, back):
        rewrite(repo)
        followed.sync()
        hash = asks(followed, deletes=1, because="history was rewritten")
        assert followed.names() == ALL
        if rewrite is not back:
            # Whoever pushed by force puts it right.
            repo.git("checkout", "-q", "-B", "main", old)
            followed.sync()
            assert followed.condition("Synced") == ("True", "Synced")
    followed.change(approve=hash)
    followed.sync()
    assert followed.names() == ["b", "c"]


def test_a_revert_and_a_branch_and_a_repository_that_go_and_come_back(
    followed: Cluster, repo: Repo, tmp_path: Path
) -> None:
    repo.commit({"jobs/d.yaml": job("d", **IDLE)})
    followed.sync()
    assert followed.names() == [*ALL, "d"]
    repo.git("revert", "--no-edit", "HEAD")
    followed.sync()
    assert followed.names() == ALL
    assert followed.source().status.history[-1].revision == repo.head
    repo.git("checkout", "-q", "-b", "other")
    repo.git("branch", "-D", "main")
    followed.sync()
    assert followed.condition("Ready") == ("False", "RefNotFound")
    repo.git("branch", "main")
    followed.sync()
    assert followed.condition("Ready") == ("True", "Fetched")
    shutil.move(repo.path, tmp_path / "away")
    followed.sync()
    assert followed.condition("Ready") == ("False", "FetchFailed")
    assert followed.names() == ALL
    shutil.move(tmp_path / "away", repo.path)
    followed.sync()
    assert followed.condition("Ready") == ("True", "Fetched")
    assert followed.condition("Synced") == ("True", "Synced")
    assert followed.names() == ALL


def test_commits_while_a_sync_runs(followed: Cluster, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the server said what is new and before that is fetched, one before it is written."""
    look, commit, second = Repository.look, followed.room.submitters.commit, repo.head

    def looked(self: Repository, *given: Any) -> Any:
        nonlocal second
        found = look(self, *given)
        if "d" not in followed.names() and not (repo.path / "jobs/d.yaml").exists():
            # By force: what was found a moment ago is no branch's any more.
            second = repo.commit({"jobs/d.yaml": job("d", **IDLE)}, "amended", "--amend")
        return found

    def written(*given: Any, **more: Any) -> Any:
        if not (repo.path / "jobs/e.yaml").exists():
            repo.commit({"jobs/e.yaml": job("e", **IDLE)})
        return commit(*given, **more)

    monkeypatch.setattr(Repository, "look", looked)
    monkeypatch.setattr(followed.room.submitters, "commit", written)
    repo.commit({"README": "new"})
    followed.sync()
    followed.sync()
    assert followed.names() == [*ALL, "d", "e"]
    assert [entry.revision for entry in followed.source().status.history][-2:] == [second, repo.head]
