"""`cumulus run` and `attach` on the real daemon, at a terminal and in pipes; docs/run.md as it stands."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cumulus import environment
from tests import pages
from tests.commands import CUMULUS
from tests.e2e.conftest import Machine, manifest, serving
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("e2e-run")]

PAGE = Path(__file__).parents[2] / "docs" / "run.md"
SMALL = ("--gpu", "5%", "--for", "1h")
ALONE = {environment.NO_COMMAND_SERVER: "1"}
"""For a command in a process of its own, not in a fork of the command server."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One daemon for all of these tests; their jobs have names of their own."""
    with serving(Machine(tmp_path_factory.mktemp("run") / "m")) as made:
        yield made


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, machine: Machine, *words: str, **variables: str) -> None:
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.execvpe(CUMULUS, [CUMULUS, *words], {**machine.env, "TERM": "xterm", "COLUMNS": "400", **variables})
        # Without an echo, what is read is what the command writes.
        modes = termios.tcgetattr(self._descriptor)
        modes[3] &= ~termios.ECHO
        termios.tcsetattr(self._descriptor, termios.TCSANOW, modes)
        self.shown = b""

    def until(self, wanted: str) -> str:
        """What it has shown by the time that this is there."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(wanted.encode(), self.shown):
            assert time.monotonic() < deadline, self.shown
            if select.select([self._descriptor], [], [], 1.0)[0]:
                more = self._read()
                assert more, f"ended without {wanted!r}: {self.shown!r}"
        return self.shown.decode()

    def interrupt(self) -> None:
        os.write(self._descriptor, b"\x03")

    def end(self) -> tuple[int, str]:
        """Exit code, and all that it has shown."""
        while self._read():
            pass
        os.close(self._descriptor)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), self.shown.decode()

    def _read(self) -> bytes:
        try:
            more = os.read(self._descriptor, 65536)
        except OSError:  # How a terminal says that its other end is closed.
            return b""
        self.shown += more
        return more


def told(stderr: str) -> list[str]:
    """What was said on stderr, but for what a job on a busy machine waited for."""
    return [
        line for line in stderr.splitlines() if not re.match("gpujob/[a-z0-9-]+(:| has| is) ", line) or "over;" in line
    ]


def jobs(machine: Machine) -> dict[str, Any]:
    return {each["metadata"]["name"]: each for each in machine.items("jobs")}


@contextmanager
def holding(machine: Machine, name: str) -> Iterator[None]:
    """All of the device is leased meanwhile."""
    machine.apply(
        {
            "apiVersion": "cumulus.dev/v1alpha1",
            "kind": "GPUPartition",
            "metadata": {"name": name},
            "spec": {"memory": "100%", "duration": "10m"},
        }
    )
    machine.ok("wait", f"gpupartition/{name}", "--for=condition=Active", "--timeout=150s")
    try:
        yield
    finally:
        machine.ok("delete", "partition", name)


def test_output_directory_environment_and_exit_code(machine: Machine, tmp_path: Path) -> None:
    program = tmp_path / "show.sh"
    program.write_text('#!/bin/sh\npwd\necho "$VIRTUAL_ENV $A $B ${EDITOR-none} $1"\necho problem >&2\nexit 7\n')
    program.chmod(0o755)
    (tmp_path / "job.env").write_text("A=file\nB=file\n")
    words = [CUMULUS, "run", *SMALL, "--env-file", "job.env", "-e", "A=option", "./show.sh", "--for=true"]
    env = {**machine.env, "VIRTUAL_ENV": "/venv", "EDITOR": "vi"}
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, told(done.stderr)) == (7, [])
    assert done.stdout == f"{tmp_path}\n/venv option file none --for=true\nproblem\n"


def test_a_program_reads_what_the_command_reads(machine: Machine) -> None:
    data = os.urandom(2_000_000)
    words = [CUMULUS, "run", "-i", *SMALL, "--name", "reads", "--", "sh", "-c", "wc -c; exit 4"]
    done = subprocess.run(words, env=machine.env, input=data, capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout.split(), told(done.stderr.decode())) == (4, [b"2000000"], [])
    assert machine.get("job", "reads")["spec"]["stdin"] is True
    refused = machine.run("attach", "-i", machine.ok("run", *SMALL, "-d", "true").strip())
    assert "waits for no input" in refused.stderr


def test_who_leaves_in_the_middle_of_the_input_is_told(machine: Machine) -> None:
    words = ("run", "-i", *SMALL, "--name", "halved", "--", "sh", "-c", "read a; echo got $a; wc -c; echo whole")
    with subprocess.Popen(
        [CUMULUS, *words], env={**machine.env, **ALONE}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as client:  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"half\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"got half\n"
        client.send_signal(signal.SIGINT)
        assert client.stderr is not None
        said = client.stderr.read().decode()
        assert client.wait(PATIENCE) == 130
    assert "The rest of its input is cut off, so it gets SIGHUP." in said
    machine.ok("wait", "job/halved", "--for=condition=Failed", "--timeout=150s")
    assert "whole" not in machine.ok("logs", "halved")


def test_a_directory_goes_along_and_what_changed_comes_back(machine: Machine, tmp_path: Path) -> None:
    here = tmp_path / "project"
    (here / "data").mkdir(parents=True)
    (here / ".cumulusignore").write_text("data/\n")
    (here / "data" / "large").write_bytes(b"x" * 1000)
    (here / "read").write_text("swordfish\n")
    (here / "counted").write_text("0\n")
    script = "pwd; cat read; ls; echo 1 > counted; mkdir runs; echo done > runs/log; rm read; cat; exit 3"
    words = [CUMULUS, "run", "--sync", *SMALL, "--name", "carried", "--", "sh", "-c", script]
    done = subprocess.run(
        words, env=machine.env, cwd=here, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[1:]) == (3, ["swordfish", "counted", "read"]), done.stderr
    assert lines[0] != str(here)
    assert (here / "counted").read_text() == "1\n"
    assert (here / "runs" / "log").read_text() == "done\n"
    assert (here / "read").read_text() == "swordfish\n"
    assert told(done.stderr) == [
        f"3 files of {here} go along: 18.", "2 files came back:", "  counted 2", "  runs/log 5",
        "The job deleted these, which stay here:", "  read",
    ]  # fmt: skip
    # Once more, into another directory.
    other = tmp_path / "other"
    other.mkdir()
    fetched = machine.run("attach", "--sync", "carried", cwd=other)
    assert (fetched.returncode, (other / "runs" / "log").read_text()) == (3, "done\n"), fetched.stderr
    plain = machine.ok("run", *SMALL, "-d", "true").strip()
    machine.ok("wait", f"job/{plain}", "--for=condition=Succeeded", "--timeout=150s")
    assert "has no directory of its own here" in machine.run("attach", "--sync", plain).stderr


def test_the_least_command_leases_all_for_an_hour_and_says_so(machine: Machine) -> None:
    done = machine.run("run", "--name", "least", "true")
    assert done.returncode == 0, done.stderr
    assert told(done.stderr) == ["Leasing the whole of one device for an hour; --gpu 25% and --for 2h change that."]
    gpu = machine.get("job", "least")["spec"]["gpu"]
    assert (gpu["memory"], gpu["duration"], gpu.get("count", 1)) == ("100%", "1h", 1)


def test_none_of_the_shell_and_all_of_it(machine: Machine) -> None:
    for export, shown in (("NONE", "none\n"), ("ALL", "vi\n")):
        done = machine.run(
            "run",
            *SMALL,
            "--export",
            export,
            "--",
            "sh",
            "-c",
            "echo ${EDITOR-none}$MY_TOKEN",
            EDITOR="vi",
            MY_TOKEN="x",
        )
        assert (done.returncode, done.stdout) == (0, shown)
        assert ("MY_TOKEN" in done.stderr) == (export == "ALL")
    passed_on = {each["name"] for job in jobs(machine).values() for each in job["spec"].get("env", ())}
    assert "EDITOR" in passed_on
    assert "MY_TOKEN" not in passed_on


def test_what_ends_a_job_is_said_in_one_line(machine: Machine, tmp_path: Path) -> None:
    late = machine.run("run", "--gpu", "5%", "--for", "1s", "--name", "late", "--", "sleep", "60")
    assert (late.returncode, late.stdout) == (124, "")
    assert late.stderr.endswith("gpujob/late: its lease of 1s is over; `cumulus run --for` asks for a longer one\n"), (
        late.stderr
    )
    (tmp_path / "bad").write_text("#!/nowhere/sh\n")
    (tmp_path / "bad").chmod(0o755)
    bad = machine.run("run", *SMALL, "--name", "bad", "--", str(tmp_path / "bad"))
    assert bad.returncode == 126
    assert "gpujob/bad: it could not be started: " in bad.stderr
    again = machine.run("run", *SMALL, "--name", "late", "--", "true")
    assert again.returncode == 1
    assert "late is there already" in again.stderr


def test_every_attempt_is_shown(machine: Machine, tmp_path: Path) -> None:
    script = f'echo "attempt $CUMULUS_ATTEMPT"; test -e {tmp_path}/tried || {{ touch {tmp_path}/tried; exit 3; }}'
    machine.apply(manifest("twice", script, retry={"limit": 1, "backoff": "10ms"}, suspend=True))
    words = [CUMULUS, "attach", "twice"]
    with subprocess.Popen(words, env=machine.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        assert client.stderr is not None
        assert client.stderr.readline().startswith("gpujob/twice is suspended")
        machine.ok("resume", "twice")
        out, stderr = client.communicate(timeout=PATIENCE)
    assert (client.returncode, out) == (0, "attempt 1\nattempt 2\n")
    assert told(stderr) == ["Attempt 1 ended with Error, exit code 3.", "Attempt 2 begins."]


def test_who_waits_is_told_for_whom_and_until_when(machine: Machine) -> None:
    with holding(machine, "mine"):
        waiter = subprocess.Popen(
            [CUMULUS, "run", *SMALL, "--name", "waits", "--", "echo", "at last"],
            env=machine.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert waiter.stderr is not None
        line = waiter.stderr.readline()
        terminal = Terminal(machine, "attach", "waits")
        terminal.until(
            "gpujob/waits: starts by .* at the latest; place 1 of 1 in the queue; waits for partition default/mine"
        )
        left = Terminal(machine, "attach", "waits")
        left.until("gpujob/waits: starts by ")
        left.interrupt()
        code, shown = left.end()
        assert code == 130
        assert "Come back: cumulus attach waits" in shown
        assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is back"
    out, _ = waiter.communicate(timeout=PATIENCE)
    assert re.match(
        r"gpujob/waits: starts by \S+Z \(in \d+m.*\) at the latest; place 1 of 1 in the queue; waits for ", line
    )
    assert re.search(r"partition default/mine of .*: .* of device 0 of .*, until \S+Z at the latest$", line)
    assert (waiter.returncode, out) == (0, "at last\n")
    code, shown = terminal.end()
    assert code == 0
    assert "at last\r\n" in shown


@pytest.mark.parametrize("process", [{}, ALONE], ids=["served", "own process"])
def test_ctrl_c_leaves_the_job_alone_and_says_how_to_come_back(machine: Machine, process: dict[str, str]) -> None:
    name = f"left-{len(process)}"
    script = "echo begun; while [ ! -e go ]; do sleep 0.1; done; exit 5"
    here = machine.directory / name
    here.mkdir()
    terminal = Terminal(machine, "run", *SMALL, "--name", name, "--", "sh", "-c", f"cd {here}; {script}", **process)
    terminal.until("begun\r\n")
    terminal.interrupt()
    code, shown = terminal.end()
    assert code == 130
    assert f"Come back: cumulus attach {name}, or cumulus logs -f {name}. End it: cumulus delete job {name}." in shown
    assert machine.get("job", name)["status"]["phase"] == "Running"
    back = subprocess.Popen([CUMULUS, "attach", name], env=machine.env | process, stdout=subprocess.PIPE, text=True)
    (here / "go").touch()
    assert back.communicate(timeout=PATIENCE) == ("begun\n", None)
    assert back.returncode == 5
    over = machine.run("attach", name, "--tail", "0", **process)
    assert (over.returncode, over.stdout) == (5, "")


@pytest.mark.parametrize("process", [{}, ALONE], ids=["served", "own process"])
def test_ctrl_c_twice_ends_the_job(machine: Machine, process: dict[str, str]) -> None:
    name = f"ended-{len(process)}"
    terminal = Terminal(machine, "run", *SMALL, "--name", name, "--", "sh", "-c", "echo $$; exec sleep 600", **process)
    pid = int(re.findall(r"(\d+)\r\n", terminal.until(r"\d+\r\n"))[-1])
    terminal.interrupt()
    terminal.until("Ctrl-C once more")
    terminal.interrupt()
    code, shown = terminal.end()
    assert code == 130
    assert f"gpujob/{name} has ended." in shown
    assert name not in jobs(machine)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("process", [{}, ALONE], ids=["served", "own process"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_the_job_goes_on_without_its_client(machine: Machine, process: dict[str, str], number: signal.Signals) -> None:
    name = f"alone-{len(process)}-{number}"
    words = [CUMULUS, "run", *SMALL, "--name", name, "--", "sh", "-c", "echo begun; sleep 1; echo done"]
    client = subprocess.Popen(words, env=machine.env | process, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "begun\n"
    client.send_signal(number)
    client.communicate(timeout=PATIENCE)
    assert client.returncode == -number
    assert machine.run("attach", name).stdout == "begun\ndone\n"


def test_a_job_that_is_deleted_meanwhile(machine: Machine) -> None:
    words = [CUMULUS, "run", *SMALL, "--name", "gone", "--", "sh", "-c", "echo begun; exec sleep 600"]
    with subprocess.Popen(words, env=machine.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "begun\n"
        machine.ok("delete", "job", "gone")
        _, told = client.communicate(timeout=PATIENCE)
    assert client.returncode == 1
    assert told.endswith("error: gpujob/gone was deleted\n"), told


def test_detached_it_prints_the_name_alone(machine: Machine) -> None:
    done = machine.run("run", *SMALL, "-d", "--", "sh", "-c", "echo hello")
    assert re.fullmatch(r"sh-[a-z0-9]{5}\n", done.stdout)
    assert done.stderr == ""
    name = done.stdout.strip()
    assert machine.ok("attach", name) == "hello\n"
    # What is over goes on nowhere, also where its log can't be written.
    with open("/dev/full", "wb") as full:
        told = subprocess.run(
            [CUMULUS, "attach", name], env=machine.env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
        )
    assert (told.returncode, told.stderr) == (1, "error: No space left on device\n")


def test_over_tls_as_from_another_machine(machine: Machine, tmp_path: Path) -> None:
    context = machine.context()
    (tmp_path / "ca.pem").write_text(context.ca)
    there = {
        environment.SERVER_URL: context.server, environment.TOKEN: context.token,
        environment.CA_FILE: str(tmp_path / "ca.pem"),
    }  # fmt: skip
    done = machine.run("run", *SMALL, "--name", "far", "--", "sh", "-c", "pwd; exit 4", **there)
    assert (done.returncode, done.stdout) == (4, f"{os.getcwd()}\n")
    assert told(done.stderr) == [f"It runs on the server's machine, in {os.getcwd()} there."]
    # What is not here may be there.
    missing = machine.run("run", *SMALL, "--", "nowhere-to-be-found", **there)
    assert missing.returncode == 126
    assert "command not found: nowhere-to-be-found" in missing.stderr


def test_from_the_store_of_a_daemon_that_runs(machine: Machine) -> None:
    done = machine.run("--offline", "run", *SMALL, "--", "sh", "-c", "echo hello; exit 4")
    assert (done.returncode, done.stdout) == (4, "hello\n")


def test_the_tour_for_slurm_users_works_as_written(machine: Machine, tmp_path: Path) -> None:
    commands = pages.commands(pages.part(PAGE.with_name("slurm.md"), "try"))
    assert len(commands) == 16
    env = {**machine.env, "PATH": f"{Path(sys.executable).parent}:{machine.env['PATH']}"}
    printed = pages.follow(commands, tmp_path, env)
    assert re.search(r"^I have \d+ bytes$", printed, re.M)
    assert "fit: its lease lasts until " in printed
    assert "lr 1\nlr 2\n" in printed
    eventually(lambda: "fit" not in jobs(machine), what="deleted")


def test_the_page_works_as_written(machine: Machine, tmp_path: Path) -> None:
    commands = pages.commands(pages.part(PAGE, "try"))
    assert len(commands) == 9
    env = {**machine.env, "PATH": f"{Path(sys.executable).parent}:{machine.env['PATH']}"}
    printed = pages.follow(commands, tmp_path, env)
    assert re.match(rf"\d+ bytes, in {tmp_path}\nexit code 3\n.*\nhello\n", printed, re.S), printed
    assert "\ndone\n" in printed
    eventually(lambda: "hello" not in jobs(machine), what="deleted")
