"""Jobs without an image on the Swarm's workers: programs of the node's own disk, as their submitter."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from cumulus import environment
from cumulus.backends.base import Checkpointing, EnvVar, GangMember, Prefetched, Workload, WorkloadMount, WorkloadState
from cumulus.backends.cluster import ProgramsAnswer
from cumulus.blob.directory import DirectoryBlobStore
from cumulus.calls.outcome import Outcome
from cumulus.errors import BackendRefused
from cumulus.infrastructure.checkpoints import on_node
from cumulus.lib import host_image
from cumulus.uploader import catalog
from cumulus.uploader.directory_place import DirectoryPlace
from tests import unix_users
from tests.lab.lab import Lab
from tests.lab.node import LabError, Node
from tests.runner.calls import HERE, connected, payload_of
from tests.swarm.bed import IMAGE, SwarmBed
from tests.swarm.control import Control, controlled, job
from tests.swarm.test_calls import left_on, value
from tests.system_daemon import job as system_job
from tests.system_daemon import jobs, system_daemon
from tests.unix_users import User
from tests.uploader.saves import save
from tests.waiting import eventually

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [pytest.mark.docker, pytest.mark.skipif(bool(unix_users.missing()), reason=unix_users.missing())]


@pytest.fixture(scope="module")
def users(swarm: Lab) -> Iterator[tuple[User, User]]:
    """Of this machine. The nodes know them where a test says so."""
    with unix_users.two_users() as found:
        yield found


@pytest.fixture
def ann(users: tuple[User, User], swarm: Lab) -> Iterator[User]:
    """Known to all nodes."""
    yield from known(users[0], swarm)


@pytest.fixture
def bob(users: tuple[User, User], swarm: Lab) -> Iterator[User]:
    yield from known(users[1], swarm)


def known(user: User, lab: Lab) -> Iterator[User]:
    for node in lab.nodes.values():
        node.add_user(user.name, user.uid)
    yield user
    for node in lab.nodes.values():
        node.remove_user(user.name)


def program(bed: SwarmBed, user: User, script: str, *words: str, **more: Any) -> Workload:
    """A workload of the user's without an image."""
    fields = {"image": "", "submitter": user.name, "submitter_uid": user.uid, "submitter_admin": False, **more}
    return bed.work("sh", "-c", script, "sh", *words, **fields)


def said(bed: SwarmBed, work: Workload) -> str:
    """What it printed; it has succeeded."""
    bed.backend.start(work)
    end = bed.finish(work)
    log = bed.log(work).decode()
    assert end.state is WorkloadState.SUCCEEDED, (end.reason, end.message, log)
    return log


def test_a_program_of_the_nodes_disk_runs_as_its_submitter(bed: SwarmBed, ann: User) -> None:
    (bed.lab.nodes["worker1"].own / "word").write_text("of worker1")
    log = said(bed, program(
        bed, ann,
        'id -u; id -g; cat /srv/word; echo; hostname; pwd; umask; printf "%s\\n" "$HOME" "$USER" "$PATH" "$A";'
        ' grep -E "^(CapEff|CapPrm|CapBnd|NoNewPrivs|Seccomp):" /proc/self/status; touch made && ls -l made',
        env=(EnvVar("A", "b"),),
    ))  # fmt: skip
    lines = log.splitlines()
    place = f"/var/lib/chronos/programs/{ann.uid}/uid-job/a1-r0/work"
    assert lines[:9] == [str(ann.uid), str(ann.uid), "of worker1", "worker1", place, "0022", "/srv", ann.name, lines[8]]
    assert lines[8].startswith("/usr/local/bin:/usr/bin:/bin")
    assert lines[9] == "b"
    facts = dict(line.split(":\t") for line in lines[10:15])
    assert facts == {
        "CapPrm": "0" * 16, "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2",
    }  # fmt: skip
    assert ann.name in lines[15]


def refused(bed: SwarmBed, work: Workload) -> str:
    """Why its node did not start it."""
    bed.backend.start(work)
    end = bed.finish(work)
    assert (end.state, end.reason) == (WorkloadState.FAILED, "StartError"), (end, bed.log(work))
    return end.message


def test_two_users_beside_each_other(bed: SwarmBed, ann: User, bob: User) -> None:
    """Neither sees the other's processes, files, or secrets."""
    bed.secrets.set("key", "word", "hunter2")
    script = 'echo "$WORD" > kept; sleep 30'
    mine = program(bed, ann, script, job="mine", env=(EnvVar("WORD", secret="key", key="word"),))
    bed.backend.start(mine)
    bed.running(mine)
    place = f"/var/lib/chronos/programs/{ann.uid}"
    log = said(bed, program(
        bed, bob, 'cat "$1"/uid-mine/a1-r0/work/kept; ls "$1"; ls /dev/cumulus; ps -e -o user= | sort | uniq -c;'
        ' kill -9 -1 2>&1; true', place, job="other",
    ))  # fmt: skip
    assert "hunter2" not in log
    assert log.count("Permission denied") == 2
    assert "No such file or directory" in log
    assert ann.name not in log
    assert "root" not in log
    assert bed.seen(mine).state is WorkloadState.RUNNING
    bed.backend.stop(mine.name, 0)
    bed.finish(mine)


@pytest.mark.parametrize(
    ("name", "uid", "why"),
    [
        ("", 0, "this node has no user {name} with the number {uid}"),
        ("{name}", 1, "the user {name} has the number 4100001 on this node, and {uid} where the job was submitted"),
        ("stranger", 0, "the number {uid} is stranger's on this node, and not {name}'s"),
    ],
)
def test_another_user_on_the_node_is_nobody(
    bed: SwarmBed, users: tuple[User, User], name: str, uid: int, why: str
) -> None:
    user, node = users[0], bed.lab.nodes["worker1"]
    name = name.format(name=user.name)
    if name:
        node.add_user(name, 4_100_001 if uid else user.uid)
    try:
        message = refused(bed, program(bed, user, "id"))
    finally:
        node.remove_user(name or "nobody-of-this-name")
    assert why.format(name=user.name, uid=user.uid) in message


def test_a_directory_that_is_not_there_or_not_theirs(bed: SwarmBed, ann: User) -> None:
    closed = bed.lab.nodes["worker1"].own / "closed"
    closed.mkdir(mode=0o700)
    assert "/nowhere: No such file or directory" in refused(
        bed, program(bed, ann, "pwd", working_dir="/nowhere", job="a")
    )
    assert not os.path.exists("/nowhere")
    assert "/srv/closed: Permission denied" in refused(
        bed, program(bed, ann, "pwd", working_dir="/srv/closed", job="b")
    )
    link = bed.lab.shared / f"link-{bed.instance}"
    link.symlink_to("/root/made-by-runc")
    message = refused(bed, program(bed, ann, "pwd", working_dir=f"/mnt/{link.name}/x", job="c"))
    assert "/x: " in message
    assert not os.path.exists("/root/made-by-runc")


ATTACKS = r"""
exec 2>&1
python3 -c "import socket; socket.socket(socket.AF_UNIX).connect('/run/docker.sock')" 2>&1 | tail -n 1
python3 -c "import os; print('made', os.mknod('device', 0o20666, os.makedev(1, 1)))" 2>&1 | tail -n 1
head -c 1 /srv/device
echo $(ls /dev)
unshare -Ur true
unshare -m true
mount -t tmpfs tmpfs /mnt
nsenter -t 1 -m true
sudo -n id
touch /run/x
touch /etc/x
echo processes $(ls -d /proc/[0-9]* | wc -l)
grep -c . /sys/fs/cgroup/memory/tasks /sys/fs/cgroup/cgroup.procs
echo 0 > /sys/fs/cgroup/memory/tasks
ls /run/user /run/docker
env | sort | grep -E '^(CHRONOS_(SLOT|SUBMITTER|DEVICES)|LD_PRELOAD)='
"""


def test_nothing_gets_it_out_of_its_container(bed: SwarmBed, ann: User) -> None:
    """The engine, devices, namespaces, mounts, setuid programs, cgroups, and the variables that say who it is."""
    node = bed.lab.nodes["worker1"]
    seen = "grep -c chronos-root /proc/self/mountinfo; ls -A / /dev /srv /etc"
    node.inside("sh", "-ec", "chmod 666 /run/docker.sock; mknod -m 666 /srv/device b 254 0; mkdir -p /run/user/1")
    before = node.inside("sh", "-c", seen)
    mine = {
        "LD_PRELOAD": "", "CHRONOS_SUBMITTER": "host:root:0", "CHRONOS_PROGRAM": "{}", "CHRONOS_SLOT": "mine",
        "CHRONOS_DEVICES": "pci-0000:00:00.0",
    }  # fmt: skip
    work = program(bed, ann, ATTACKS, env=tuple(EnvVar(name, value) for name, value in mine.items()))
    try:
        log = said(bed, work)
    finally:
        node.inside("sh", "-ec", "chmod 660 /run/docker.sock; rm /srv/device")
    lines = log.splitlines()
    assert lines[:4] == [
        "ConnectionRefusedError: [Errno 111] Connection refused", "PermissionError: [Errno 1] Operation not permitted",
        "head: cannot open '/srv/device' for reading: Operation not permitted",
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
    ]  # fmt: skip
    for word in (
        "unshare: unshare failed: Operation not permitted", "nsenter: reassociate to namespace",
        'sudo: The "no new privileges" flag is set', "touch: cannot touch '/run/x'", "touch: cannot touch '/etc/x'",
    ):  # fmt: skip
        assert word in log
    assert "must be superuser to use mount" in log
    assert "uid=0" not in log
    assert int(next(line for line in lines if line.startswith("processes ")).split()[1]) < 8
    assert lines[-4:] == [
        "CHRONOS_DEVICES=", f"CHRONOS_SLOT={work.name}", f"CHRONOS_SUBMITTER=host:{ann.name}:{ann.uid}", "LD_PRELOAD=",
    ]  # fmt: skip
    assert node.inside("sh", "-c", seen) == before.replace("device\n", "")


def test_who_joins_it_is_no_more_than_the_program(bed: SwarmBed, ann: User) -> None:
    """The engine would make them of root's group, or root where it is asked to."""
    work = program(bed, ann, "sleep 60", env=(EnvVar("A", "b"),))
    node = bed.lab.nodes["worker1"]
    bed.backend.start(work)
    bed.running(work)
    container = node.docker("ps", "-q", "--filter", f"label=cumulus.dev/workload={work.name}")
    script = (
        'id; echo "$HOME $A $B $CUMULUS_JOB"; grep -E "^(CapEff|CapBnd|NoNewPrivs):" /proc/self/status; ps -e | wc -l'
    )
    for more in ([], ["--user", "0:0", "--privileged"]):
        said = node.docker("exec", "--env", "B=c", *more, container, "sh", "-c", script).splitlines()
        assert said[0] == f"uid={ann.uid}({ann.name}) gid={ann.uid} groups={ann.uid}"
        assert said[1] == "/srv b c job"
        assert [line.split()[1] for line in said[2:5]] == ["0" * 16, "0" * 16, "1"]
        assert int(said[5]) < 8
    bed.backend.stop(work.name, 0)
    bed.finish(work)
    joined = node.chronos_home / "slots" / "joined"
    bed.backend.remove(work.name)
    bed.until(lambda: not any(each.startswith(container) for each in os.listdir(joined)))


def test_the_host_image_is_for_nothing_else(bed: SwarmBed, ann: User) -> None:
    """By another name too, and with what the daemon says of programs."""
    node = bed.lab.nodes["worker1"]
    node.docker("tag", host_image.TAG, "innocent:1")
    work = bed.work("/bin/sh", image="innocent:1", job="tagged")
    assert "no container can be made of it" in refused(bed, work)
    env = (EnvVar("CHRONOS_SUBMITTER", f"host:{ann.name}:{ann.uid}"), EnvVar("CHRONOS_PROGRAM", "{}"))
    plain = program(bed, ann, "cat /etc/shadow; ls /srv", image=IMAGE, env=env, job="plain")
    bed.backend.start(plain)
    assert bed.finish(plain).exit_code == 1
    assert bed.log(plain).count(b"No such file") == 2
    with pytest.raises(LabError, match="no container can be made of it"):
        node.docker("run", "--rm", host_image.TAG, "/bin/sh")
    node.docker("rmi", "--force", "innocent:1")


def test_what_the_node_mounts_later_is_seen_and_nothing_comes_back(bed: SwarmBed, ann: User) -> None:
    work = program(bed, ann, "while [ ! -e /srv/later/on ]; do sleep 0.1; done; cat /srv/later/on; sleep 0.2")
    node = bed.lab.nodes["worker1"]
    node.inside("sh", "-ec", "mkdir -p /srv/later; mount --make-rshared /")
    bed.backend.start(work)
    bed.running(work)
    node.inside("sh", "-ec", "mount -t tmpfs tmpfs /srv/later; echo seen > /srv/later/on")
    assert bed.finish(work).state is WorkloadState.SUCCEEDED
    assert bed.log(work) == b"seen\n"
    node.inside("umount", "/srv/later")
    assert "/run/chronos-root" not in node.inside("cat", "/proc/self/mountinfo")


def test_its_directories_checkpoint_and_mounts_are_its_users(bed: SwarmBed, ann: User) -> None:
    shared = bed.lab.shared / f"data-{bed.instance}"
    shared.mkdir()
    os.chown(shared, ann.uid, ann.gid)
    common: dict[str, Any] = {"checkpoint_path": "saved", "checkpointing": Checkpointing()}
    script = 'echo kept > data/word; mkdir -p "$CUMULUS_CHECKPOINT_PATH"; echo 1 >> "$CUMULUS_CHECKPOINT_PATH/steps"'
    mounts = (WorkloadMount(f"/mnt/{shared.name}", "data"),)
    said(bed, program(bed, ann, script, mounts=mounts, **common))
    assert (shared / "word").stat().st_uid == ann.uid
    log = said(bed, program(bed, ann, 'cat "$CUMULUS_CHECKPOINT_PATH/steps"; pwd; ls', attempt=2, **common))
    assert log.splitlines() == ["1", f"/var/lib/chronos/programs/{ann.uid}/uid-job/a2-r0/work"]
    kept = bed.lab.nodes["worker1"].chronos_home / "programs" / str(ann.uid)
    assert kept.stat().st_mode & 0o777 == 0o700
    assert (kept / "uid-job").is_dir()
    bed.backend.purge("uid-job")
    assert not (kept / "uid-job").exists()


def test_what_it_saves_is_copied_and_read_as_its_user(bed: SwarmBed, ann: User) -> None:
    ready, beyond = (bed.lab.shared / f"{name}-{bed.instance}" for name in ("ready", "beyond"))
    save(ready, 5, {"weights": b"w"})
    for path in (ready, *ready.rglob("*")):
        path.chmod(0o755)
    beyond.mkdir(mode=0o700)
    os.chown(beyond, ann.uid, ann.gid)
    script = f'mkdir -p "$CUMULUS_CHECKPOINT_PATH" && cp -r /mnt/{ready.name}/step-* "$CUMULUS_CHECKPOINT_PATH"'
    asked = Checkpointing(uri=f"file:///mnt/{beyond.name}")
    said(bed, program(bed, ann, script, checkpoint_path="saved", checkpointing=asked))
    eventually(lambda: [one.name.step for one in catalog.committed(DirectoryPlace(str(beyond)))] == [5])
    assert {path.stat().st_uid for path in beyond.rglob("*")} == {ann.uid}
    node, path, user = bed.backend.checkpoint_place("uid-job") or ("", "", None)
    assert (node, path) == ("worker1", f"/var/lib/chronos/programs/{ann.uid}/uid-job/checkpoint/saved")
    assert user is not None
    assert user.uid == ann.uid
    files = on_node(path, bed.engines[node].checkpoints, user)
    assert [(one.step, one.problem) for one in files.list()] == [(5, "")]


def test_what_was_copied_comes_to_another_node(bed: SwarmBed, ann: User) -> None:
    """From beyond, where the first node does not have it any more; also to a node where they never ran anything."""
    ready, beyond = (bed.lab.shared / f"{name}-{bed.instance}" for name in ("ready", "beyond"))
    save(ready, 5, {"weights": b"w"})
    for path in (ready, *ready.rglob("*")):
        path.chmod(0o755)
    beyond.mkdir(mode=0o700)
    os.chown(beyond, ann.uid, ann.gid)
    common: dict[str, Any] = {
        "checkpoint_path": "saved", "checkpointing": Checkpointing(uri=f"file:///mnt/{beyond.name}", named=True)
    }  # fmt: skip
    script = f'mkdir -p "$CUMULUS_CHECKPOINT_PATH" && cp -r /mnt/{ready.name}/step-* "$CUMULUS_CHECKPOINT_PATH"'
    said(bed, program(bed, ann, script, **common))
    eventually(lambda: [one.name.step for one in catalog.committed(DirectoryPlace(str(beyond)))] == [5])
    shutil.rmtree(bed.lab.nodes["worker1"].chronos_home / "programs" / str(ann.uid) / "uid-job" / "checkpoint")
    there = bed.lab.nodes["worker2"].chronos_home / "programs" / str(ann.uid)
    shutil.rmtree(there, ignore_errors=True)
    log = said(bed, program(
        bed, ann, 'hostname; cat "$CUMULUS_CHECKPOINT_PATH"/step-*5/weights', attempt=2, node="worker2", **common
    ))  # fmt: skip
    assert log.split() == ["worker2", "w"]
    assert (there.stat().st_uid, there.stat().st_mode & 0o777) == (ann.uid, 0o700)
    # A first attempt is not to write among another job's.
    refused = why_not(bed, program(bed, ann, "true", job="other", **common))
    assert "has checkpoints of another job already, the last of step 5" in refused


def why_not(bed: SwarmBed, work: Workload) -> str:
    """Why it does not start: it is told at once, or as its end where looking took long."""
    try:
        bed.backend.start(work)
    except BackendRefused as error:
        return str(error)
    return bed.finish(work).message


def test_a_call_runs_by_the_nodes_python_as_its_submitter(bed: SwarmBed, ann: User) -> None:
    """Nobody else on the node comes near what it is made of; a session is reached through the node."""
    whose = {"submitter": ann.name, "submitter_uid": ann.uid, "submitter_admin": False}

    def look(text: str) -> tuple[int, str, list[str], str]:
        print(text)
        return os.getuid(), os.uname().nodename, sorted(os.listdir("/dev/cumulus/call")), os.getcwd()

    before = set(left_on(bed, "worker1"))
    work = replace(bed.calling(look, "hello", image="", **whose), mounts=())
    bed.backend.start(work)
    end = bed.finish(work)
    assert (end.state, end.message) == (WorkloadState.SUCCEEDED, "")
    assert bed.log(work) == b"hello\n"
    assert len(set(left_on(bed, "worker1")) - before) == 1
    uid, node, files, place = value(bed, work)
    assert (uid, node) == (ann.uid, "worker1")
    assert {"call.json", "payload", "runner.pyz"} <= set(files)
    assert place == f"/var/lib/chronos/programs/{ann.uid}/uid-job/a1-r0/work"
    bed.backend.remove(work.name)
    assert set(left_on(bed, "worker1")) <= before
    missing = replace(bed.calling(len, "", python="3.99", image="", job="old", **whose), mounts=())
    bed.backend.start(missing)
    assert bed.finish(missing).exit_code == 127
    left = bed.backend.result(missing.job_uid, 1, 0)
    assert left is not None
    assert left.outcome.text == "there is no Python 3.99 on this node, which made the call; use a node that has it"
    serves = replace(bed.calling(os.getpid, session=True, image="", job="serves", **whose), mounts=())
    bed.backend.start(serves)
    session = connected(lambda: bed.backend.reach(serves.job_uid, 1, 0).session())
    payload = payload_of(os.getuid)
    _, _, content = session.call(len(payload), [payload])
    assert pickle.loads(b"".join(content)) == ann.uid
    session.close_session()
    session.close()
    assert bed.finish(serves).state is WorkloadState.SUCCEEDED


def test_what_it_saved_comes_to_the_next_node_also_ahead_of_its_lease(bed: SwarmBed, ann: User) -> None:
    ready = bed.lab.shared / f"ready-{bed.instance}"
    save(ready, 5, {"weights": b"w" * 100_000})
    for path in (ready, *ready.rglob("*")):
        path.chmod(0o755)
    common: dict[str, Any] = {"checkpoint_path": "saved", "checkpointing": Checkpointing()}
    script = (
        f'mkdir -p "$CUMULUS_CHECKPOINT_PATH" && cp -r /mnt/{ready.name}/step-* "$CUMULUS_CHECKPOINT_PATH"'
        ' && chmod -R go= "$CUMULUS_CHECKPOINT_PATH"'
    )
    tell = 'ls "$CUMULUS_CHECKPOINT_PATH"; stat -c %U "$CUMULUS_CHECKPOINT_PATH"/step-*/weights'
    said(bed, program(bed, ann, script, **common))
    # Nothing of this user is on that node before.
    kept = bed.lab.nodes["worker2"].chronos_home / "programs" / str(ann.uid)
    shutil.rmtree(kept, ignore_errors=True)
    second = program(bed, ann, tell, attempt=2, node="worker2", **common)
    eventually(lambda: bed.backend.prefetch(second, "t") == Prefetched("worker2", 5, done=True))
    assert (kept / "uid-job/checkpoint/saved/step-000000000005/weights").stat().st_uid == ann.uid
    assert kept.stat().st_mode & 0o777 == 0o700
    assert said(bed, second).split() == ["step-000000000005", ann.name]
    # Where nothing came ahead, the start brings it.
    bed.backend.purge("uid-job")
    assert not (kept / "uid-job").exists()
    said(bed, program(bed, ann, script, job="other", **common))
    third = program(bed, ann, tell, job="other", attempt=2, node="worker2", **common)
    assert said(bed, third).split() == ["step-000000000005", ann.name]


def test_it_is_asked_for_a_checkpoint_and_told_its_lease(bed: SwarmBed, ann: User) -> None:
    script = (
        'trap : TERM; while [ ! -e "$CUMULUS_CHECKPOINT_REQUEST" ]; do sleep 0.1; done; '
        'cat "$CUMULUS_CHECKPOINT_REQUEST"; exit 75'
    )
    work = program(bed, ann, script, checkpoint_path="saved", checkpointing=Checkpointing(), grace=10.0)
    bed.backend.start(work)
    bed.running(work)
    bed.backend.stop(work.name, 10, "Suspended")
    assert bed.finish(work).reason == "Stopped"
    assert bed.log(work) == b"Suspended\n"


def test_what_cannot_be_is_refused_at_once(bed: SwarmBed, ann: User) -> None:
    for more, why in (
        ({"submitter_uid": 0}, "root for admins alone"),
        ({"submitter_uid": None}, "there is none"),
        ({"submitter_uid": 4_100_001}, "no user with the number 4100001"),
    ):
        with pytest.raises(BackendRefused, match=why):
            bed.backend.start(program(bed, ann, "id", **more))


def test_roots_own_programs_have_no_capabilities_either(bed: SwarmBed) -> None:
    log = said(bed, bed.work("sh", "-c", "id -u; grep CapEff /proc/self/status", image=""))
    assert log.split() == ["0", "CapEff:", "0" * 16]


def test_a_node_says_whom_it_runs_programs_of(bed: SwarmBed, ann: User) -> None:
    machines, node = bed.backend.machines, bed.lab.nodes["worker2"]
    assert machines.programs("worker2", [(ann.name, ann.uid), ("moon", 4_100_009)]) == ProgramsAnswer(
        "", ("", "this node has no user moon with the number 4100009, who submitted the job")
    )
    without_host_image(node)
    try:
        assert machines.programs("worker2", []).why.startswith("it lacks the host image")
        node.docker("tag", IMAGE, host_image.TAG)
        assert machines.programs("worker2", []).why.startswith(f"what it has as {host_image.TAG} is another image")
    finally:
        bed.lab.load_host_image()


def without_host_image(node: Node) -> None:
    """Containers of it that have ended go with their services, a moment later."""
    eventually(lambda: node.shell(f"docker rmi {host_image.TAG}")[0] == 0, what="no container needs the host image")


def without_image(name: str, script: str, node: str, **spec: Any) -> dict[str, Any]:
    made = job(name, script, gpu={"selector": {"nodeLabels": {"place": node}}}, **spec)
    del made["spec"]["image"]
    return made


def test_a_job_without_an_image_goes_to_a_worker(swarm: Lab, tmp_path: Path) -> None:
    """Through the whole daemon; not before the worker has the host image, and `why` says so."""
    without_host_image(swarm.workers[0])
    with controlled(swarm, tmp_path) as control:
        control.apply(without_image("there", "hostname; id -u; echo $CHRONOS_MEMORY_BYTES", "worker2"))
        control.ok("wait", "gpujob/there", "--for=condition=Succeeded", "--timeout=200s")
        lines = control.ok("logs", "there").splitlines()
        assert lines[:2] == ["worker2", "0"]
        assert int(lines[2]) > 0
        control.apply(
            without_image("later", "exit 3", "worker1"), without_image("lost", "pwd", "worker2", workingDir="/srv")
        )
        eventually(lambda: "lacks the host image" in control.ok("why", "gpujob/later"), what="why says what is missing")
        assert "the directory /srv is not known to be the same there" in control.ok("why", "gpujob/lost")
        pushed = control.ok("cluster", "image", "push", "cumulus-host", "--node", "worker1", "--node", "worker2")
        assert sorted(pushed.splitlines()) == [
            f"worker1: loaded {host_image.TAG}", f"worker2: has {host_image.TAG} already"
        ]  # fmt: skip
        control.ok("wait", "gpujob/later", "--for=condition=Failed", "--timeout=200s")
        assert control.attempts("later")[0]["exitCode"] == 3
        control.ok("delete", "job", "there", "later", "lost", "--yes")
        files = swarm.nodes["worker2"].chronos_home / "programs" / "0"
        eventually(lambda: not os.listdir(files), what="its directories are gone")


def test_a_call_goes_where_its_python_is_known_to_be_the_same(swarm: Lab, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"apiVersion: cumulus.dev/v1alpha1\njobs: {{shared: [{sys.prefix}]}}\n")
    with controlled(swarm, tmp_path, **{environment.CONFIG: str(config)}) as control:
        blobs = DirectoryBlobStore(control.home / "blobs")
        payload = payload_of(os.uname)
        digest = hashlib.sha256(payload).hexdigest()
        blobs.write("0:root", digest, len(payload), [payload])
        for name, interpreter in (("there", sys.executable), ("nowhere", "/opt/elsewhere/python")):
            made = without_image(
                name, "", "worker2", call={"payload": digest, "python": HERE, "interpreter": interpreter}
            )
            del made["spec"]["command"]
            control.apply(made)
        control.ok("wait", "gpujob/there", "--for=condition=Succeeded", "--timeout=200s")
        found = Outcome.of_status(control.get("job", "there")["status"]["call"])
        assert found is not None
        assert pickle.loads(b"".join(blobs.open("0:root", found.result))).nodename == "worker2"
        why = "the Python /opt/elsewhere/python is not known to be the same there"
        eventually(lambda: why in control.ok("why", "gpujob/nowhere"), what="why says where its Python is")


def test_a_directory_is_carried_to_a_worker_and_back(control: Control, tmp_path: Path) -> None:
    here = tmp_path / "project"
    here.mkdir()
    (here / "word").write_text("swordfish")
    eventually(lambda: offered(control), what="all nodes run jobs without an image")
    for node in control.items("nodes"):
        if node["metadata"]["name"] != "worker1":
            control.ok("cordon", node["metadata"]["name"])
    words = ("run", "--sync", "--gpu", "10%", "--for", "1m", "--name", "carried", "--")
    done = control.run(*words, "sh", "-c", "hostname; cat word; echo 1 > made; exit 3", cwd=here)
    assert (done.returncode, done.stdout) == (3, "worker1\nswordfish"), done.stderr
    assert "1 file came back:\n  made 2\n" in done.stderr
    assert (here / "made").read_text() == "1\n"


def offered(control: Control) -> bool:
    nodes = ("manager", "worker1", "worker2")
    return all((control.get("node", name)["status"].get("hostJobs") or {}).get("offered") for name in nodes)


def test_run_finds_out_where_its_directory_is_the_same(control: Control, tmp_path: Path) -> None:
    """By a word that it leaves there; and what an administrator calls shared is believed."""
    same, here = tmp_path / "same", Path(tempfile.mkdtemp(dir="/run"))
    same.mkdir()
    worker1, _ = control.lab.workers
    worker1.inside("mkdir", str(here))
    try:
        eventually(lambda: offered(control), what="all nodes run jobs without an image")
        name = control.run("run", "--gpu", "10%", "--for", "1m", "-d", "--", "true", cwd=same).stdout.strip()
        annotations = control.get("job", name)["metadata"]["annotations"]
        assert annotations["cumulus.dev/same-directory"] == "manager,worker1,worker2"
        done = control.run("run", "--gpu", "10%", "--for", "1m", "-d", "--", "true", cwd=here)
        assert f"manager ({here}: No such file or directory)" in done.stderr
        assert f"worker1 ({here} is another directory there)" in done.stderr
        found = control.get("job", done.stdout.strip())["metadata"]["annotations"]
        assert "cumulus.dev/same-directory" not in found
        assert not os.listdir(same) + os.listdir(here)
    finally:
        here.rmdir()


def test_two_users_of_a_system_daemon(
    swarm: Lab, ann: User, users: tuple[User, User], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each program is its submitter's; where the node knows another user of that name it waits, and `why` says so."""
    bob, worker1 = users[1], swarm.nodes["worker1"]
    instance = f"system-{os.getpid()}"
    for name, setting in (
        ("SWARM_MANAGER", swarm.manager.socket), ("SSH_KEY_PATH", str(swarm.key)), ("SWARM_INSTANCE", instance),
    ):  # fmt: skip
        monkeypatch.setenv(name, setting)
    worker1.add_user(bob.name, 4_100_001)
    label = f"label=cumulus.dev/instance={instance}"
    try:
        with system_daemon(tmp_path / "serve.log") as daemon:
            shutil.copy(swarm.known_hosts, daemon.seen / "var/lib/cumulus/known_hosts")
            written = swarm.shared / f"by-{instance}"
            script = f"id -un > /mnt/{written.name}; hostname >> /mnt/{written.name}"
            gpu = {"memory": "5%", "duration": "1m", "selector": {"nodeLabels": {"place": "worker1"}}}
            for user in (ann, bob):
                made = daemon.ask(user, "POST", jobs(user.name), system_job("mine", "sh", "-c", script, gpu=gpu))
                assert made.status == 201, made.body

            def phase(user: User) -> str:
                return str(daemon.ask(user, "GET", jobs(user.name, "mine")).body.get("status", {}).get("phase"))

            def why() -> str:
                key = {"kind": "GPUJob", "namespace": bob.name, "name": "mine"}
                return str(daemon.ask(bob, "POST", "/cumulus/v1/why", {"key": key}).body)

            eventually(lambda: phase(ann) == "Succeeded", 100, daemon.written)
            assert written.read_text().split() == [ann.name, "worker1"]
            assert written.stat().st_uid == ann.uid
            eventually(lambda: "has the number 4100001 on this node" in why(), what=why)
            assert phase(bob) == "Pending"
            for user in (ann, bob):
                daemon.ask(user, "DELETE", jobs(user.name, "mine"))
            eventually(lambda: not swarm.manager.docker("service", "ls", "-q", "--filter", label), what=daemon.written)
    finally:
        worker1.remove_user(bob.name)
        for kind, remove in (("service", "rm"), ("config", "rm")):
            for found in swarm.manager.docker(kind, "ls", "-q", "--filter", label).split():
                swarm.manager.docker(kind, remove, found)


def test_replicas_on_two_nodes_are_told_of_each_other(bed: SwarmBed, ann: User) -> None:
    """By the nodes' addresses: they have the nodes' own network."""
    nodes = bed.lab.nodes
    members = tuple(GangMember(name, nodes[name].address) for name in ("worker1", "worker2"))
    script = 'cat "$CUMULUS_HOSTFILE"; echo "$RANK of $WORLD_SIZE at $MASTER_ADDR"; ip -4 -o addr show eth0'
    works = [
        program(bed, ann, script, replica=replica, replicas=2, node=members[replica].node, gang=members)
        for replica in range(2)
    ]
    for work in works:
        bed.backend.start(work)
    for replica, work in enumerate(works):
        assert bed.finish(work).state is WorkloadState.SUCCEEDED, bed.log(work)
        lines = bed.log(work).decode().splitlines()
        assert lines[:2] == [f"{member.address} slots=1" for member in members]
        assert lines[2] == f"{replica} of 2 at {members[0].address}"
        assert members[replica].address in lines[3]
