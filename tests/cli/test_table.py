from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from io import StringIO
from pathlib import Path

import pytest

from cumulus.cli import table
from cumulus.cli.table import Table
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import event, running


def test_rows_of_later_batches_line_up_and_have_no_heading() -> None:
    out = StringIO()
    drawn = Table(["NAME", "PHASE"], out)
    drawn.write([["long-name", "Pending"]])
    drawn.write([["a", "Running"], ["b", ""]])
    assert out.getvalue() == "NAME        PHASE\nlong-name   Pending\na           Running\nb\n"


def test_wide_characters_take_two_columns() -> None:
    out = StringIO()
    Table(["A", "B"], out, heading=False).write([["日本", "x"], ["abcd", "y"], ["e\u0301", "z"]])
    assert out.getvalue() == "日本   x\nabcd   y\ne\u0301      z\n"
    assert table.clip("日本語", 5) == "日本…"
    assert table.clip("abc", 3) == "abc"


def test_the_widest_column_gives_way() -> None:
    assert table.fit([5, 40, 10], None) == [5, 40, 10]
    assert table.fit([5, 40, 10], 41) == [5, 20, 10]
    assert table.fit([5, 40, 10], 5) == [5, 8, 8]
    assert table.fit([40, 20, 10], 50, frozenset({0})) == [40, 8, 8]


def on_terminal(columns: int, *arguments: str, **environment: str) -> str:
    """What the command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    command = [sys.executable, "-m", "cumulus.cli.main", *arguments]
    with subprocess.Popen(
        command, stdout=theirs, stderr=theirs, stdin=theirs, env={**env, "TERM": "xterm", **environment}
    ) as process:
        os.close(theirs)
        chunks = []
        try:
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)
        except OSError:  # how Linux says that the other end is closed
            process.wait(30)
        os.close(ours)
    return b"".join(chunks).decode().replace("\r\n", "\n")


@pytest.fixture
def filled(store: SqliteStore) -> None:
    train = store.create(running("train"))
    store.create(event("e", train, "Started", "a long story " * 20))


@pytest.mark.usefixtures("filled")
def test_a_terminal_gets_colours_and_its_width() -> None:
    out = on_terminal(60, "get", "jobs")
    assert "\x1b[32mRunning\x1b[0m" in out
    lines = on_terminal(70, "get", "events", NO_COLOR="1").splitlines()
    assert "\x1b" not in "".join(lines)
    assert all(len(line) <= 70 for line in lines)
    assert lines[1].endswith("…")


@pytest.mark.usefixtures("filled")
def test_a_pipe_gets_neither(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cumulus.cli.main", "get", "events"], capture_output=True, text=True, check=True
    )
    assert "\x1b" not in done.stdout
    assert done.stdout.rstrip().endswith("a long story a long story")
    assert len(done.stdout.splitlines()[1]) > 250


@pytest.mark.usefixtures("filled")
def test_waiting_on_a_terminal_shows_progress_and_clears_it() -> None:
    out = on_terminal(100, "wait", "job/train", "--for=condition=Succeeded", "--timeout=300ms")
    assert "waiting for gpujob/train: Running" in out
    assert "timed out" in out.splitlines()[-1]


def test_errors_are_red_on_a_terminal_only(home: Path) -> None:
    assert "\x1b[31merror:\x1b[0m there is no kind" in on_terminal(80, "get", "x")
    assert "\x1b" not in on_terminal(80, "get", "x", NO_COLOR="1")
    assert "\x1b" not in on_terminal(80, "get", "x", TERM="dumb")


def test_a_cell_says_how_something_is() -> None:
    assert table.colour_of("NotReady,SchedulingDisabled") == "31"
    assert table.colour_of("train") == ""
