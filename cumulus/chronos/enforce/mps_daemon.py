"""One MPS control daemon: start it, give it commands, end it. Below `mps`.

NVIDIA's Multi-Process Service: `nvidia-cuda-mps-control -d` listens in CUDA_MPS_PIPE_DIRECTORY and starts a server,
which owns the GPU's context, when the first client comes. See nvidia-cuda-mps-control(1).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cumulus.chronos.snapshot import ProcessSnapshot
from cumulus.clock import SystemClock
from cumulus.errors import ChronosError
from cumulus.lib import locks, processes
from cumulus.lib.processes import ProcessIdentity, is_alive, read, send

CONTROL = "nvidia-cuda-mps-control"

ANSWER_SECONDS = 5.0
"""A control daemon answers within milliseconds; one that waits for a server that never comes up does not answer."""

_PASSED = ("PATH", "HOME", "LD_LIBRARY_PATH")
_START_SECONDS = 30.0
"""Of a machine that is busy, too."""
_END_SECONDS = 5.0
_LOCK_SECONDS = _START_SECONDS + _END_SECONDS
_LOG_BYTES = 2**18
_STICKY = "client process have a sticky error set"
_TOLD = "told-to-end"


@dataclass(frozen=True, slots=True)
class Daemon:
    """The control daemon of one directory, running or not."""

    place: Path
    devices: str = ""
    """CUDA_VISIBLE_DEVICES for it, "" for all."""

    @property
    def pipe(self) -> Path:
        return self.place / "pipe"

    @property
    def log(self) -> Path:
        return self.place / "log"

    def ensure(self, *defaults: str) -> bool:
        """See that it runs and answers; `defaults` are commands given to a fresh one. True if it was started now.

        Raises `ChronosError` where it does not start.
        """
        with self._locked():
            if self.answers():
                return False
            self._end()
            self._start()
            for command in defaults:
                self.execute(command)
            return True

    def answers(self) -> bool:
        """Whether it runs and is not stuck."""
        return self.pid() is not None and self.execute("get_server_list") is not None

    def faulted(self) -> bool:
        """Whether a server waits for programs to end whose work has failed."""
        return bool(self._faulted_servers())

    def end_failed(self) -> None:
        """Tell the programs to end for which a faulted server waits; kill those that were told before."""
        told = self._told()
        for program in self._failed():
            with suppress(ProcessLookupError, PermissionError):
                send(program, signal.SIGKILL if program in told else signal.SIGTERM)
            told.add(program)
        lines = [f"{program.pid} {program.start}\n" for program in sorted(told) if is_alive(program)]
        (self.place / _TOLD).write_text("".join(lines))

    def was_started(self) -> bool:
        """Whether somebody wanted it to run: it has been started and not stopped since."""
        return self.pipe.is_dir()

    def pid(self) -> int | None:
        try:
            pid = int((self.pipe / f"{CONTROL}.pid").read_text())
        except (OSError, ValueError):
            return None
        proc = read(pid)
        return pid if proc is not None and proc.alive and _is_mps(pid) else None

    def execute(self, command: str) -> str | None:
        """What the daemon answers to a command of nvidia-cuda-mps-control(1), None where it does not."""
        try:
            done = subprocess.run(
                [CONTROL], input=f"{command}\n", env=self._environment(), timeout=ANSWER_SECONDS,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        missing = done.returncode != 0 or done.stdout.startswith("Cannot find MPS control daemon")
        return None if missing else done.stdout.strip()

    def stop(self) -> None:
        """End it and its servers, whatever state they are in, and with them every client's work."""
        if not self.place.is_dir():
            return
        with self._locked():
            self._end()
            shutil.rmtree(self.pipe, ignore_errors=True)

    def _faulted_servers(self) -> Sequence[str]:
        servers = (self.execute("get_server_list") or "").split() if self.pid() is not None else []
        return [server for server in servers if self.execute(f"get_server_status {server}") == "FAULT"]

    def _failed(self) -> Sequence[ProcessIdentity]:
        """The programs whose work has failed, as the server says in its log, as far as they run and are its clients."""
        servers = self._faulted_servers()
        failed: list[str] = []
        listing = False
        for server, text in re.findall(r"^\[.* Server +(\d+)\] (.*)$", self._server_log(), flags=re.MULTILINE):
            if server not in servers:
                continue
            if _STICKY in text:
                failed, listing = [], True
            elif listing and text.strip().isdigit():
                failed.append(text.strip())
            else:
                listing = False
        found = [read(int(pid)) for pid in failed]
        return [ProcessIdentity(p.pid, p.start) for p in found if p is not None and p.alive and self._serves(p.pid)]

    def _server_log(self) -> str:
        try:
            with (self.log / "server.log").open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_BYTES))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _serves(self, pid: int) -> bool:
        return b"CUDA_MPS_PIPE_DIRECTORY=" + os.fsencode(self.pipe) in processes.environment(pid)

    def _told(self) -> set[ProcessIdentity]:
        try:
            lines = (self.place / _TOLD).read_text().splitlines()
        except OSError:
            return set()
        return {ProcessIdentity(*map(int, line.split())) for line in lines}

    def _start(self) -> None:
        for directory in (self.pipe, self.log):
            directory.mkdir(mode=0o755, exist_ok=True)
        # As root it serves jobs of every user at once. Without this option a client of a second user waits until the
        # first one's are gone, and one that gives up meanwhile leaves the daemon stuck.
        users = ["-multiuser-server"] if os.geteuid() == 0 else []
        command = [*_without_haste(), CONTROL, "-d", *users]
        try:
            done = subprocess.run(
                command, env=self._environment(), timeout=_START_SECONDS, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, start_new_session=True,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ChronosError(f"{CONTROL} did not start: {error}", hint=f"See {self.log}/control.log.") from error
        clock = SystemClock()
        deadline = clock.monotonic() + _START_SECONDS
        while done.returncode == 0 and not self.answers() and clock.monotonic() < deadline:
            clock.sleep(0.02)
        if done.returncode != 0 or not self.answers():
            said = " ".join(done.stdout.split()) or "it does not answer"
            raise ChronosError(f"{CONTROL} did not start: {said}", hint=f"See {self.log}/control.log.")

    def _end(self) -> None:
        pid = self.pid()
        if pid is None:
            return
        snapshot = ProcessSnapshot()
        family = snapshot.identities({pid} | snapshot.below(pid))
        self.execute("quit")
        clock = SystemClock()
        deadline = clock.monotonic() + _END_SECONDS
        while any(is_alive(one) for one in family):
            number = signal.SIGTERM if clock.monotonic() < deadline else signal.SIGKILL
            for one in family:
                if _is_mps(one.pid):
                    send(one, number)
            clock.sleep(0.05)

    def _environment(self) -> dict[str, str]:
        """Of its own: a daemon started amid a job must not carry that job's lease or visible devices."""
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        if self.devices:
            passed["CUDA_VISIBLE_DEVICES"] = self.devices
        return passed | {"CUDA_MPS_PIPE_DIRECTORY": str(self.pipe), "CUDA_MPS_LOG_DIRECTORY": str(self.log)}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not locks.acquire(fd, _LOCK_SECONDS):
                who, fix = locks.blame(self.place)
                raise ChronosError(
                    f"{self.place} has been locked for {_LOCK_SECONDS:g} s by {who}",
                    hint=fix,
                )
            yield
        finally:
            os.close(fd)


def runtime_directory(home: Path) -> Path:
    """A short directory for sockets (a path of 107 bytes at most, unix(7)), which jobs of other users can enter.

    Raises `ChronosError` where somebody else holds its name.
    """
    uid = os.geteuid()
    base = Path("/run") if uid == 0 else Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    place = base / f"chronos-{uid}-{hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:8]}"
    place.mkdir(mode=0o755, exist_ok=True)
    found = place.lstat()
    if place.is_symlink() or found.st_uid != uid:
        raise ChronosError(f"{place} is not this user's directory", hint=f"Remove {place}.")
    return place


def _without_haste() -> list[str]:
    """Words before a command that is not to inherit the priority that the monitor gives itself (`service`)."""
    # Of this thread, not of the process: that is what Linux hands on (setpriority(2)).
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    return ["nice", "-n", str(-nice)] if nice < 0 else []


def _is_mps(pid: int) -> bool:
    """Whether that process is of MPS now, and not a later one of the same number."""
    return processes.name(pid).startswith("nvidia-cuda-mps")
