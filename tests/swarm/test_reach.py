"""Programs beside containers and programs of the nodes, and connections to their ports, on a real Swarm."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from cumulus.backends import channel
from cumulus.backends.base import EnvVar, Workload, WorkloadState
from cumulus.backends.swarm import spec
from cumulus.errors import NotRunning
from cumulus.lib.execution import ExecRequest, Execution
from tests import unix_users
from tests.backends.conformance import ended
from tests.commands import CUMULUS
from tests.lab.node import Node
from tests.swarm.bed import IMAGE, SwarmBed
from tests.swarm.control import Control, job
from tests.unix_users import User
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.docker, pytest.mark.skipif(bool(unix_users.missing()), reason=unix_users.missing())]

_BUSY = "trap 'exit 143' TERM; echo up; while :; do sleep 0.1; done"

_ECHO = """
import socket
listener = socket.create_server(('127.0.0.1', 18765))
while True:
    made = listener.accept()[0]
    while data := made.recv(999):
        made.sendall(data)
    made.close()
"""


def confined(bed: SwarmBed, user: User, script: str = _BUSY, **more: object) -> Workload:
    """A container of one who is no admin."""
    fields = {"submitter": user.name, "submitter_uid": user.uid, "submitter_admin": False, **more}
    return bed.work("sh", "-c", script, **fields)  # type: ignore[arg-type]


@pytest.fixture
def user(bed: SwarmBed) -> object:
    with unix_users.two_users() as (ann, _):
        nodes = list(bed.lab.nodes.values())
        for node in nodes:
            node.add_user(ann.name, ann.uid)
        try:
            yield ann
        finally:
            for node in nodes:
                node.remove_user(ann.name)


def up(bed: SwarmBed, work: Workload) -> Workload:
    bed.backend.start(work)
    bed.running(work)
    return work


def start(bed: SwarmBed, work: Workload, script: str, *, stdin: bool = False, terminal: str = "") -> Execution:
    return bed.backend.reach(work.job_uid, 1, 0).exec(ExecRequest(("sh", "-c", script), stdin, terminal, 100, 40))


def read(made: Execution, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        assert select.select([made.stdout], [], [], 30)[0], seen
        seen += os.read(made.stdout, 65536)
    return seen


def sleeps(node: Node, number: int) -> Callable[[], bool]:
    return lambda: node.shell(f"pgrep -fx 'sleep {number}'")[0] == 0


@pytest.mark.parametrize("image", [True, False], ids=["container", "program"])
def test_a_shell_beside_a_job(bed: SwarmBed, user: User, image: bool) -> None:
    more: dict[str, object] = {} if image else {"image": ""}
    bed.secrets.set("keys", "word", "swordfish")
    env = (EnvVar("A", "b"), EnvVar("TERM", "job"), EnvVar("WORD", secret="keys", key="word"))
    work = up(bed, confined(bed, user, env=env, working_dir="/srv" if not image else "/tmp", **more))
    node = bed.lab.nodes["worker1"]
    # Who it is, where, and what it may.
    script = 'id -u; pwd; echo "$A $WORD $CUMULUS_JOB ${TERM}"; grep -E "^(CapEff|CapBnd|NoNewPrivs)" /proc/self/status'
    code, said = ended(start(bed, work, script))
    lines = said.decode().splitlines()
    assert (code, lines[:3]) == (0, [str(user.uid), "/tmp" if image else "/srv", "b swordfish job job"])
    assert [line.split()[1] for line in lines[3:]] == ["0" * 16, "0" * 16, "1"]
    # Streams are apart, and there is no input unless one is asked for.
    made = start(bed, work, "cat; echo out; echo err >&2; exit 3")
    assert select.select([made.done], [], [], 30)[0]
    assert (made.exit().code, os.read(made.stdout, 99), os.read(made.stderr, 99)) == (3, b"out\n", b"err\n")
    made.close()
    # What cannot be started says so.
    made = bed.backend.reach(work.job_uid, 1, 0).exec(ExecRequest(("no-such-thing",)))
    assert select.select([made.done], [], [], 30)[0]
    assert made.exit().code == 127
    made.close()
    # A terminal.
    made = start(bed, work, 'stty size; echo "$TERM"; trap "echo INT" INT; cat; echo end', stdin=True, terminal="vt100")
    assert "vt100" in read(made, b"vt100").decode()
    made.resize(90, 30)
    os.write(made.stdin, b"typed\n")
    read(made, b"typed\r\ntyped")
    os.write(made.stdin, b"\x03")
    assert b"INT" in read(made, b"end")
    assert select.select([made.done], [], [], 30)[0]
    assert made.exit().code == 0
    made.close()
    # What it started ends with it, and with who lets go of it.
    code, _ = ended(start(bed, work, "sleep 4711 >/dev/null 2>&1 & setsid sleep 4712 & echo"))
    assert code == 0
    eventually(lambda: not sleeps(node, 4711)() and not sleeps(node, 4712)())
    made = start(bed, work, "trap '' HUP; sleep 4713 & setsid sleep 4714 & echo up; while :; do sleep 0.1; done")
    read(made, b"up")
    eventually(lambda: sleeps(node, 4713)() and sleeps(node, 4714)())
    made.close()
    eventually(lambda: not sleeps(node, 4713)() and not sleeps(node, 4714)())
    assert bed.seen(work).state is WorkloadState.RUNNING
    # And with the job.
    made = start(bed, work, "trap '' HUP TERM; echo up; while :; do sleep 0.1; done")
    read(made, b"up")
    bed.backend.stop(work.name, 5)
    assert bed.finish(work).reason == "Stopped"
    assert select.select([made.done], [], [], 30)[0]
    assert made.exit().code in (None, 137)
    made.close()
    with pytest.raises(NotRunning):
        start(bed, work, "true")


@pytest.mark.parametrize("image", [True, False], ids=["container", "program"])
def test_a_port_of_a_job_and_no_other(bed: SwarmBed, user: User, image: bool) -> None:
    script = "exec nc -ll -p 18765 -e cat" if image else f'exec python3 -c "{_ECHO}"'
    work = up(bed, confined(bed, user, script, **({} if image else {"image": ""})))

    def connection() -> socket.socket | None:
        with contextlib.suppress(NotRunning):
            return bed.backend.reach(work.job_uid, 1, 0).connect(18765)
        return None

    deadline = time.monotonic() + 30
    while (made := connection()) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert made is not None
    with made:
        made.settimeout(30)
        made.sendall(b"x" * 300_000)
        made.shutdown(socket.SHUT_WR)
        assert sum(len(data) for data in iter(lambda: made.recv(65536), b"")) == 300_000
    # The node's own sshd listens there.
    for port in (22, 1):
        with pytest.raises(NotRunning, match="no process of the job listens"):
            bed.backend.reach(work.job_uid, 1, 0).connect(port)


def test_what_its_controller_left_behind_ends(bed: SwarmBed, user: User) -> None:
    """The connection breaks without a word."""
    work = up(bed, confined(bed, user))
    node = bed.lab.nodes["worker1"]
    made = start(bed, work, "trap '' HUP; echo up; sleep 4720 & while :; do sleep 0.1; done", stdin=True)
    read(made, b"up")
    eventually(sleeps(node, 4720))
    node.inside("pkill", "-f", "cumulus.chronos channel$", check=False)
    with contextlib.suppress(BrokenPipeError):
        os.write(made.stdin, b"x")
    assert select.select([made.done], [], [], 30)[0]
    assert made.exit().code is None
    made.close()
    again = start(bed, work, "true")
    assert ended(again)[0] == 0
    eventually(lambda: not sleeps(node, 4720)())


@pytest.mark.parametrize("image", [True, False], ids=["container", "program"])
def test_the_terminal_of_a_job(bed: SwarmBed, user: User, image: bool) -> None:
    script = (
        "trap 'exit 143' TERM; trap 'echo HUP; exit 9' HUP; stty -echo; stty size; echo up; "
        "while read line; do stty size; echo got $line; done"
    )
    more: dict[str, object] = {"terminal_size": (101, 33), **({} if image else {"image": ""})}
    work = up(bed, confined(bed, user, script, terminal=True, **more))
    made = bed.backend.reach(work.job_uid, 1, 0).attach(stdin=True)
    # Before anybody is there.
    assert b"33 101\r\nup" in read(made, b"up")
    made.resize(90, 30)
    eventually(lambda: b"30 90" in typed(made, b"one\n", b"got one"))
    # Who leaves it by the keys leaves it alone.
    os.write(made.stdin, b"\x10\x11")
    assert select.select([made.done], [], [], 30)[0]
    assert made.exit().code == 0
    made.close()
    assert bed.seen(work).state is WorkloadState.RUNNING
    # The next one is shown what there was, and several may look.
    again, other = (bed.backend.reach(work.job_uid, 1, 0).attach(stdin=stdin) for stdin in (True, False))
    assert b"got one" in read(again, b"got one")
    os.write(again.stdin, b"two\n")
    read(other, b"got two")
    log = bed.log(work)
    assert b"up\r\n" in log
    assert b"got two\r\n" in log
    # With the last of them the line is cut.
    engine = bed.engines["worker1"]
    whose = {"slot": work.name, "label": f"{spec.WORKLOAD}={work.name}"}
    third = channel.attachment(engine.channel(), whose, stdin=True, alone=3.0)
    for each in (again, other, third):
        each.close()
    # The two of before would wait for a minute.
    assert bed.finish(work).exit_code == 9
    assert b"HUP" in bed.log(work)


@pytest.mark.parametrize("image", [True, False], ids=["container", "program"])
def test_the_input_of_a_job(bed: SwarmBed, user: User, image: bool) -> None:
    """It is read to its end, once; where it is cut off, its program gets SIGHUP before it can see an end."""
    more: dict[str, object] = {"stdin": True, **({} if image else {"image": ""})}
    bed.secrets.set("keys", "word", "swordfish")
    env = (EnvVar("WORD", secret="keys", key="word"),)
    whole = up(bed, confined(bed, user, 'wc -c; cat /dev/stdin; echo "$WORD"; exit 3', env=env, **more))
    made = bed.backend.reach(whole.job_uid, 1, 0).feed()
    data = memoryview(b"x" * 300_000)
    while data:
        assert select.select([], [made.stdin], [], PATIENCE)[1]
        data = data[os.write(made.stdin, data) :]
    with pytest.raises(NotRunning, match="was given it before"):
        bed.backend.reach(whole.job_uid, 1, 0).feed()
    made.close_stdin()
    assert select.select([made.done], [], [], PATIENCE)[0]
    assert made.exit().code == 0
    made.close()
    assert bed.finish(whole).exit_code == 3
    assert bed.log(whole).split() == [b"300000", b"[secret]"]
    traps = "trap 'exit 143' TERM; trap 'echo HUP; exit 9' HUP; echo ready"
    half = up(bed, confined(bed, user, f"{traps}; wc -c; echo whole", job="half", **more))
    eventually(lambda: b"ready" in bed.log(half))
    made = bed.backend.reach(half.job_uid, 1, 0).feed()
    os.write(made.stdin, b"half")
    made.close()
    assert bed.finish(half).exit_code == 9
    log = bed.log(half)
    assert b"HUP\n" in log
    assert b"whole" not in log
    inputs = bed.lab.nodes["worker1"].chronos_home / "slots" / "inputs"
    assert not os.listdir(inputs)


def test_files_and_commands_through_the_daemon_and_ssh(control: Control, tmp_path: Path) -> None:
    """As a person has them, in a container and in a program of the node."""
    gpu = {"selector": {"nodeLabels": {"place": "worker1"}}}
    jobs = [job("boxed", _BUSY, gpu=gpu), job("plain", _BUSY, gpu=gpu)]
    del jobs[1]["spec"]["image"]
    control.apply(*jobs)
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "word").write_text("swordfish\n")
    for name in ("boxed", "plain"):
        eventually(lambda name=name: control.phase(name) == "Running", 100, name)  # type: ignore[misc]
        assert control.ok("exec", name, "--", "sh", "-c", "echo $CUMULUS_JOB").strip() == name
        assert control.run("exec", name, "--", "sh", "-c", "exit 5").returncode == 5
        control.ok("cp", str(tmp_path / "given"), f"{name}:/tmp/given-{name}")
        control.ok("cp", f"{name}:/tmp/given-{name}", str(tmp_path / name))
        assert (tmp_path / name / "word").read_text() == "swordfish\n"
    words = ["run", "-it", "--gpu", "10%", "--for", "2m", "--image", IMAGE, "--", "sh"]
    shell = pexpect.spawn(CUMULUS, words, env=control.env, timeout=100, encoding="utf-8")
    # What is typed before it is joined waits for it.
    shell.send("echo got-$((1 + 1)); exit 3\r")
    shell.expect("got-2")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 3


def typed(made: Execution, line: bytes, wanted: bytes) -> bytes:
    """What comes within two seconds after that was typed, up to what is wanted."""
    os.write(made.stdin, line)
    found, deadline = b"", time.monotonic() + 2
    while wanted not in found and select.select([made.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
        found += os.read(made.stdout, 65536)
    return found
