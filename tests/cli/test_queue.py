"""`cumulus queue` on a terminal: who waits is told whole, in as many columns as there are."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cumulus.answers.queue import Holding, Line, Waiting
from cumulus.cli import context
from cumulus.cli.verbs import queue
from cumulus.clock import SystemClock, timestamp
from cumulus.lib import safe_output


class Asked:
    """A client that knows of one job that waits and one that holds something."""

    def __init__(self, name: str) -> None:
        now = SystemClock().now()
        soon, late = (timestamp(now + timedelta(hours=hours)) for hours in (1, 5))
        waiting = (
            Waiting(1, "vision", name, "alice", "2x 50%", 3600.0, soon, late, True, ""),
            Waiting(2, "vision", name, "alice", "2x 50%", 3600.0, soon, late, False, ""),
        )
        self._line = Line(waiting, 0, (Holding("vision", name, "alice", "gpu-1, device 0", "80Gi, 100%", late),))

    def line(self, queue: str) -> Line:
        return self._line

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *what: object) -> None:
        pass


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("letters", [5, 30, 63])
def test_no_line_is_longer_than_the_terminal_however_long_a_name(
    columns: int, letters: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"default/{('long-name-' * 7)[:letters]}"
    monkeypatch.setattr(context, "client", lambda: Asked(name))
    monkeypatch.setattr(safe_output, "width", lambda out: columns)
    queue.queue()
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= columns, said
    if len(name) + 40 <= columns:
        assert said.count(name) == 3, "whole, and so to be copied"
    assert said.split().count("in") >= 3, "until when, of each"
