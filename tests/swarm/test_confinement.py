"""What the container of somebody who is no admin is held to: by the service's specification, and on the node."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import WorkloadMount
from cumulus.backends.swarm import spec
from cumulus.backends.swarm.confinement import NOBODYS_GROUP, Confinement, confinement
from cumulus.chronos import runtime
from cumulus.errors import BackendRefused
from tests.swarm.test_environment import workload

ANN = {"submitter": "ann", "submitter_uid": 4_000_001, "submitter_admin": False, "image": "x"}
DATA = (WorkloadMount("/data/sets", "sets"),)


def container(**more: Any) -> dict[str, Any]:
    work = workload(**{**ANN, **more})
    confined = confinement(work, ("/data",))
    body = spec.service(work, instance="i", node_id="n", image="x", confined=confined)
    made: dict[str, Any] = body["TaskTemplate"]["ContainerSpec"]
    return made


def test_a_users_container_is_that_users() -> None:
    made = container(working_dir="/w", mounts=DATA)
    assert (made["User"], made["Groups"]) == (f"4000001:{NOBODYS_GROUP}", [])
    assert (made["CapabilityDrop"], made["Privileges"]) == (["ALL"], {"NoNewPrivileges": True})
    assert f"CHRONOS_SUBMITTER=4000001:{NOBODYS_GROUP}:" in made["Env"]
    assert 'CHRONOS_MOUNTS={"targets": ["/w/sets"], "under": ["/data"]}' in made["Env"]


def test_with_the_groups_that_the_daemons_machine_knows() -> None:
    found = confinement(workload(**{**ANN, "submitter_uid": 1}), ())
    assert found is not None
    assert (found.uid, found.gid) == (1, 1)


def test_an_admins_has_what_its_job_asks_for() -> None:
    made = container(submitter_admin=True, user_id=7, mounts=(WorkloadMount("/etc", "/etc"),))
    assert made["User"] == "7"
    assert "CapabilityDrop" not in made
    assert "CHRONOS_SUBMITTER=admin" in made["Env"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"submitter": ""}, "does not say who submitted it"),
        ({"submitter_uid": None}, "its submitter has none"),
        ({"submitter_uid": 0}, "its submitter has none"),
        ({"user_id": 0}, "another user"),
        ({"user_id": 4_000_002}, "another user"),
        ({"host_network": True}, "the node's network"),
        ({"ports": ((80, 80),)}, "ports of the node"),
        ({"mounts": (WorkloadMount("/etc", "/e"),)}, "/etc is in no directory"),
        ({"mounts": (*DATA, WorkloadMount("/data/../etc", "/e"))}, "/data/../etc is in no directory"),
        ({"mounts": (WorkloadMount("/database", "/e"),)}, "/database is in no directory"),
    ],
)
def test_what_is_for_admins_alone_is_refused_whoever_stored_the_job(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(BackendRefused, match=why):
        container(**asked)


def test_the_job_cannot_say_whose_it_is() -> None:
    from cumulus.backends.base import EnvVar

    env = (EnvVar("CHRONOS_SUBMITTER", "admin"), EnvVar("CHRONOS_MOUNTS", "{}"), EnvVar("CHRONOS_SLOT", ""))
    made = container(env=env)
    assert [each for each in made["Env"] if each.startswith("CHRONOS_SUBMITTER=")] == [
        f"CHRONOS_SUBMITTER=4000001:{NOBODYS_GROUP}:"
    ]
    assert "CHRONOS_SLOT=n" in made["Env"]


# On the node


def bundle(tmp_path: Path, *env: str, mounts: tuple[tuple[str, str], ...] = (), **user: Any) -> Path:
    config = {
        "process": {
            "env": ["CHRONOS_SLOT=n", *env], "user": {"uid": 4_000_001, "gid": 4_000_002, **user},
            "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"]},
        },
        "linux": {"namespaces": [{"type": each} for each in ("mount", "network", "pid", "ipc", "uts")]},
        "mounts": [{"destination": target, "source": source, "type": "bind"} for source, target in mounts],
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return path


MINE = "CHRONOS_SUBMITTER=4000001:4000002:4000003"


def mounts(under: Path, *targets: str) -> str:
    return f"CHRONOS_MOUNTS={json.dumps({'targets': targets, 'under': [str(under)]})}"


def confined(path: Path) -> dict[str, Any]:
    runtime.confine(path)
    config: dict[str, Any] = json.loads(path.read_text())
    return config


def test_the_runtime_takes_capabilities_and_ways_to_them(tmp_path: Path) -> None:
    process = confined(bundle(tmp_path, MINE, additionalGids=[4_000_003]))["process"]
    assert process["noNewPrivileges"] is True
    assert process["capabilities"] == {}


def test_the_runtime_leaves_others_alone(tmp_path: Path) -> None:
    for path in (bundle(tmp_path, "CHRONOS_SUBMITTER=admin", uid=0), bundle(tmp_path, "CHRONOS_SLOT=", uid=0)):
        assert confined(path)["process"]["capabilities"]["bounding"] == ["CAP_CHOWN"]


@pytest.mark.parametrize(
    ("user", "why"),
    [({"uid": 0}, "not as its submitter"), ({"gid": 0}, "groups"), ({"additionalGids": [4_000_003, 0]}, "groups")],
)
def test_the_runtime_refuses_another_user(tmp_path: Path, user: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        runtime.confine(bundle(tmp_path, MINE, **user))


def test_the_runtime_refuses_what_does_not_say_whose_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not say who submitted it"):
        runtime.confine(bundle(tmp_path))


@pytest.mark.parametrize("shared", ["network", "pid", "ipc", "mount"])
def test_the_runtime_refuses_the_nodes_namespaces(tmp_path: Path, shared: str) -> None:
    path = bundle(tmp_path, MINE)
    config = json.loads(path.read_text())
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != shared]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"share the node's own: {shared}"):
        runtime.confine(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A listed directory that everybody reaches."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    place = tmp_path / "data"
    place.mkdir(mode=0o755)
    return place


root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")


@root
def test_a_source_is_what_its_submitter_reaches_by_it(tmp_path: Path, data: Path) -> None:
    (data / "sets").mkdir()
    (data / "link").symlink_to("sets")
    path = bundle(tmp_path, MINE, mounts(data, "/d"), mounts=((str(data / "link"), "/d"),))
    assert confined(path)["mounts"][0]["source"] == str(data / "sets")


@root
@pytest.mark.parametrize("leads", ["/etc", "/", "../elsewhere", "/proc/1/root/etc"])
def test_a_link_leads_nowhere_else(tmp_path: Path, data: Path, leads: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (data / "link").symlink_to(leads)
    path = bundle(tmp_path, MINE, mounts(data, "/d"), mounts=((str(data / "link"), "/d"),))
    with pytest.raises(ValueError, match=r"in no directory that may be mounted from|can't be mounted"):
        runtime.confine(path)


@root
def test_what_lies_behind_a_closed_directory_is_not_reached(tmp_path: Path, data: Path) -> None:
    closed = data / "private"
    closed.mkdir()
    (closed / "open").mkdir(mode=0o755)
    closed.chmod(0o700)
    path = bundle(tmp_path, MINE, mounts(data, "/d"), mounts=((str(closed / "open"), "/d"),))
    with pytest.raises(ValueError, match="Permission denied"):
        runtime.confine(path)
    assert "CAP_CHOWN" in path.read_text()


def test_a_mount_that_is_not_there_is_no_mount(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="nothing is mounted at /d"):
        runtime.confine(bundle(tmp_path, MINE, mounts(data, "/d")))


def test_the_two_sides_say_the_same(tmp_path: Path) -> None:
    """What the specification tells is what the node reads."""
    work = workload(**ANN)
    env = spec.service(
        work, instance="i", node_id="n", image="x", confined=Confinement(4_000_001, 4_000_002, (4_000_003,), ())
    )["TaskTemplate"]["ContainerSpec"]["Env"]
    path = bundle(tmp_path, *env, additionalGids=[4_000_003])
    assert confined(path)["process"]["noNewPrivileges"] is True
