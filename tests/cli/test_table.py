from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.lib import printable, table
from cumulus.lib.table import Heading, Table
from cumulus.store.sqlite import SqliteStore
from tests import command_server
from tests.commands import CUMULUS
from tests.documents import active, event, running
from tests.waiting import PATIENCE


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
    assert printable.clip("日本語", 5) == "日本…"
    assert printable.clip("abc", 3) == "abc"


def test_columns_give_way_in_their_order() -> None:
    name, node, image, reason, text = (
        Heading("NAME", "whole"), Heading("NODE", yields=2), Heading("IMAGE", yields=3), Heading("REASON", "whole"),
        Heading("MESSAGE", "wrap"),
    )  # fmt: skip
    all_of_them = [name, node, image, reason, text]
    assert table.fit(all_of_them, [10, 20, 30, 6, 50], None) == (table.GAP, [10, 20, 30, 6, 50])
    assert table.fit(all_of_them, [10, 20, 30, 6, 50], 128) == (table.GAP, [10, 20, 30, 6, 50])
    # Text is broken into lines first, then what yields most is cut; names and reasons stay.
    assert table.fit(all_of_them, [10, 20, 30, 6, 50], 120) == (table.NARROW_GAP, [10, 20, 30, 6, 46])
    assert table.fit(all_of_them, [10, 20, 30, 6, 50], 100) == (table.NARROW_GAP, [10, 20, 16, 6, 40])
    assert table.fit(all_of_them, [10, 20, 30, 6, 50], 80) == (table.NARROW_GAP, [10, 14, 14, 6, 28])
    assert table.fits(all_of_them, [10, 20, 30, 6, 50], 76)
    assert not table.fits(all_of_them, [10, 20, 30, 6, 50], 75)


def test_huge_cells_are_fitted_at_once() -> None:
    assert table.fit([Heading("A"), Heading("B")], [10**9, 10**9 + 7], 80) == (table.NARROW_GAP, [39, 39])


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from(["whole", "cut", "wrap"]), st.integers(0, 4), st.text("a 日\u0301\x1b", max_size=60)),
        min_size=1, max_size=8,
    ),
    st.integers(20, 200),
)  # fmt: skip
def test_a_heading_never_wraps_and_nothing_but_what_may_be_is_cut(
    columns: list[tuple[Any, int, str]], width: int
) -> None:
    out = Screen()
    headings = [Heading(f"T{index}", fit, yields) for index, (fit, yields, _) in enumerate(columns)]
    with patch.dict(os.environ, COLUMNS=str(width)):
        Table(headings, out).write([[text for _, _, text in columns]])
    heading, *lines = re.sub("\x1b\\[[0-9]*m", "", out.getvalue()).splitlines()
    if len(columns) * 4 <= width:
        assert printable.cells(heading) <= width
    shown = "".join("".join(line.split()) for line in lines)
    for index, (fit, yields, text) in enumerate(columns):
        if fit == "whole" and not yields:
            assert f"T{index}" in heading
            assert "".join(printable.one_line(text).split()) in shown


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(columns: int, *arguments: str, **environment: str) -> str:
    """What the command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    command_server.share(Path(os.environ["CUMULUS_HOME"]))
    with subprocess.Popen(
        [CUMULUS, *arguments], stdout=theirs, stderr=theirs, stdin=theirs, env={**env, "TERM": "xterm", **environment}
    ) as process:
        os.close(theirs)
        chunks = []
        try:
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)
        except OSError:  # how Linux says that the other end is closed
            process.wait(PATIENCE)
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
    assert lines[0] == "LAST SEEN  TYPE    REASON   OBJECT        MESSAGE"
    # Under its heading, to the end.
    start = lines[0].index("MESSAGE")
    assert " ".join(line[start:].strip() for line in lines[1:]) == ("a long story " * 20).strip()


def test_the_object_of_an_event_is_shown_whole(store: SqliteStore) -> None:
    name = "overrun-the-lease-of-a-long-name-a1-r0-d0"
    store.create(event("e", store.create(active(name)), "DeadlineExceeded", "a long story " * 20))
    lines = on_terminal(80, "get", "events", NO_COLOR="1").splitlines()
    heading = next(line for line in lines if "OBJECT" in line)
    column = slice(heading.index("OBJECT"), heading.index("MESSAGE"))
    shown = "".join(line[column].strip() for line in lines[lines.index(heading) + 1 :])
    assert shown == f"gpupartition/{name}"


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
