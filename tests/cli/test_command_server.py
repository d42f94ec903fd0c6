"""The command server as a process of its own, and real clients: a served command must not differ from any other."""

from __future__ import annotations

import functools
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import cumulus
from cumulus import environment, paths
from cumulus.cli import command_client, rehearsal
from cumulus.cli.main import VERBS
from cumulus.clock import FakeClock
from cumulus.lib import processes
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import SERVED, listens, only_served
from tests.documents import NOW, job, node
from tests.waiting import PATIENCE, eventually

ORDINARY = [sys.executable, "-P", "-m", "cumulus.cli.command_client"]
pytestmark = pytest.mark.xdist_group("command-server")

SERVER = [sys.executable, "-P", "-m", "cumulus.cli.command_server"]


class Server:
    """A command server on a state directory, held by a pipe as a daemon's is."""

    def __init__(self, home: Path, *, command: list[str] = SERVER, **env: str) -> None:
        home.mkdir(exist_ok=True)
        self.home = home
        self.process = subprocess.Popen(
            [*command, str(home)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ, **env},
            start_new_session=True,
        )  # fmt: skip
        eventually(lambda: listens(home) or self.process.poll() is not None, what="the server listens")
        assert self.process.poll() is None, "the server ended"

    def commands(self) -> list[int]:
        """Its children that run one, ended ones that were not waited for too."""
        return [pid for pid in self._children() if processes.name(pid) != rehearsal.NAME]

    def spare(self) -> int:
        """The fork that waits for the next command. One is made after each."""
        spares = eventually(
            lambda: [p for p in self._children() if processes.name(p) == rehearsal.NAME], what="a spare"
        )
        return int(spares[0])

    def _children(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def command(self) -> int:
        """The one command that runs."""
        [pid] = eventually(self.commands, what="a command runs")
        return int(pid)

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def stop(self) -> None:
        """End it, and what of its commands should have ended already."""
        self.let_go()
        self.process.kill()
        self.process.wait()
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if os.fsencode(self.home) in (directory / "cmdline").read_bytes().split(b"\0"):
                    os.kill(int(directory.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(home: Path, **options: Any) -> Server:
        started.append(Server(home, **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("shared"))
    yield made
    made.stop()


@pytest.fixture
def server(home: Path, shared: Server) -> Iterator[Server]:
    """One for all tests that leave it at work: a request says all there is to know, the state directory too."""
    home.mkdir(exist_ok=True)
    (home / paths.COMMAND_SOCKET).symlink_to(shared.home / paths.COMMAND_SOCKET)
    yield shared
    for pid in shared.commands():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not shared.commands(), what="the test's commands have ended")


@pytest.fixture
def own_server(home: Path, serve: Callable[..., Server]) -> Server:
    return serve(home)


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a server on its `home`, some objects and manifests: for what changes nothing."""
    directory = tmp_path_factory.mktemp("words")
    store = SqliteStore(directory / "home" / "store", clock=FakeClock(NOW - timedelta(minutes=10)))
    for made in (job("a"), job("b"), node("gpu-1", unschedulable=True)):
        store.create(made)
    (directory / "a.yaml").write_text(manifest("a"))
    (directory / "new.yaml").write_text(manifest("new"))
    (directory / "wrong.yaml").write_text("kind: GPUJob\nspec: {gpu: {memory: lots}}\n")
    server = Server(directory / "home")
    yield directory
    server.stop()
    store.close()


class Done:
    def __init__(self, command: list[str], *arguments: str, **options: Any) -> None:
        done = subprocess.run([*command, *arguments], capture_output=True, timeout=PATIENCE, check=False, **options)
        self.all = (done.returncode, done.stdout.decode(), done.stderr.decode())
        self.code, self.out, self.err = self.all


def ordinary(*arguments: str, **options: Any) -> Done:
    return Done(
        ORDINARY,
        *arguments,
        env={**os.environ, **options.pop("env", {}), environment.NO_COMMAND_SERVER: "1"},
        **options,
    )


def served(*arguments: str, **options: Any) -> Done:
    return Done(SERVED, *arguments, env={**os.environ, **options.pop("env", {})}, **options)


@pytest.fixture
def clients() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Served commands that go on."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, command: list[str] = SERVED, **options: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen([*command, *arguments], **pipes, **options))
        return started[-1]

    yield start
    for client in started:
        client.kill()
        client.wait()
        for pipe in (client.stdout, client.stderr):
            if pipe is not None:
                pipe.close()


def manifest(name: str = "a") -> str:
    written = job(name)
    del written["status"]
    return json.dumps(written)


def state(pid: int) -> str:
    """T: stopped, S: asleep, Z: ended; "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        # The second where it ends between the opening and the reading.
        return ""


def test_what_is_served_is_a_verb_and_needs_no_process_of_its_own() -> None:
    assert set(VERBS) - command_client.SERVED == {
        "serve",
        "doctor",
        "node",
        "cluster",
        "backup",
        "restore",
        "completion",
        "login",
        "context",
        "auth",
        "lint",
        "schema",
        "attach",
        "edit",
        "help",
        "report",
        "ui",
    }
    assert set(VERBS) > command_client.SERVED


def test_the_client_imports_next_to_nothing() -> None:
    script = "import os, sys; old = set(sys.modules); import cumulus.cli.command_client; "
    script += "print(*sorted(set(sys.modules) - old))"
    env = {**os.environ, "PYTHONPATH": str(Path(cumulus.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, env=env, check=True)
    few = {
        "__future__",
        "_socket",
        "cumulus",
        "cumulus.cli",
        "cumulus.cli.command_client",
        "cumulus.environment",
        "cumulus.paths",
    }
    assert set(done.stdout.split()) <= few


def test_a_command_loads_nothing_in_its_fork(tmp_path: Path) -> None:
    script = (
        "import sys; from cumulus.cli import command_server, main; command_server.load_all(); old = set(sys.modules); "
        "main.main(['get', 'jobs']); main.main(['explain', 'job']); print('loaded:', *set(sys.modules) - old)"
    )
    env = {**os.environ, environment.HOME: str(tmp_path), "PYTHONPATH": str(Path(cumulus.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.splitlines()[-1].split() == ["loaded:"], "add it to what the command server loads"


@pytest.mark.parametrize(
    "words",
    [
        ["get", "jobs", "-o", "name"],
        ["get", "job", "a", "-o", "yaml"],
        ["get", "jobs", "-o", "custom-columns=N:.metadata.name"],
        ["get", "job", "b", "nothing"],
        ["get", "jobs", "-n", "elsewhere"],
        ["get", "jobs", "--nope"],
        ["get", "job", "none", "-w"],
        ["get", "jobs", "--field-selector=status.phse!=Running"],
        ["get", "jobs", "--sort-by=.spec.priority", "-o", "custom-columns=P:.spec.gpu.memory"],
        ["get", "--help"],
        ["apply"],
        ["apply", "-f"],
        ["apply", "-f", "no such file"],
        ["apply", "-f", "wrong.yaml"],
        ["apply", "-f", "a.yaml", "--dry-run=server"],
        ["diff", "-f", "a.yaml"],
        ["diff", "-f", "new.yaml"],
        ["wait", "job/a", "--for=condition=Running", "--timeout=0"],
        ["wait", "job/none", "--for=delete", "--timeout=0"],
        ["delete", "job", "none"],
        ["delete", "nodes", "--all"],
        ["delete", "jobs", "--field-selector=status.phase!=running"],
        ["logs", "a"],
        ["explain", "gpujob.spec.gpu"],
        ["why", "a"],
        ["version", "-o", "json"],
        ["secret"],
        ["secret", "list"],
    ],
    ids=" ".join,
)
def test_words_mean_the_same(words: list[str], one_server: Path, home: Path) -> None:
    env = {"CUMULUS_HOME": str(one_server / "home")}
    assert served(*words, cwd=one_server, env=env).all == ordinary(*words, cwd=one_server, env=env).all


def test_what_was_said_before_an_error_is_shown(server: Server, store: SqliteStore) -> None:
    for name in ("a", "b"):
        store.create(job(name))
    one, two = served("label", "job", "a", "none", "x=y"), ordinary("label", "job", "b", "none", "x=y")
    assert one.all == (1, "gpujob.cumulus.dev/a labeled\n", two.err)
    assert two.all == (1, "gpujob.cumulus.dev/b labeled\n", one.err)


def test_the_home_may_be_given_before_the_verb(server: Server, store: SqliteStore, home: Path, tmp_path: Path) -> None:
    store.create(job("a"))
    env = {"CUMULUS_HOME": str(tmp_path / "another")}
    for words in (["--home", str(home)], [f"--home={home}"], ["--home", "home"]):
        assert served(*words, "get", "jobs", "-o", "name", cwd=tmp_path, env=env).out == "gpujob.cumulus.dev/a\n"


def test_input_directory_and_environment_are_the_callers(server: Server, tmp_path: Path) -> None:
    env = {"CUMULUS_HOME": "home"}
    done = served("apply", "-f", "-", input=manifest().encode(), cwd=tmp_path, env=env)
    assert done.out == "gpujob.cumulus.dev/a created\n"
    (tmp_path / "b.json").write_text(manifest("b"))
    assert served("apply", "-f", "b.json", cwd=tmp_path, env=env).out == "gpujob.cumulus.dev/b created\n"
    gone = served("apply", "-f", "b.json", cwd="/", env={"CUMULUS_HOME": str(tmp_path / "home")})
    assert gone.all == ordinary("apply", "-f", "b.json", cwd="/").all


def test_the_umask_is_the_callers(
    server: Server, store: SqliteStore, clients: Callable[..., subprocess.Popen[bytes]]
) -> None:
    clients("get", "jobs", "-w", umask=0o137)
    pid = server.command()
    eventually(lambda: "Umask:\t0137\n" in Path(f"/proc/{pid}/status").read_text())


def test_a_terminal_is_a_terminal(serve: Callable[..., Server], home: Path, store: SqliteStore, tmp_path: Path) -> None:
    serve(home, NO_COLOR="1", COLUMNS="10")
    (tmp_path / "new.yaml").write_text(manifest("new"))
    shown = []
    for command, off in ((SERVED, {}), (ORDINARY, {environment.NO_COMMAND_SERVER: "1"})):
        ours, theirs = pty.openpty()
        env = {**os.environ, "TERM": "xterm", **off}
        with subprocess.Popen([*command, "diff", "-f", "new.yaml"], stdout=theirs, env=env, cwd=tmp_path) as client:
            os.close(theirs)
            shown.append(b"".join(iter(functools.partial(read, ours), b"")))
        os.close(ours)
        assert client.returncode == 1
    assert b"\x1b[32m+" in shown[0]
    assert shown[0] == shown[1]


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # How a terminal says that its other end is closed.
        return b""


def test_a_reader_that_has_gone_and_a_full_disk(server: Server, store: SqliteStore) -> None:
    for number in range(300):
        store.create(job(f"job-with-a-long-name-{'x' * 100}-{number}"))
    ours, theirs = os.pipe()
    client = subprocess.Popen([*SERVED, "get", "jobs", "-o", "json"], stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    os.read(ours, 10)
    os.close(ours)
    assert client.communicate(timeout=PATIENCE) == (None, b"")
    assert client.returncode == 141
    for command in (SERVED, ORDINARY):
        with open("/dev/full", "w") as full:
            done = subprocess.run([*command, "get", "jobs"], stdout=full, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGHUP, -1), (signal.SIGQUIT, -3), (signal.SIGKILL, -9)],
)
def test_a_signal_ends_the_command_and_the_client_alike(
    number: int, code: int, server: Server, store: SqliteStore, clients: Callable[..., subprocess.Popen[bytes]]
) -> None:
    store.create(job("a"))
    for words in (["get", "jobs", "-w"], ["wait", "job/a", "--for=delete", "--timeout=1h"]):
        client = clients(*words)
        heard = client.stdout if words[0] == "get" else client.stderr
        assert heard is not None
        assert heard.readline()
        pid = server.command()
        client.send_signal(number)
        assert client.wait(PATIENCE) == code
        eventually(lambda pid=pid: state(pid) == "", what="the command has ended, and was waited for")
        assert b"Traceback" not in client.communicate()[1]


def test_how_a_command_is_killed_is_how_its_client_ends(
    server: Server, store: SqliteStore, clients: Callable[..., subprocess.Popen[bytes]]
) -> None:
    for number in (signal.SIGKILL, signal.SIGSEGV):
        client = clients("get", "jobs", "-w")
        os.kill(server.command(), number)
        assert client.wait(PATIENCE) == -number
        eventually(lambda: not server.commands())
    assert served("version").code == 0


def test_stopping_and_continuing(
    server: Server, store: SqliteStore, clients: Callable[..., subprocess.Popen[bytes]]
) -> None:
    # In a group of its own within this session, as a shell has it: a group with no shell above it is never stopped.
    store.create(job("a"))
    client = clients("get", "jobs", "-w", "-o", "name", process_group=0)
    pid = server.command()
    assert client.stdout is not None
    assert client.stdout.readline() == b"gpujob.cumulus.dev/a\n"
    client.send_signal(signal.SIGTSTP)
    eventually(lambda: state(pid) == state(client.pid) == "T", what="both are stopped")
    client.send_signal(signal.SIGCONT)
    eventually(lambda: state(pid) == state(client.pid) == "S", what="both go on")
    # Of a process that was just stopped another thread may get the signal, which Python then looks at late.
    # And where it gets the next one while it cleans up, it ends by the signal itself.
    interrupted = (130, -signal.SIGINT)
    eventually(lambda: client.send_signal(signal.SIGINT) or client.poll() in interrupted, what="both are interrupted")


SLOW_TO_FOLLOW = """
import sys, time
from cumulus.cli import command_client
follow = command_client._follow
command_client._follow = lambda connection: (time.sleep(1), follow(connection))[1]
sys.exit(command_client.main())
"""


def test_a_stop_before_signals_are_passed_on_waits_until_they_are(
    server: Server, store: SqliteStore, clients: Callable[..., subprocess.Popen[bytes]]
) -> None:
    store.create(job("a"))
    command = [sys.executable, "-P", "-c", SLOW_TO_FOLLOW]
    client = clients("get", "jobs", "-w", "-o", "name", command=command, process_group=0)
    pid = server.command()
    assert client.stdout is not None
    assert client.stdout.readline() == b"gpujob.cumulus.dev/a\n"
    client.send_signal(signal.SIGTSTP)
    eventually(lambda: state(pid) == state(client.pid) == "T", what="both are stopped")
    client.send_signal(signal.SIGCONT)


def test_many_at_once_leave_nothing(server: Server, store: SqliteStore) -> None:
    for number in range(3):
        store.create(job(f"j{number}"))
    before = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    running = [subprocess.Popen([*SERVED, "get", "jobs", "-o", "name"], stdout=subprocess.PIPE) for _ in range(12)]
    assert {client.communicate(timeout=PATIENCE)[0].count(b"\n") for client in running} == {3}
    eventually(lambda: not server.commands(), what="no command is left, dead or alive")
    # And one for the channel to the spare fork, which may not have been there.
    most = before + 1
    eventually(lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) <= most, what="all descriptors are given back")


def test_the_next_command_runs_in_a_fork_that_was_there_before(
    own_server: Server, store: SqliteStore, clients: Callable[..., subprocess.Popen[bytes]]
) -> None:
    for _ in range(2):
        spare = own_server.spare()
        client = clients("get", "jobs", "-w")
        assert own_server.command() == spare
        client.kill()
        eventually(lambda: not own_server.commands(), what="the command has ended with its client")


def test_a_spare_fork_that_was_killed_is_not_missed(own_server: Server, store: SqliteStore) -> None:
    store.create(job("a"))
    spare = own_server.spare()
    os.kill(spare, signal.SIGKILL)
    assert served("get", "jobs", "-o", "name").out == "gpujob.cumulus.dev/a\n"
    eventually(lambda: own_server.spare() != spare, what="another one")


def test_a_spare_fork_ends_with_its_server(own_server: Server) -> None:
    spare = own_server.spare()
    own_server.let_go()
    eventually(lambda: own_server.process.poll() is not None and state(spare) in ("", "Z"), what="both have ended")


def test_more_than_a_spare_fork_is_handed_at_once_runs_in_a_new_one(own_server: Server, store: SqliteStore) -> None:
    own_server.spare()
    done = served("get", "jobs", "-o", "name", env={f"FILLER_{number}": "x" * 50_000 for number in range(5)})
    assert done.all == (0, "", "No gpujobs found in default namespace.\n")


def test_a_command_holds_nothing_of_the_server_but_the_connection_to_its_caller(
    server: Server, store: SqliteStore, clients: Callable[..., subprocess.Popen[bytes]]
) -> None:
    first, second = clients("get", "jobs", "-w"), clients("get", "jobs", "-w")
    both = eventually(lambda: len(server.commands()) == 2 and server.commands())
    for pid in both:
        eventually(lambda pid=pid: os.getpgid(pid) == pid)
        eventually(lambda pid=pid: len(sockets(pid)) == 1)
    assert not sockets(both[0]) & sockets(both[1])
    first.kill()
    second.kill()


def sockets(pid: int) -> set[str]:
    return {target for target in held(pid) if target.startswith("socket:")}


def held(pid: int) -> list[str]:
    """What its descriptors are, as far as they stay open meanwhile."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


def test_a_killed_server_takes_its_commands_along_and_the_client_says_so(
    own_server: Server, store: SqliteStore, clients: Callable[..., subprocess.Popen[bytes]]
) -> None:
    client = clients("get", "jobs", "-w")
    assert client.stderr is not None
    pid = own_server.command()
    eventually(lambda: os.getpgid(pid) == pid)
    own_server.process.kill()
    assert client.wait(PATIENCE) == 1
    lost = "error: the command server ended before the command did; see whether it was carried out\n"
    assert client.stderr.read().decode().endswith(lost)
    eventually(lambda: state(pid) == "", what="its command ended with it")


def test_the_server_ends_with_the_daemon_but_not_under_a_command(
    own_server: Server, store: SqliteStore, clients: Callable[..., subprocess.Popen[bytes]]
) -> None:
    store.create(job("a"))
    client = clients("get", "jobs", "-w", "-o", "name")
    assert client.stdout is not None
    assert client.stdout.readline() == b"gpujob.cumulus.dev/a\n"
    own_server.let_go()
    eventually(falls_back, what="no command is taken any more")
    store.create(job("later"))
    assert client.stdout.readline() == b"gpujob.cumulus.dev/later\n"
    assert own_server.process.poll() is None
    client.send_signal(signal.SIGINT)
    assert client.wait(PATIENCE) == 130
    assert own_server.process.wait(PATIENCE) == 0


def falls_back(patience: float = 60, **env: str) -> bool:
    """Whether the client does it itself."""
    assert Done(ORDINARY, "version", "--client", env={**os.environ, **env}).code == 0
    return Done(only_served(patience), "version", "--client", env={**os.environ, **env}).code != 0


def test_a_stale_socket_and_a_stopped_server_keep_nobody(own_server: Server) -> None:
    assert not falls_back()
    own_server.process.send_signal(signal.SIGSTOP)
    assert falls_back(patience=1)
    own_server.process.send_signal(signal.SIGCONT)
    eventually(lambda: not own_server.commands())
    assert not falls_back()
    own_server.process.kill()
    own_server.process.wait()
    assert (own_server.home / paths.COMMAND_SOCKET).is_socket()
    assert falls_back()
    own_server.process = Server(own_server.home).process
    assert not falls_back()


def test_what_was_not_taken_is_not_run_later(own_server: Server, home: Path) -> None:
    """A stopped server reads the request when it goes on, long after the client has helped itself."""
    own_server.process.send_signal(signal.SIGSTOP)
    done = Done(ORDINARY, "apply", "-f", "-", input=manifest().encode())
    assert done.out == "gpujob.cumulus.dev/a created\n"
    opened = SqliteStore(home / "store")
    before = opened.revision()
    own_server.process.send_signal(signal.SIGCONT)
    assert served("version").code == 0
    assert opened.revision() == before
    opened.close()


@pytest.mark.parametrize(
    "env",
    [
        {environment.NO_COMMAND_SERVER: "1"},
        {"PYTHONHASHSEED": "0"},
        {"LD_LIBRARY_PATH": "/nowhere"},
        {"TYPER_USE_RICH": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda env: " ".join(env),
)
def test_another_environment_falls_back(env: dict[str, str], server: Server) -> None:
    assert falls_back(**env)


def test_a_daemon_without_a_locale_serves(serve: Callable[..., Server], home: Path) -> None:
    """As systemd starts one; Python then takes UTF-8 by itself."""
    serve(home, LANG="", LC_ALL="", LC_CTYPE="")
    for locale in ("C", "C.UTF-8"):
        assert served("version", env={"LC_ALL": locale}).code == 0


def test_no_encoding_but_utf_8_is_served(serve: Callable[..., Server], home: Path) -> None:
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    serve(home, **env)
    assert falls_back(**env)


def test_another_version_falls_back(serve: Callable[..., Server], home: Path) -> None:
    script = (
        "import sys, cumulus; cumulus.__version__ = '9'; "
        "from cumulus.cli import command_server; sys.exit(command_server.main())"
    )
    serve(home, command=[sys.executable, "-P", "-c", script])
    assert falls_back()


def test_a_package_that_was_changed_falls_back_and_ends_the_server(
    serve: Callable[..., Server], home: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "lib" / "cumulus"
    shutil.copytree(Path(cumulus.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    env = {"PYTHONPATH": str(copy.parent)}
    server = serve(home, **env)
    assert served("version", env=env).code == 0
    file = copy / "resources" / "jsonpath.py"
    file.write_text(file.read_text() + "\n")
    assert falls_back(**env)
    assert server.process.wait(PATIENCE) == 0


def test_a_directory_with_a_long_path_is_served(serve: Callable[..., Server], tmp_path: Path) -> None:
    home = tmp_path / ("x" * 120) / ("y" * 120)
    home.mkdir(parents=True)
    serve(home)
    assert served("version", env={"CUMULUS_HOME": str(home)}).code == 0


def test_descriptors_beyond_the_three_are_not_sent(server: Server, store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(manifest())
    script = f"{sys.executable} -m cumulus.cli.command_client apply -f <(cat a.json)"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "gpujob.cumulus.dev/a created\n"


def test_what_the_terminal_would_stop_falls_back(server: Server) -> None:
    words = shlex.join([*SERVED, "version"])
    script = f"set -m; {words} 2>/dev/null & wait $!; echo ended $?; {words}; echo ended $?"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("bash", ["bash", "-c", script])
    shown = b"".join(iter(functools.partial(read, terminal), b"")).decode()
    os.close(terminal)
    os.waitpid(pid, 0)
    assert re.findall(r"ended (\d+)", shown) == ["1", "0"]


def test_a_closed_descriptor_is_left_closed(server: Server, store: SqliteStore) -> None:
    store.create(job("a"))
    for closing in ("<&-", "2>&-"):
        script = f"{sys.executable} -m cumulus.cli.command_client get jobs -o name {closing}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "gpujob.cumulus.dev/a\n"


def test_the_socket_is_its_owners_alone(server: Server) -> None:
    assert stat.S_IMODE((server.home / paths.COMMAND_SOCKET).stat().st_mode) == 0o600


def test_an_interrupt_before_the_server_answers_is_quiet(home: Path) -> None:
    home.mkdir()
    directory = os.open(home, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(command_client.address(directory))
        os.close(directory)
        silent.listen()
        with subprocess.Popen([*SERVED, "version"], stderr=subprocess.PIPE) as client:
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)
                client.send_signal(signal.SIGINT)
                assert client.communicate(timeout=PATIENCE) == (None, b"")
    assert client.returncode == 130


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to be somebody else")
def test_nothing_is_told_to_somebody_elses_server(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)
    script = (
        "import os, socket; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX); "
        "s.bind('commands.sock'); s.listen(); print('ready', flush=True); c, _ = s.accept(); print(c.recv(10))"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=home, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        assert falls_back()
        assert other.stdout.readline() == "b''\n"
