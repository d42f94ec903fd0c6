"""`python -m tests.lab.sweep DIRECTORY`: waits for a byte on its standard input, or for its end, then removes a lab's
traces.

It ignores signals of the terminal: it has to outlive the lab, even one that was killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from cumulus.lib import cgroup
from tests.lab.node import remove_traces
from tests.processes import cgroups_of

CONTROLLERS = "cumulus"
"""The state directory of the lab's controllers, in its own."""
GRACE_SECONDS = 5.0
SECONDS = 120.0
"""For the kernel to end the processes of the lab's namespaces: long on a busy machine."""


def sweep(directory: Path) -> None:
    """What the kernel does not end with the lab's process: the controllers on this machine with what they started,
    cgroups, and files."""
    names = directory / "cgroups"
    cgroups = names.read_text().split() if names.exists() else []
    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS:
        left = left_running(directory)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if time.monotonic() - begun < GRACE_SECONDS else signal.SIGKILL)
        if not left:
            enclosures = [found for home in directory.glob("*/chronos") for found in cgroups_of(home)]
            for enclosure in enclosures:
                cgroup.kill(enclosure)
                cgroup.remove(enclosure)
            # The directory goes last: it tells which cgroups are the lab's.
            if not any(map(os.path.exists, enclosures)):
                remove_traces(directory, cgroups)
                if not directory.exists() and not any(traces(name) for name in cgroups):
                    return
        time.sleep(0.25)
    remove_traces(directory, cgroups)
    with suppress(OSError):
        print(f"the lab in {directory} is not all gone: see its processes and cgroups", file=sys.stderr, flush=True)


def traces(name: str) -> list[Path]:
    """The cgroups of a node, in each hierarchy."""
    root = Path("/sys/fs/cgroup")
    return [place for place in (root / name, *root.glob(f"*/{name}")) if place.exists()]


def left_running(directory: Path) -> list[int]:
    """Processes without a terminal that work on the state directory of the lab's controllers. Not a person's shell or
    editor that looks at it, nor who sweeps here."""
    home = os.fsencode(directory / CONTROLLERS)
    mine = _ancestors()
    return [
        int(e.name) for e in Path("/proc").iterdir() if e.name.isdecimal() and int(e.name) not in mine and _of(e, home)
    ]


def _of(process: Path, home: bytes) -> bool:
    try:
        if _stat(process)[4] != "0":
            return False
        words = (process / "cmdline").read_bytes().split(b"\0")
        words += [word.partition(b"=")[2] for word in (process / "environ").read_bytes().split(b"\0")]
        words.append(os.fsencode(os.readlink(process / "cwd")))
    except OSError:
        return False
    return any(word == home or word.startswith(home + b"/") for word in words)


def _ancestors() -> set[int]:
    found, pid = set(), os.getpid()
    while pid > 1:
        found.add(pid)
        pid = int(_stat(Path(f"/proc/{pid}"))[1])
    return found


def _stat(process: Path) -> list[str]:
    """From the state on: state, parent, group, session, terminal."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read(1)
    sweep(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
