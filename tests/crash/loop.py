"""One round of the crash loop: people at work, daemons, monitors, supervisors and commands killed at random moments.

    Round.run: chaos for some seconds -> settle under one quiet daemon -> account -> delete all -> nothing left

Real time and real processes: a seed repeats what is done and roughly when, not the exact interleaving.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cumulus import paths
from cumulus.chronos import monitor_control
from cumulus.errors import StoreError
from cumulus.lib import processes
from cumulus.lib.processes import ProcessIdentity
from cumulus.store.base import Query
from cumulus.store.sqlite import SqliteStore
from tests.commands import CHRONOS_CLI, CUMULUS
from tests.crash import account
from tests.crash.jobs import SCRIPTS, Script, manifest, partition
from tests.crash.world import World, kill
from tests.waiting import PATIENCE, poll

_SUPERVISES = "fork_server.py"
"""In the command line of a supervisor, and of what it was forked from."""
MOST_UNFINISHED = 14
SETTLE_SECONDS = 150.0
KINDS_SECONDS = 100.0
"""On a busy machine it takes a while until something of each kind lives and is hit."""


@dataclass
class Wish:
    """What people asked of one object. A command that was killed may have taken effect or not."""

    name: str
    script: Script | None
    """None for a partition."""
    manifest: dict[str, Any]
    created: bool = False
    deleted: bool = False
    delete_tried: bool = False
    suspended: set[bool] = field(default_factory=lambda: {False})
    """What spec.suspend may be."""
    priority: set[int] = field(default_factory=lambda: {0})


@dataclass
class Share:
    """A lease taken with chronos_cli beside the daemon."""

    id: str
    created: bool = False
    released: bool = False


class Round:
    """`kills` counts what was killed while it lived, by kind; `failures` are the promises found broken."""

    def __init__(self, world: World, seed: int, *, users: int = 2) -> None:
        self.world = world
        self.kills: Counter[str] = Counter()
        self.commands = 0
        self.failures: list[str] = []
        self.wishes: list[Wish] = []
        self.shares: list[Share] = []
        self.backups: list[tuple[Path, set[str]]] = []
        self._seed = seed
        self._users = users
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def run(self, seconds: float, *, kinds: Set[str] = frozenset()) -> list[str]:
        """The whole round; returns `failures`. The killing goes on for `seconds`, and until one of each of the `kinds`
        was killed."""
        self._chaos(seconds, kinds)
        daemon = self.world.start(CUMULUS, "serve", log="quiet.log")
        settled = self._settle()
        self.failures += settled
        if not settled:
            self.failures += account.check(self)
            self._clear()
        if kill(daemon.pid, signal.SIGTERM) and daemon.wait(PATIENCE):
            self.failures.append(f"the quiet daemon exited with {daemon.returncode} on SIGTERM")
        if not settled:
            self.failures += account.nothing_left(self.world)
        return self.failures

    def documents(self, kind: str) -> list[dict[str, Any]]:
        """What the store holds now. Opened anew each time, so that it is often nobody's: opening and closing count."""
        store = SqliteStore(paths.store_dir(self.world.home))
        try:
            return list(store.list(Query(kind)).items)
        finally:
            store.close()

    def _chaos(self, seconds: float, kinds: Set[str]) -> None:
        people = [self._thread(self._person, number) for number in range(self._users)]
        killers = [self._thread(self._daemon, 0), self._thread(self._daemon, 1), self._thread(self._killer, 0)]
        for thread in (*people, *killers):
            thread.start()
        self._stop.wait(seconds)
        poll(lambda: self._stop.is_set() or kinds <= self.kills.keys(), KINDS_SECONDS)
        self._stop.set()
        for thread in (*people, *killers):
            thread.join()

    def _thread(self, work: Any, number: int) -> threading.Thread:
        rng = random.Random(f"{self._seed}-{work.__name__}-{number}")

        def guarded() -> None:
            try:
                work(rng)
            except Exception as error:
                self.failures.append(f"the harness failed in {work.__name__}: {type(error).__name__}: {error}")
                self._stop.set()

        return threading.Thread(target=guarded, name=f"{work.__name__}-{number}")

    def _daemon(self, rng: random.Random) -> None:
        """A daemon that is killed and started again; two of these make a leader and a standby."""
        number = 0
        while not self._stop.is_set():
            daemon = self.world.start(CUMULUS, "serve", log="serve.log")
            number += 1
            # Often amid the start, mostly amid work, sometimes late enough that long work gets done.
            self._stop.wait(rng.choice((rng.uniform(0, 1), rng.uniform(0.7, 2), rng.uniform(1, 3), rng.uniform(2, 7))))
            if rng.random() < 0.03 and kill(daemon.pid, signal.SIGSTOP):
                # Held up past its lease: it must find itself deposed when it goes on.
                self.kills["daemon held up"] += 1
                self._stop.wait(9)
                kill(daemon.pid, signal.SIGCONT)
                self._stop.wait(1)
            if rng.random() < 0.1:
                kill(daemon.pid, signal.SIGTERM)
                self._stop.wait(rng.uniform(0, 0.5))
            self._kill("daemon", _identity(daemon.pid))
            code = daemon.wait()
            if code not in (-signal.SIGKILL, -signal.SIGTERM, 0):
                self.failures.append(f"a daemon ended by itself with {code}, see serve.log")
            self._stop.wait(rng.choice((0, 0, rng.uniform(0, 1))))

    def _killer(self, rng: random.Random) -> None:
        """The monitor's, and now and then a supervisor's."""
        while not self._stop.wait(rng.expovariate(1.5)):
            if rng.random() < 0.9:
                monitor = monitor_control.holder(self.world.chronos)
                self._kill("monitor", monitor)
            else:
                supervisors = [pid for pid, command in self.world.processes().items() if _SUPERVISES in command]
                if supervisors:
                    self._kill("supervisor", self._supervisor(rng.choice(supervisors)))

    def _supervisor(self, pid: int) -> ProcessIdentity | None:
        """It, and not what has its pid by now: who it is, and then again whether it is one."""
        found = _identity(pid)
        return found if _SUPERVISES in self.world.processes().get(pid, "") else None

    def _kill(self, kind: str, target: ProcessIdentity | None) -> None:
        if target is not None and processes.send(target, signal.SIGKILL):
            with self._lock:
                self.kills[kind] += 1

    def _person(self, rng: random.Random) -> None:
        while not self._stop.is_set():
            with self._lock:
                mine = [wish for wish in self.wishes if not wish.deleted and not wish.delete_tried]
                wish = rng.choice(mine) if mine else None
                if wish is not None:
                    self.wishes.remove(wish)
            try:
                self._act(rng, wish)
            finally:
                if wish is not None:
                    with self._lock:
                        self.wishes.append(wish)
            self._stop.wait(rng.uniform(0, 0.2))

    def _act(self, rng: random.Random, wish: Wish | None) -> None:
        dice = rng.random()
        if dice < 0.4 or wish is None:
            if self._unfinished() < MOST_UNFINISHED:
                self._create(rng)
        elif dice < 0.5:
            self._share(rng)
        elif dice < 0.55:
            self._backup(rng)
        elif wish.script is None or dice < 0.7:
            self._delete(rng, wish)
        elif dice < 0.85:
            self._suspend(rng, wish)
        else:
            self._prioritise(rng, wish)

    def _unfinished(self) -> int:
        try:
            return sum(
                (job.get("status") or {}).get("phase") not in ("Succeeded", "Failed", "Suspended")
                for job in self.documents("GPUJob")
            )
        except StoreError:
            return MOST_UNFINISHED

    def _command(self, rng: random.Random, *command: str, input: str | None = None) -> bool:
        """Run it, perhaps to its kill; whether it said that it was done."""
        after = rng.uniform(0.02, 0.5) if rng.random() < 0.5 else None
        code, _, err = self.world.run(*command, input=input, kill_after=after)
        with self._lock:
            self.commands += 1
            self.kills["command"] += code == -signal.SIGKILL
        if "Traceback" in err or code not in (0, 1, -signal.SIGKILL):
            self.failures.append(f"{' '.join(command)} ended with {code} and said: {err[-600:]}")
        return code == 0

    def _create(self, rng: random.Random) -> None:
        with self._lock:
            number = sum(1 for _ in self.wishes) + rng.randint(0, 10**9)
        if rng.random() < 0.15:
            name = f"p{number}"
            wish = Wish(name, None, partition(name, rng))
        else:
            name, script = f"j{number}", rng.choice(SCRIPTS)
            wish = Wish(name, script, manifest(name, script, rng, self.world.records))
        wish.created = self._apply(rng, wish.manifest)
        with self._lock:
            self.wishes.append(wish)

    def _apply(self, rng: random.Random, document: dict[str, Any]) -> bool:
        return self._command(rng, CUMULUS, "apply", "-f", "-", input=json.dumps(document))

    def _delete(self, rng: random.Random, wish: Wish) -> None:
        kind = "job" if wish.script else "partition"
        how = "--no-wait" if rng.random() < 0.7 else "--timeout=60s"
        wish.delete_tried = True
        if wish.created:
            wish.deleted = self._command(rng, CUMULUS, "delete", kind, wish.name, how, "--ignore-not-found")

    def _suspend(self, rng: random.Random, wish: Wish) -> None:
        if not wish.created:
            return
        wanted = rng.random() < 0.5
        wish.suspended.add(wanted)
        if self._command(rng, CUMULUS, "suspend" if wanted else "resume", "job", wish.name):
            wish.suspended = {wanted}

    def _prioritise(self, rng: random.Random, wish: Wish) -> None:
        """Apply the manifest again, with another priority. What was suspended by command stays so."""
        priority = rng.randint(1, 1000)
        wish.priority.add(priority)
        spec = {**wish.manifest["spec"], "priority": priority}
        if self._apply(rng, {**wish.manifest, "spec": spec}):
            wish.priority, wish.created = {priority}, True

    def _share(self, rng: random.Random) -> None:
        share = Share(f"beside-{rng.randint(0, 10**9)}")
        seconds, memory = rng.choice(("1", "2", "3.5")), rng.choice(("5%", "10%", "20%"))
        create = (CHRONOS_CLI, "create", "0", memory, seconds, "--id", share.id, "--grace", "1s")
        share.created = self._command(rng, *create)
        if rng.random() < 0.5:
            share.released = self._command(rng, CHRONOS_CLI, "release", share.id) and share.created
        with self._lock:
            self.shares.append(share)

    def _backup(self, rng: random.Random) -> None:
        file = self.world.directory / f"backup-{rng.randint(0, 10**9)}"
        with self._lock:
            there = {wish.name for wish in self.wishes if wish.created and not wish.delete_tried}
        done = self._command(rng, CUMULUS, "backup", str(file))
        with self._lock:
            self.backups.append((file, there if done else set()))
        if done and not file.exists():
            self.failures.append(f"backup said that {file} was written, and it is not there")

    def _settle(self) -> list[str]:
        """Let all that was wished come true; what did not, in time."""
        jobs = {job["metadata"]["name"]: job for job in self.documents("GPUJob")}
        for wish in self.wishes:
            job = jobs.get(wish.name)
            if job is None or job["metadata"].get("deletionTimestamp"):
                continue  # Whether that is right is told later.
            held = bool(job["spec"].get("suspend", False))
            if held not in wish.suspended:
                return [f"{wish.name}: spec.suspend is {held}, asked was {wish.suspended}"]
            if held and list(account.unfinished([job])):
                code, _, err = self.world.run(CUMULUS, "resume", "job", wish.name)
                if code and "is over" not in err:
                    return [f"{wish.name} cannot be resumed: {err}"]
        left: list[str] = []

        def done() -> bool:
            left[:] = [*account.unfinished(self.documents("GPUJob")), *account.unended(self.documents("GPUPartition"))]
            return not left

        started = time.monotonic()
        poll(done, SETTLE_SECONDS)
        return [f"not settled within {time.monotonic() - started:.0f} s: {line}" for line in left]

    def _clear(self) -> None:
        self.world.ok(CUMULUS, "delete", "jobs", "--all", "--timeout=300s")
        self.world.ok(CUMULUS, "delete", "partitions", "--all", "--timeout=300s")


def _identity(pid: int) -> ProcessIdentity | None:
    found = processes.read(pid)
    return None if found is None else ProcessIdentity(pid, found.start)
