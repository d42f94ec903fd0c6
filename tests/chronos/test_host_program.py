"""What the runtime makes of a container that is to have the node's root: the configuration, and the directories."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos import container_gc, host_program, runtime
from cumulus.lib import processes
from tests.unix_users import open_directory
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")

NOBODY = pwd.getpwnam("nobody")
WHO = f"host:nobody:{NOBODY.pw_uid}"


@pytest.fixture
def files() -> Iterator[Path]:
    with open_directory() as made:
        yield made / "programs"


def config(**wanted: Any) -> dict[str, Any]:
    program = {"job": "j", "run": "a1-r0", "own": ["PATH"], **wanted}
    return {
        "process": {
            "env": ["PATH=/mine", "HOSTNAME=x", "A=b", f"CHRONOS_PROGRAM={json.dumps(program)}"],
            "args": ["/sbin/docker-init", "--", "train", "it"], "user": {"uid": 0, "gid": 0},
            "capabilities": {"effective": ["CAP_CHOWN"]}, "cwd": "/wherever",
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": target, "source": source} for target, source in (
                ("/proc", "proc"), ("/dev", "tmpfs"), ("/dev/cumulus/secrets/KEY", "/secret"), ("/etc/hosts", "/hosts"),
                ("/sbin/docker-init", "/usr/bin/docker-init"), ("/dev/shm", "shm"), ("/run/secrets", "/other"),
            )
        ],
        "linux": {
            "namespaces": [{"type": each} for each in ("pid", "ipc", "mount", "uts")], "maskedPaths": ["/proc/kcore"],
        },
    }  # fmt: skip


@pytest.fixture(autouse=True)
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host_program, "_USERS", str(tmp_path / "run" / "user"))
    return tmp_path / "run" / "user"


def entered(files: Path, **wanted: Any) -> dict[str, Any]:
    made = config(**wanted)
    given = dict(each.partition("=")[::2] for each in made["process"]["env"])
    program = host_program.program_of(made, WHO.removeprefix("host:"), given)
    host_program.enter(made, program, Path("/home-of-chronos"), str(files))
    return made


def test_the_configuration_is_the_users(files: Path, users: Path) -> None:
    made = entered(files, checkpoint="saved")
    assert users.is_dir()
    process, own = made["process"], files / str(NOBODY.pw_uid)
    assert process["args"] == [
        "/usr/bin/docker-init", "--", "/bin/sh", "-c", process["args"][4], "sh", f"{own}/j/a1-r0/work", "train", "it",
    ]  # fmt: skip
    assert (process["cwd"], process["capabilities"], process["noNewPrivileges"]) == ("/", {}, True)
    assert (process["user"]["uid"], process["user"]["gid"]) == (NOBODY.pw_uid, NOBODY.pw_gid)
    env = dict(each.partition("=")[::2] for each in process["env"])
    assert (env["PATH"], env["A"], env["USER"], env["HOME"]) == ("/mine", "b", "nobody", NOBODY.pw_dir)
    assert env["CUMULUS_CHECKPOINT_PATH"] == f"{own}/j/checkpoint/saved"
    assert not {"HOSTNAME", "CHRONOS_PROGRAM"} & set(env)
    assert [mount["destination"] for mount in made["mounts"]] == [
        "/proc", "/dev", "/dev/shm", "/dev/cumulus/secrets/KEY",
    ]  # fmt: skip
    assert made["linux"]["rootfsPropagation"] == "rslave"
    assert {"/proc/kcore", "/run/docker.sock"} <= set(made["linux"]["maskedPaths"])
    assert own.stat().st_mode & 0o777 == 0o700
    assert (own / "j/a1-r0/work").stat().st_uid == NOBODY.pw_uid


def test_a_call_that_was_cut_short_is_continued(files: Path) -> None:
    files.mkdir(mode=0o711)
    (files / str(NOBODY.pw_uid)).mkdir(mode=0o700)
    entered(files)
    assert (files / str(NOBODY.pw_uid)).stat().st_uid == NOBODY.pw_uid


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"directory": "/nowhere/x"}, "/nowhere/x: No such file"),
        ({"checkpoint": "../../other"}, "leaves the job's directory"),
        ({"links": [["/nowhere", "data"]]}, "mount source /nowhere is not on this node"),
        ({"links": [["/etc", "../../../up"]]}, "behind a symbolic link"),
        ({"job": "../x"}, "which job it is of"),
        ({"run": ""}, "which job it is of"),
    ],
)
def test_what_cannot_be_is_told(files: Path, wanted: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        entered(files, **wanted)


def test_a_helper_that_its_user_stops_holds_nothing_up(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_program, "_PATIENCE", 0.3)
    monkeypatch.setattr(host_program, "_made", lambda *_: os.kill(os.getpid(), signal.SIGSTOP))
    before = set(children())
    with pytest.raises(ValueError, match="does not answer on this node"):
        entered(files)
    eventually(lambda: set(children()) <= before)


def children() -> list[int]:
    """Of this process, without those that have ended."""
    return [found.pid for found in processes.living(processes.children(os.getpid()))]


def test_another_ones_directory_is_not_used(files: Path) -> None:
    files.mkdir(mode=0o711)
    own = files / str(NOBODY.pw_uid)
    own.mkdir()
    os.chown(own, 4_000_001, 4_000_001)
    with pytest.raises(ValueError, match="belongs to the number 4000001"):
        entered(files)
    own.rmdir()
    own.symlink_to("/etc")
    with pytest.raises(ValueError, match="is not nobody's"):
        entered(files)


@pytest.mark.parametrize("shared", ["pid", "ipc", "mount"])
def test_a_namespace_of_the_nodes_is_refused(shared: str) -> None:
    made = config()
    made["linux"]["namespaces"] = [each for each in made["linux"]["namespaces"] if each["type"] != shared]
    with pytest.raises(ValueError, match=f"share the node's own: {shared}"):
        host_program.program_of(made, WHO.removeprefix("host:"), {})


@pytest.mark.parametrize(
    ("marked", "env", "why"),
    [
        (True, [], "no container can be made of it"),
        (True, ["CHRONOS_SLOT=n", "CHRONOS_SUBMITTER=admin"], "no container can be made of it"),
        (False, ["CHRONOS_SLOT=n", f"CHRONOS_SUBMITTER={WHO}"], "in the host image alone"),
        (True, [f"CHRONOS_SUBMITTER={WHO}"], "in the host image alone"),
    ],
)
def test_mark_and_submitter_come_together_or_not_at_all(tmp_path: Path, marked: bool, env: list[str], why: str) -> None:
    made = config()
    made["process"]["env"] = env
    (tmp_path / "rootfs").mkdir()
    if marked:
        (tmp_path / "rootfs" / runtime.HOST_MARK).touch()
    (tmp_path / "config.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match=why):
        runtime.make(tmp_path, "c1", tmp_path / "home")


def test_who_joins_gets_what_the_program_has(tmp_path: Path) -> None:
    joined = tmp_path / "slots" / "joined"
    joined.mkdir(parents=True)
    (joined / "c1").write_text(json.dumps({"user": {"uid": 7, "gid": 8}, "env": ["HOME=/h", "A=b"]}))
    process = tmp_path / "process.json"
    process.write_text(
        json.dumps({"user": {"uid": 0, "gid": 0}, "env": ["HOME=/", "TERM=xterm", "CHRONOS_PROGRAM={}"]})
    )
    runtime.join(["--root", "/r", "exec", "--process", str(process), "--detach", "c2"], tmp_path)
    assert json.loads(process.read_text())["user"] == {"uid": 0, "gid": 0}
    # A job's container that an older runtime made, which left no note of it.
    env = ["CHRONOS_SLOT=a", "CHRONOS_SUBMITTER=7:8:", "HOME=/"]
    older = tmp_path / "older.json"
    older.write_text(json.dumps({"user": {"uid": 7}, "env": env, "capabilities": {"bounding": ["CAP_CHOWN"]}}))
    runtime.join(["exec", "--process", str(older), "c2"], tmp_path)
    assert json.loads(older.read_text()) == {
        "user": {"uid": 7}, "env": env, "capabilities": {}, "noNewPrivileges": True,
    }  # fmt: skip
    older.write_text(json.dumps({"env": ["CHRONOS_SLOT=a", "CHRONOS_SUBMITTER=admin"], "capabilities": {"a": []}}))
    runtime.join(["exec", "--process", str(older), "c2"], tmp_path)
    assert json.loads(older.read_text())["capabilities"] == {"a": []}
    runtime.join(["--root", "/r", "exec", "--process", str(process), "--detach", "c1"], tmp_path)
    assert json.loads(process.read_text()) == {
        "user": {"uid": 7, "gid": 8}, "env": ["HOME=/h", "A=b", "TERM=xterm"], "capabilities": {},
        "noNewPrivileges": True,
    }  # fmt: skip
    with pytest.raises(ValueError, match="by a file"):
        runtime.join(["exec", "c1"], tmp_path)
    container_gc.collect(tmp_path, lambda lease: True, 0.0)
    assert (joined / "c1").exists()
    container_gc.collect(tmp_path, lambda lease: True, os.stat(joined / "c1").st_mtime + container_gc.REMEMBERED + 1)
    assert not (joined / "c1").exists()


def test_a_word_in_a_directory(files: Path) -> None:
    place = files.parent
    word = f".cumulus-{'0' * 32}"

    def asked(directory: Path | str = place, word: str = word) -> str:
        question = {"words": [["nobody", NOBODY.pw_uid, str(directory), word]]}
        return str(json.loads(host_program.answer(json.dumps(question)))["words"][0])

    assert asked().endswith("is another directory there")
    (place / word).write_text("another word")
    assert asked().endswith("is another directory there")
    (place / word).write_text(word)
    assert asked() == ""
    (place / word).chmod(0o600)
    assert asked().endswith("is another directory there")
    (place / word).unlink()
    (place / word).symlink_to("/etc/passwd")
    assert asked().endswith("is another directory there")
    assert asked("/nowhere") == "/nowhere: No such file or directory"
    assert asked("relative") == asked(word="../../etc/shadow") == "no such question"


def test_the_files_of_a_worker_need_nothing_of_the_rest(tmp_path: Path) -> None:
    chronos = Path(host_program.__file__).parent
    for file in (chronos / "host_program.py", chronos.parent / "lib" / "unix_user.py"):
        shutil.copy(file, tmp_path)
    shutil.copy(chronos / "runtime.py", tmp_path / "chronos_runtime.py")
    script = "import sys; sys.path.insert(0, sys.argv[1]); import chronos_runtime, host_program"
    # Without site-packages, where Cumulus is.
    subprocess.run([sys.executable, "-I", "-S", "-c", script, str(tmp_path)], check=True)
