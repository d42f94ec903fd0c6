#!/usr/bin/env python3
"""cumulus-run: the first program of a job's container. Standard library only; any image with Python can use it.

    cumulus-run COMMAND [ARGUMENT...]
    cumulus-run                           runs /job/main.py, or the only .py file in /job; without it, a check

It gives the command its secret variables (NAME from the file that NAME_FILE names), points OpenCL at the leased
device, refuses to begin when the lease is over, forwards signals once each, says how far things are, keeps the state
directory as a checkpoint when it is told to stop, and says why the command ended. Its exit code is the command's.

Variables: CUMULUS_STATE_DIR (default /state) is what is kept; CUMULUS_CHECKPOINT_PATH is where, on storage that
outlives the container; CUMULUS_HEARTBEAT seconds between progress lines (default 60, 0 for none); CUMULUS_JOB_DIR
(default /job) is where code is mounted: docker run -v /path/to/code:/job IMAGE.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

LEASE_OVER = 69
"""EX_UNAVAILABLE of sysexits.h. Not EX_TEMPFAIL, which says that the job has saved."""

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)


def main(command: list[str]) -> int:
    code = Path(os.environ.get("CUMULUS_JOB_DIR", "/job"))
    command = command or mounted(code)
    if not command:
        say(f"there is nothing to run: give a command, or mount a directory with a main.py at {code}")
        return 64
    left = seconds_left()
    if left is not None and left <= 0:
        say("the lease is over: nothing is started")
        return LEASE_OVER
    count_from_now(os.environ)
    give_secrets(os.environ)
    choose_device(os.environ)
    restore()
    return Run(command).run()


def mounted(directory: Path) -> list[str]:
    """What to run where nobody says it: the program in a directory that was mounted, in that directory; where none was,
    what shows that OpenCL works."""
    if not directory.is_dir():
        return ["python", "-c", "import pyopencl; print(pyopencl.create_some_context(interactive=False).devices)"]
    try:
        programs = sorted(path for path in directory.iterdir() if path.suffix == ".py")
        main = directory / "main.py"
        chosen = main if main in programs else programs[0] if len(programs) == 1 else None
        if chosen is None:
            return []
        os.chdir(directory)
    except OSError:
        return []
    return ["python", str(chosen)]


class Run:
    """One command from its start to its end."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        """Signals that came before there was a child to have them."""
        self._stopped = False
        self._forwarded: set[int] = set()

    def run(self) -> int:
        began = time.monotonic()
        # Before the start: a signal that came in between would end this process, and leave the command alone.
        for number in FORWARDED:
            signal.signal(number, lambda number, frame: self._heard(number))
        try:
            # A group of its own: a signal sent to all of the container's processes reaches it once, through here.
            child = subprocess.Popen(self._command, process_group=0)
        except OSError as error:
            say(f"{self._command[0]} cannot be run: {error.strerror}")
            return 126 if isinstance(error, PermissionError) else 127
        self._child = child
        for number in self._early:
            self._forward(child, number)
        say(f"attempt {os.environ.get('CUMULUS_ATTEMPT', '1')} has begun{lease()}")
        status = self._wait(child, began)
        code = status if status >= 0 else 128 - status
        if self._stopped:
            keep()
        say(f"ended after {time.monotonic() - began:.0f}s: {self._reason(status)}")
        return code

    def _wait(self, child: subprocess.Popen[bytes], began: float) -> int:
        heartbeat = float(os.environ.get("CUMULUS_HEARTBEAT", "60"))
        while True:
            try:
                return child.wait(heartbeat or None)
            except subprocess.TimeoutExpired:
                say(f"has run for {time.monotonic() - began:.0f}s{lease()}")

    def _heard(self, number: int) -> None:
        if self._child is None:
            self._early.append(number)
        else:
            self._forward(self._child, number)

    def _forward(self, child: subprocess.Popen[bytes], number: int) -> None:
        """Once: the init process and the node's monitor may both send it."""
        if number in (signal.SIGTERM, signal.SIGINT):
            if number in self._forwarded:
                return
            self._stopped = True
        self._forwarded.add(number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)

    def _reason(self, status: int) -> str:
        how = f"exit code {status}" if status >= 0 else signal.Signals(-status).name
        if not self._stopped:
            return how
        left = seconds_left()
        why = "its lease is over" if left is not None and left <= 0 else "it was told to stop"
        return f"{why}, {how}"


def count_from_now(environment: dict[str, str] | os._Environ[str]) -> None:
    """CHRONOS_EXPIRES_AT as the latest it can be: the lease's CHRONOS_LEASE_SECONDS count from the start. The same for
    CUMULUS_LEASE_DEADLINE."""
    left, seconds = seconds_left(), float(environment.get("CHRONOS_LEASE_SECONDS") or 0)
    if seconds <= 0:
        return
    if left is not None and seconds < left:
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        environment["CHRONOS_EXPIRES_AT"] = end.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if "CUMULUS_LEASE_DEADLINE" in environment:
        ends = seconds if left is None else min(seconds, left)
        environment["CUMULUS_LEASE_DEADLINE"] = f"{time.clock_gettime(time.CLOCK_BOOTTIME) + ends:.3f}"


def give_secrets(environment: dict[str, str] | os._Environ[str]) -> None:
    """NAME for each NAME_FILE below /run/secrets, where NAME is not set."""
    for name, path in list(environment.items()):
        if name.endswith("_FILE") and path.startswith("/run/secrets/") and name[:-5] not in environment:
            with contextlib.suppress(OSError):
                environment[name[:-5]] = Path(path).read_text()


def choose_device(environment: dict[str, str] | os._Environ[str]) -> None:
    """PYOPENCL_CTX for the leased devices by their name: numbers differ between a node and an image."""
    names = [name for name in environment.get("CHRONOS_DEVICE_NAME", "").split(",") if name]
    if "PYOPENCL_CTX" in environment or not names:
        return
    try:
        import pyopencl  # type: ignore[import-not-found]

        platforms = pyopencl.get_platforms()
    except Exception as error:  # drivers raise what they like; a job may well not use OpenCL
        say(f"OpenCL is not to be had: {error}")
        return
    for index, platform in enumerate(platforms):
        found = [n for n, device in enumerate(platform.get_devices()) if device.name.strip() in names]
        if found:
            environment["PYOPENCL_CTX"] = f"{index}:{','.join(map(str, found[: len(names)]))}"
            return


def restore() -> None:
    """The state directory as the last attempt kept it."""
    kept, state = checkpoint()
    if kept is not None and kept.is_dir() and not any(state.iterdir() if state.is_dir() else ()):
        state.mkdir(parents=True, exist_ok=True)
        for entry in kept.iterdir():
            # Not the directory itself: it may be another user's.
            if entry.is_dir():
                shutil.copytree(entry, state / entry.name)
            else:
                shutil.copy2(entry, state / entry.name)
        say(f"goes on from {kept}")


def keep() -> None:
    """The state directory as the checkpoint: whole, or the last one stays."""
    kept, state = checkpoint()
    if kept is None or not state.is_dir() or not any(state.iterdir()):
        return
    fresh, old = kept.with_name(f"{kept.name}.new"), kept.with_name(f"{kept.name}.old")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(state, fresh)
        shutil.rmtree(old, ignore_errors=True)
        if kept.exists():
            kept.rename(old)
        fresh.rename(kept)
        shutil.rmtree(old, ignore_errors=True)
        say(f"kept its state in {kept}")
    except OSError as error:
        say(f"could not keep its state in {kept}: {error}")


def checkpoint() -> tuple[Path | None, Path]:
    """Where the state is kept, and where it is."""
    path = os.environ.get("CUMULUS_CHECKPOINT_PATH", "")
    return (Path(path) if path else None), Path(os.environ.get("CUMULUS_STATE_DIR", "/state"))


def seconds_left() -> float | None:
    text = os.environ.get("CHRONOS_EXPIRES_AT", "")
    try:
        end = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (end - datetime.now(UTC)).total_seconds()


def lease() -> str:
    left = seconds_left()
    return "" if left is None else f", its lease ends in {max(0.0, left):.0f}s"


def say(text: str) -> None:
    print(f"[cumulus] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
