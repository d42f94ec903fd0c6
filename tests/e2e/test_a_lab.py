"""Five Unix users share one machine by queues, while its daemon is killed again and again. Their programs are real.

In the end no job was lost or run twice, and the use of each user is what the node's own log of leases says, to the
microsecond.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cumulus.chronos import monitor_control
from tests import unix_users
from tests.crash.world import kill
from tests.system_daemon import GROUP, PYTHON, ROOT, Answer, SystemDaemon, job, jobs, system_daemon
from tests.unix_users import User
from tests.waiting import eventually, poll

pytestmark = [pytest.mark.users, pytest.mark.daemon, pytest.mark.timeout(3600)]

LONG = 1200.0
"""Seconds: an end for what happens while daemons are killed, each of which has to start first."""

RECORD = 'echo "$CUMULUS_JOB $CUMULUS_ATTEMPT $CHRONOS_PARTITION_ID $1" >>~/records'
"""One line of one write(2)."""
WORK = f"say() {{ {RECORD}; }}; say start; sleep 0.5; say end"

TRAIN = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from cumulus import checkpoint
step = (checkpoint.load_checkpoint() or {{"step": 0}})["step"]
who = " ".join(os.environ[name] for name in ("CUMULUS_JOB", "CUMULUS_ATTEMPT", "CHRONOS_PARTITION_ID"))
while not os.path.exists(os.path.expanduser("~/enough")):
    with open(os.path.expanduser("~/records"), "a") as file:
        file.write(f"{{who}} {{step}}\\n")
    time.sleep(0.1)
    step += 1
    if checkpoint.should_checkpoint():
        checkpoint.save_checkpoint({{"step": step}}, step=step)
        checkpoint.exit_if_ending()
"""


class Record(NamedTuple):
    """What a program wrote down."""

    job: str
    attempt: int
    lease: str
    what: str


def records(user: User) -> list[Record]:
    file = user.home / "records"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [Record(job, int(attempt), lease, what) for job, attempt, lease, what in lines]


@dataclass
class Killer:
    """Ends the daemon by SIGKILL at random moments, all through the work, and its monitor at times."""

    daemon: SystemDaemon
    dice: random.Random
    kills: int
    progress: Callable[[], float]
    """The part of the work that is done: of so many kills it is time."""

    def __post_init__(self) -> None:
        self.killed: Counter[str] = Counter()
        self._stop = threading.Event()
        self._one_at_a_time = threading.Lock()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while self.killed["daemon"] < self.kills:
            due = self.killed["daemon"] / self.kills
            poll(lambda: self._stop.is_set() or self.progress() >= due, LONG)  # noqa: B023
            if not self.strike():
                return

    def strike(self) -> bool:
        """Kill a daemon that answers, so that each has time for something. False where it is too late."""
        with self._one_at_a_time:
            poll(lambda: self._stop.is_set() or self.daemon.pid(), LONG)
            if self._stop.wait(self.dice.uniform(0, 1.5)):
                return False
            if self.dice.random() < 0.3:
                self.killed["monitor"] += self._kill_monitor()
            pid = self.daemon.pid()
            if pid is not None and kill(pid):
                self.killed["daemon"] += 1
                poll(lambda: self.daemon.pid() != pid, LONG)
            return True

    def _kill_monitor(self) -> bool:
        monitor = monitor_control.holder(self.daemon.seen / "var/lib/chronos")
        # By its number in there.
        return monitor is not None and self.daemon.run(None, "sh", "-c", f"kill -KILL {monitor.pid}").returncode == 0


def a_queue(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "cumulus.dev/v1alpha1", "kind": "Queue", "metadata": {"name": name}, "spec": spec}


def an_array(name: str, indexes: int) -> dict[str, Any]:
    made = job(name, "sh", "-c", WORK, gpu={"memory": "10%", "duration": "1h"})
    spec = {"indexes": f"0-{indexes - 1}", "parallelism": 2, "jobTemplate": {"spec": made["spec"]}}
    return {**made, "kind": "GPUJobArray", "spec": spec}


def submitted(daemon: SystemDaemon, user: User | None, path: str, document: dict[str, Any]) -> None:
    """As a person does it whose command fails where the daemon dies meanwhile: again, until it is there."""
    answers: list[Answer | str] = []

    def there() -> bool:
        answers.append(daemon.asked(user, "POST", path, document))
        return isinstance(answers[-1], Answer) and answers[-1].status in (201, 409)

    eventually(there, LONG, what=lambda: f"{document['metadata']['name']} is there: {answers[-1]}")


def status(daemon: SystemDaemon, path: str) -> dict[str, Any]:
    """Of what is there, {} while nobody answers."""
    answer = daemon.read(path)
    return (answer.body.get("status") or {}) if answer is not None and answer.status == 200 else {}


@pytest.mark.parametrize(
    ("kills", "indexes"), [(2, 2), pytest.param(30, 30, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_five_users_two_queues_and_a_daemon_that_is_killed_throughout(kills: int, indexes: int, tmp_path: Path) -> None:
    if why := unix_users.missing():
        pytest.skip(why)
    with (
        unix_users.unix_users(5) as users,
        system_daemon(tmp_path / "serve.log", "--grpc-listen", "off", comes_back=True) as daemon,
    ):
        _share(daemon, users, kills, indexes)


def _share(daemon: SystemDaemon, users: list[User], kills: int, indexes: int) -> None:
    ada, ben, cyd, dan, eve = users
    arrays = {ben: "tests", dan: "sweep", eve: "grid"}
    runs = Counter({(ada, "urgent"): 1})
    runs.update({(user, f"{name}-{index}"): 1 for user, name in arrays.items() for index in range(indexes)})

    def ended() -> list[tuple[User, str]]:
        return [(user, record.job) for user in users for record in records(user) if record.what == "end"]

    dice = random.Random(17)
    killer = Killer(daemon, dice, kills, lambda: len(ended()) / len(runs))
    # By their names, and by those of their Unix groups.
    sure = {"submitters": {"users": [ada.name, ben.name]}, "quota": [{"devices": 1}]}
    rest = {"submitters": {"groups": [cyd.name, dan.name, eve.name]}, "minRuntime": "1s"}
    for queue in (a_queue("sure", **sure), a_queue("rest", **rest)):
        submitted(daemon, None, f"{GROUP}/queues", queue)
    refused = daemon.ask(eve, "POST", jobs(eve.name), job("pushes-in", "true", queue="sure"))
    assert refused.status == 403, refused
    half = {"memory": "60%", "duration": "1h"}
    train = job("train", PYTHON, "-c", TRAIN, gpu=half, checkpoint={"gracePeriod": "10m"})
    submitted(daemon, cyd, jobs(cyd.name), train)
    eventually(lambda: records(cyd), LONG, daemon.written)
    with killer.at_work():
        for user in (dan, eve):
            submitted(daemon, user, f"{GROUP}/namespaces/{user.name}/gpujobarrays", an_array(arrays[user], indexes))
        # Of what its queue is sure of; only the training can yield, and has to.
        submitted(daemon, ada, jobs(ada.name), job("urgent", "sh", "-c", WORK, gpu=half))
        killer.strike()
        submitted(daemon, ben, f"{GROUP}/namespaces/{ben.name}/gpujobarrays", an_array(arrays[ben], indexes))
        eventually(lambda: len(ended()) >= len(runs), LONG, what=lambda: f"{runs - Counter(ended())}")
        eventually(lambda: killer.killed["daemon"] >= kills, LONG, what=lambda: f"killed often enough: {killer.killed}")
        (cyd.home / "enough").touch()
    eventually(lambda: status(daemon, jobs(cyd.name, "train")).get("phase") == "Succeeded", LONG, daemon.written)

    # No job was lost, and none was run twice.
    for what in ("start", "end"):
        assert Counter((user, r.job) for user in users for r in records(user) if r.what == what) == runs
    for user, name in arrays.items():
        path = f"{GROUP}/namespaces/{user.name}/gpujobarrays/{name}"
        eventually(lambda: status(daemon, path).get("phase") == "Succeeded", LONG, daemon.written)  # noqa: B023
        assert status(daemon, path)["succeeded"] == f"0-{indexes - 1}"
    assert status(daemon, jobs(ada.name, "urgent"))["attemptCount"] == 1
    # The training yielded with a checkpoint each time, and went on where it had saved.
    attempts = status(daemon, jobs(cyd.name, "train"))["attempts"]
    assert {attempt["reason"] for attempt in attempts[:-1]} == {"Preempted"}, attempts
    steps = [int(record.what) for record in records(cyd)]
    assert steps == list(range(len(steps)))
    _each_lease_is_counted_once(daemon, {ada: "sure", ben: "sure", cyd: "rest", dan: "rest", eve: "rest"})


AUDIT = """
import json
from pathlib import Path
from cumulus.chronos.ledger import Ledger
from cumulus.resources.device import counted_share
from tests.crash import account
from tests.crash.world import World
from tests.waiting import eventually
world = World(Path("/var/lib"))
ledger = Ledger(world.chronos, start_monitor=False)
[device] = ledger.devices()
eventually(lambda: not ledger.list(), what="all leases are over")
ledger.close()
leases, wrong = account.read_audit(world)
held = {
    lease.id: (
        lease.user,
        counted_share(lease.memory, round(lease.compute * 10), device.memory_bytes),
        round((lease.ended - lease.granted).total_seconds() * 1_000_000),
    )
    for lease in leases.values()
}
print(json.dumps([held, wrong]))
"""
"""What the log of the node's leases says of each: for which job it was, its share in thousandths, and its microseconds.
SQLite finds no file of another namespace, so a program of that one reads it."""


def _each_lease_is_counted_once(daemon: SystemDaemon, queues: dict[User, str]) -> None:
    done = daemon.run(None, sys.executable, "-c", AUDIT, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    leases, wrong = json.loads(done.stdout)
    assert wrong == []
    ran = {record.lease: f"{user.name}/{record.job}" for user in queues for record in records(user)}
    assert ran.items() <= {id: job for id, (job, *_) in leases.items()}.items(), "each program had a lease of its own"
    queue_of = {user.name: queue for user, queue in queues.items()}
    told: Counter[tuple[str, str]] = Counter()
    held: Counter[tuple[str, str]] = Counter()
    for held_for, share, microseconds in leases.values():
        user = held_for.partition("/")[0]
        told[queue_of[user], user] += 1
        held[queue_of[user], user] += share * microseconds // 1000

    def usages() -> dict[tuple[str, str], Any]:
        answer = daemon.read(f"{GROUP}/queueusages")
        items = answer.body["items"] if answer is not None and answer.status == 200 else ()
        return {(each["spec"]["queue"], each["spec"]["user"]): each["status"] for each in items}

    eventually(lambda: sum(each["leases"] for each in usages().values()) >= len(leases), what=lambda: f"{usages()}")
    assert {place: each["leases"] for place, each in usages().items()} == told
    assert {place: each["deviceMicroseconds"] for place, each in usages().items()} == held

    def reported() -> dict[str, Any]:
        """By user, from the history, which follows the store."""
        answer = daemon.asked(None, "POST", "/cumulus/v1/report", {"since": 0, "by": "user"})
        assert isinstance(answer, Answer), answer
        assert answer.status == 200, answer
        return {row["name"]: row for row in answer.body["value"]["rows"]}

    def followed() -> bool:
        return bool(sum(row["leases"] for row in reported().values()) >= len(leases))

    eventually(followed, what=lambda: f"{reported()}")
    rows = reported()
    assert {user: row["leases"] for user, row in rows.items()} == {user: number for (_, user), number in told.items()}
    for (_, user), microseconds in held.items():
        # It keeps times in milliseconds.
        assert rows[user]["heldGpuHours"] * 3600 == pytest.approx(microseconds / 1e6, abs=0.01 * len(leases))
