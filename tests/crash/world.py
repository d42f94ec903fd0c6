"""One machine's state for crash tests: its directories, the processes on them, and the certain end of them all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cumulus.chronos import monitor_control
from cumulus.lib.processes import read


class World:
    """`directory` holds everything. A process belongs to it whose environment or command line names it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "cumulus"
        self.chronos = directory / "chronos"
        self.records = directory / "records"
        self.env = {
            **os.environ, "CUMULUS_HOME": str(self.home), "CHRONOS_HOME": str(self.chronos), "COLUMNS": "160",
            "CHRONOS_OFFER_CPU": "1",
        }  # fmt: skip

    def start(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        """A process in the background; what it writes goes to the file `log`."""
        with open(self.directory / log, "ab") as output:
            return subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def run(self, *command: str, input: str | None = None, kill_after: float | None = None) -> tuple[int, str, str]:
        """A command to its end, or to its kill -9: exit code, stdout, stderr."""
        process = subprocess.Popen(
            command, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            out, err = process.communicate(input, timeout=kill_after or 300)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        return process.returncode, out, err

    def ok(self, *command: str, input: str | None = None) -> str:
        code, out, err = self.run(*command, input=input)
        assert code == 0, f"{' '.join(command)}: {code}\n{out}\n{err}"
        return out

    def monitor(self) -> int:
        """The pid of the monitor, 0 where none runs."""
        with suppress(ValueError):
            return monitor_control.running(self.chronos) or 0
        return 0

    def processes(self) -> dict[int, str]:
        """pid -> command line of all that live and belong here."""
        mark = os.fsencode(self.directory) + b"/"
        found = {}
        for name in os.listdir("/proc"):
            if not name.isdecimal() or int(name) == os.getpid():
                continue
            with suppress(OSError):
                command = Path(f"/proc/{name}/cmdline").read_bytes()
                if mark in command or mark in Path(f"/proc/{name}/environ").read_bytes():
                    process = read(int(name))
                    if process is not None and process.alive:
                        found[int(name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
        return found

    def end_everything(self) -> None:
        """SIGKILL, again and again until nothing is left."""
        for _ in range(200):
            left = self.processes()
            if not left:
                return
            for pid in left:
                kill(pid)
            time.sleep(0.02)
        raise AssertionError(f"processes that do not end: {left}")


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Signal the process; False where it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def world(*, keep_on_failure: bool = False) -> Iterator[World]:
    """A world that leaves nothing behind, whatever happens; its files where `keep_on_failure` and the body raises."""
    made = World(Path(tempfile.mkdtemp(prefix="cumulus-crash-")))
    failed = True
    try:
        yield made
        failed = False
    finally:
        made.end_everything()
        if not (failed and keep_on_failure):
            shutil.rmtree(made.directory, ignore_errors=True)
