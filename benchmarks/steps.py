"""`python -m benchmarks.steps [ROUNDS]`: where each millisecond of `cumulus run -- true` goes, as system calls show it.

Daemon and command run under strace, which stops them at few kinds of calls (`--seccomp-bpf`): that makes them somewhat
slower, all steps alike. What is printed is the median over the rounds of when each step was reached.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import running, until
from benchmarks.installed import install
from cumulus import paths

ROUNDS = 15
COMMAND = ["run", "--gpu", "1%", "--for", "10m", "--", "true"]
CALLS = "execve,fork,vfork,clone,clone3,connect,sendto,sendmsg,fsync,fdatasync,exit_group"
_LINE = re.compile(r"(\d+) +(\d+\.\d+) (?:<\.\.\. (\w+) resumed>)?(.*)")


class Call(NamedTuple):
    pid: int
    began: float
    ended: float
    text: str


class Step(NamedTuple):
    """`text` finds the call with which it is reached: the `own` ones are the command's, the others those of the
    processes of the daemon. `ends`: when the call returned, not when it was made."""

    what: str
    text: str
    own: bool = False
    ends: bool = False


STEPS = (
    Step("Python has started, and asks the command server", r"connect\(.*commands\.sock", own=True),
    Step("the command server has taken the command", r"sendmsg\(.*\"G\"", own=True),
    Step("its fork runs the verb, which looks for the daemon", r"connect\(.*api\.sock"),
    Step("the job is submitted", r"sendto\(.*POST /apis/"),
    Step("the job is in the store", r"fdatasync\(.*/store/", ends=True),
    Step("its attempt and partition are in the store", r"fdatasync\(.*/store/", ends=True),
    Step("its place is in the store", r"fdatasync\(.*/store/", ends=True),
    Step("its share is leased, in the ledger", r"fdatasync\(.*/ledger\.db", ends=True),
    Step("that is in the store", r"fdatasync\(.*/store/", ends=True),
    Step("what to run is on the disk, and a supervisor is forked", r"sendto\(.*/process/jobs/"),
    Step("the supervisor asks to be attached to its lease", r"sendmsg\(.*attach"),
    Step("it is, the program's process is forked, and the start is on the disk", r"fsync\(.*started\.json", ends=True),
    Step("the program starts", r"execve\(\"[^\"]*/true\".* = 0"),
    Step("its end is on the disk", r"fsync\(.*exit\.json", ends=True),
    Step("how the job ended is in the store", r"fdatasync\(.*/store/", ends=True),
    Step("the command ends", r"exit_group", own=True),
)
"""In their order: each is looked for behind the one before it."""


def main(arguments: Sequence[str]) -> int:
    if shutil.which("strace") is None:
        print("error: strace is not installed", file=sys.stderr)
        return 2
    rounds = int(arguments[0]) if arguments else ROUNDS
    with tempfile.TemporaryDirectory() as directory:
        measured = _measure(Path(directory), rounds + 1)[1:]
    print("| step | ms | since the step before |\n|---|---|---|")
    before = 0.0
    for number, step in enumerate(STEPS):
        found = [times[number] for times in measured if times[number] is not None]
        if not found:
            print(f"| {step.what} | not seen | |")
            continue
        at = statistics.median(found)
        print(f"| {step.what} | {at:.1f} | {at - before:.1f} |")
        before = at
    return 0


def _measure(directory: Path, rounds: int) -> list[list[float | None]]:
    env = {
        **os.environ, "CUMULUS_HOME": str(directory), "CHRONOS_HOME": str(directory / "chronos"),
        "CHRONOS_MONITOR_IDLE": "1", "XDG_CONFIG_HOME": str(directory / "config"),
    }  # fmt: skip
    _, cumulus = install(directory / "installed")
    served = directory / "served.strace"
    taken: list[list[Call]] = []
    with running([*_strace(served), "-D", cumulus, "serve"], log=directory / "serve.log", env=env):
        until((directory / paths.COMMAND_SOCKET).exists, seconds=120, what="the daemon answers")
        ready = [cumulus, "wait", "node", "--all", "--for=condition=Ready", "--timeout=60s"]
        subprocess.run(ready, env=env, check=True, stdout=subprocess.DEVNULL)
        for number in range(rounds):
            own = directory / f"run-{number}.strace"
            subprocess.run([*_strace(own), cumulus, *COMMAND], env=env, check=True, stdout=subprocess.DEVNULL)
            taken.append(_calls(own))
    there = _calls(served)
    measured = []
    for own_calls in taken:
        start, end = own_calls[0].began, own_calls[-1].ended
        within = [call for call in there if start <= call.began <= end]
        measured.append(_reached(own_calls, within, start))
    return measured


def _reached(own: Sequence[Call], there: Sequence[Call], start: float) -> list[float | None]:
    """When each step was reached, in milliseconds from the start."""
    reached: list[float | None] = []
    last = start
    for step in STEPS:
        pattern = re.compile(step.text)
        calls = own if step.own else there
        found = next((call for call in calls if call.began >= last and pattern.match(call.text)), None)
        if found is None:
            reached.append(None)
            continue
        last = found.ended if step.ends else found.began
        reached.append((last - start) * 1000)
    return reached


def _strace(into: Path) -> list[str]:
    return [
        "strace", "-f", "--seccomp-bpf", "-qq", "--signal=none", "-ttt", "-T", "-y", "-s", "160", "-e",
        f"trace={CALLS}", "-o", str(into),
    ]  # fmt: skip


def _calls(file: Path) -> list[Call]:
    """In the order in which they were made."""
    unfinished: dict[int, tuple[float, str]] = {}
    found = []
    for line in file.read_text(errors="replace").splitlines():
        matched = _LINE.match(line)
        if matched is None:
            continue
        pid, at, resumed, text = int(matched[1]), float(matched[2]), matched[3], matched[4]
        if text.endswith("<unfinished ...>"):
            unfinished[pid] = at, text
        elif resumed:
            began, first = unfinished.pop(pid, (at, ""))
            found.append(Call(pid, began, at, first + text))
        else:
            taken = re.search(r"<(\d+\.\d+)>$", text)
            found.append(Call(pid, at, at + (float(taken[1]) if taken else 0.0), text))
    return sorted(found, key=lambda call: call.began)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
