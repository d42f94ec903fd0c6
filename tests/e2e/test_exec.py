"""`cumulus exec` on the real daemon, in pipes and at a terminal; kubectl's own on the same job."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pexpect
import pytest

from tests.commands import CUMULUS
from tests.e2e.conftest import Machine, manifest, serving
from tests.server.http.kubectl import KUBECTL, MISSING
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("e2e-exec")]

PROMPT = "ready> "
BASH = ("env", f"PS1={PROMPT}", "bash", "--norc", "--noprofile", "-i")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One daemon and one job for all of these tests."""
    with serving(Machine(tmp_path_factory.mktemp("exec") / "m")) as made:
        made.apply(manifest("train", "echo begun; exec sleep 7200", duration="2h"))
        made.ok("wait", "job/train", "--for=jsonpath={.status.phase}=Running", "--timeout=150s")
        yield made


def ran(machine: Machine, *words: str, given: str | bytes = "", **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [CUMULUS, *words], env=machine.env | more, input=given if isinstance(given, bytes) else given.encode(),
        capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def typing(machine: Machine, *words: str, **more: str) -> pexpect.spawn:
    """A command at a terminal of its own."""
    made = pexpect.spawn(
        CUMULUS, list(words), env={**machine.env, "TERM": "xterm", **more}, timeout=PATIENCE, dimensions=(30, 110)
    )
    made.delaybeforesend = None
    return made


def end(made: pexpect.spawn) -> int:
    made.expect(pexpect.EOF)
    made.close()
    return made.exitstatus if made.exitstatus is not None else 128 + made.signalstatus


def children(machine: Machine, job: str = "train") -> list[str]:
    """The command lines of all processes of the job."""
    marks = {f"CUMULUS_JOB={job}".encode(), os.fsencode(f"CHRONOS_HOME={machine.directory}/chronos")}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marks <= set((process / "environ").read_bytes().split(b"\0")):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
    return found


def test_output_input_and_exit_code(machine: Machine) -> None:
    script = 'echo "$CUMULUS_JOB ${CHRONOS_MEMORY_BYTES:+leased}"; echo problem >&2; exit 3'
    done = ran(machine, "exec", "train", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"train leased\n", b"problem\n")
    data = os.urandom(2_000_000)
    done = ran(machine, "exec", "-i", "job/train", "--", "cat", given=data)
    assert (done.returncode, done.stdout == data) == (0, True)
    assert ran(machine, "exec", "train", "--", "no-such-program").returncode == 127
    for words, code, said in (
        (("exec", "train"), 2, "no command"), (("exec",), 2, "name a job"), (("exec", "nobody", "id"), 1, "not found"),
        (("exec", "train", "--replica", "3", "--", "id"), 2, "no replica 3"),
        (("exec", "-t", "train", "id"), 2, "terminal"),
    ):  # fmt: skip
        done = ran(machine, *words)
        assert (done.returncode, said in done.stderr.decode()) == (code, True), done
    assert ran(machine, "--offline", "exec", "train", "--", "true").returncode == 1


def test_a_killed_client_leaves_nothing(machine: Machine) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, CUMULUS, "exec", "train", "--", "sh", "-c", "echo up; sleep 4321 & sleep 4322"],
            env=machine.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert any("4321" in line for line in children(machine))
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        eventually(lambda: children(machine) == ["sleep 7200"], what="only the job's own program is left")


def test_a_shell_at_a_terminal(machine: Machine) -> None:
    shell = typing(machine, "exec", "-it", "train", "--", *BASH)

    def sees(line: str, *wanted: str) -> None:
        """Types the line at the prompt."""
        shell.expect(PROMPT)
        shell.sendline(line)
        for each in wanted:
            shell.expect(each)

    def runs(words: str) -> None:
        eventually(lambda: words in children(machine), what=words)

    sees("echo $TERM $(stty size) $((40+2)) $CUMULUS_JOB", "xterm 30 110 42 train")
    shell.setwinsize(40, 90)
    sees("until [ \"$(stty size)\" = '40 90' ]; do sleep 0.1; done; echo re''sized", "resized")
    # Ctrl-C goes to what runs there, and job control works.
    sees("sleep 5432")
    runs("sleep 5432")
    shell.sendintr()
    sees("echo code $?", "code 130")
    sees("sleep 5433")
    runs("sleep 5433")
    shell.send("\x1a")
    shell.expect("Stopped")
    sees("jobs -p | wc -l; fg", "1\r\n", "sleep 5433\r\n")
    shell.sendintr()
    sees("exit 9")
    assert end(shell) == 9
    eventually(lambda: children(machine) == ["sleep 7200"])


def test_a_closed_terminal_ends_the_shell(machine: Machine) -> None:
    shell = typing(machine, "exec", "-it", "train", "--", *BASH)
    shell.expect(PROMPT)
    shell.sendline("sleep 6543")
    eventually(lambda: any("6543" in line for line in children(machine)))
    shell.close(force=True)
    eventually(lambda: children(machine) == ["sleep 7200"])


def test_copies(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "data").write_bytes(data := os.urandom(1_500_000))
    for words in (
        ("tree", "train:sent"), ("tree/below/data", "job/train:sent/below"), ("train:sent", "back"),
        ("train:sent/below/data", "one"), ("train:sent/below/data", "tree"),
        # Nothing behind the colon is the job's directory.
        ("tree/data", "train:"), ("train:data", "two"),
    ):  # fmt: skip
        done = subprocess.run(
            [CUMULUS, "cp", *words], env=machine.env, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), words
    for path in ("back/below/data", "one", "tree/data", "two"):
        assert (tmp_path / path).read_bytes() == data
    for source, target, code, said in (
        ("train:nothing", "x", 1, "nothing"), ("train:sent", str(tmp_path), 0, ""), ("a", "b", 2, "JOB:PATH"),
        ("train:a", "train:b", 2, "JOB:PATH"), ("/none", "train:x", 2, "/none"), ("train:sent", "/no/where", 2, "/no"),
        (str(tmp_path / "one"), "train:/no/where/x", 1, "where"),
    ):  # fmt: skip
        done = machine.run("cp", source, target)
        assert (done.returncode, said in done.stderr) == (code, True), done
    assert not (tmp_path / "x").exists()


def test_a_program_at_a_terminal(machine: Machine) -> None:
    """`run -it` is `srun --pty`: left, joined again, and ended with its own code."""
    small = ("--gpu", "5%", "--for", "1h", "--name")
    assert machine.run("run", "-it", *small, "no", "--", "true").returncode == 2
    shell = typing(machine, "run", "-it", *small, "pty", "--", *BASH)
    shell.expect(PROMPT)
    shell.sendline("echo $TERM $(stty size) $CUMULUS_JOB")
    shell.expect("xterm 30 110 pty")
    shell.expect(PROMPT)
    shell.sendline("sleep 300")
    eventually(lambda: "sleep 300" in children(machine, "pty"))
    shell.sendintr()
    shell.expect(PROMPT)
    shell.send("\x10\x11")
    shell.expect("Come back: cumulus attach pty")
    assert end(shell) == 0
    again = typing(machine, "attach", "pty")
    again.sendline("echo $((40+2))")
    again.expect("42\r\n")
    # A client that is killed leaves it alone, at first.
    again.close(force=True)
    last = typing(machine, "attach", "pty")
    last.sendline("exit 6")
    assert end(last) == 6
    job = machine.get("job", "pty")
    assert (job["spec"]["tty"], job["status"]["attempts"][-1]["exitCode"]) == (True, 6)
    assert "42" in machine.run("logs", "pty").stdout
    # It has the size of this terminal from the start.
    quick = typing(machine, "run", "-it", *small, "quick", "--", "sh", "-c", "stty size; exit 3")
    quick.expect("30 110")
    assert end(quick) == 3


def test_from_a_laptop(machine: Machine, tmp_path: Path) -> None:
    """The same over TLS, with a token."""
    found = machine.context()
    (tmp_path / "ca.pem").write_text(found.ca)
    laptop = {
        "CUMULUS_HOME": "", "CUMULUS_ORCHESTRATOR_URL": found.server, "CUMULUS_TOKEN": found.token,
        "CUMULUS_CA_FILE": str(tmp_path / "ca.pem"), "XDG_CONFIG_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path),
    }  # fmt: skip
    data = os.urandom(2_000_000)
    done = ran(machine, "exec", "-i", "train", "--", "sh", "-c", "cat; exit 7", given=data, **laptop)
    assert (done.returncode, done.stdout == data, done.stderr) == (7, True, b"")
    shell = typing(machine, "exec", "-it", "train", "--", *BASH, **laptop)
    shell.expect(PROMPT)
    shell.sendline("exit 9")
    assert end(shell) == 9
    # Here the laptop is the server's machine: the port is taken, so the forwarding has another one.
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    serve = f"until {sys.executable} -m http.server {port} --bind 127.0.0.1 --directory {tmp_path}; do sleep 0.2; done"
    job = typing(
        machine, "run", "--gpu", "5%", "--for", "1h", "--export", "NONE", "--name", "serves", "--port", port, "--",
        "sh", "-c", serve, **laptop,
    )  # fmt: skip
    job.expect(r"http://127.0.0.1:(\d+) leads to port ")
    url = f"http://127.0.0.1:{job.match[1].decode()}/ca.pem"

    taken.close()

    def fetched() -> str:
        with suppress(OSError), urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return str(answer.read().decode())
        return ""

    assert eventually(fetched) == found.ca
    job.close(force=True)
    machine.ok("delete", "job", "serves")


SERVER = """
import socket, sys
made = socket.create_server(("127.0.0.1", 0))
print(made.getsockname()[1], flush=True)
while True:
    connection, _ = made.accept()
    with connection:
        data = b"".join(iter(lambda: connection.recv(65536), b""))
        connection.sendall(data[::-1])
"""


@pytest.fixture
def port(machine: Machine) -> Iterator[int]:
    """At which a process of the job gives back what it gets, from behind."""
    command = [CUMULUS, "exec", "train", "--", sys.executable, "-c", SERVER]
    with subprocess.Popen(command, env=machine.env, stdout=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        yield int(serving.stdout.readline())
        serving.kill()


def is_answered(port: int, data: bytes) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as made:
        made.sendall(data)
        made.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: made.recv(65536), b"")) == data[::-1]


def is_closed_at_once(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as made:
        return made.recv(9) == b""


def test_ports(machine: Machine, port: int) -> None:
    elsewhere = socket.create_server(("127.0.0.1", 0))
    other = elsewhere.getsockname()[1]
    forwarding = typing(machine, "port-forward", "train", f"0:{port}", f"0:{other}")
    forwarding.expect(r"127.0.0.1:(\d+) leads to port")
    local = int(forwarding.match[1])
    forwarding.expect(r"127.0.0.1:(\d+) leads to port")
    refused = int(forwarding.match[1])
    data = os.urandom(1_000_000)
    for _ in range(2):
        assert is_answered(local, data)
    # The daemon could reach it, and the job does not listen there.
    assert is_closed_at_once(refused)
    forwarding.expect("no process of the job listens")
    elsewhere.settimeout(0.2)
    with elsewhere, pytest.raises(TimeoutError):
        elsewhere.accept()
    forwarding.sendintr()
    assert end(forwarding) == 130


@pytest.mark.skipif(KUBECTL is None, reason=MISSING)
def test_kubectl(machine: Machine, port: int, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(eventually(lambda: machine.run("kubeconfig").stdout, what="it answers over TLS"))
    kubectl = [str(KUBECTL), f"--kubeconfig={file}", f"--cache-dir={tmp_path}"]

    def run(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*kubectl, *words], input=given, capture_output=True, timeout=PATIENCE, check=False)

    done = run("exec", "-i", "train-0", "--", "sh", "-c", "cat; echo $CUMULUS_JOB >&2; exit 5", given=b"in")
    # kubectl may have a word of its own before it: of a stream that it has not made yet, nothing of which is lost.
    assert (done.returncode, done.stdout) == (5, b"in")
    assert b"train" in done.stderr.splitlines()
    (tmp_path / "there").write_bytes(data := os.urandom(300_000))
    done = run("cp", str(tmp_path / "there"), f"train-0:{tmp_path}/back")
    assert done.returncode == 0, done
    assert (tmp_path / "back").read_bytes() == data
    done = run("cp", f"train-0:{tmp_path}/back", str(tmp_path / "again"))
    assert (done.returncode, (tmp_path / "again").read_bytes()) == (0, data), done
    forwarding = pexpect.spawn(
        kubectl[0], [*kubectl[1:], "port-forward", "pod/train-0", f":{port}", ":1"], timeout=PATIENCE
    )
    forwarding.expect(rb"127.0.0.1:(\d+) -> \d\d")
    local = int(forwarding.match[1])
    forwarding.expect(rb"127.0.0.1:(\d+) -> 1\r")
    refused = int(forwarding.match[1])
    for _ in range(3):
        assert is_answered(local, data)
    assert is_closed_at_once(refused)
    forwarding.expect("no process of the job listens")
    forwarding.close(force=True)
    shell = pexpect.spawn(kubectl[0], [*kubectl[1:], "exec", "-it", "train-0", "--", *BASH], timeout=PATIENCE)
    shell.expect(PROMPT)
    shell.sendline("tty; exit 4")
    shell.expect("/dev/pts/")
    assert end(shell) == 4
