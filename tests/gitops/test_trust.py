"""A Source acts for whoever made it: with their roles, as their Unix user, and never with more."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import Forbidden
from cumulus.manifest import load_text
from cumulus.resources.key import Key
from cumulus.resources.submitter import Submitter
from cumulus.service.accounts import Accounts
from cumulus.service.identity import Identity
from cumulus.service.on_behalf import OnBehalf
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from tests.controllers.driver import settle
from tests.gitops.cluster import Cluster, Repo, job
from tests.service.test_access import binding

ANN = Submitter("ann", 1001)
NO_ACCOUNT = 2_000_000_007
GRANT = """
apiVersion: cumulus.dev/v1alpha1
kind: RoleBinding
metadata: {name: mine, namespace: team}
roleRef: {name: admin}
subjects: [{kind: User, name: ann}]
"""


def a_source(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "Source", "metadata": {"name": "cluster", "namespace": "default"},
        "spec": {"git": {"url": url}},
    }  # fmt: skip


class FakeAccounts(Accounts):
    def of_uid(self, uid: int) -> Identity:
        known = {1001: "ann", 0: "root", NO_ACCOUNT: "gone"}
        return Identity(known[uid], uid)


@pytest.fixture
def behalf() -> Iterator[OnBehalf]:
    from cumulus.service.access.access import Access

    clock = FakeClock()
    store = MemoryStore(clock)
    store.create(binding("user", "User", "ann", "team", "b"))
    store.create(binding("admin", "User", "ann", "lab", "c"))
    access = Access(lambda: store, 0, switches=True)
    yield OnBehalf(store, clock, access, FakeAccounts())
    store.close()


def test_a_namespace_needs_the_submitters_role(behalf: OnBehalf) -> None:
    manifests = load_text(job("a").replace("name: a", "name: a\n  namespace: team"), name="a.yaml")
    manifests += load_text(job("b").replace("name: b", "name: b\n  namespace: other"), name="b.yaml")
    (problem,) = behalf.refusals(ANN, manifests)
    assert str(problem).startswith(
        "b.yaml:5:14: metadata.namespace: ann, whose Source it is, may not apply it: it needs"
    )


def test_what_decides_over_others_needs_an_admins_source(behalf: OnBehalf) -> None:
    source = "apiVersion: cumulus.dev/v1alpha1\nkind: Source\nmetadata: {name: x, namespace: team}\n"
    source += "spec: {directory: {path: /srv}}\n"
    node = "apiVersion: cumulus.dev/v1alpha1\nkind: GPUNode\nmetadata: {name: x}\nspec: {ssh: {host: h, user: root}}\n"
    manifests = load_text(f"{GRANT}---\n{source}---\n{node}---\n{GRANT.replace('namespace: team', 'namespace: lab')}")
    # An admin of one namespace is none of all.
    told = [str(problem) for problem in behalf.refusals(ANN, manifests)]
    assert len(told) == 4
    assert "a RoleBinding is applied from an admin's Source alone, and this is ann's" in told[0]
    assert behalf.refusals(Submitter("root", 0), manifests) == []


def test_an_admin_of_its_namespace_gets_nothing_of_its_submitters_rights(cluster: Cluster, repo: Repo) -> None:
    # Root's Source may grant roles everywhere and reads as root.
    repo.commit({"a.yaml": job("a", suspend="true")})
    cluster.add(url=repo.url)
    cluster.sync()
    for role, name, namespace in (("admin", "ann", "default"), ("admin", "eve", "")):
        cluster.store.create(binding(role, "User", name, namespace, f"{name}-b"))
    cluster.service.access.bindings_changed()
    key, ann, eve = Key("Source", "default", "cluster"), Identity("ann", 1001), Identity("eve", 1002)
    objects = cluster.service.objects
    elsewhere = {"git": {"url": "https://evil.example.org/r.git"}}
    for spec in (
        elsewhere,
        {"git": {"url": repo.url, "path": "x"}},
        {"prune": "Auto"},
        {"pin": "0" * 40},
        {"approve": "x"},
    ):
        with pytest.raises(Forbidden) as refused:
            objects.patch(ann, key, {"spec": spec})
        assert str(refused.value.hint).startswith("it acts for root")
    forged = cluster.source().to_json()
    forged["status"]["inventory"] = []
    with pytest.raises(Forbidden):
        objects.update_status(ann, forged)
    objects.patch(ann, key, {"spec": {"suspend": True}})
    # An admin everywhere is still not root.
    objects.patch(eve, key, {"spec": {"suspend": None, "prune": "Confirm"}})
    with pytest.raises(Forbidden) as refused:
        objects.patch(eve, key, {"spec": elsewhere})
    assert str(refused.value.hint) == "it reads as root: only they and root may say what"
    objects.set_labels(ann, key, {"team": "a"})
    objects.delete(ann, key)


def test_who_is_not_who_they_were_may_nothing(behalf: OnBehalf) -> None:
    for submitter, told in (
        (Submitter("bob", 1001), "uid 1001 was bob and is ann now"),
        (Submitter(), "nobody knows who made it"),
    ):
        with pytest.raises(Forbidden, match=told):
            behalf.refusals(submitter, [])
        with pytest.raises(Forbidden, match=told):
            behalf.user_of(submitter)
    with pytest.raises(Forbidden, match="no Unix user"):
        behalf.user_of(Submitter("token-only"))
    with pytest.raises(Forbidden, match="no account"):
        behalf.user_of(Submitter("gone", NO_ACCOUNT))


def test_a_role_that_is_taken_away_stops_the_source(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a", suspend="true")})
    cluster.add(url=repo.url)
    cluster.sync()
    refused = OnBehalf(cluster.store, cluster.world.clock, cluster.service.access, FakeAccounts())
    refused.refusals = lambda submitter, manifests: [manifests[0].problem((), "may not")]  # type: ignore[method-assign]
    object.__setattr__(cluster.room, "submitters", refused)
    repo.commit({"b.yaml": job("b", suspend="true")})
    cluster.sync()
    assert cluster.names() == ["a"]
    assert cluster.condition("Synced") == ("False", "Refused")


def test_a_role_that_comes_is_noticed_without_a_commit(cluster: Cluster, repo: Repo) -> None:
    repo.commit({"a.yaml": job("a", suspend="true").replace("name: a\n", "name: a\n  namespace: team\n")})
    accounts = FakeAccounts()
    cluster.service = Service(lambda: cluster.store, cluster.home, cluster.world.clock, switches=True)
    object.__setattr__(
        cluster.room, "submitters", OnBehalf(cluster.store, cluster.world.clock, cluster.service.access, accounts)
    )
    cluster.room.submitters.user_of = lambda submitter: None  # type: ignore[method-assign]
    cluster.store.create(binding("user", "User", "ann", "default", "here"))
    cluster.service.objects.create(Identity("ann", 1001), a_source(repo.url))
    cluster.sync()
    assert cluster.condition("Synced") == ("False", "Refused")
    cluster.store.create(binding("user", "User", "ann", "team", "there"))
    settle(cluster.world, cluster.daemon, seconds=2.0)
    assert cluster.condition("Synced") == ("True", "Synced")
    assert cluster.names() == ["a"]


@pytest.fixture
def other() -> Identity:
    if os.geteuid() != 0:
        pytest.skip("it takes root to read as another user")
    import pwd

    account = pwd.getpwnam("games")
    return Identity(account.pw_name, account.pw_uid)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Where every user may pass."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def owned(place: Path, user: Identity) -> None:
    for found in (place, *place.rglob("*")):
        os.lchown(found, user.uid or 0, -1)


def test_git_and_directories_are_read_as_the_submitter(other: Identity, open_place: Path) -> None:
    cluster = Cluster(open_place / "home")
    cluster.service = Service(
        lambda: cluster.store, cluster.home, cluster.world.clock, home_namespaces=True, switches=True
    )
    cluster.new_daemon()
    repo = Repo(open_place / "repo")
    repo.commit({"a.yaml": job("a", suspend="true")})
    (open_place / "dir").mkdir()
    (open_place / "dir" / "b.yaml").write_text(job("b", suspend="true"))
    (open_place / "secret").mkdir(mode=0o700)
    (open_place / "secret" / "c.yaml").write_text(job("c", suspend="true"))
    owned(repo.path, other)
    sources = {
        "git": {"git": {"url": repo.url}}, "dir": {"directory": {"path": str(open_place / "dir")}},
        "secret": {"directory": {"path": str(open_place / "secret")}},
    }  # fmt: skip
    for name, spec in sources.items():
        document = {
            "apiVersion": "cumulus.dev/v1alpha1", "kind": "Source", "spec": spec,
            "metadata": {"name": name, "namespace": other.name},
        }  # fmt: skip
        cluster.service.objects.create(other, document)
    cluster.sync()
    assert cluster.names() == ["a", "b"]
    made = cluster.store.get(Key("GPUJob", other.name, "a"))["metadata"]["annotations"]
    assert made["cumulus.dev/submitter"] == other.name
    assert "cumulus.dev/submitter-admin" not in made
    (clone,) = (cluster.home / "sources" / str(other.uid)).glob("*.git")
    assert clone.stat().st_uid == other.uid
    refused = cluster.store.get(Key("Source", other.name, "secret"))["status"]["conditions"][0]
    assert "cannot be read: Permission denied" in refused["message"]


def test_what_one_clone_says_of_a_tree_counts_for_its_own_source_alone(
    cluster: Cluster, repo: Repo, tmp_path: Path
) -> None:
    """A user can make their clone say that another's tree holds what it does not."""
    repo.commit({"a.yaml": job("a", suspend="true")})
    copy = tmp_path / "copy"
    shutil.copytree(repo.path, copy)
    cluster.add("liar", url=f"file://{copy}")
    real = cluster.following.repository

    def lying(where: Any) -> Any:
        found = real(where)
        if str(where.url).endswith("copy"):
            found.read = lambda files, credentials: {"a.yaml": job("evil", suspend="true").encode()}
        return found

    cluster.following.repository = lying  # type: ignore[method-assign]
    cluster.sync()
    assert cluster.names() == ["evil"]
    cluster.add("honest", url=repo.url)
    cluster.sync()
    assert cluster.names() == ["a", "evil"]


def test_who_made_an_object_is_not_for_a_manifest_to_say(cluster: Cluster, repo: Repo) -> None:
    """As `get -o yaml` prints it of another cluster, or forged."""
    said = {"cumulus.dev/submitter": "eve", "cumulus.dev/submitter-uid": "1", "cumulus.dev/submitter-admin": "true"}
    words = {name: f'"{value}"' for name, value in said.items()}
    text = "{" + ", ".join(f"{name}: {value}" for name, value in words.items()) + "}"
    repo.commit({"a.yaml": job("a", suspend="true", annotations=text)})
    cluster.add(url=repo.url)
    cluster.sync()
    made = cluster.get("a")
    repo.commit({"a.yaml": job("a", suspend="true", priority=3, annotations=text)})
    cluster.sync()
    assert cluster.condition("Synced") == ("True", "Synced"), cluster.source().status
    after = cluster.get("a")
    assert (after["metadata"]["uid"], after["spec"]["priority"]) == (made["metadata"]["uid"], 3)
    for found in (made, after):
        assert found["metadata"]["annotations"]["cumulus.dev/submitter"] == "root"
    # Once the manifest no longer says it, nothing is taken away either.
    repo.commit({"a.yaml": job("a", suspend="true", priority=3)})
    cluster.sync()
    assert cluster.condition("Synced") == ("True", "Synced"), cluster.source().status
    assert cluster.get("a")["metadata"]["annotations"]["cumulus.dev/submitter"] == "root"


def test_a_repository_of_another_user_says_what_to_do(other: Identity, open_place: Path) -> None:
    cluster = Cluster(open_place / "home")
    repo = Repo(open_place / "repo")
    repo.commit({"a.yaml": job("a", suspend="true")})
    owned(repo.path, other)
    cluster.add(url=repo.url)
    cluster.sync()
    ready = cluster.source().status.conditions[0]
    assert ready.reason == "FetchFailed"
    assert "it belongs to another user: make the Source as that user, or read it over ssh" in ready.message
