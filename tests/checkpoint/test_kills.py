"""A kill or a power cut at any moment of a save leaves the last committed checkpoint, byte for byte."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cumulus.checkpoint import layout
from cumulus.checkpoint.settings import Settings
from tests.checkpoint.conftest import Patient
from tests.crash.test_power_loss import cuts, place, recorded

__all__ = ["place"]

WORDS = {1: b"one" * 40_000, 2: b"two" * 40_000, 3: b"three" * 40_000}


def save(path: str, step: int) -> None:
    checkpointer = Patient(Settings(path=path, keep=2))
    with checkpointer.saving(step) as directory:
        os.mkdir(f"{directory}/part")
        for name in ("a", "part/b"):
            Path(directory, name).write_bytes(WORDS[step])


def save_state(path: str, step: int) -> None:
    Patient(Settings(path=path, keep=2)).save(WORDS[step], step=step)


def whole(path: Path, step: int) -> bool:
    """Whether the newest is this one. It holds what was saved, or this raises."""
    found = layout.newest(str(path))
    assert found is not None
    for file in found.manifest.files:
        content = Path(found.path, file.path).read_bytes()
        assert WORDS[found.step] in content
    return found.step == step


def killed_at(call: int, act: Callable[[], None]) -> bool:
    """Run `act` in a child that is killed before it asks the kernel for the `call`th time. Whether it came to its
    end."""
    child = os.fork()
    if not child:
        left = call

        def profile(frame: Any, event: str, argument: Any) -> None:
            nonlocal left
            if event == "c_call" and getattr(argument, "__module__", None) == "posix":
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        import threading

        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("each", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["every fourth", "all"])
@pytest.mark.parametrize("saves", [save, save_state])
def test_a_kill_at_each_step_of_a_save(place: Path, saves: Callable[[str, int], None], each: int) -> None:
    place = place / "l1"
    saves(str(place), 1)
    saves(str(place), 2)
    outcomes = []
    for call in range(1, 1000, each):
        ended = killed_at(call, lambda: saves(str(place), 3))
        outcomes.append(whole(place, 3))
        if outcomes[-1]:
            layout.delete(str(place), 3)
        if layout.steps(str(place)) != [2, 1]:
            saves(str(place), 1)  # Pruned, since the third was whole.
        if ended:
            break
    assert len(outcomes) > 40 // each
    assert outcomes[-1]
    assert outcomes == sorted(outcomes), "once it is whole, it stays"


@pytest.mark.timeout(1800)
def test_a_power_cut_at_any_moment(place: Path) -> None:
    program = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.checkpoint.test_kills import save, save_state
        for step, saves in ((1, save), (2, save_state), (3, save)):
            saves(sys.argv[1] + "/l1", step)
            print("saved", step, flush=True)
    """
    calls = recorded(place, textwrap.dedent(program))

    def check(said: list[str]) -> None:
        saved = max((int(line.split()[1]) for line in said if line.startswith("saved")), default=0)
        root = place / "root" / "l1"
        found = layout.newest(str(root))
        if found is None:
            assert saved == 0
        else:
            assert found.step >= saved
            whole(root, found.step)

    cuts(place, calls, check, samples=60)
