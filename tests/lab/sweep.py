"""`python -m tests.lab.sweep DIRECTORY`: waits for the end of its standard input, then removes a lab's traces.

It ignores signals of the terminal: it has to outlive the lab, even one that was killed.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from tests.lab.node import remove_traces


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    directory = Path(sys.argv[1])
    sys.stdin.buffer.read()
    names = directory / "cgroups"
    cgroups = names.read_text().split() if names.exists() else []
    # The kernel needs a moment to end a namespace's processes.
    for _ in range(20):
        remove_traces(directory, cgroups)
        if not directory.exists() and not any(list(Path("/sys/fs/cgroup").glob(f"*/{name}")) for name in cgroups):
            return
        time.sleep(0.25)


if __name__ == "__main__":
    main()
