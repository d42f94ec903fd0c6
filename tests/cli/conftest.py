"""A store filled by hand, a clock that stands still, and the command in this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog

from cumulus.cli import command_client
from cumulus.cli.main import main
from cumulus.clock import FakeClock, SystemClock
from cumulus.store.sqlite import SqliteStore
from tests.documents import NOW


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


def only_served(patience: float = 60) -> list[str]:
    """A `cumulus` that can only be served by a command server. On a busy machine one takes its time."""
    # Where it were not served, the import would fail.
    code = "import sys; sys.modules['cumulus.cli.main'] = None; from cumulus.cli.command_client import main; "
    return [sys.executable, "-P", "-c", f"{code} sys.exit(main(patience={patience}))"]


SERVED = only_served()


def listens(home: Path) -> bool:
    """Whether a command server takes connections on the state directory."""
    directory = os.open(home, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as client:
        try:
            return client.connect_ex(command_client.address(directory)) == 0
        finally:
            os.close(directory)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "home"
    monkeypatch.setenv("CUMULUS_HOME", str(directory))
    monkeypatch.setenv("CHRONOS_HOME", str(tmp_path / "chronos"))
    monkeypatch.delenv("ORCHESTRATOR_CONFIG", raising=False)
    return directory


@pytest.fixture
def store(home: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(home / "store", clock=FakeClock(NOW - timedelta(minutes=10)))
    yield opened
    opened.close()


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall-clock time stands at NOW."""
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW)


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """One command line in this process."""

    def command(*arguments: str) -> Done:
        capsys.readouterr()
        code = main(arguments)
        done = capsys.readouterr()
        return Done(code, done.out, done.err)

    yield command
    # `serve` sends the log to the stderr of this test.
    structlog.reset_defaults()


@pytest.fixture
def served(home: Path, store: SqliteStore) -> Iterator[None]:
    """As if a daemon ran: another process holds its lock."""
    script = "import sys; from pathlib import Path; from cumulus.daemon_lock import DaemonLock; "
    script += "lock = DaemonLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate()
