"""`chronos_cli serve` line by line, over real pipes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cumulus
from cumulus.chronos import serve
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.serve import Server
from tests.chronos.conftest import GIB, open_ledger
from tests.waiting import PATIENCE, eventually


class Client:
    """A server in this process, on the two GPUs, and the other ends of its pipes."""

    def __init__(self, ledger: Ledger) -> None:
        source, self.sink = os.pipe()
        self.source, sink = os.pipe()
        self._answers = os.fdopen(self.source, "rb")
        self.server = Server(ledger, source=source, sink=sink)
        self.codes: list[int] = []
        self.thread = threading.Thread(target=lambda: self.codes.append(self.server.run()))
        self.thread.start()
        self.greeting = self.read()

    def send(self, *requests: object) -> None:
        """All in one piece."""
        os.write(self.sink, b"".join(json.dumps(each).encode() + b"\n" for each in requests))

    def read(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer

    def ask(self, *words: str) -> dict[str, Any]:
        self.send({"id": 1, "run": words})
        return self.read()

    def hang_up(self) -> None:
        if self.sink >= 0:
            os.close(self.sink)
            self.sink = -1


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    ledger = open_ledger(home)
    client = Client(ledger)
    yield client
    client.hang_up()
    client.thread.join(PATIENCE)
    assert not client.thread.is_alive()


def grant(id: str, memory: str = "1Gi") -> list[str]:
    return ["create", f"--id={id}", "--compute=10%", "0", memory, "60s"]


def test_it_greets_with_the_versions_of_both_protocols(client: Client) -> None:
    assert (client.greeting["version"], client.greeting["serve"]) == (1, 1)
    assert client.greeting["time"]


def test_a_lease_from_grant_to_end(client: Client) -> None:
    assert [device["index"] for device in client.ask("devices")["devices"]] == [0, 1]
    granted = client.ask(*grant("mine"))["lease"]
    assert (granted["memoryBytes"], granted["state"]) == (GIB, "Active")
    assert client.ask("get", "mine")["lease"]["token"] == granted["token"]
    assert client.ask("renew", "mine", "90s", f"--token={granted['token']}")["lease"]["expiresIn"] > 80
    assert client.ask("release", "mine")["lease"]["state"] == "Ended"
    assert client.ask("list")["leases"] == []


def test_answers_carry_the_id_of_their_request(client: Client) -> None:
    client.send(*({"id": f"r{n}", "run": grant(f"lease-{n}")} for n in range(6)), {"id": "l", "run": ["devices"]})
    answers = {answer["id"]: answer for answer in (client.read() for _ in range(7))}
    assert {answers[f"r{n}"]["lease"]["partitionId"] for n in range(6)} == {f"lease-{n}" for n in range(6)}
    assert answers["l"]["devices"]


def test_grants_that_come_together_are_one_transaction(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.ask("devices")
    batches = []
    real = client.server._ledger.grant_all
    first, go = threading.Event(), threading.Event()

    def slowly(requests: Any) -> Any:
        batches.append(len(requests))
        first.set()
        go.wait(PATIENCE)
        return real(requests)

    monkeypatch.setattr(client.server._ledger, "grant_all", slowly)
    client.send({"id": 0, "run": grant("first")})
    assert first.wait(PATIENCE)
    client.send(*({"id": n, "run": grant(f"l{n}", "99Ti" if n == 2 else "1Gi")} for n in (1, 2, 3)))
    eventually(lambda: client.server._grants.qsize() == 3)
    go.set()
    answers = {answer["id"]: answer for answer in (client.read() for _ in range(4))}
    assert batches == [1, 3]
    assert answers[2]["error"]["kind"] == "InsufficientShare"
    assert all("lease" in answers[n] for n in (0, 1, 3))
    assert len(client.ask("list")["leases"]) == 3


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["get"], "UsageError", "not used like that"),
        ([], "UsageError", "is not served"),
        (["exec", "mine", "--", "id"], "UsageError", "is not served"),
        (["monitor"], "UsageError", "is not served"),
        (["serve"], "UsageError", "is not served"),
        (["list", "--home", "/tmp"], "UsageError", "its own ledger"),
        (["list", "--ho=/tmp"], "UsageError", "its own ledger"),
        (["renew", "nothing", "5s"], "NoSuchLease", "there is no lease nothing"),
        (["create", "7", "1Gi", "5s"], "NoSuchDevice", "there is no device 7"),
    ],
)
def test_what_is_refused_is_told_and_the_next_request_is_answered(
    client: Client, words: list[str], kind: str, said: str
) -> None:
    answer = client.ask(*words)
    assert (answer["id"], answer["error"]["kind"]) == (1, kind)
    assert said in answer["error"]["message"]
    assert client.ask("list")["leases"] == []


@pytest.mark.parametrize("line", [b"hello\n", b"7\n", b'{"id": 1}\n', b'{"id": 1, "run": 3}\n'])
def test_a_line_that_is_no_request_is_told(client: Client, line: bytes) -> None:
    os.write(client.sink, line)
    assert client.read()["error"]["kind"] == "UsageError"
    assert client.ask("list")["leases"] == []


def test_it_ends_with_its_input(client: Client) -> None:
    client.hang_up()
    client.thread.join(PATIENCE)
    assert client.codes == [0]


def test_it_ends_when_nobody_asks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "IDLE_SECONDS", 0.2)
    client = Client(open_ledger(home))
    client.thread.join(PATIENCE)
    assert client.codes == [0]
    client.hang_up()


def test_a_line_without_end_ends_it(client: Client) -> None:
    data = b"x" * (serve.LONGEST_LINE + 2)
    while data and not client.codes:
        data = data[os.write(client.sink, data) :]
    client.thread.join(PATIENCE)
    assert client.codes == [0]


def test_another_installation_in_its_place_ends_it(home: Path, tmp_path: Path) -> None:
    """The request is not answered by what was removed: who asks starts the new one."""
    package = Path(cumulus.__file__).parent
    for number in (1, 2):
        shutil.copytree(package, tmp_path / f"lib{number}" / "cumulus", ignore=shutil.ignore_patterns("__pycache__"))
    current = tmp_path / "current"
    current.symlink_to("lib1")
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(current)!r}); from cumulus.chronos.cli"
         " import main; sys.exit(main())", "serve", "--json"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"CHRONOS_HOME": str(home), "CHRONOS_MONITOR_IDLE": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    ask = json.dumps({"id": 1, "run": ["list"]}).encode() + b"\n"
    try:
        process.stdout.readline()
        process.stdin.write(ask)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["leases"] == []
        (tmp_path / "new").symlink_to("lib2")
        (tmp_path / "new").replace(current)
        process.stdin.write(ask)
        process.stdin.flush()
        assert process.stdout.read() == b""
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
