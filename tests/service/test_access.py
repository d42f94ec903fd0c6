"""Who may do what: each cell of the matrix, and what gives a role."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cumulus import manifest
from cumulus.errors import Forbidden, InvalidObject
from cumulus.resources.key import API_VERSION, Key
from cumulus.resources.query import Query
from cumulus.resources.roles import Role
from cumulus.resources.submitter import SUBMITTER, SUBMITTER_ADMIN, SUBMITTER_UID
from cumulus.service.access.access import ADMIN_GROUP, Access
from cumulus.service.access.matrix import RESOURCES, GuardedResource
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from cumulus.stores import empty_store

OWNER = 4_000_000_001
ANN = Identity("ann", 1001, ("lab",))


def binding(role: str, kind: str, name: str, namespace: str = "", called: str = "given") -> dict[str, Any]:
    metadata = {"name": called} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": API_VERSION, "kind": "RoleBinding" if namespace else "ClusterRoleBinding", "metadata": metadata,
        "roleRef": {"kind": "Role", "name": role}, "subjects": [{"kind": kind, "name": name}],
    }  # fmt: skip


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: f"{resource.name}.{resource.group}")
def test_each_cell(resource: GuardedResource) -> None:
    where = "team" if resource.namespaced else ""
    for role in (None, *Role):
        store = empty_store()
        if role is not None:
            store.create(binding(role, "User", "ann", where))
        access = Access(lambda store=store: store, OWNER)  # type: ignore[misc]
        for verb, least in resource.verbs.items():
            allowed = least is None or (role is not None and role.covers(least))
            assert access.may(ANN, verb, resource.name, where, group=resource.group).allowed == allowed, (role, verb)
            if where and least is not None:
                assert not access.may(ANN, verb, resource.name, "other", group=resource.group).allowed
                assert not access.may(ANN, verb, resource.name, "", group=resource.group).allowed


def test_the_first_admins() -> None:
    access = Access(MemoryStore, OWNER)
    for admin in (Identity("root", 0), Identity("me", OWNER), Identity("eve", 7, (ADMIN_GROUP,))):
        assert access.is_admin(admin)
    # A name alone makes nobody root.
    assert access.role(Identity("root")) is None
    assert access.role(ANN) is None


def test_groups_everybody_and_what_is_bound_everywhere() -> None:
    store = empty_store()
    access = Access(lambda: store, OWNER)
    store.create(binding("user", "Group", "lab", "team"))
    assert access.role(ANN, "team") is Role.USER
    store.create(binding("viewer", "Group", "system:authenticated"))
    access.bindings_changed()
    assert (access.role(ANN, "team"), access.role(ANN, "other"), access.role(ANN)) == (
        Role.USER, Role.VIEWER, Role.VIEWER,
    )  # fmt: skip


def test_a_home_namespace_is_its_unix_users() -> None:
    access = Access(MemoryStore, 0, home_namespaces=True)
    assert access.role(ANN, "ann") is Role.USER
    assert access.role(ANN, "bob") is None
    assert access.role(Identity("ann"), "ann") is None


def test_what_is_not_allowed_says_what_would_be() -> None:
    access = Access(MemoryStore, OWNER)
    with pytest.raises(Forbidden) as caught:
        access.check(Identity("a\x1b[31m", 5), "delete", "gpujobs", "y", "x")
    assert str(caught.value) == (
        'gpujobs.cumulus.dev "x" is forbidden: User "a\\x1b[31m" cannot delete resource "gpujobs" in API group '
        '"cumulus.dev" in the namespace "y"'
    )
    hint = "it needs the role user in the namespace y, you have none; an admin gives it with a RoleBinding"
    assert caught.value.hint == hint
    with pytest.raises(Forbidden, match=r'list resource "gpujobs" in API group "cumulus[.]dev" at the cluster scope'):
        access.check(ANN, "list", "gpujobs")


@pytest.fixture
def team(tmp_path: Path) -> Service:
    """Ann and Bob have the role user in `team`, Eve is a viewer there."""
    store = empty_store()
    for name, role in (("ann", "user"), ("bob", "user"), ("eve", "viewer")):
        store.create(binding(role, "User", name, "team", name))
    return Service(lambda: store, tmp_path, owner=0, mounts=["/data", "/scratch/"])


def job(**spec: Any) -> dict[str, Any]:
    gpu = {"memory": "50%", "duration": "1h"}
    return {
        "apiVersion": API_VERSION, "kind": "GPUJob",
        "metadata": {"name": "train", "namespace": "team", "annotations": {SUBMITTER: "root", SUBMITTER_ADMIN: "true"}},
        "spec": {"command": ["true"], "gpu": gpu, **spec},
    }  # fmt: skip


BOB, EVE, ROOT = Identity("bob", 1002), Identity("eve", 1003), Identity("root", 0)
TRAIN = Key("GPUJob", "team", "train")


def test_what_runs_is_its_submitters(team: Service) -> None:
    made = team.objects.create(ANN, job())
    # The document named another.
    assert made["metadata"]["annotations"] == {SUBMITTER: "ann", SUBMITTER_UID: "1001"}
    for other in (BOB, EVE, Identity("ann", 1009)):
        with pytest.raises(Forbidden):
            team.objects.delete(other, TRAIN)
        with pytest.raises(Forbidden):
            team.jobs.suspend(other, TRAIN, suspended=True)
        with pytest.raises(Forbidden):
            team.objects.set_labels(other, TRAIN, {"a": "b"})
    assert team.jobs.suspend(ANN, TRAIN, suspended=True)
    with pytest.raises(InvalidObject, match="is set when the object is made"):
        team.objects.set_annotations(ROOT, TRAIN, {SUBMITTER: "root"}, overwrite=True)
    bare = {**made, "metadata": {"name": "train", "namespace": "team"}}
    assert team.objects.update(ANN, bare)["metadata"]["annotations"][SUBMITTER] == "ann"
    team.objects.delete(ANN, TRAIN)


def test_a_namespace_without_a_binding_is_closed(team: Service) -> None:
    team.objects.create(ANN, job())
    stranger = Identity("mallory", 1666)
    for call in (
        lambda: team.objects.get(stranger, TRAIN),
        lambda: team.objects.list(stranger, Query("GPUJob", namespace="team")),
        lambda: team.objects.list(EVE, Query("GPUJob")),
        lambda: team.objects.watch(EVE, since=0, kinds=frozenset({"GPUJob"})),
        lambda: team.objects.create(EVE, job()),
        lambda: team.explanations.why(stranger, TRAIN),
        lambda: team.secrets.list(stranger, "team"),
        lambda: team.backups.write(ANN, Path("/nowhere/backup")),
        lambda: team.find_damaged(ANN),
    ):
        with pytest.raises(Forbidden):
            call()
    assert team.objects.list(EVE, Query("GPUJob", namespace="team")).items


def test_nobody_gives_what_they_do_not_have(team: Service) -> None:
    with pytest.raises(Forbidden):
        team.objects.create(ANN, binding("viewer", "User", "mallory", "team", "more"))
    team.objects.create(ROOT, binding("admin", "User", "ann", "team", "more"))
    team.objects.create(ANN, binding("viewer", "User", "mallory", "team", "again"))
    with pytest.raises(Forbidden):
        team.objects.create(ANN, binding("viewer", "User", "mallory", called="everywhere"))
    team.objects.delete(ROOT, Key("RoleBinding", "team", "more"))
    assert team.access.role(ANN, "team") is Role.USER


@pytest.mark.parametrize(
    "spec",
    [
        {"image": "x", "runAsUser": 0},
        {"image": "x", "runAsUser": 1002},
        {"image": "x", "runAsUser": 1001, "hostNetwork": True},
        {"image": "x", "runAsUser": 1001, "ports": [{"containerPort": 1, "hostPort": 1}]},
        {"image": "x", "mounts": [{"source": "/", "target": "/host"}]},
        {"image": "x", "mounts": [{"source": "/datasets", "target": "/d"}]},
        {"image": "x", "mounts": [{"source": "/data", "target": "/a"}, {"source": "/root", "target": "/d"}]},
    ],
)
def test_what_containers_have_for_admins_alone(team: Service, spec: dict[str, Any]) -> None:
    with pytest.raises(Forbidden):
        team.objects.create(ANN, job(**spec))
    assert team.objects.create(ROOT, job(**spec))["metadata"]["annotations"][SUBMITTER_ADMIN] == "true"


def test_what_containers_have_of_everybody(team: Service) -> None:
    mounts = [{"source": "/data/sets/", "target": "/d"}, {"source": "/scratch/ann", "target": "/s"}]
    made = team.objects.create(ANN, job(image="x", runAsUser=1001, mounts=mounts))
    assert SUBMITTER_ADMIN not in made["metadata"]["annotations"]
    team.objects.delete(ANN, TRAIN)
    team.objects.create(ANN, job(image="x"))
    with pytest.raises(Forbidden) as caught:
        team.objects.create(Identity("bob"), job(image="x"))
    assert caught.value.hint == "a container runs as the Unix user who submits it, and you have none"


def test_a_partition_takes_no_ports(team: Service) -> None:
    wanted = {
        "apiVersion": API_VERSION, "kind": "GPUPartition", "metadata": {"name": "p", "namespace": "team"},
        "spec": {"memory": "50%", "duration": "1h", "hostPorts": [80]},
    }  # fmt: skip
    with pytest.raises(Forbidden):
        team.objects.create(ANN, wanted)


def test_programs_need_a_unix_user_that_the_daemon_can_be(team: Service, tmp_path: Path) -> None:
    for nobody in (Identity("bob"), Identity("admin", None, (ADMIN_GROUP,))):
        with pytest.raises(Forbidden) as caught:
            team.objects.create(nobody, job())
        assert caught.value.hint == "a job without an image runs as a Unix user, and you have none"
    plain = Service(lambda: team.store, tmp_path, owner=OWNER)
    # An admin of objects is not the daemon's user for that.
    for other in (BOB, Identity("admin", 1009, (ADMIN_GROUP,))):
        with pytest.raises(Forbidden) as caught:
            plain.objects.create(other, job())
        assert "would run as the daemon's own user" in str(caught.value.hint)
    # Also root's, unless it is the machine's.
    with pytest.raises(Forbidden):
        Service(lambda: team.store, tmp_path, owner=0, switches=False).objects.create(BOB, job())
    plain.objects.create(BOB, job(image="x"))
    plain.objects.delete(BOB, TRAIN)
    plain.objects.create(Identity("me", OWNER), job())


def test_what_forbids_an_apply_tells_nothing_of_what_is_there(team: Service) -> None:
    team.objects.create(ANN, job(command=["python", "hush.py"]))
    [wanted] = manifest.load_text(json.dumps(job(command=["true"])))
    for stranger in (Identity("mallory", 1666), EVE):
        for dry_run in (True, False):
            with pytest.raises(Forbidden) as caught:
                team.objects.apply(stranger, [wanted], dry_run=dry_run)
            assert "hush" not in f"{caught.value} {caught.value.hint}"


def test_the_submitter_stays_whoever_writes(team: Service) -> None:
    stored = team.objects.create(ANN, job())
    for name in (SUBMITTER, SUBMITTER_UID, SUBMITTER_ADMIN):
        for value in ("root", "0", None):
            annotations = {**stored["metadata"]["annotations"], name: value}
            kept = {key: value for key, value in annotations.items() if value is not None}
            changed = {**stored, "metadata": {**stored["metadata"], "annotations": kept}}
            if kept != stored["metadata"]["annotations"]:
                with pytest.raises(InvalidObject, match="is set when the object is made and cannot change"):
                    team.store.update(changed)


def test_a_bindings_role_stays(team: Service) -> None:
    stored = team.store.get(Key("RoleBinding", "team", "eve"))
    changed = {**stored, "roleRef": {"kind": "Role", "name": "admin"}}
    with pytest.raises(InvalidObject, match=r'roleRef[.]name: is immutable and cannot change from "viewer" to "admin"'):
        team.store.update(changed)
    with pytest.raises(InvalidObject, match="roleRef"):
        team.objects.update(ROOT, changed)
    more = [*stored["subjects"], {"kind": "Group", "name": "lab"}]
    assert team.objects.update(ROOT, {**stored, "subjects": more})["subjects"] == more
