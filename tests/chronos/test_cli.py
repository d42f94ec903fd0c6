"""`chronos_cli` as people and controllers call it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos import cli, ledger, monitor_control
from cumulus.chronos.contract import Device, LeaseState
from cumulus.chronos.contract.variables import PARTITION_ID
from cumulus.lib import printable
from tests.chronos.conftest import CPU, GIB, GPUS, open_ledger, request
from tests.waiting import PATIENCE, eventually

Run = Callable[..., subprocess.Popen[bytes]]


class Shell:
    """Runs `chronos_cli` in this process, on the two GPUs."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.devices: list[Device] = [*GPUS, CPU]

    def run(self, words: Sequence[str]) -> int:
        """The exit code."""
        with contextlib.ExitStack() as opened:
            # A program that ends leaves its ledger to the kernel; this process goes on.
            return cli.main(
                words, open_ledger=lambda home: opened.enter_context(contextlib.closing(self._ledger(home)))
            )

    def _ledger(self, home: Path) -> ledger.Ledger:
        return ledger.Ledger(home, None, lambda: self.devices)

    def __call__(self, line: str, code: int = 0) -> str:
        """Its output; what went to stderr where it fails, which is one line."""
        try:
            found = self.run(line.split())
        except SystemExit as exit:
            found = exit.code  # type: ignore[assignment]
        captured = self._capsys.readouterr()
        assert found == code, captured.err
        if code:
            assert captured.err.count("\n") == 1
            return captured.err
        return captured.out

    def json(self, line: str, code: int = 0) -> dict[str, Any]:
        try:
            assert self.run([*line.split(), "--json"]) == code
        finally:
            output = self._capsys.readouterr().out
        answer: dict[str, Any] = json.loads(output)
        assert answer.pop("version") == 1
        return answer


@pytest.fixture
def shell(home: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_stats_before_and_after_a_lease(shell: Shell) -> None:
    assert shell("stats") == (
        "DEVICE   NAME   TYPE   MEMORY   LEASED   FREE   COMPUTE FREE   LEASES\n"
        "0        H100   gpu    80Gi     0%       80Gi   100%           0\n"
        "1        H100   gpu    80Gi     0%       80Gi   100%           0\n"
    )
    shell("create 1 12.5% 1h --compute 33.3%")
    assert shell("stats").splitlines()[2] == "1        H100   gpu    80Gi     12.5%    70Gi   66.7%          1"


def test_create_list_renew_release(shell: Shell) -> None:
    assert shell("create 0 0.5 1h30m --id mine --user ada") == (
        "partition mine\n"
        "  40Gi memory and 50% compute of device 0 (H100) for 1h30m\n"
        "  run a program in it with: chronos_cli exec mine -- COMMAND\n"
    )
    listing = re.sub(r"1h(29m|30m)", "1h29m", shell("list"))
    assert listing == (
        "PARTITION   DEVICE   USER   MEMORY   COMPUTE   STATE    ENDS IN\n"
        "mine        0        ada    40Gi     50%       Active   1h29m\n"
    )
    assert re.search(r"^expiresIn: 1h(29m|30m)$", shell("get mine"), re.MULTILINE)
    assert re.search(r"^grantedAt: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", shell("get mine"), re.MULTILINE)
    assert shell("renew mine 3h") == "partition mine ends in 3h\n"
    assert shell("release mine") == "partition mine has ended (released)\n"
    assert shell("release mine") == "partition mine has ended (released)\n"
    assert shell("list") == ""
    assert shell("list --all").splitlines()[1] == "mine        0        ada    40Gi     50%       Ended (released)   -"


def test_json_is_a_protocol(shell: Shell) -> None:
    # Before there is a lease: a monitor, which comes with one, tells of conditions when it has looked.
    assert shell.json("devices")["conditions"] == []
    lease = shell.json("create 0 20Gi 600 --id a --compute 25% --user ada --owner lab --grace 2")["lease"]
    assert lease | {"grantedAt": "", "expiresAt": ""} == {
        "partitionId": "a",
        "device": 0,
        "deviceId": "GPU-a",
        "memoryBytes": 20 * GIB,
        "compute": 250,
        "computePercent": 25.0,
        "user": "ada",
        "owner": "lab",
        "name": "",
        "grace": 2.0,
        "token": 1,
        "state": "Active",
        "grantedAt": "",
        "expiresAt": "",
        "expiresIn": 600.0,
        "endReason": None,
        "endedAt": None,
        "overuse": "End",
        "heldBytes": 0,
        "sharing": "Concurrent",
        "parkedBytes": 0,
        "parkedAt": None,
        "movedIn": 0.0,
        "parkRefused": None,
    }
    again = shell.json("create 0 20Gi 600 --id a --compute 25%")["lease"]
    assert (again["token"], again["grantedAt"]) == (1, lease["grantedAt"])
    assert [x["partitionId"] for x in shell.json("list")["leases"]] == ["a"]
    stats = shell.json("stats")
    assert stats["devices"][0]["freeMemoryBytes"] == 60 * GIB
    assert stats["node"].keys() == {"hostname", "chronosVersion", "bootId", "takes", "checkpointPlaces"}
    assert [d["id"] for d in shell.json("devices")["devices"]] == ["GPU-a", "GPU-b"]
    assert shell.json("get a")["lease"]["token"] == 1
    assert shell.json("get b")["lease"] is None
    assert shell.json("renew a 900 --token 1")["lease"]["expiresIn"] == 900.0
    assert shell.json("release a")["lease"]["state"] == "Ended"
    assert shell.json("release b")["lease"] is None
    assert shell.json("create 0 20Gi 600 --id a --compute 25%")["lease"]["endReason"] == "released"


def test_json_errors_name_their_kind(shell: Shell) -> None:
    shell("create 0 1.0 1h --id a")
    error = shell.json("create 0 1Gi 1h", code=1)["error"]
    assert error["kind"] == "InsufficientShare"
    assert error["message"] == "device 0 has 0 of 80Gi memory free; 1Gi asked for"
    assert shell.json("renew a 1h --token 7", code=1)["error"]["kind"] == "StaleToken"
    assert shell.json("renew b 1h", code=1)["error"]["kind"] == "NoSuchLease"


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("create 0 2 1h", 2, "argument memory: '2' is out of range; a fraction lies in (0, 1], and bytes need a unit"),
        (
            "create 0 0.5 soon",
            2,
            "argument duration: 'soon' is not a duration; write 90s, 1h30m",
        ),
        ("create 0 0.5 0", 2, "a lease of 0.0s is out of range"),
        ("create 0 0.5 1h --compute 200%", 2, "argument --compute: '200%' is out of range"),
        ("create 0 0.5 1h --id ../x", 2, "'../x' is not a lease id"),
        ("create 9 0.5 1h", 1, "there is no device 9; there is 0 (H100), 1 (H100)"),
        ("create 0 100Gi 1h", 1, "device 0 has 80Gi of 80Gi memory free; 100Gi asked for"),
        ("release nothing", 1, "there is no lease nothing (see them with: chronos_cli list --all)"),
        ("get nothing", 1, "there is no lease nothing"),
        ("exec nothing -- true", 1, "there is no lease nothing"),
        ("frobnicate", 2, "invalid choice: 'frobnicate'"),
        ("", 2, "the following arguments are required: COMMAND"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(shell: Shell, line: str, code: int, message: str) -> None:
    assert message in shell(line, code)


def test_an_id_that_ended_is_an_error_for_people(shell: Shell) -> None:
    shell("create 0 0.5 1h --id a")
    shell("release a")
    assert "lease a has ended: released (an id is used once; take another)" in shell("create 0 0.5 1h --id a", 1)


def test_a_device_may_be_named_by_its_id(shell: Shell) -> None:
    assert shell.json("create GPU-b 0.5 60")["lease"]["device"] == 1


def test_compute_follows_memory(shell: Shell) -> None:
    assert shell.json("create 0 0.1 60")["lease"]["compute"] == 100
    assert shell.json("create 0 10Gi 60")["lease"]["compute"] == 125
    assert shell.json("create 0 1Mi 60")["lease"]["compute"] == 1


def test_list_of_one_user(shell: Shell) -> None:
    shell("create 0 0.1 1h --id a --user ada")
    shell("create 0 0.1 1h --id b --user bob")
    assert [x["partitionId"] for x in shell.json("list --user bob")["leases"]] == ["b"]


def test_release_ends_processes_that_only_carry_the_variable(shell: Shell, run: Run) -> None:
    shell("create 0 0.5 1h --id a --grace 30")
    process = run("import time; time.sleep(60)", **{PARTITION_ID: "a"})
    eventually(lambda: PARTITION_ID.encode() in Path(f"/proc/{process.pid}/environ").read_bytes())
    assert shell("release a --wait") == "partition a has ended (released)\n"
    assert process.wait(PATIENCE) == -signal.SIGTERM


def test_reading_makes_no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where CHRONOS_HOME is relative either: a typing error makes nothing in the directory one is in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHRONOS_HOME", "chronos")
    assert cli.main(["list"]) == 0
    assert cli.main(["list", "--all", "--json"]) == 0
    assert cli.main(["get", "a"]) == 1
    assert not list(tmp_path.iterdir())


def test_no_device_says_what_to_do(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.devices = []
    monkeypatch.setattr("cumulus.chronos.device.explain_none", lambda: "install a driver")
    for line in ("stats", "devices", "create 0 0.5 1h"):
        assert shell(line, 1) == "chronos_cli: this machine offers no device (install a driver)\n"
    assert shell.json("devices")["devices"] == []


def test_monitor_once_does_what_is_due(shell: Shell, home: Path) -> None:
    books = open_ledger(home)
    books._start_monitor = False
    books.grant(request("a", seconds=0.001))
    shell("monitor --once")
    lease = books.get("a")
    assert lease is not None
    assert lease.state is LeaseState.ENDED


def test_a_second_monitor_refuses(shell: Shell, home: Path) -> None:
    shell("monitor --detach")
    pid = monitor_control.running(home)
    assert f"a monitor runs already, process {pid}" in shell("monitor", 1)


# --- as a program


def chronos(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cumulus.chronos", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **options,
    )


@pytest.fixture
def books(home: Path) -> ledger.Ledger:
    """A ledger whose devices the program finds recorded."""
    books = open_ledger(home)
    books.devices()
    return books


def test_exec_runs_the_command_inside_the_lease_and_ends_it_with_it(books: ledger.Ledger) -> None:
    assert chronos("create", "0", "0.25", "600", "--id", "a", "--grace", "0.1", "-q").stdout == "a\n"
    done = chronos("exec", "a", "--", "sh", "-c", "env; exit 7")
    assert done.returncode == 7
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert variables[PARTITION_ID] == "a"
    assert variables["CHRONOS_MEMORY_BYTES"] == str(20 * GIB)
    assert variables["CHRONOS_COMPUTE_PERCENT"] == "25"
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    for seconds in ("1.5", "6", "24"):
        id = f"for-{seconds}"
        assert chronos("create", "0", "0.25", seconds, "--id", id, "--grace", "30").returncode == 0
        done = chronos("exec", id, "--", "sleep", "60")
        # On a busy machine a short lease may be over before the command begins.
        if done.returncode != 1:
            break
    assert done.returncode == -signal.SIGTERM
    assert f"lease {id} has ended: expired" in chronos("exec", id, "--", "true").stderr


def test_exec_gives_what_its_caller_has(books: ledger.Ledger, tmp_path: Path) -> None:
    """Its directory, umask, limits and signals: Python ignores some, and makes a locale where there is none."""
    chronos("create", "0", "0.25", "60", "--id", "a")
    script = "pwd; umask; ulimit -n; grep SigIgn /proc/self/status; env; ls /proc/self/fd | wc -l"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LC_") and k not in ("LANG", "PYTHONPATH")}

    def seen(*command: str) -> list[str]:
        shell = 'umask 0027; ulimit -n 700; trap "" HUP; exec "$@"'
        words = ["sh", "-c", shell, "sh", *command, "sh", "-c", script]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True
        )
        return done.stdout.splitlines()

    inside, outside = seen(sys.executable, "-m", "cumulus.chronos", "exec", "a", "--"), seen("env")
    assert set(outside) - set(inside) == set()
    added = {line.partition("=")[0] for line in set(inside) - set(outside)}
    assert {name.partition("_")[0] for name in added} <= {"CHRONOS", "CUDA", "CUPY", "XLA", "PYTHONPATH"}, added


class TestNames:
    """A partition's name, or the beginning of its name or id, is enough for a person; a program gives whole ids."""

    @pytest.fixture(autouse=True)
    def leases(self, shell: Shell) -> None:
        for id, name in (("aa-1", "mine"), ("aa-2", "train-a1-r0-d0"), ("bb-3", "vision/train"), ("cc-4", "")):
            shell(f"create 0 0.1 600 --id {id} -q" + (f" --name {name}" if name else ""))

    def test_what_is_meant(self, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
        for said, meant in (
            ("aa-1", "aa-1"), ("mine", "aa-1"), ("m", "aa-1"), ("train", "aa-2"), ("train-a1", "aa-2"),
            ("vision/train", "bb-3"), ("vis", "bb-3"), ("b", "bb-3"), ("cc", "cc-4"),
        ):  # fmt: skip
            assert f"partitionId: {meant}\n" in shell(f"get {said}"), said
            assert shell(f"renew {said} 1200") == f"partition {meant} ends in 20m\n"
        assert [line.split()[:2] for line in shell("list").splitlines()] == [
            ["PARTITION", "NAME"], ["aa-1", "mine"], ["aa-2", "train-a1-r0-d0"], ["bb-3", "vision/train"],
            ["cc-4", "-"],
        ]  # fmt: skip
        told = "chronos_cli: 'aa' may mean aa-1 (mine), aa-2 (train-a1-r0-d0) (write more of its id or name)\n"
        assert shell("release aa", 2) == told
        assert shell.run(["release", ""]) == 1
        assert "there is no lease" in capsys.readouterr().err
        assert "there is no lease zz" in shell("get zz", 1)
        assert "'-x' is not a name" in shell("create 0 0.1 60 --name=-x", 2)
        assert len(shell.json("list")["leases"]) == 4

    def test_programs_give_whole_ids(self, shell: Shell) -> None:
        """Else a release that is asked for again would end another lease that begins so."""
        for said in ("mine", "cc", "aa"):
            assert shell.json(f"release {said}")["lease"] is None
            assert shell.json(f"get {said}")["lease"] is None
        assert shell.json("get aa-1")["lease"]["name"] == "mine"
        assert len(shell.json("list")["leases"]) == 4

    def test_live_ones_before_ended_ones(self, shell: Shell) -> None:
        assert shell("release train") == "partition aa-2 has ended (released)\n"
        assert shell("release vision/train") == "partition bb-3 has ended (released)\n"
        assert shell("release cc") == "partition cc-4 has ended (released)\n"
        assert shell("release m") == "partition aa-1 has ended (released)\n"
        assert "state: Ended\n" in shell("get mine")
        assert "there is no lease mine" in shell("release mine", 1)
        shell("create 0 0.1 600 --id dd-5 --name mine -q")
        assert "partitionId: dd-5\n" in shell("get mine")


def test_exec_takes_a_name(books: ledger.Ledger) -> None:
    chronos("create", "0", "0.25", "60", "--id", "0b5c", "--name", "mine")
    assert chronos("exec", "min", "--", "sh", "-c", f"echo ${PARTITION_ID}").stdout == "0b5c\n"


def test_exec_of_what_is_not_there(books: ledger.Ledger) -> None:
    chronos("create", "0", "0.25", "60", "--id", "a")
    done = chronos("exec", "a", "--", "no-such-program")
    assert done.returncode == 1
    assert done.stderr == "chronos_cli: no-such-program cannot be run: No such file or directory\n"


def test_the_protocol_works_where_standard_library_is_all_there_is(books: ledger.Ledger) -> None:
    program = (
        "import sys; from cumulus.chronos.cli import main; code = main(['list', '--json'])\n"
        "heavy = {'pydantic', 'numpy', 'pyopencl', 'typer', 'orjson', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert (said.keys(), said["version"], said["leases"]) == ({"version", "time", "leases"}, 1, [])


def test_a_reader_that_stops_is_no_error(books: ledger.Ledger) -> None:
    done = subprocess.run(
        f"{sys.executable} -m cumulus.chronos --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("usage: chronos_cli [-h] [--version] COMMAND ...\n", "")


def test_a_table_fits_a_narrow_terminal(books: ledger.Ledger) -> None:
    chronos("create", "0", "0.25", "60", "--id", "a-long-name-" * 3 + "z", "--user", "somebody-with-a-long-name")
    master, slave = pty.openpty()
    os.set_inheritable(slave, True)
    import fcntl
    import struct
    import termios

    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "cumulus.chronos", "list"], stdout=slave, stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"NO_COLOR": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    with process.stderr:
        said = process.stderr.read().decode()
    process.wait(PATIENCE)
    os.close(slave)
    lines = os.read(master, 10000).decode().splitlines()
    os.close(master)
    assert len(lines) == 2
    assert all(len(line) <= 60 for line in lines)
    assert lines[0].split() == ["PARTITION", "STATE", "ENDS", "IN"]
    assert lines[1].startswith("a-long-name-a-long-name-a-long-name-z")
    assert said == "DEVICE, USER, MEMORY and COMPUTE left out: no room here; `| less -S` shows all\n"


def test_what_others_wrote_is_shown_and_not_obeyed(shell: Shell, books: ledger.Ledger) -> None:
    forged = "u\x1b[31m\x9b1m\u202e\nFAKE   0   root"
    shell("create 0 0.25 60 --id a")
    with books.database.write() as tx:
        # As an older version took it.
        tx.execute("UPDATE lease SET user = ? WHERE id = 'a'", (forged,))
    told = "u\\x1b[31m\\x9b1m\\u202e FAKE   0   root"
    assert len(shell("list").splitlines()) == 2
    for line in ("list", "get a"):
        assert told in shell(line)
    for line in ("list", "get a", "metrics", "stats", "devices"):
        assert printable.harmful(shell(line).replace("\n", "")) is None
    assert shell.json("get a")["lease"]["user"] == forged


@pytest.mark.parametrize("option", ["--user", "--owner"])
def test_control_characters_are_refused(shell: Shell, option: str) -> None:
    what = option.removeprefix("--")
    message = shell(f"create 0 0.25 60 {option} u\x1b[31m", 2)
    assert message == f"chronos_cli: 'u\\x1b[31m' cannot be the {what} of a lease: it holds control characters\n"
    assert "at most 253" in shell(f"create 0 0.25 60 {option} {'x' * 254}", 2)


def test_a_bad_word_in_an_error_is_one_harmless_line(shell: Shell) -> None:
    for line, code in (
        ("get x\x1b[31m", 1), ("create 0 1\x9b31m 60", 2), ("exec x\x1b]0;owned\x07 true", 1), ("\x1b[2J", 2),
        ("create 0\x1b 0.1 60", 1),
    ):  # fmt: skip
        assert printable.harmful(shell(line, code).removesuffix("\n")) is None
