"""What a signal does to a real process."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from cumulus.lib import processes

BLOCKED = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])"


@pytest.mark.parametrize(
    ("how", "takes"),
    [
        ("signal.signal(signal.SIGHUP, signal.SIG_DFL)", True),
        ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", False),
        ("signal.signal(signal.SIGHUP, print)", False),
        (BLOCKED, False),
    ],
    ids=["default", "ignored", "caught", "blocked"],
)
def test_whether_a_process_takes_the_default(how: str, takes: bool) -> None:
    """The kernel keeps that from the first process of a PID namespace."""
    program = f"import signal; {how}; print(1, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        assert processes.takes_default(process.pid, signal.SIGHUP) is takes
        process.kill()
    assert not processes.takes_default(process.pid, signal.SIGHUP)
