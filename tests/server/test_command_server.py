from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.server import command_server
from cumulus.server.command_server import CommandServer
from tests.cli.conftest import listens
from tests.waiting import eventually


@pytest.fixture
def kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandServer]:
    monkeypatch.setattr(command_server, "_AGAIN_SECONDS", 0.01)
    monkeypatch.setenv("CUMULUS_JOB", "marks the processes of a job")
    home.mkdir()
    made = CommandServer(home, os.environ)
    yield made
    made.close()
    if made._process is not None:
        made._process.wait(60)


def server(kept: CommandServer) -> int:
    assert kept._process is not None
    return kept._process.pid


def test_a_server_that_was_killed_is_started_again_until_it_is_closed(kept: CommandServer, home: Path) -> None:
    kept.start()
    kept.start()
    eventually(lambda: listens(home))
    first = server(kept)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: server(kept) != first and listens(home), what="another one listens")
    kept.close()
    eventually(lambda: not listens(home), what="the last one has ended")
    kept._thread.join(60)
    assert not kept._thread.is_alive()


def test_a_server_carries_no_marks_and_no_terminal(kept: CommandServer, home: Path) -> None:
    kept.start()
    eventually(lambda: listens(home))
    names = {pair.partition(b"=")[0] for pair in Path(f"/proc/{server(kept)}/environ").read_bytes().split(b"\0")}
    assert not [name for name in names if name.startswith((b"CUMULUS_", b"CHRONOS_"))]
    assert os.getsid(server(kept)) == server(kept)


def test_closing_before_the_start_keeps_it_from_starting(kept: CommandServer, home: Path) -> None:
    kept.close()
    kept.start()
    kept._thread.join(60)
    assert kept._process is None
