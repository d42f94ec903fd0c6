"""Real processes: one that lives, one that was killed, one that waits to be reaped, and names from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cumulus.lib import process_identity

PRINT = "from cumulus.lib import process_identity; print(process_identity.this_process(), flush=True); input()"


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", PRINT], text=True, **pipes)  # type: ignore[call-overload]
    yield process
    process.kill()
    process.communicate()


def test_a_process_is_gone_from_its_kill_on_even_before_it_is_reaped(other: subprocess.Popen[str]) -> None:
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    assert not process_identity.is_gone(name)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert os.path.exists(f"/proc/{other.pid}"), "not reaped yet"
    assert process_identity.is_gone(name)
    other.wait()
    assert process_identity.is_gone(name)


def test_this_process_is_not_gone() -> None:
    assert process_identity.this_process()
    assert not process_identity.is_gone(process_identity.this_process())


def test_a_later_process_of_the_same_pid_is_another() -> None:
    world, start = process_identity.this_process().rsplit("/", 1)
    assert process_identity.is_gone(f"{world}/{int(start) - 1}")


def test_a_process_of_another_boot_or_container_may_well_live() -> None:
    boot, namespace, pid, start = process_identity.this_process().split("/")
    dead = f"{int(start) - 1}"
    assert process_identity.is_gone("/".join((boot, namespace, pid, dead)))
    assert not process_identity.is_gone("/".join(("00000000-0000-0000-0000-000000000000", namespace, pid, dead)))
    assert not process_identity.is_gone("/".join((boot, "pid:[1]", pid, dead)))


def test_a_process_that_proc_does_not_show_may_well_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with hidepid, for another user's."""
    world, pid, start = process_identity.this_process().rsplit("/", 2)
    own = process_identity.processes.read
    monkeypatch.setattr(process_identity.processes, "read", lambda asked: own(asked) if asked == os.getpid() else None)
    assert not process_identity.is_gone(f"{world}/1/{start}")
    assert not process_identity.is_gone(f"{world}/{os.getppid()}/{start}")
    assert process_identity.is_gone(f"{world}/{2**22 + 1}/{start}")
    assert pid


@pytest.mark.parametrize("name", ["", "/", "a/b", "a/b/c/d", "////", "x/y/-1/5", "é/1/²", "a/b/" + "9" * 40 + "/1"])
def test_a_name_that_says_nothing_is_not_gone(name: str) -> None:
    assert not process_identity.is_gone(name)
