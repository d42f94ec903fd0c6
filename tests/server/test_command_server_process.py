from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.server.child_process import ChildProcess
from cumulus.server.command_server_process import command_server_process
from tests.cli.conftest import listens
from tests.waiting import PATIENCE, eventually


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChildProcess]:
    monkeypatch.setenv("CUMULUS_JOB", "marks the processes of a job")
    home.mkdir()
    made = command_server_process(home, os.environ, restart_seconds=0.01)
    yield made
    made.close()
    made.start()
    assert made.join(PATIENCE)


def test_a_server_that_was_killed_is_started_again_until_it_is_closed(server: ChildProcess, home: Path) -> None:
    server.start()
    server.start()
    eventually(lambda: listens(home))
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: server.pid != first and listens(home), what="another one listens")
    server.close()
    eventually(lambda: not listens(home), what="the last one has ended")
    assert server.join(PATIENCE)


def test_a_server_carries_no_marks_and_no_terminal(server: ChildProcess, home: Path) -> None:
    server.start()
    eventually(lambda: listens(home))
    assert server.pid is not None
    names = {pair.partition(b"=")[0] for pair in Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")}
    assert not [name for name in names if name.startswith((b"CUMULUS_", b"CHRONOS_"))]
    assert os.getsid(server.pid) == server.pid


def test_closing_before_the_start_keeps_it_from_starting(server: ChildProcess, home: Path) -> None:
    server.close()
    server.start()
    assert server.join(PATIENCE)
    assert server.pid is None
