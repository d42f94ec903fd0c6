"""A real process backend in a temporary directory, whose processes are all ended with the test."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cloudpickle

from cumulus.backends.base import CallToRun, Observed, Workload
from cumulus.backends.process.backend import ProcessBackend
from cumulus.backends.process.run import Run
from cumulus.backends.process.spawner import Spawned, Spawner
from cumulus.blob.directory import DirectoryBlobStore
from cumulus.clock import SystemClock
from cumulus.secrets import JobSecrets
from tests.backends.conformance import Bed, Behaviour
from tests.runner.calls import HERE, payload_of
from tests.waiting import PATIENCE, eventually

NODE = "this-node"


class Clock(SystemClock):
    """The machine's, with an interval that a test lets pass at once. Supervisors do not see it: they learn of an
    expiry from what the monitor wrote."""

    passed = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.passed

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.passed)


class _Absent(Spawner):
    """Starts nothing and shows this process, which lives."""

    def spawn(self, directory: str, environment: Mapping[str, str]) -> Spawned:
        return Spawned(os.getpid(), os.pidfd_open(os.getpid()))


class ProcessBed(Bed):
    def __init__(self, directory: Path, chronos_home: Path | None = None) -> None:
        self.directory = directory
        self.root = directory / "process"
        self.job_secrets = JobSecrets(directory / "secrets")
        self.secrets = self.job_secrets.of("default")
        self.chronos_home = chronos_home
        # Strays are found by the workload's name: it must be another than in the test beside this one.
        self.token = f"{zlib.crc32(os.fsencode(directory)):08x}"
        self.clock = Clock()
        self.blobs = DirectoryBlobStore(directory / "blobs")
        self.spawner: Spawner | None = None
        self.backend: ProcessBackend = self.open()

    def open(self) -> ProcessBackend:
        return ProcessBackend(
            self.root, NODE, self.job_secrets, self.chronos_home, self.clock, environment=os.environ, blobs=self.blobs,
            spawner=self.spawner,
        )  # fmt: skip

    def reopen(self) -> None:
        self.backend.close()
        self.backend = self.open()

    def start_unsupervised(self, work: Workload) -> None:
        """Start it in a backend whose supervisors never come."""
        self.spawner = _Absent(str(self.root))
        self.reopen()
        self.spawner = None
        self.backend.start(work)

    def workload(self, behaviour: Behaviour, *, job: str = "job", attempt: int = 1, replica: int = 0) -> Workload:
        heed = "" if behaviour.heeds_stop else "trap '' TERM; "
        sleep = f"sleep {behaviour.seconds}; " if behaviour.seconds else ""
        script = f'{heed}printf %s "$OUTPUT"; : > ready; {sleep}exit {behaviour.exit_code}'
        return self.work(
            "env", f"OUTPUT={behaviour.output}", "sh", "-c", script, job=job, attempt=attempt, replica=replica
        )

    def work(self, *command: str, job: str = "job", attempt: int = 1, replica: int = 0, **more: Any) -> Workload:
        """A workload that runs `command`."""
        fields: dict[str, Any] = {
            "name": f"default.{job}.{self.token}-a{attempt}-r{replica}", "namespace": "default", "job": job,
            "job_uid": f"uid-{job}", "attempt": attempt, "replica": replica, "replicas": 1, "node": NODE,
            "command": command, "leases": (), "grace": 2.0,
        }  # fmt: skip
        return Workload(**{**fields, **more})

    def call(self, *, job: str = "job") -> Workload:
        return self.calling(returned, job=job)

    def calling(self, function: Callable[..., object], *arguments: object, **more: Any) -> Workload:
        """A workload that calls the function in this Python."""
        names = ("owner", "python", "archive", "environment", "interpreter", "session")
        fields = {"owner": "0:root", "python": HERE, "interpreter": sys.executable}
        fields |= {name: more.pop(name) for name in names if name in more}
        owner = fields.pop("owner")
        for name in ("archive", "environment"):
            if name in fields:
                fields[name] = self.blob(owner, fields[name])
        call = CallToRun(owner, self.blob(owner, payload_of(function, *arguments)), **fields)
        return dataclasses.replace(self.work(**more), command=(), call=call)

    def blob(self, owner: str, content: bytes) -> str:
        """Its sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.blobs.write(owner, sha256, len(content), [content])
        return sha256

    def run(self, *command: str, **more: Any) -> tuple[Workload, Observed]:
        """Run `command` to its end."""
        self.backend.start(work := self.work(*command, **more))
        return work, self.finish(work)

    def run_directory(self, work: Workload) -> Path:
        return self.root / "jobs" / work.job_uid / f"a{work.attempt}-r{work.replica}"

    def running(self, workload: Workload) -> None:
        super().running(workload)
        self.until(lambda: (self.run_directory(workload) / "work" / "ready").exists())

    def supervisor(self, work: Workload) -> int:
        """Its supervisor's pid; waits for it."""
        run = self.found(work)
        self.until(run.supervisor)
        return run.supervisor()

    def found(self, work: Workload) -> Run:
        run = self.backend.find(work.name)
        assert run is not None
        return run

    def until(self, met: Callable[[], object], *, within: float = PATIENCE) -> None:
        eventually(met, within)

    def close(self) -> None:
        self.backend.close()
        for _ in range(200):
            if not (pids := processes_of(self.directory)):
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        raise AssertionError(f"processes left: {pids}")


def returned() -> str:
    return "returned"


cloudpickle.register_pickle_by_value(sys.modules[__name__])


def job_processes(directory: Path) -> Sequence[int]:
    """`processes_of` without supervisors: one needs a moment to end after it has written its job's end."""
    found = []
    for pid in processes_of(directory):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if not any(program in command for program in (b"supervisor.py", b"fork_server.py")):
                found.append(pid)
    return found


def processes_of(directory: Path) -> Sequence[int]:
    """Live processes that have the directory in their command line, environment or working directory."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            texts = [Path(f"/proc/{name}/{file}").read_bytes() for file in ("cmdline", "environ")]
            texts.append(os.fsencode(os.readlink(f"/proc/{name}/cwd")))
            if any(os.fsencode(f"{directory}/") in text for text in texts):
                found.append(int(name))
    return found
